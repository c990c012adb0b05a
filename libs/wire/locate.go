package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// onlineStorage is the bit of a Storage Status Mask that all our objects have
// (KMIP 1.4, 9.1.3.3.2).
const onlineStorage = 1

// locateRequest is the Request Payload of Locate (KMIP 1.4, 4.9).
type locateRequest struct {
	attributes      []kmip.Attribute
	maximum, offset int32
	archivedOnly    bool
}

// decodeLocate reads a Locate. FortiOS puts the attributes into a
// Template-Attribute, which is not in the standard.
func (d *decoding) decodeLocate(c message.Cursor) (r locateRequest, err error) {
	f := d.open(c, kmip14.TagAttribute)
	for f.next() {
		switch f.Tag() {
		case kmip14.TagMaximumItems:
			r.maximum, f.err = f.Int32()
		case kmip14.TagOffsetItems:
			r.offset, f.err = f.Int32()
		case kmip14.TagStorageStatusMask:
			var mask int32
			mask, f.err = f.Int32()
			r.archivedOnly = mask&onlineStorage == 0
		case kmip14.TagObjectGroupMember:
			f.err = fault.New(fault.FeatureMissing, "Members of object groups can't be located.")
		case kmip14.TagAttribute:
			r.attributes, f.err = d.appendAttribute(r.attributes, &f)
		case kmip14.TagTemplateAttribute:
			var template []kmip.Attribute
			template, f.err = d.decodeTemplate(f.Cursor)
			r.attributes = append(r.attributes, template...)
		default:
			f.unknown()
		}
	}
	if f.err == nil && (r.maximum < 0 || r.offset < 0) {
		f.err = fault.New(fault.Invalid, "Maximum Items and Offset Items may not be negative.")
	}
	return r, f.done()
}

// locate carries out Locate. A single match becomes the ID Placeholder, any
// other number of them clears it (KMIP 1.4, 4.9). Located Items, of 1.3, is
// left out: it counts matches beyond those returned, which nobody counted.
func (b *batch) locate(ctx context.Context, c message.Cursor) error {
	b.placeholder = ""
	r, err := b.decodeLocate(c)
	if err != nil || r.archivedOnly {
		return err
	}
	ids, err := b.responder.Engine.Locate(ctx, b.tenant, r.attributes, int(r.offset), int(r.maximum))
	if err != nil {
		return err
	}
	if len(ids) == 1 {
		b.placeholder, b.object = ids[0], ids[0]
	}
	for _, id := range ids {
		b.answer.putIdentifier(id)
	}
	return nil
}
