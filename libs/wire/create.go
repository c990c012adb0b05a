package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// createRequest is the Request Payload of Create (KMIP 1.4, 4.1).
type createRequest struct {
	typ      kmip.ObjectType
	template []kmip.Attribute
}

func (d *decoding) decodeCreate(c message.Cursor) (r createRequest, err error) {
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagObjectType:
			r.typ, f.err = enum[kmip.ObjectType](&f)
		case kmip14.TagTemplateAttribute:
			r.template, f.err = d.appendTemplate(r.template, &f)
		default:
			f.unknown()
		}
	}
	return r, f.done(kmip14.TagObjectType, kmip14.TagTemplateAttribute)
}

// create carries out Create and sets the ID Placeholder. The placeholder of an
// earlier Create does not outlive this one: what follows is meant for the new
// object, even if there is none.
func (b *batch) create(ctx context.Context, c message.Cursor) error {
	b.placeholder = ""
	r, err := b.decodeCreate(c)
	if err != nil {
		return err
	}
	id, err := b.responder.Engine.Create(ctx, b.tenant, r.typ, r.template)
	if err != nil {
		return err
	}
	b.placeholder, b.object = id, id
	b.answer.Enum(kmip14.TagObjectType, uint32(r.typ))
	b.answer.putIdentifier(id)
	return nil
}
