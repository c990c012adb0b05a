package wire

import (
	"context"
	"time"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// rekeyRequest is the Request Payload of Re-key (KMIP 1.4, 4.4).
type rekeyRequest struct {
	id       kmip.ObjectID
	offset   *time.Duration
	template []kmip.Attribute
}

func (d *decoding) decodeRekey(c message.Cursor) (r rekeyRequest, err error) {
	r.id = d.placeholder
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagUniqueIdentifier:
			r.id, f.err = identifier(&f)
		case kmip14.TagOffset:
			r.offset = new(time.Duration)
			*r.offset, f.err = f.Interval()
		case kmip14.TagTemplateAttribute:
			r.template, f.err = d.appendTemplate(r.template, &f)
		default:
			f.unknown()
		}
	}
	return r, f.done()
}

// rekey carries out Re-key. The new key becomes the ID Placeholder.
func (b *batch) rekey(ctx context.Context, c message.Cursor) error {
	r, err := b.decodeRekey(c)
	b.placeholder = ""
	if err != nil {
		return err
	}
	if err := b.target(r.id); err != nil {
		return err
	}
	id, err := b.responder.Engine.Rekey(ctx, b.tenant, r.id, r.offset, r.template)
	if err != nil {
		return err
	}
	b.placeholder, b.object = id, id
	b.answer.putIdentifier(id)
	return nil
}
