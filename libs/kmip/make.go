package kmip

import (
	"slices"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// NewObject checks a Create template and returns the metadata of the object to
// be made, without identifier and digest (KMIP 1.4, 4.1). Errors are of kind
// Invalid, Missing, Denied, IndexOutOfBounds or NamespaceMissing.
func NewObject(typ ObjectType, template []Attribute, now time.Time) (Object, error) {
	if typ != SymmetricKey {
		return Object{}, fault.New(fault.Invalid, "Only symmetric keys can be created.")
	}
	o := born(typ, now)
	given, err := o.take(template, create)
	if err != nil {
		return Object{}, err
	}
	for _, name := range []string{AttributeCryptographicAlgorithm, AttributeCryptographicLength, AttributeCryptographicUsageMask} {
		if !given[name] {
			return Object{}, missing(name)
		}
	}
	return o, nil
}

// Registration is what Register says of an object beside its template
// (KMIP 1.4, 4.3): its Key Block, or what an Opaque Object has instead.
type Registration struct {
	Type      ObjectType
	Format    KeyFormat // Opaque for an Opaque Object
	Algorithm Algorithm // 0: not given
	Length    int32     // Cryptographic Length in bits; 0: not given
	DataType  uint32    // Secret Data Type or Opaque Data Type
	// Digest is the SHA-256 of the Key Material as it was encoded, if that is a
	// structure.
	Digest []byte
}

// NewRegistered checks a Register of size bytes and returns the metadata of the
// object to be kept, without identifier and digest. Errors are as NewObject's,
// and FormatMissing.
func NewRegistered(r Registration, size int, template []Attribute, now time.Time) (Object, error) {
	o := born(r.Type, now)
	o.Algorithm, o.Length = r.Algorithm, r.Length
	o.Format, o.DataType, o.EncodedDigest = r.Format, r.DataType, r.Digest
	given, err := o.take(template, register)
	switch {
	case err != nil:
		return Object{}, err
	case size == 0:
		return Object{}, fault.New(fault.Missing, "The object has no bytes.")
	}
	switch r.Type {
	case SymmetricKey:
		err = o.checkKey(r, size, given[AttributeCryptographicUsageMask])
	case SecretData:
		switch {
		case r.DataType != Password && r.DataType != Seed:
			err = fault.New(fault.Invalid, "Secret Data Type must be Password or Seed.")
		case r.Format != Raw && r.Format != Opaque:
			err = fault.New(fault.FormatMissing, "Secret data is taken in the formats Raw and Opaque.")
		}
	case OpaqueObject:
	default:
		err = fault.New(fault.Invalid, "Only symmetric keys, secret data and opaque objects can be registered.")
	}
	if err != nil {
		return Object{}, err
	}
	if r.Type != SymmetricKey {
		o.Algorithm = 0
	}
	o.Length = int32(8 * size)
	return o, nil
}

// checkKey holds a registered key against its Key Block and its template, which
// may repeat each other but not contradict.
func (o *Object) checkKey(r Registration, size int, masked bool) error {
	switch {
	case r.Format != Raw && r.Format != TransparentSymmetricKey:
		return fault.New(fault.FormatMissing, "Symmetric keys are taken in the formats Raw and Transparent Symmetric Key.")
	case !masked:
		return missing(AttributeCryptographicUsageMask)
	case o.Algorithm == 0:
		return missing(AttributeCryptographicAlgorithm)
	case o.Length == 0:
		return missing(AttributeCryptographicLength)
	case r.Algorithm != 0 && r.Algorithm != o.Algorithm, r.Length != 0 && r.Length != o.Length, int(o.Length) != 8*size:
		return fault.New(fault.Invalid, "Cryptographic Algorithm or Length differ between template, Key Block and Key Material.")
	}
	if err := checkAlgorithm(o.Algorithm); err != nil {
		return err
	}
	return checkLength(o.Length)
}

func born(typ ObjectType, now time.Time) Object {
	return Object{Type: typ, State: PreActive, InitialDate: second(now), LastChangeDate: second(now)}
}

// take takes over a template and returns the names that it gives. What it says
// replaces values that the object has already.
func (o *Object) take(template []Attribute, how may) (map[string]bool, error) {
	given := make(map[string]bool)
	for _, a := range template {
		r := ruleOf(a.Name)
		switch {
		case r == nil:
			return nil, unknownAttribute(a.Name)
		case a.Index != 0: // MySQL sends index 0, which is harmless
			return nil, fault.Newf(fault.Invalid, "Attribute %.40q: a template may not choose an index.", a.Name)
		case r.may&how == 0:
			return nil, readOnly(a.Name)
		case !r.applies(o.Type):
			return nil, fault.Newf(fault.Invalid, "Attribute %q does not apply to this type of object.", a.Name)
		case !r.multi && given[a.Name]:
			return nil, fault.Newf(fault.Invalid, "Attribute %q is given twice.", a.Name)
		case !r.multi:
			o.drop(func(have Attribute) bool { return have.Name == a.Name })
		}
		given[a.Name] = true
		if _, err := o.put(r, a); err != nil {
			return nil, err
		}
	}
	return given, o.datesInOrder()
}

// drop removes instances from ClientAttributes and returns them.
func (o *Object) drop(which func(Attribute) bool) (dropped []Attribute) {
	var left []Attribute
	for _, a := range o.ClientAttributes {
		if which(a) {
			dropped = append(dropped, a)
		} else {
			left = append(left, a)
		}
	}
	o.ClientAttributes = left
	return dropped
}

func missing(name string) error { return fault.Newf(fault.Missing, "%s is missing.", name) }

// The Link Types of a key and the one that replaced it (KMIP 1.4, 9.1.3.2.20).
const (
	replacementLink uint32 = 0x106
	replacedLink    uint32 = 0x107
)

// Replacement returns the metadata of the key that Re-key makes in place of
// this one, without identifier, digest and this one's names, which HandOver
// moves. Its Activation Date is offset after now, and its other dates as far
// from it as this one's are; without an offset the dates are the same
// (KMIP 1.4, 4.4). Errors are as NewObject's, and Malformed.
func (o *Object) Replacement(offset *time.Duration, template []Attribute, now time.Time) (Object, error) {
	if o.Type != SymmetricKey || o.destroyed() {
		return Object{}, fault.New(fault.Denied, "Only symmetric keys that are not destroyed can be re-keyed.")
	}
	next := born(SymmetricKey, now)
	next.Algorithm, next.Length, next.UsageMask = o.Algorithm, o.Length, o.UsageMask
	next.Sensitive, next.Unextractable = o.Sensitive, o.Unextractable
	next.ActivationDate, next.ProcessStartDate = o.ActivationDate, o.ProcessStartDate
	next.ProtectStopDate, next.DeactivationDate = o.ProtectStopDate, o.DeactivationDate
	if offset != nil {
		next.ActivationDate = second(now.Add(*offset))
		for _, d := range []*time.Time{&next.ProcessStartDate, &next.ProtectStopDate, &next.DeactivationDate} {
			if !d.IsZero() && !o.ActivationDate.IsZero() {
				*d = d.Add(next.ActivationDate.Sub(o.ActivationDate))
			}
		}
	}
	next.ClientAttributes = o.ClientAttributes
	next.drop(func(a Attribute) bool {
		return a.Name == AttributeName || a.isLink(replacedLink) || a.isLink(replacementLink)
	})
	if err := next.link(replacedLink, o.ID); err != nil {
		return Object{}, err
	}
	given, err := next.take(template, create)
	if err != nil {
		return Object{}, err
	}
	dated := given[AttributeActivationDate] || given[AttributeProcessStartDate] || given[AttributeProtectStopDate] || given[AttributeDeactivationDate]
	if offset != nil && dated {
		return Object{}, fault.New(fault.Malformed, "Offset and dates can't be given together.")
	}
	return next, nil
}

// HandOver moves the names to the key that replaces this one and links to it
// (KMIP 1.4, 4.4).
func (o *Object) HandOver(to *Object, now time.Time) error {
	if o.destroyed() {
		return fault.New(fault.Denied, "The key was destroyed while it was re-keyed.")
	}
	isName := func(a Attribute) bool { return a.Name == AttributeName }
	before, after := *o, *to
	own := after.drop(isName)
	after.ClientAttributes = append(before.drop(isName), after.ClientAttributes...)
	for _, a := range own {
		if _, err := after.put(ruleOf(AttributeName), a); err != nil {
			return err
		}
	}
	before.drop(func(a Attribute) bool { return a.isLink(replacementLink) })
	if err := before.link(replacementLink, to.ID); err != nil {
		return err
	}
	before.LastChangeDate = second(now)
	*o, *to = before, after
	return nil
}

func (o *Object) link(typ uint32, to ObjectID) error {
	_, err := o.put(ruleOf(AttributeLink), Attribute{Name: AttributeLink, Value: Struct(
		Field{tagLinkType, Enum(typ)}, Field{tagLinkedObject, Text(string(to))})})
	return err
}

func (a Attribute) isLink(typ uint32) bool {
	return a.Name == AttributeLink && a.Value.member(tagLinkType).Number == int64(typ)
}

// Names returns the values of the object's Name attributes while it holds them
// against others: until it is destroyed (KMIP 1.4, 3.2).
func (o *Object) Names() (names []string) {
	if o.destroyed() {
		return nil
	}
	for _, a := range o.ClientAttributes {
		if a.Name == AttributeName {
			names = append(names, a.Value.member(tagNameValue).Text)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// DropNames takes an object's names away from it.
func (o *Object) DropNames() { o.drop(func(a Attribute) bool { return a.Name == AttributeName }) }
