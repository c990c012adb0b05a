package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// decodeGet reads a Get (KMIP 1.4, 4.11). Raw, unwrapped and uncompressed is
// all that is given out. Key Wrap Type (1.4) asks for nothing more: the key is
// stored as it was made, not wrapped by KMIP's means.
func (d *decoding) decodeGet(c message.Cursor) (id kmip.ObjectID, err error) {
	id = d.placeholder
	f := d.open(c)
	for f.next() {
		switch f.Tag() {
		case kmip14.TagUniqueIdentifier:
			id, f.err = identifier(&f)
		case kmip14.TagKeyFormatType:
			var format kmip14.KeyFormatType
			if format, f.err = enum[kmip14.KeyFormatType](&f); f.err == nil && format != kmip14.KeyFormatTypeRaw {
				f.err = fault.New(fault.FormatMissing, "Keys are given out in the format Raw only.")
			}
		case kmip14.TagKeyWrapType:
			_, f.err = f.Enum()
		case kmip14.TagKeyCompressionType:
			if _, f.err = f.Enum(); f.err == nil {
				f.err = fault.New(fault.CompressionMissing, "A symmetric key can't be compressed.")
			}
		case kmip14.TagKeyWrappingSpecification:
			f.err = fault.New(fault.FeatureMissing, "Wrapping keys for the client is not supported.")
		default:
			f.unknown()
		}
	}
	return id, f.done()
}

func (b *batch) get(ctx context.Context, c message.Cursor) error {
	id, err := b.decodeGet(c)
	if err != nil {
		return err
	}
	if err := b.target(id); err != nil {
		return err
	}
	key, err := b.responder.Engine.Get(ctx, b.tenant, id)
	if err != nil {
		return err
	}
	b.answer.putGot(key)
	return nil
}

// putGot writes the Response Payload of Get (KMIP 1.4, 4.11) and takes
// ownership of the key bytes. No attributes stand in Key Value: they break
// Veeam's client.
func (a *answer) putGot(key engine.Key) {
	a.Enum(kmip14.TagObjectType, uint32(key.Object.Type))
	a.putIdentifier(key.Object.ID)
	object := a.Begin(kmip14.TagSymmetricKey)
	block := a.Begin(kmip14.TagKeyBlock)
	a.Enum(kmip14.TagKeyFormatType, uint32(kmip14.KeyFormatTypeRaw))
	value := a.Begin(kmip14.TagKeyValue)
	a.putKey(kmip14.TagKeyMaterial, key.Material)
	a.End(value)
	a.Enum(kmip14.TagCryptographicAlgorithm, uint32(key.Object.Algorithm))
	a.Int32(kmip14.TagCryptographicLength, key.Object.Length)
	a.End(block)
	a.End(object)
}
