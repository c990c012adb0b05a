package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// onlineStorage is the bit of a Storage Status Mask that all our objects have
// (KMIP 1.4, 9.1.3.3.2).
const onlineStorage = 1

// Object Group Member (KMIP 1.4, 9.1.3.2.33).
const (
	groupMemberFresh   = 1
	groupMemberDefault = 2
)

// locateRequest is the Request Payload of Locate (KMIP 1.4, 4.9).
type locateRequest struct {
	attributes   []kmip.Attribute
	query        engine.Query // but its filter
	archivedOnly bool
}

// decodeLocate reads a Locate. FortiOS puts the attributes into a
// Template-Attribute, which is not in the standard.
func (d *decoding) decodeLocate(c message.Cursor) (r locateRequest, err error) {
	f := fields{later: d.later, repeatable: kmip14.TagAttribute}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagMaximumItems:
			r.query.Maximum, f.err = itemCount(&f)
		case kmip14.TagOffsetItems:
			r.query.Offset, f.err = itemCount(&f)
			r.query.Count = true
		case kmip14.TagStorageStatusMask:
			var mask int32
			mask, f.err = f.Int32()
			r.archivedOnly = mask&onlineStorage == 0
		case kmip14.TagObjectGroupMember:
			f.err = d.decodeGroupMember(&r, &f)
		case kmip14.TagAttribute:
			r.attributes, f.err = d.appendAttribute(r.attributes, &f)
		case kmip14.TagTemplateAttribute:
			r.attributes, f.err = d.appendTemplate(r.attributes, &f)
		default:
			f.unknown()
		}
	}
	return r, f.done()
}

// itemCount returns Maximum Items or Offset Items.
func itemCount(f *fields) (int, error) {
	n, err := f.Int32()
	if err == nil && n < 0 {
		err = fault.New(fault.Invalid, "Maximum Items and Offset Items may not be negative.")
	}
	return int(n), err
}

// decodeGroupMember reads Object Group Member. Fresh members are handed out in
// the order in which they were made; no group has a default.
func (d *decoding) decodeGroupMember(r *locateRequest, f *fields) error {
	member, err := f.Enum()
	switch {
	case err != nil:
		return err
	case member == groupMemberDefault:
		return fault.New(fault.FeatureMissing, "Object groups have no default member.")
	case member != groupMemberFresh:
		return fault.New(fault.Invalid, "The Object Group Member is not known.")
	}
	r.query.Oldest = true
	if r.attributes, err = d.oneMore(r.attributes, f); err == nil {
		r.attributes[len(r.attributes)-1] = kmip.Attribute{Name: kmip.AttributeFresh, Value: kmip.Bool(true)}
	}
	return err
}

// locate carries out Locate. A single match becomes the ID Placeholder, any
// other number of them clears it (KMIP 1.4, 4.9). Located Items is given, in
// versions that have it, when the client pages.
func (b *batch) locate(ctx context.Context, c message.Cursor) error {
	b.placeholder = ""
	r, err := b.decodeLocate(c)
	if err != nil {
		return err
	}
	if r.query.Filter, err = kmip.NewFilter(r.attributes); err != nil || r.archivedOnly {
		return err
	}
	found, err := b.responder.Engine.Locate(ctx, b.tenant, r.query)
	if err != nil {
		return err
	}
	if len(found.IDs) == 1 {
		b.placeholder, b.object = found.IDs[0], found.IDs[0]
	}
	if r.query.Count && b.version.minor >= 3 {
		b.answer.Int32(kmip14.TagLocatedItems, int32(found.Total))
	}
	for _, id := range found.IDs {
		b.answer.putIdentifier(id)
	}
	return nil
}
