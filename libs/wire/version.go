package wire

import (
	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// version is a Protocol Version (KMIP 1.4, 6.1).
type version struct {
	major, minor int32
}

// versions are those spoken, highest first as Discover Versions lists them
// (KMIP 1.4, 4.26).
var versions = [...]version{{1, 4}, {1, 3}, {1, 2}, {1, 1}, {1, 0}}

var errVersion = fault.New(fault.Malformed, "This protocol version is not supported; 1.0 to 1.4 are.")

// known reports whether a request may come in this version: a higher minor
// version only adds fields, which are ignored (KMIP 1.4, 11.1).
func (v version) known() bool { return v.major == versions[0].major && v.minor >= 0 }

// answered returns the version of the answer: the request's own, or the
// highest one for requests of a later or unknown version.
func (v version) answered() version {
	if v.known() && v.minor < versions[0].minor {
		return v
	}
	return versions[0]
}

// later reports whether fields may come that this server has never heard of.
func (v version) later() bool { return v.known() && v.minor > versions[0].minor }

func parseVersion(c message.Cursor) (v version, err error) {
	fields, err := c.Children()
	if err != nil {
		return v, err
	}
	var major, minor bool
	err = eachField(fields, decoding{}, func(f message.Cursor) (err error) {
		switch f.Tag() {
		case kmip14.TagProtocolVersionMajor:
			major = true
			v.major, err = f.Int32()
		case kmip14.TagProtocolVersionMinor:
			minor = true
			v.minor, err = f.Int32()
		default:
			err = errUnknownField
		}
		return err
	})
	if err == nil && (!major || !minor) {
		err = fault.New(fault.Malformed, "The protocol version is incomplete.")
	}
	return v, err
}

func putVersion(e *ttlv.Encoder, v version) error {
	return e.EncodeStructure(kmip14.TagProtocolVersion, func(e *ttlv.Encoder) error {
		e.EncodeInteger(kmip14.TagProtocolVersionMajor, v.major)
		e.EncodeInteger(kmip14.TagProtocolVersionMinor, v.minor)
		return nil
	})
}
