package wire

import (
	"slices"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// standardAttribute is one attribute of the standard.
type standardAttribute struct {
	name string
	// since is the minor version of 1.x that brought it. Answers in an older
	// version leave it out: parsers of some clients end at a name that they
	// don't know.
	since int32
}

// standardAttributes are those of section 3 of KMIP 1.0 to 1.4, by the length
// of their names: so few share one that comparing them costs less than hashing.
var standardAttributes = byLength([...][]string{
	0: {
		"Unique Identifier", "Name", "Object Type", "Cryptographic Algorithm", "Cryptographic Length",
		"Cryptographic Parameters", "Cryptographic Domain Parameters", "Certificate Type", "Certificate Identifier",
		"Certificate Subject", "Certificate Issuer", "Digest", "Operation Policy Name", "Cryptographic Usage Mask",
		"Lease Time", "Usage Limits", "State", "Initial Date", "Activation Date", "Process Start Date",
		"Protect Stop Date", "Deactivation Date", "Destroy Date", "Compromise Occurrence Date", "Compromise Date",
		"Revocation Reason", "Archive Date", "Object Group", "Link", "Application Specific Information",
		"Contact Information", "Last Change Date",
	},
	1: {
		"Certificate Length", "X.509 Certificate Identifier", "X.509 Certificate Subject",
		"X.509 Certificate Issuer", "Digital Signature Algorithm", "Fresh",
	},
	2: {"Alternative Name", "Key Value Present", "Key Value Location", "Original Creation Date"},
	3: {"Random Number Generator"},
	4: {
		"PKCS#12 Friendly Name", "Description", "Comment", "Sensitive", "Always Sensitive", "Extractable",
		"Never Extractable",
	},
})

// longestName is the length of "Application Specific Information".
const longestName = 32

func byLength(versions [5][]string) (all [longestName + 1][]standardAttribute) {
	for since, names := range versions {
		for _, name := range names {
			all[len(name)] = append(all[len(name)], standardAttribute{name, int32(since)}) //nolint:gosec // 0 to 4
		}
	}
	return all
}

// standard returns the attribute of the standard with a name, or nil.
func standard(name []byte) *standardAttribute {
	if len(name) > longestName {
		return nil
	}
	same := standardAttributes[len(name)]
	for i := range same {
		if same[i].name == string(name) {
			return &same[i]
		}
	}
	return nil
}

// attributeName returns an Attribute Name: the table's string if it is there,
// or else a copy.
func attributeName(f *fields) (string, error) {
	text, err := f.RawText()
	if a := standard(text); a != nil {
		return a.name, nil
	}
	if err == nil && len(text) == 0 {
		err = fault.New(fault.Missing, "An attribute has no name.")
	}
	return string(text), err
}

// appendTemplate appends the attributes of the Template-Attribute on which f
// stands (KMIP 1.4, 2.1.8).
func (d *decoding) appendTemplate(attributes []kmip.Attribute, f *fields) ([]kmip.Attribute, error) {
	had := len(attributes)
	members := fields{later: d.later, repeatable: kmip14.TagAttribute}
	for members.open(f.Cursor); members.next(); {
		switch members.Tag() {
		case kmip14.TagAttribute:
			attributes, members.err = d.appendAttribute(attributes, &members)
		case kmip14.TagName:
			members.err = fault.New(fault.NotFound, "No template with this name exists.")
		default:
			members.unknown()
		}
	}
	if err := members.done(); err != nil {
		return nil, err
	}
	for i := had; i < len(attributes); i++ {
		if a := &attributes[i]; a.Index != 0 { // MySQL's client sends 0
			return nil, fault.Newf(fault.Invalid, "Attribute %.40q: a template may not choose an index.", a.Name)
		}
	}
	return attributes, nil
}

// appendAttribute appends the Attribute on which f stands.
func (d *decoding) appendAttribute(attributes []kmip.Attribute, f *fields) ([]kmip.Attribute, error) {
	attributes, err := d.oneMore(attributes, f)
	if err == nil {
		_, err = d.decodeAttribute(&attributes[len(attributes)-1], f.Cursor)
	}
	return attributes, err
}

// oneMore appends a zero attribute.
func (d *decoding) oneMore(attributes []kmip.Attribute, f *fields) ([]kmip.Attribute, error) {
	if len(attributes) < cap(attributes) {
		return attributes[:len(attributes)+1], nil
	}
	return d.grow(attributes, f)
}

// grow is oneMore with room for all the attributes that follow f as well.
func (d *decoding) grow(attributes []kmip.Attribute, f *fields) ([]kmip.Attribute, error) {
	had := len(attributes)
	all := had + 1 + f.Count(kmip14.TagAttribute)
	if err := d.take(all * attributeSize); err != nil {
		return nil, err
	}
	return append(make([]kmip.Attribute, 0, all), attributes...)[:had+1], nil
}

// decodeAttribute reads an Attribute (KMIP 1.4, 2.1.1) into a zero one and
// reports whether its index is given.
func (d *decoding) decodeAttribute(a *kmip.Attribute, c message.Cursor) (indexed bool, err error) {
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagAttributeName:
			if a.Name, f.err = attributeName(&f); f.err == nil {
				f.err = d.take(len(a.Name))
			}
		case kmip14.TagAttributeIndex:
			a.Index, f.err = f.Int32()
			indexed = true
		case kmip14.TagAttributeValue:
			if f.err = d.take(f.ValueSize()); f.err == nil {
				f.err = f.CopyValue(&a.Value)
			}
		default:
			f.unknown()
		}
	}
	return indexed, f.done(kmip14.TagAttributeName, kmip14.TagAttributeValue)
}

// attributeSize is the memory of a kmip.Attribute in bytes.
const attributeSize = 112

// take takes memory for attributes, and what the allocator rounds it up by.
func (d *decoding) take(bytes int) error {
	if d.room -= bytes + bytes/8; d.room < 0 {
		return fault.New(fault.Invalid, "The attributes of the request have too many parts.")
	}
	return nil
}

// putAttribute writes an Attribute (KMIP 1.4, 2.1.1) as the answer's version
// knows it, or nothing. Index 0 is left out, as vCenter and the OASIS cases
// have it.
func (a *answer) putAttribute(attribute *kmip.Attribute) error {
	if !a.knows(attribute.Name) {
		return nil
	}
	return a.put(attribute, attribute.Index != 0)
}

// putIndexed writes an Attribute that was named with its index, of which
// PyKMIP's client reads even 0.
func (a *answer) putIndexed(attribute *kmip.Attribute) error { return a.put(attribute, true) }

// knows reports whether the answer's version has an attribute.
func (a *answer) knows(name string) bool {
	known := standard([]byte(name))
	return known == nil || known.since <= a.version.minor
}

func (a *answer) put(attribute *kmip.Attribute, indexed bool) error {
	value := attribute.Value
	if attribute.Name == kmip.AttributeDigest && a.version.minor == 0 {
		value = digestOf10(value)
	}
	at := a.Begin(kmip14.TagAttribute)
	a.Text(kmip14.TagAttributeName, attribute.Name)
	if indexed {
		a.Int32(kmip14.TagAttributeIndex, attribute.Index)
	}
	if err := a.Value(kmip14.TagAttributeValue, value); err != nil {
		return err
	}
	a.End(at)
	return nil
}

// digestOf10 returns a Digest without the Key Format Type that KMIP 1.1 added
// (KMIP 1.1, 3.17).
func digestOf10(v kmip.Value) kmip.Value {
	v.Fields = slices.DeleteFunc(slices.Clone(v.Fields), func(f kmip.Field) bool {
		return ttlv.Tag(f.Tag) == kmip14.TagKeyFormatType
	})
	return v
}
