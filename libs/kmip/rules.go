package kmip

import (
	"slices"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// may is what a client may do with an attribute.
type may uint8

const (
	create   may = 1 << iota // give it when an object is made here
	register                 // give it with an object that it brings
	add
	modify
	remove

	give = create | register
	all  = give | add | modify | remove
)

// types is a set of object types.
type types uint8

const (
	keys types = 1 << iota
	secrets
	opaques
	cryptographic = keys | secrets
	every         = cryptographic | opaques
)

var typeSets = map[ObjectType]types{SymmetricKey: keys, SecretData: secrets, OpaqueObject: opaques}

// rule is what the standard's table of an attribute says.
type rule struct {
	name  string
	of    types
	may   may
	multi bool // can have more than one instance
	form  form
	// accept completes or refuses what a client gives, if set.
	accept func(Value) (Value, error)
	// while refuses to add or modify when the object's state forbids it, if set.
	while func(o *Object, now time.Time) error
	// value and set lead to the object's own field; without them the value is
	// kept in ClientAttributes.
	value func(o *Object, now time.Time) (Value, bool)
	set   func(o *Object, v Value) error
}

// leaseTime is how long a client may use what it got before it should ask
// again, in seconds (KMIP 1.4, 3.20). Nothing ends then: it is the hour that the
// OASIS test cases expect.
const leaseTime = 3600

// rngUnspecified says that a generator is not named (KMIP 1.4, 9.1.3.2.49):
// keys come from the operating system's.
const rngUnspecified uint32 = 1

// rules is the attributes that are built, in the order of the standard's
// section 3 (KMIP 1.4).
var rules = [...]rule{
	{name: AttributeUniqueIdentifier, of: every, form: text, value: func(o *Object, _ time.Time) (Value, bool) {
		return Text(string(o.ID)), true
	}},
	{name: AttributeName, of: every, may: all, multi: true, form: structure(
		member{tag: tagNameValue, typ: TextString}, member{tag: tagNameType, typ: Enumeration})},
	{name: AttributeObjectType, of: every, form: enum, value: func(o *Object, _ time.Time) (Value, bool) {
		return Enum(o.Type), true
	}},
	{
		name: AttributeCryptographicAlgorithm, of: keys, may: give, form: enum,
		value: func(o *Object, _ time.Time) (Value, bool) { return Enum(o.Algorithm), true },
		set: func(o *Object, v Value) error {
			o.Algorithm = Algorithm(v.Number)
			return checkAlgorithm(o.Algorithm)
		},
	},
	{
		name: AttributeCryptographicLength, of: keys, may: give, form: integer,
		value: func(o *Object, _ time.Time) (Value, bool) { return Int(o.Length), true },
		set: func(o *Object, v Value) error {
			o.Length = int32(v.Number)
			return checkLength(o.Length)
		},
	},
	{name: AttributeCryptographicParameters, of: keys, may: all, multi: true, form: opaque},
	{name: AttributeDigest, of: every, form: opaque, value: digestOf},
	{name: AttributeOperationPolicyName, of: every, may: give, form: text},
	{
		name: AttributeCryptographicUsageMask, of: cryptographic, may: give, form: integer,
		value: func(o *Object, _ time.Time) (Value, bool) { return Int(int32(o.UsageMask)), true },
		set:   func(o *Object, v Value) error { o.UsageMask = UsageMask(v.Number); return nil },
	},
	{name: AttributeLeaseTime, of: every, form: interval, value: func(*Object, time.Time) (Value, bool) {
		return Value{Type: Interval, Number: leaseTime}, true
	}},
	{name: AttributeUsageLimits, of: keys, may: all, form: structure(
		member{tag: tagUsageLimitsTotal, typ: LongInteger}, member{tag: tagUsageLimitsCount, typ: LongInteger, optional: true},
		member{tag: tagUsageLimitsUnit, typ: Enumeration}), accept: usageLimits},
	{name: AttributeState, of: cryptographic, form: enum, value: func(o *Object, now time.Time) (Value, bool) {
		return Enum(o.Current(now)), true
	}},
	dateRule(AttributeInitialDate, every, 0, func(o *Object) *time.Time { return &o.InitialDate }),
	dateRule(AttributeActivationDate, cryptographic, give|add|modify, func(o *Object) *time.Time { return &o.ActivationDate }, PreActive),
	dateRule(AttributeProcessStartDate, keys, give|add|modify, func(o *Object) *time.Time { return &o.ProcessStartDate }, PreActive, Active),
	dateRule(AttributeProtectStopDate, keys, give|add|modify, func(o *Object) *time.Time { return &o.ProtectStopDate }, PreActive, Active),
	dateRule(AttributeDeactivationDate, cryptographic, give|add|modify, func(o *Object) *time.Time { return &o.DeactivationDate }, PreActive, Active),
	dateRule(AttributeDestroyDate, every, 0, func(o *Object) *time.Time { return &o.DestroyDate }),
	dateRule(AttributeCompromiseOccurrence, every, 0, func(o *Object) *time.Time { return &o.CompromiseOccurrenceDate }),
	dateRule(AttributeCompromiseDate, every, 0, func(o *Object) *time.Time { return &o.CompromiseDate }),
	{name: AttributeRevocationReason, of: every, form: opaque, value: revocationOf},
	{name: AttributeObjectGroup, of: every, may: all, multi: true, form: text},
	{
		name: AttributeFresh, of: cryptographic, may: give, form: boolean,
		value: func(o *Object, _ time.Time) (Value, bool) { return Bool(!o.Served), true },
		set:   func(o *Object, v Value) error { o.Served = v.Number == 0; return nil },
	},
	{name: AttributeLink, of: every, may: all, multi: true, form: structure(
		member{tag: tagLinkType, typ: Enumeration}, member{tag: tagLinkedObject, typ: TextString})},
	{name: AttributeApplicationSpecific, of: every, may: all, multi: true, form: structure(
		member{tag: tagApplicationNamespace, typ: TextString}, member{tag: tagApplicationData, typ: TextString, optional: true}), accept: applicationSpecific},
	{name: AttributeContactInformation, of: every, may: all, form: text},
	dateRule(AttributeLastChangeDate, every, 0, func(o *Object) *time.Time { return &o.LastChangeDate }),
	{name: AttributeAlternativeName, of: every, may: all, multi: true, form: structure(
		member{tag: tagAlternativeNameValue, typ: TextString}, member{tag: tagAlternativeNameType, typ: Enumeration})},
	{
		name: AttributeOriginalCreationDate, of: cryptographic, may: register, form: date,
		value: func(o *Object, _ time.Time) (Value, bool) {
			made := o.OriginalCreationDate
			if o.Format == 0 {
				made = o.InitialDate
			}
			return Time(made), !made.IsZero()
		},
		set: func(o *Object, v Value) error { o.OriginalCreationDate = time.Unix(v.Number, 0).UTC(); return nil },
	},
	{
		name: AttributeRandomNumberGenerator, of: every, may: register, form: opaque,
		value: func(o *Object, _ time.Time) (Value, bool) {
			if o.Generator != nil {
				return *o.Generator, true
			}
			return Struct(Field{tagRNGAlgorithm, Enum(rngUnspecified)}), o.Format == 0
		},
		set: func(o *Object, v Value) error { o.Generator = &v; return nil },
	},
	{name: AttributeDescription, of: every, may: all, form: text},
	{name: AttributeComment, of: every, may: all, form: text},
	{
		name: AttributeSensitive, of: cryptographic, may: give | modify, form: boolean,
		value: func(o *Object, _ time.Time) (Value, bool) { return Bool(o.Sensitive), true },
		set:   func(o *Object, v Value) error { o.Sensitive = v.Number != 0; return nil },
	},
	{name: AttributeAlwaysSensitive, of: cryptographic, form: boolean, value: func(o *Object, _ time.Time) (Value, bool) {
		return Bool(o.Sensitive && !o.Exposed), true
	}},
	{
		name: AttributeExtractable, of: cryptographic, may: give | modify, form: boolean,
		value: func(o *Object, _ time.Time) (Value, bool) { return Bool(!o.Unextractable), true },
		set:   func(o *Object, v Value) error { o.Unextractable = v.Number == 0; return nil },
	},
	{name: AttributeNeverExtractable, of: cryptographic, form: boolean, value: func(o *Object, _ time.Time) (Value, bool) {
		return Bool(o.Unextractable && !o.Extracted), true
	}},
}

var ruleNamed = func() map[string]*rule {
	named := make(map[string]*rule, len(rules))
	for i := range rules {
		named[rules[i].name] = &rules[i]
	}
	return named
}()

// The rules of custom attributes (KMIP 1.4, 3.39): those that begin with x- are
// the clients', with y- the server's, which has none.
var (
	clientsRule = rule{of: every, may: all, multi: true}
	serversRule = rule{of: every, multi: true}
)

// ruleOf returns the rule of an attribute, or nil for a name that is neither
// the standard's nor custom.
func ruleOf(name string) *rule {
	if r := ruleNamed[name]; r != nil {
		return r
	}
	switch {
	case strings.HasPrefix(name, "x-"):
		return &clientsRule
	case strings.HasPrefix(name, "y-"):
		return &serversRule
	}
	return nil
}

// applies reports whether objects of a type can have the attribute.
func (r *rule) applies(t ObjectType) bool { return r.of&typeSets[t] != 0 }

// dateRule is the rule of a date that may change while the object is in one of
// the states (KMIP 1.4, 3.23 to 3.30).
func dateRule(name string, of types, may may, at func(*Object) *time.Time, states ...State) rule {
	return rule{
		name: name, of: of, may: may, form: date,
		while: func(o *Object, now time.Time) error {
			if s := o.Current(now); !slices.Contains(states, s) {
				return fault.Newf(fault.Denied, "%s can't change while the object is %s.", name, s)
			}
			return nil
		},
		value: func(o *Object, _ time.Time) (Value, bool) { return Time(*at(o)), !at(o).IsZero() },
		set:   func(o *Object, v Value) error { *at(o) = time.Unix(v.Number, 0).UTC(); return nil },
	}
}

func checkAlgorithm(a Algorithm) error {
	if a != AES {
		return fault.New(fault.Invalid, "Cryptographic Algorithm: only AES is offered.")
	}
	return nil
}

func checkLength(bits int32) error {
	if bits != 128 && bits != 192 && bits != 256 {
		return fault.New(fault.Invalid, "Cryptographic Length: AES keys have 128, 192 or 256 bits.")
	}
	return nil
}

// usageLimits sets the count of what may still be used, which is the server's,
// to the total (KMIP 1.4, 3.21). No use is ever counted: Get Usage Allocation
// is not built.
func usageLimits(v Value) (Value, error) {
	total := v.member(tagUsageLimitsTotal)
	if total.Number < 0 {
		return v, fault.New(fault.Invalid, "Usage Limits: the total may not be negative.")
	}
	unit := v.member(tagUsageLimitsUnit)
	return Struct(Field{tagUsageLimitsTotal, total}, Field{tagUsageLimitsCount, total}, Field{tagUsageLimitsUnit, unit}), nil
}

// applicationSpecific refuses to make up data for a namespace (KMIP 1.4, 3.36).
func applicationSpecific(v Value) (Value, error) {
	if v.member(tagApplicationData).Type == 0 {
		return v, fault.New(fault.NamespaceMissing, "Application Specific Information: the server makes no data for this namespace.")
	}
	return v, nil
}

// Values inside Digest (KMIP 1.4, 9.1.3.2.16).
const hashSHA256 uint32 = 6

// digestOf returns the digest of the Key Material in the format in which it is
// stored (KMIP 1.4, 3.17).
func digestOf(o *Object, _ time.Time) (Value, bool) {
	format, digest := Raw, o.Digest
	if o.Format != 0 {
		format = o.Format
	}
	if o.EncodedDigest != nil {
		digest = o.EncodedDigest
	}
	return Struct(
		Field{tagHashingAlgorithm, Enum(hashSHA256)},
		Field{tagDigestValue, Value{Type: ByteString, Bytes: digest}},
		Field{tagKeyFormatType, Enum(format)},
	), true
}

func revocationOf(o *Object, _ time.Time) (Value, bool) {
	if o.Revocation == nil {
		return Value{}, false
	}
	fields := []Field{{tagRevocationReasonCode, Enum(o.Revocation.Reason)}}
	if o.Revocation.Message != "" {
		fields = append(fields, Field{tagRevocationMessage, Text(o.Revocation.Message)})
	}
	return Struct(fields...), true
}
