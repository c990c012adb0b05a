package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// addAttributeRequest is the Request Payload of Add Attribute
// (KMIP 1.4, 4.14).
type addAttributeRequest struct {
	id        kmip.ObjectID
	attribute kmip.Attribute
}

func (d *decoding) decodeAddAttribute(c message.Cursor) (r addAttributeRequest, err error) {
	r.id = d.placeholder
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagUniqueIdentifier:
			r.id, f.err = identifier(&f)
		case kmip14.TagAttribute:
			var indexed bool
			indexed, f.err = d.decodeAttribute(&r.attribute, f.Cursor)
			if f.err == nil && indexed {
				f.err = fault.New(fault.Invalid, "The index of a new attribute is chosen by the server.")
			}
		default:
			f.unknown()
		}
	}
	return r, f.done(kmip14.TagAttribute)
}

func (b *batch) addAttribute(ctx context.Context, c message.Cursor) error {
	r, err := b.decodeAddAttribute(c)
	if err != nil {
		return err
	}
	if err := b.target(r.id); err != nil {
		return err
	}
	added, err := b.responder.Engine.AddAttribute(ctx, b.tenant, r.id, r.attribute)
	if err != nil {
		return err
	}
	b.answer.putIdentifier(r.id)
	return b.answer.putAttribute(&added)
}
