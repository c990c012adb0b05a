package wire

import (
	"context"
	"slices"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// getAttributesRequest is the Request Payload of Get Attributes
// (KMIP 1.4, 4.12).
type getAttributesRequest struct {
	id    kmip.ObjectID
	names []string // none: all
}

func (d *decoding) decodeGetAttributes(c message.Cursor) (r getAttributesRequest, err error) {
	r.id = d.placeholder
	f := fields{later: d.later, repeatable: kmip14.TagAttributeName}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagUniqueIdentifier:
			r.id, f.err = identifier(&f)
		case kmip14.TagAttributeName:
			if r.names == nil {
				r.names = make([]string, 0, 1+f.Count(kmip14.TagAttributeName))
			}
			var name string
			name, f.err = attributeName(&f)
			r.names = append(r.names, name)
		default:
			f.unknown()
		}
	}
	if f.err == nil && len(r.names) > 1 {
		sorted := slices.Clone(r.names)
		slices.Sort(sorted)
		if len(slices.Compact(sorted)) != len(r.names) {
			f.err = fault.New(fault.Malformed, "An attribute name is given twice.")
		}
	}
	return r, f.done()
}

// getAttributes carries out Get Attributes. The answer is the identifier alone
// if the object has none of them, which vCenter relies on.
func (b *batch) getAttributes(ctx context.Context, c message.Cursor) error {
	r, err := b.decodeGetAttributes(c)
	if err != nil {
		return err
	}
	if err := b.target(r.id); err != nil {
		return err
	}
	attributes, err := b.responder.Engine.Attributes(ctx, b.tenant, r.id, r.names)
	if err != nil {
		return err
	}
	b.answer.putIdentifier(r.id)
	for i := range attributes {
		if err := b.answer.putAttribute(&attributes[i]); err != nil {
			return err
		}
	}
	return nil
}
