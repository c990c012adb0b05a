package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// addAttributeRequest is the Request Payload of Add Attribute
// (KMIP 1.4, 4.14).
type addAttributeRequest struct {
	id        *string
	attribute kmip.Attribute
}

func decodeAddAttribute(c message.Cursor, d decoding) (r addAttributeRequest, err error) {
	var given bool
	err = eachField(c, d, func(f message.Cursor) (err error) {
		switch f.Tag() {
		case kmip14.TagUniqueIdentifier:
			r.id, err = decodeIdentifier(f)
		case kmip14.TagAttribute:
			var a attribute
			if a, err = decodeAttribute(f, d); err == nil && a.index != nil {
				err = fault.New(fault.Invalid, "The index of a new attribute is chosen by the server.")
			}
			r.attribute, given = a.Attribute, true
		default:
			err = errUnknownField
		}
		return err
	})
	if err == nil && !given {
		err = fault.New(fault.Missing, "Attribute is missing.")
	}
	return r, err
}

func (b *batch) addAttribute(ctx context.Context, c message.Cursor) (payload, error) {
	r, err := decodeAddAttribute(c, b.decoding)
	if err != nil {
		return nil, err
	}
	id, err := b.target(r.id)
	if err != nil {
		return nil, err
	}
	added, err := b.responder.Engine.AddAttribute(ctx, b.tenant, id, r.attribute)
	return attributeAdded{id: id, attribute: added}, err
}

// attributeAdded is the Response Payload of Add Attribute (KMIP 1.4, 4.14).
type attributeAdded struct {
	id        kmip.ObjectID
	attribute kmip.Attribute
}

func (p attributeAdded) put(e *ttlv.Encoder, v version) error {
	e.EncodeTextString(kmip14.TagUniqueIdentifier, string(p.id))
	return putAttribute(e, p.attribute, v)
}
