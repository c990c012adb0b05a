package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// checkRequest is the Request Payload of Check (KMIP 1.4, 4.10).
type checkRequest struct {
	id  kmip.ObjectID
	use kmip.Use
}

// decodeCheck reads a Check. A lease of any length is granted.
func (d *decoding) decodeCheck(c message.Cursor) (r checkRequest, err error) {
	r.id = d.placeholder
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagUniqueIdentifier:
			r.id, f.err = identifier(&f)
		case kmip14.TagUsageLimitsCount:
			r.use.Units, f.err = f.Int64()
		case kmip14.TagCryptographicUsageMask:
			var mask int32
			mask, f.err = f.Int32()
			r.use.Mask = kmip.UsageMask(mask)
		case kmip14.TagLeaseTime:
			_, f.err = f.Interval()
		default:
			f.unknown()
		}
	}
	return r, f.done()
}

// check carries out Check. If the use is not allowed, the answer names what
// forbids it instead of the object, and the ID Placeholder is emptied.
func (b *batch) check(ctx context.Context, c message.Cursor) error {
	r, err := b.decodeCheck(c)
	if err != nil {
		return err
	}
	if err := b.target(r.id); err != nil {
		return err
	}
	denied, err := b.responder.Engine.Check(ctx, b.tenant, r.id, r.use)
	if err != nil {
		return err
	}
	if denied == (kmip.Use{}) {
		b.answer.putIdentifier(r.id)
		return nil
	}
	b.placeholder = ""
	if denied.Units != 0 {
		b.answer.Int64(kmip14.TagUsageLimitsCount, denied.Units)
	}
	if denied.Mask != 0 {
		b.answer.Int32(kmip14.TagCryptographicUsageMask, int32(denied.Mask))
	}
	return nil
}
