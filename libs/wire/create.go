package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// createRequest is the Request Payload of Create (KMIP 1.4, 4.1).
type createRequest struct {
	typ      kmip.ObjectType
	template []kmip.Attribute
}

func decodeCreate(c message.Cursor, d decoding) (r createRequest, err error) {
	var typ, template bool
	err = eachField(c, d, func(f message.Cursor) (err error) {
		switch f.Tag() {
		case kmip14.TagObjectType:
			var n uint32
			n, err = f.Enum()
			r.typ, typ = kmip.ObjectType(n), true
		case kmip14.TagTemplateAttribute:
			r.template, err = decodeTemplate(f, d)
			template = true
		default:
			err = errUnknownField
		}
		return err
	})
	switch {
	case err != nil:
		return r, err
	case !typ:
		return r, fault.New(fault.Missing, "Object Type is missing.")
	case !template:
		return r, fault.New(fault.Missing, "Template-Attribute is missing.")
	}
	return r, nil
}

// create carries out Create and sets the ID Placeholder. The placeholder of an
// earlier Create does not outlive this one: what follows is meant for the new
// object, even if there is none.
func (b *batch) create(ctx context.Context, c message.Cursor) (payload, error) {
	b.placeholder = ""
	r, err := decodeCreate(c, b.decoding)
	if err != nil {
		return nil, err
	}
	id, err := b.responder.Engine.Create(ctx, b.tenant, r.typ, r.template)
	if err != nil {
		return nil, err
	}
	b.placeholder, b.object = id, id
	return created{typ: r.typ, id: id}, nil
}

// created is the Response Payload of Create (KMIP 1.4, 4.1).
type created struct {
	typ kmip.ObjectType
	id  kmip.ObjectID
}

func (p created) put(e *ttlv.Encoder, _ version) error {
	e.EncodeEnumeration(kmip14.TagObjectType, uint32(p.typ))
	e.EncodeTextString(kmip14.TagUniqueIdentifier, string(p.id))
	return nil
}
