package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// getRequest is the Request Payload of Get (KMIP 1.4, 4.11), without the
// options that are refused.
type getRequest struct {
	id *string
}

// decodeGet reads a Get. Raw, unwrapped and uncompressed is all that is given
// out. Key Wrap Type (1.4) asks for nothing more: the key is stored as it was
// made, not wrapped by KMIP's means.
func decodeGet(c message.Cursor, d decoding) (r getRequest, err error) {
	err = eachField(c, d, func(f message.Cursor) (err error) {
		switch f.Tag() {
		case kmip14.TagUniqueIdentifier:
			r.id, err = decodeIdentifier(f)
		case kmip14.TagKeyFormatType:
			var format uint32
			if format, err = f.Enum(); err == nil && kmip14.KeyFormatType(format) != kmip14.KeyFormatTypeRaw {
				err = fault.New(fault.FormatMissing, "Keys are given out in the format Raw only.")
			}
		case kmip14.TagKeyWrapType:
			_, err = f.Enum()
		case kmip14.TagKeyCompressionType:
			if _, err = f.Enum(); err == nil {
				err = fault.New(fault.CompressionMissing, "A symmetric key can't be compressed.")
			}
		case kmip14.TagKeyWrappingSpecification:
			err = fault.New(fault.FeatureMissing, "Wrapping keys for the client is not supported.")
		default:
			err = errUnknownField
		}
		return err
	})
	return r, err
}

func (b *batch) get(ctx context.Context, c message.Cursor) (payload, error) {
	r, err := decodeGet(c, b.decoding)
	if err != nil {
		return nil, err
	}
	id, err := b.target(r.id)
	if err != nil {
		return nil, err
	}
	key, err := b.responder.Engine.Get(ctx, b.tenant, id)
	if err != nil {
		return nil, err
	}
	b.answer.keep(key.Material)
	return got{object: key.Object, size: key.Material.Len()}, nil
}

// got is the Response Payload of Get (KMIP 1.4, 4.11) with zeros for the key;
// size is the key's length in bytes.
type got struct {
	object kmip.Object
	size   int
}

// put writes no attributes into Key Value: they break Veeam's client.
func (p got) put(e *ttlv.Encoder, _ version) error {
	e.EncodeEnumeration(kmip14.TagObjectType, uint32(p.object.Type))
	e.EncodeTextString(kmip14.TagUniqueIdentifier, string(p.object.ID))
	return e.EncodeStructure(kmip14.TagSymmetricKey, func(e *ttlv.Encoder) error {
		return e.EncodeStructure(kmip14.TagKeyBlock, p.putKeyBlock)
	})
}

// putKeyBlock writes the fields of a Key Block (KMIP 1.4, 2.1.3).
func (p got) putKeyBlock(e *ttlv.Encoder) error {
	e.EncodeEnumeration(kmip14.TagKeyFormatType, uint32(kmip14.KeyFormatTypeRaw))
	err := e.EncodeStructure(kmip14.TagKeyValue, func(e *ttlv.Encoder) error {
		e.EncodeByteString(kmip14.TagKeyMaterial, make([]byte, p.size))
		return nil
	})
	e.EncodeEnumeration(kmip14.TagCryptographicAlgorithm, uint32(p.object.Algorithm))
	e.EncodeInteger(kmip14.TagCryptographicLength, p.object.Length)
	return err
}
