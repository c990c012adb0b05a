package kmip

import "github.com/kmip-for-vmware/kmip/libs/fault"

// Tags of the members of the structured attributes (KMIP 1.4, 9.1.3.1).
const (
	tagApplicationData      = 0x420002
	tagApplicationNamespace = 0x420003
	tagDigestValue          = 0x420035
	tagHashingAlgorithm     = 0x420038
	tagKeyFormatType        = 0x420042
	tagLinkType             = 0x42004B
	tagLinkedObject         = 0x42004C
	tagNameType             = 0x420054
	tagNameValue            = 0x420055
	tagRevocationMessage    = 0x420080
	tagRevocationReasonCode = 0x420082
	tagUsageLimitsCount     = 0x420096
	tagUsageLimitsTotal     = 0x420097
	tagUsageLimitsUnit      = 0x420098
	tagAlternativeNameValue = 0x4200C0
	tagAlternativeNameType  = 0x4200C1
	tagRNGAlgorithm         = 0x4200DA
)

// form is what the value of an attribute looks like.
type form struct {
	typ ValueType
	// members of a Structure, in order; none for one that is kept as it comes.
	members []member
}

type member struct {
	tag      uint32
	typ      ValueType
	optional bool
}

var (
	text     = form{typ: TextString}
	integer  = form{typ: Integer}
	enum     = form{typ: Enumeration}
	boolean  = form{typ: Boolean}
	date     = form{typ: DateTime}
	interval = form{typ: Interval}
	opaque   = form{typ: Structure}
)

func structure(members ...member) form { return form{Structure, members} }

// check refuses a value of another form.
func (f form) check(name string, v Value) error {
	if v.Type != f.typ {
		return fault.Newf(fault.Invalid, "Attribute %q has a value of the wrong type.", name)
	}
	if f.members == nil {
		return nil
	}
	fields := v.Fields
	for _, m := range f.members {
		switch {
		case len(fields) > 0 && fields[0].Tag == m.tag && fields[0].Value.Type == m.typ:
			fields = fields[1:]
		case !m.optional:
			return fault.Newf(fault.Invalid, "Attribute %q lacks a field, or has it in the wrong place or type.", name)
		}
	}
	if len(fields) > 0 {
		return fault.Newf(fault.Invalid, "Attribute %q has a field that is not known here.", name)
	}
	return nil
}
