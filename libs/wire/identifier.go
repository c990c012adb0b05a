package wire

import (
	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// identified is a Request or Response Payload of a Unique Identifier alone,
// as Activate and Destroy have them (KMIP 1.4, 4.19 and 4.21).
type identified struct {
	id kmip.ObjectID
}

func (p identified) put(e *ttlv.Encoder, _ version) error {
	e.EncodeTextString(kmip14.TagUniqueIdentifier, string(p.id))
	return nil
}

// decodeIdentified returns the identifier of such a request, nil for the ID
// Placeholder.
func decodeIdentified(c message.Cursor, d decoding) (id *string, err error) {
	err = eachField(c, d, func(f message.Cursor) (err error) {
		if f.Tag() != kmip14.TagUniqueIdentifier {
			return errUnknownField
		}
		id, err = decodeIdentifier(f)
		return err
	})
	return id, err
}

func decodeIdentifier(f message.Cursor) (*string, error) {
	id, err := f.Text()
	return &id, err
}
