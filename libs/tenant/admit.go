package tenant

import (
	"strings"
	"time"
)

// Arrival is what a connection shows before its first request.
type Arrival struct {
	ServerName string // SNI, as sent; empty without
	Port       uint16 // the advertised port of the listener
	Client     Fingerprint
	HasClient  bool
}

// Cause says why a connection or request was turned away. Outside, all causes
// look alike; the record tells them apart.
type Cause string

// The causes.
const (
	NoCertificate      Cause = "no_certificate"
	UnknownCertificate Cause = "unknown_certificate"
	ForeignCertificate Cause = "foreign_certificate" // of another tenant than the name or port says
	ExpiredCertificate Cause = "expired_certificate"
	NotShared          Cause = "not_shared" // of a tenant with endpoints of its own, at a shared one
	SuspendedTenant    Cause = "suspended"
	Unconfigured       Cause = "unconfigured" // no key manager yet
)

// Refusal is the error of Admit.
type Refusal struct{ Cause Cause }

// Error returns the cause.
func (r *Refusal) Error() string { return "refused: " + string(r.Cause) }

// Admit finds the tenant and the client certificate of an arrival, or returns
// a *Refusal. The port decides if it is a tenant's own, whatever the server
// name; else a server name that is a tenant's own; else the certificate, which
// then finds only tenants of the shared endpoints. Name or port and
// certificate must lead to the same tenant.
func (s *Snapshot) Admit(a Arrival, now time.Time) (*Tenant, Client, error) {
	addressed := s.addressed(a)
	refuse := func(c Cause) (*Tenant, Client, error) { return nil, Client{}, &Refusal{c} }
	if !a.HasClient {
		return refuse(NoCertificate)
	}
	t := s.byClient[a.Client]
	switch {
	case t == nil:
		return refuse(UnknownCertificate)
	case addressed != nil && t != addressed:
		return refuse(ForeignCertificate)
	case addressed == nil && !t.Shared:
		return refuse(NotShared)
	}
	client := t.client(a.Client)
	switch {
	case now.After(client.NotAfter):
		return refuse(ExpiredCertificate)
	case t.Suspended:
		return refuse(SuspendedTenant)
	case t.KeyManager == nil:
		return refuse(Unconfigured)
	}
	return t, client, nil
}

// addressed is the tenant whose own port or name was used, nil at a shared
// endpoint.
func (s *Snapshot) addressed(a Arrival) *Tenant {
	if t := s.byPort[a.Port]; t != nil {
		return t
	}
	return s.byName[hostName(a.ServerName)]
}

// Addressed returns the tenant whose own port or name was used, or "" at a
// shared endpoint: only that tenant may be shown that somebody was refused.
func (s *Snapshot) Addressed(a Arrival) ID {
	if t := s.addressed(a); t != nil {
		return t.ID
	}
	return ""
}

// ServerCertificate returns the leaf, in DER, that a tenant shows for its own
// name, or nil: then it is the shared one.
func (s *Snapshot) ServerCertificate(serverName string) []byte {
	name := hostName(serverName)
	if t := s.byName[name]; t != nil {
		return t.ServerCertificates[name]
	}
	return nil
}

// hostName returns a server name as names are kept here.
func hostName(serverName string) string {
	return strings.ToLower(strings.TrimSuffix(serverName, "."))
}

func (t *Tenant) client(f Fingerprint) Client {
	for i := range t.Clients {
		if t.Clients[i].Fingerprint == f {
			return t.Clients[i]
		}
	}
	return Client{}
}
