package wire

import (
	"context"
	"slices"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// getAttributesRequest is the Request Payload of Get Attributes
// (KMIP 1.4, 4.12).
type getAttributesRequest struct {
	id    *string
	names []string // none: all
}

func decodeGetAttributes(c message.Cursor, d decoding) (r getAttributesRequest, err error) {
	d.repeatable[0] = kmip14.TagAttributeName
	err = eachField(c, d, func(f message.Cursor) (err error) {
		switch f.Tag() {
		case kmip14.TagUniqueIdentifier:
			r.id, err = decodeIdentifier(f)
		case kmip14.TagAttributeName:
			var name string
			name, err = f.Text()
			r.names = append(r.names, name)
		default:
			err = errUnknownField
		}
		return err
	})
	if err != nil {
		return r, err
	}
	if len(r.names) > 1 {
		sorted := slices.Sorted(slices.Values(r.names))
		if len(slices.Compact(sorted)) != len(r.names) {
			return r, fault.New(fault.Malformed, "An attribute name is given twice.")
		}
	}
	return r, nil
}

func (b *batch) getAttributes(ctx context.Context, c message.Cursor) (payload, error) {
	r, err := decodeGetAttributes(c, b.decoding)
	if err != nil {
		return nil, err
	}
	id, err := b.target(r.id)
	if err != nil {
		return nil, err
	}
	attributes, err := b.responder.Engine.Attributes(ctx, b.tenant, id, r.names)
	return attributesOf{id: id, attributes: attributes}, err
}

// attributesOf is the Response Payload of Get Attributes (KMIP 1.4, 4.12): the
// identifier alone if the object has none of them, which vCenter relies on.
type attributesOf struct {
	id         kmip.ObjectID
	attributes []kmip.Attribute
}

func (p attributesOf) put(e *ttlv.Encoder, v version) error {
	e.EncodeTextString(kmip14.TagUniqueIdentifier, string(p.id))
	for _, a := range p.attributes {
		if err := putAttribute(e, a, v); err != nil {
			return err
		}
	}
	return nil
}
