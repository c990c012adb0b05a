package wire

import (
	"slices"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// attributeSince names the attributes that came after KMIP 1.0 and the minor
// version that brought them (section 3 of KMIP 1.1 to 1.4). Answers in an
// older version leave them out: parsers of some clients end at a name that
// they don't know.
var attributeSince = map[string]int32{
	"Certificate Length": 1, "X.509 Certificate Identifier": 1, "X.509 Certificate Subject": 1,
	"X.509 Certificate Issuer": 1, "Digital Signature Algorithm": 1, "Fresh": 1,
	"Alternative Name": 2, "Key Value Present": 2, "Key Value Location": 2, "Original Creation Date": 2,
	"Random Number Generator": 3,
	"PKCS#12 Friendly Name":   4, "Description": 4, "Comment": 4, "Sensitive": 4, "Always Sensitive": 4,
	"Extractable": 4, "Never Extractable": 4,
}

// decodeTemplate reads a Template-Attribute (KMIP 1.4, 2.1.8).
func decodeTemplate(c message.Cursor, d decoding) ([]kmip.Attribute, error) {
	fields, err := c.Children()
	if err != nil {
		return nil, err
	}
	var attributes []kmip.Attribute
	d.repeatable = [2]ttlv.Tag{kmip14.TagAttribute, kmip14.TagName}
	err = eachField(fields, d, func(f message.Cursor) error {
		switch f.Tag() {
		case kmip14.TagAttribute:
			a, err := decodeAttribute(f, d)
			if err == nil && a.index != nil && *a.index != 0 { // MySQL's client sends 0
				err = fault.Newf(fault.Invalid, "Attribute %.40q: a template may not choose an index.", a.Name)
			}
			attributes = append(attributes, a.Attribute)
			return err
		case kmip14.TagName:
			return fault.New(fault.NotFound, "No template with this name exists.")
		default:
			return errUnknownField
		}
	})
	return attributes, err
}

// attribute is an Attribute as a request gives it; its index may be absent.
type attribute struct {
	kmip.Attribute
	index *int32
}

// decodeAttribute reads an Attribute (KMIP 1.4, 2.1.1).
func decodeAttribute(c message.Cursor, d decoding) (a attribute, err error) {
	fields, err := c.Children()
	if err != nil {
		return a, err
	}
	var value bool
	err = eachField(fields, decoding{ignoreUnknown: d.ignoreUnknown}, func(f message.Cursor) (err error) {
		switch f.Tag() {
		case kmip14.TagAttributeName:
			a.Name, err = f.Text()
		case kmip14.TagAttributeIndex:
			var n int32
			n, err = f.Int32()
			a.index = &n
		case kmip14.TagAttributeValue:
			a.Value, err = f.Value()
			value = true
		default:
			err = errUnknownField
		}
		return err
	})
	switch {
	case err != nil:
		return a, err
	case a.Name == "":
		return a, fault.New(fault.Missing, "An attribute has no name.")
	case !value:
		return a, fault.Newf(fault.Missing, "Attribute %.40q has no value.", a.Name)
	}
	return a, nil
}

// putAttribute writes an Attribute (KMIP 1.4, 2.1.1) as a version knows it,
// or nothing. Index 0 is left out, as vCenter and the OASIS cases have it.
func putAttribute(e *ttlv.Encoder, a kmip.Attribute, v version) error {
	if attributeSince[a.Name] > v.minor {
		return nil
	}
	if a.Name == kmip.AttributeDigest && v.minor == 0 {
		a.Value = digestOf10(a.Value)
	}
	return e.EncodeStructure(kmip14.TagAttribute, func(e *ttlv.Encoder) error {
		e.EncodeTextString(kmip14.TagAttributeName, a.Name)
		if a.Index != 0 {
			e.EncodeInteger(kmip14.TagAttributeIndex, a.Index)
		}
		return message.PutValue(e, kmip14.TagAttributeValue, a.Value)
	})
}

// digestOf10 returns a Digest without the Key Format Type that KMIP 1.1 added
// (KMIP 1.1, 3.17).
func digestOf10(v kmip.Value) kmip.Value {
	v.Fields = slices.DeleteFunc(slices.Clone(v.Fields), func(f kmip.Field) bool {
		return ttlv.Tag(f.Tag) == kmip14.TagKeyFormatType
	})
	return v
}
