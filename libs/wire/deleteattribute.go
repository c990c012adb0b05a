package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// deleteAttributeRequest is the Request Payload of Delete Attribute
// (KMIP 1.4, 4.16). Without an index it means the first instance.
type deleteAttributeRequest struct {
	id    kmip.ObjectID
	name  string
	index int32
}

func (d *decoding) decodeDeleteAttribute(c message.Cursor) (r deleteAttributeRequest, err error) {
	r.id = d.placeholder
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagUniqueIdentifier:
			r.id, f.err = identifier(&f)
		case kmip14.TagAttributeName:
			r.name, f.err = attributeName(&f)
		case kmip14.TagAttributeIndex:
			r.index, f.err = f.Int32()
		default:
			f.unknown()
		}
	}
	return r, f.done(kmip14.TagAttributeName)
}

// deleteAttribute carries out Delete Attribute; the answer shows what is gone.
func (b *batch) deleteAttribute(ctx context.Context, c message.Cursor) error {
	r, err := b.decodeDeleteAttribute(c)
	if err != nil {
		return err
	}
	if err := b.target(r.id); err != nil {
		return err
	}
	deleted, err := b.responder.Engine.DeleteAttribute(ctx, b.tenant, r.id, r.name, r.index)
	if err != nil {
		return err
	}
	b.answer.putIdentifier(r.id)
	return b.answer.putIndexed(&deleted)
}
