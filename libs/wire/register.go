package wire

import (
	"context"
	"crypto/sha256"
	"slices"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// registerRequest is the Request Payload of Register (KMIP 1.4, 4.3).
type registerRequest struct {
	brought  kmip.Registration
	material *secret.Bytes
	template []kmip.Attribute
}

// decodeRegister reads a Register. The caller wipes the material, also with an
// error.
func (d *decoding) decodeRegister(c message.Cursor) (r registerRequest, err error) {
	var held kmip.ObjectType
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagObjectType:
			r.brought.Type, f.err = enum[kmip.ObjectType](&f)
		case kmip14.TagTemplateAttribute:
			r.template, f.err = d.appendTemplate(r.template, &f)
		case kmip14.TagSymmetricKey:
			held = kmip.SymmetricKey
			f.err = d.decodeObject(&r, f.Cursor, kmip14.TagKeyBlock)
		case kmip14.TagSecretData:
			held = kmip.SecretData
			f.err = d.decodeObject(&r, f.Cursor, kmip14.TagSecretDataType, kmip14.TagKeyBlock)
		case kmip14.TagOpaqueObject:
			held = kmip.OpaqueObject
			f.err = d.decodeObject(&r, f.Cursor, kmip14.TagOpaqueDataType, kmip14.TagOpaqueDataValue)
		default:
			f.unknown()
		}
	}
	if err := f.done(kmip14.TagObjectType, kmip14.TagTemplateAttribute); err != nil {
		return r, err
	}
	switch held {
	case r.brought.Type:
		return r, nil
	case 0:
		return r, fault.New(fault.Missing, "The object is missing.")
	default:
		return r, fault.New(fault.Invalid, "The object is of another type than Object Type says.")
	}
}

// decodeObject reads a managed object that consists of the given fields
// (KMIP 1.4, 2.2.2, 2.2.7 and 2.2.8).
func (d *decoding) decodeObject(r *registerRequest, c message.Cursor, consists ...ttlv.Tag) error {
	if r.material != nil {
		return fault.New(fault.Malformed, "The request brings two objects.")
	}
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		switch tag := f.Tag(); {
		case !slices.Contains(consists, tag):
			f.unknown()
		case tag == kmip14.TagKeyBlock:
			f.err = d.decodeKeyBlock(r, f.Cursor)
		case tag == kmip14.TagOpaqueDataValue:
			r.brought.Format = kmip.Opaque
			r.material, f.err = material(&f)
		default:
			r.brought.DataType, f.err = f.Enum()
		}
	}
	return f.done(consists...)
}

// decodeKeyBlock reads a Key Block (KMIP 1.4, 2.1.3).
func (d *decoding) decodeKeyBlock(r *registerRequest, c message.Cursor) error {
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagKeyFormatType:
			r.brought.Format, f.err = enum[kmip.KeyFormat](&f)
		case kmip14.TagKeyCompressionType:
			f.err = fault.New(fault.CompressionMissing, "Compressed keys are not taken.")
		case kmip14.TagKeyValue:
			f.err = d.decodeKeyValue(r, f.Cursor)
		case kmip14.TagCryptographicAlgorithm:
			r.brought.Algorithm, f.err = enum[kmip.Algorithm](&f)
		case kmip14.TagCryptographicLength:
			r.brought.Length, f.err = f.Int32()
		case kmip14.TagKeyWrappingData:
			f.err = fault.New(fault.FeatureMissing, "Keys that the client wrapped are not taken.")
		default:
			f.unknown()
		}
	}
	if err := f.done(kmip14.TagKeyFormatType); err != nil {
		return err
	}
	switch transparent := r.brought.Format == kmip.TransparentSymmetricKey; {
	case r.material == nil:
		return fault.New(fault.FeatureMissing, "Keys whose value lies elsewhere are not kept.")
	case transparent != (r.brought.Digest != nil):
		return fault.New(fault.Invalid, "The Key Material is not in the format that Key Format Type says.")
	}
	return nil
}

// decodeKeyValue reads a Key Value (KMIP 1.4, 2.1.4); its attributes count as
// the template's.
func (d *decoding) decodeKeyValue(r *registerRequest, c message.Cursor) error {
	f := fields{later: d.later, repeatable: kmip14.TagAttribute}
	for f.open(c); f.next(); {
		switch {
		case f.Tag() == kmip14.TagAttribute:
			r.template, f.err = d.appendAttribute(r.template, &f)
		case f.Tag() != kmip14.TagKeyMaterial:
			f.unknown()
		case f.Type() == ttlv.TypeStructure:
			f.err = d.decodeTransparent(r, f.Cursor)
		default:
			r.material, f.err = material(&f)
		}
	}
	return f.done(kmip14.TagKeyMaterial)
}

// decodeTransparent reads the Key Material of a Transparent Symmetric Key
// (KMIP 1.4, 2.1.7.1). Its digest is that of the whole item.
func (d *decoding) decodeTransparent(r *registerRequest, c message.Cursor) error {
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		if f.Tag() == kmip14.TagKey {
			r.material, f.err = material(&f)
		} else {
			f.unknown()
		}
	}
	if err := f.done(kmip14.TagKey); err != nil {
		return err
	}
	item := message.NewWriter(r.material.Len() + 32)
	at := item.Begin(kmip14.TagKeyMaterial)
	item.Bytes(kmip14.TagKey, r.material.Reveal())
	item.End(at)
	digest := sha256.Sum256(item.Frame())
	clear(item.Frame())
	r.brought.Digest = digest[:]
	return nil
}

// material returns a copy of key bytes; the request's own are wiped with it.
func material(f *fields) (*secret.Bytes, error) {
	b, err := f.Bytes()
	return secret.Of(slices.Clone(b)), err
}

// register carries out Register and sets the ID Placeholder as Create does.
func (b *batch) register(ctx context.Context, c message.Cursor) error {
	b.placeholder = ""
	r, err := b.decodeRegister(c)
	defer r.material.Wipe()
	if err != nil {
		return err
	}
	id, err := b.responder.Engine.Register(ctx, b.tenant, r.brought, r.material, r.template)
	if err != nil {
		return err
	}
	b.placeholder, b.object = id, id
	b.answer.putIdentifier(id)
	return nil
}
