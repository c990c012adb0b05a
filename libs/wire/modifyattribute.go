package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// modifyAttributeRequest is the Request Payload of Modify Attribute
// (KMIP 1.4, 4.15). Without an index it means the first instance.
type modifyAttributeRequest struct {
	id        kmip.ObjectID
	attribute kmip.Attribute
}

func (d *decoding) decodeModifyAttribute(c message.Cursor) (r modifyAttributeRequest, err error) {
	r.id = d.placeholder
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagUniqueIdentifier:
			r.id, f.err = identifier(&f)
		case kmip14.TagAttribute:
			_, f.err = d.decodeAttribute(&r.attribute, f.Cursor)
		default:
			f.unknown()
		}
	}
	return r, f.done(kmip14.TagAttribute)
}

// modifyAttribute carries out Modify Attribute.
func (b *batch) modifyAttribute(ctx context.Context, c message.Cursor) error {
	r, err := b.decodeModifyAttribute(c)
	if err != nil {
		return err
	}
	if err := b.target(r.id); err != nil {
		return err
	}
	modified, err := b.responder.Engine.ModifyAttribute(ctx, b.tenant, r.id, r.attribute)
	if err != nil {
		return err
	}
	b.answer.putIdentifier(r.id)
	return b.answer.putIndexed(&modified)
}
