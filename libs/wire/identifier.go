package wire

import (
	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// decodeIdentified reads a Request Payload of a Unique Identifier alone, as
// Activate and Destroy have it (KMIP 1.4, 4.19 and 4.21).
func (d *decoding) decodeIdentified(c message.Cursor) (id kmip.ObjectID, err error) {
	id = d.placeholder
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		if f.Tag() == kmip14.TagUniqueIdentifier {
			id, f.err = identifier(&f)
		} else {
			f.unknown()
		}
	}
	return id, f.done()
}
