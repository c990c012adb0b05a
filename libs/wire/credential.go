package wire

import (
	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// Session is what the requests of one connection share: the credential that
// they have sent. The zero value is a new connection's. It is not safe for
// concurrent use.
type Session struct{ proved tenant.Credential }

var (
	errWrongCredential = fault.New(fault.Unauthenticated,
		"The user name or password is wrong. Enter those of this instance in vCenter's key provider, or leave them out if it has none.")
	errNoCredential = fault.New(fault.Unauthenticated,
		"This instance wants a user name and password. Enter them in vCenter's key provider.")
)

// presented is a user name and password as a request has them; it shares the
// frame's bytes.
type presented struct {
	given              bool
	userName, password []byte
}

// parseAuthentication reads Authentication (KMIP 1.4, 6.6). Of its credentials
// only one of type Username and Password counts.
func (p *presented) parseAuthentication(c message.Cursor) error {
	f := fields{repeatable: kmip14.TagCredential, later: true} // any number, in any version
	for f.open(c); f.next(); {
		if f.Tag() == kmip14.TagCredential {
			f.err = p.parseCredential(f.Cursor)
		}
	}
	return f.done(kmip14.TagCredential)
}

// parseCredential reads a Credential (KMIP 1.4, 2.1.2).
func (p *presented) parseCredential(c message.Cursor) error {
	var typ uint32
	f := fields{later: true}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagCredentialType:
			typ, f.err = f.Enum()
		case kmip14.TagCredentialValue:
			if typ == uint32(kmip14.CredentialTypeUsernameAndPassword) {
				f.err = p.parsePassword(f.Cursor)
			}
		default:
			f.unknown()
		}
	}
	return f.done(kmip14.TagCredentialType, kmip14.TagCredentialValue)
}

func (p *presented) parsePassword(c message.Cursor) error {
	p.given = true
	f := fields{later: true}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagUsername:
			p.userName, f.err = f.RawText()
		case kmip14.TagPassword:
			p.password, f.err = f.RawText()
		default:
			f.unknown()
		}
	}
	return f.done(kmip14.TagUsername)
}

// prove compares what a request has sent with what the tenant asks for. It is
// remembered until the tenant's credential changes, since vCenter does not
// repeat it with every request (vCenter 8.0.1). A tenant that asks for none
// takes any.
func (s *Session) prove(want *tenant.Credential, p *presented) error {
	switch {
	case want == nil || !p.given:
		return nil
	case !want.Is(p.userName, p.password):
		return errWrongCredential
	}
	s.proved = *want
	return nil
}

// allows reports whether an operation may be carried out. vCenter sends no
// credential with four of them, on connections of their own (vCenter 8.0.1);
// they neither give out a key nor end one.
func (s *Session) allows(want *tenant.Credential, operation kmip14.Operation) error {
	switch operation {
	case kmip14.OperationDiscoverVersions, kmip14.OperationQuery, kmip14.OperationGetAttributes, kmip14.OperationAddAttribute:
		return nil
	default:
		if want != nil && s.proved != *want {
			return errNoCredential
		}
		return nil
	}
}
