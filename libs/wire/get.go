package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// getRequest is the Request Payload of Get (KMIP 1.4, 4.11), without the
// options that are refused.
type getRequest struct {
	id     kmip.ObjectID
	format kmip.KeyFormat // 0: not given
}

// decodeGet reads a Get. Key Wrap Type (1.4) asks for nothing that is not done
// anyway: what is given out is as it was registered or made, not wrapped.
func (d *decoding) decodeGet(c message.Cursor) (r getRequest, err error) {
	r.id = d.placeholder
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagUniqueIdentifier:
			r.id, f.err = identifier(&f)
		case kmip14.TagKeyFormatType:
			r.format, f.err = enum[kmip.KeyFormat](&f)
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
	return r, f.done()
}

func (b *batch) get(ctx context.Context, c message.Cursor) error {
	r, err := b.decodeGet(c)
	if err != nil {
		return err
	}
	if err := b.target(r.id); err != nil {
		return err
	}
	key, err := b.responder.Engine.Get(ctx, b.tenant, r.id, r.format)
	if err != nil {
		return err
	}
	b.window = key.Window
	b.answer.putGot(&key)
	return nil
}

// putGot writes the Response Payload of Get (KMIP 1.4, 4.11) and takes
// ownership of the key bytes.
func (a *answer) putGot(key *engine.Key) {
	a.Enum(kmip14.TagObjectType, uint32(key.Object.Type))
	a.putIdentifier(key.Object.ID)
	switch key.Object.Type {
	case kmip.SecretData:
		object := a.Begin(kmip14.TagSecretData)
		a.Enum(kmip14.TagSecretDataType, key.Object.DataType)
		a.putKeyBlock(key)
		a.End(object)
	case kmip.OpaqueObject:
		object := a.Begin(kmip14.TagOpaqueObject)
		a.Enum(kmip14.TagOpaqueDataType, key.Object.DataType)
		a.putKey(kmip14.TagOpaqueDataValue, key.Material)
		a.End(object)
	default:
		object := a.Begin(kmip14.TagSymmetricKey)
		a.putKeyBlock(key)
		a.End(object)
	}
}

// putKeyBlock writes a Key Block (KMIP 1.4, 2.1.3). No attributes stand in Key
// Value: they break Veeam's client.
func (a *answer) putKeyBlock(key *engine.Key) {
	block := a.Begin(kmip14.TagKeyBlock)
	a.Enum(kmip14.TagKeyFormatType, uint32(key.Format))
	value := a.Begin(kmip14.TagKeyValue)
	if key.Format == kmip.TransparentSymmetricKey {
		transparent := a.Begin(kmip14.TagKeyMaterial)
		a.putKey(kmip14.TagKey, key.Material)
		a.End(transparent)
	} else {
		a.putKey(kmip14.TagKeyMaterial, key.Material)
	}
	a.End(value)
	if key.Object.Type == kmip.SymmetricKey {
		a.Enum(kmip14.TagCryptographicAlgorithm, uint32(key.Object.Algorithm))
		a.Int32(kmip14.TagCryptographicLength, key.Object.Length)
	}
	a.End(block)
}
