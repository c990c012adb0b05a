package wire

import (
	"github.com/gemalto/kmip-go/kmip14"

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

func (d *decoding) parseVersion(c message.Cursor) (v version, err error) {
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagProtocolVersionMajor:
			v.major, f.err = f.Int32()
		case kmip14.TagProtocolVersionMinor:
			v.minor, f.err = f.Int32()
		default:
			f.unknown()
		}
	}
	return v, malformed(f.done(kmip14.TagProtocolVersionMajor, kmip14.TagProtocolVersionMinor))
}

func putVersion(w *message.Writer, v version) {
	at := w.Begin(kmip14.TagProtocolVersion)
	w.Int32(kmip14.TagProtocolVersionMajor, v.major)
	w.Int32(kmip14.TagProtocolVersionMinor, v.minor)
	w.End(at)
}
