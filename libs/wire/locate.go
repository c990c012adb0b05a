package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

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
func decodeLocate(c message.Cursor, d decoding) (r locateRequest, err error) {
	repeatable := d
	repeatable.repeatable[0] = kmip14.TagAttribute
	err = eachField(c, repeatable, func(f message.Cursor) (err error) {
		switch f.Tag() {
		case kmip14.TagMaximumItems:
			r.maximum, err = f.Int32()
		case kmip14.TagOffsetItems:
			r.offset, err = f.Int32()
		case kmip14.TagStorageStatusMask:
			var mask int32
			mask, err = f.Int32()
			r.archivedOnly = mask&onlineStorage == 0
		case kmip14.TagObjectGroupMember:
			err = fault.New(fault.FeatureMissing, "Members of object groups can't be located.")
		case kmip14.TagAttribute:
			var a attribute
			a, err = decodeAttribute(f, d)
			r.attributes = append(r.attributes, a.Attribute)
		case kmip14.TagTemplateAttribute:
			r.attributes, err = decodeTemplate(f, d)
		default:
			err = errUnknownField
		}
		return err
	})
	if err == nil && (r.maximum < 0 || r.offset < 0) {
		err = fault.New(fault.Invalid, "Maximum Items and Offset Items may not be negative.")
	}
	return r, err
}

// locate carries out Locate. A single match becomes the ID Placeholder, any
// other number of them clears it (KMIP 1.4, 4.9).
func (b *batch) locate(ctx context.Context, c message.Cursor) (payload, error) {
	b.placeholder = ""
	r, err := decodeLocate(c, b.decoding)
	if err != nil || r.archivedOnly {
		return located{}, err
	}
	ids, err := b.responder.Engine.Locate(ctx, b.tenant, r.attributes, int(r.offset), int(r.maximum))
	if err != nil {
		return nil, err
	}
	if len(ids) == 1 {
		b.placeholder, b.object = ids[0], ids[0]
	}
	return located{ids}, nil
}

// located is the Response Payload of Locate. Located Items, of 1.3, is left
// out: it counts matches beyond those returned, which nobody counted.
type located struct {
	ids []kmip.ObjectID
}

func (p located) put(e *ttlv.Encoder, _ version) error {
	for _, id := range p.ids {
		e.EncodeTextString(kmip14.TagUniqueIdentifier, string(id))
	}
	return nil
}
