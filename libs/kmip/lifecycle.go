package kmip

import (
	"slices"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// Limits of an object, in one place.
const (
	MaxAttributes    = 1000 // client-set attributes of one object
	MaxAttributeName = 256  // bytes
	MaxTextValue     = 4096 // bytes
)

// NewObject checks a Create template and returns the metadata of the object to
// be made, without identifier and digest (KMIP 1.4, 4.1). Errors are of kind
// Invalid, Missing or Denied.
func NewObject(typ ObjectType, template []Attribute, now time.Time) (Object, error) {
	if typ != SymmetricKey {
		return Object{}, fault.New(fault.Invalid, "Only symmetric keys can be created.")
	}
	o := Object{Type: typ, State: PreActive, InitialDate: second(now), LastChangeDate: second(now)}
	seen := make(map[string]bool)
	for _, a := range template {
		if a.Index != 0 { // MySQL sends index 0, which is harmless
			return Object{}, fault.Newf(fault.Invalid, "Attribute %q: a template may not choose an index.", a.Name)
		}
		_, single := systemAttributes[a.Name]
		if single && seen[a.Name] {
			return Object{}, fault.Newf(fault.Invalid, "Attribute %q is given twice.", a.Name)
		}
		seen[a.Name] = true
		if err := o.set(a, now); err != nil {
			return Object{}, err
		}
	}
	switch {
	case !seen[AttributeCryptographicAlgorithm]:
		return Object{}, fault.New(fault.Missing, "Cryptographic Algorithm is missing from the template.")
	case !seen[AttributeCryptographicLength]:
		return Object{}, fault.New(fault.Missing, "Cryptographic Length is missing from the template.")
	case !seen[AttributeCryptographicUsageMask]:
		return Object{}, fault.New(fault.Missing, "Cryptographic Usage Mask is missing from the template.")
	}
	return o, nil
}

// systemAttributes are the single-instance attributes that the server knows,
// and what a template may say of each (KMIP 1.4, section 3).
var systemAttributes = map[string]func(*Object, Value, time.Time) error{
	AttributeUniqueIdentifier: nil,
	AttributeObjectType:       nil,
	AttributeDigest:           nil,
	AttributeState:            nil,
	AttributeInitialDate:      nil,
	AttributeDestroyDate:      nil,
	AttributeLastChangeDate:   nil,

	AttributeCompromiseOccurrence: nil,
	AttributeCompromiseDate:       nil,
	AttributeRevocationReason:     nil,

	AttributeCryptographicAlgorithm: func(o *Object, v Value, _ time.Time) error {
		if v.Type != Enumeration || Algorithm(v.Number) != AES {
			return fault.New(fault.Invalid, "Cryptographic Algorithm: only AES is offered.")
		}
		o.Algorithm = AES
		return nil
	},
	AttributeCryptographicLength: func(o *Object, v Value, _ time.Time) error {
		if v.Type != Integer || v.Number != 128 && v.Number != 192 && v.Number != 256 {
			return fault.New(fault.Invalid, "Cryptographic Length: AES keys have 128, 192 or 256 bits.")
		}
		o.Length = int32(v.Number)
		return nil
	},
	AttributeCryptographicUsageMask: func(o *Object, v Value, _ time.Time) error {
		if v.Type != Integer {
			return fault.New(fault.Invalid, "Cryptographic Usage Mask must be an Integer.")
		}
		o.UsageMask = UsageMask(v.Number)
		return nil
	},
	AttributeActivationDate: func(o *Object, v Value, now time.Time) error {
		if v.Type != DateTime {
			return fault.New(fault.Invalid, "Activation Date must be a Date-Time.")
		}
		o.ActivationDate = time.Unix(v.Number, 0).UTC()
		if !o.ActivationDate.After(now) {
			o.State = Active
		}
		return o.datesInOrder()
	},
	AttributeDeactivationDate: func(o *Object, v Value, _ time.Time) error {
		if v.Type != DateTime {
			return fault.New(fault.Invalid, "Deactivation Date must be a Date-Time.")
		}
		o.DeactivationDate = time.Unix(v.Number, 0).UTC()
		return o.datesInOrder()
	},
}

// set takes over one attribute of a template.
func (o *Object) set(a Attribute, now time.Time) error {
	take, system := systemAttributes[a.Name]
	switch {
	case system && take == nil:
		return fault.Newf(fault.Denied, "Attribute %q is set by the server.", a.Name)
	case system:
		return take(o, a.Value, now)
	}
	_, err := o.addCustom(a)
	return err
}

// Current returns the state at a moment: a date that has passed moves it even
// if nobody asked (KMIP 1.4, 3.22).
func (o *Object) Current(now time.Time) State {
	s := o.State
	if s == PreActive && passed(o.ActivationDate, now) {
		s = Active
	}
	if s == Active && passed(o.DeactivationDate, now) {
		s = Deactivated
	}
	return s
}

func passed(date, now time.Time) bool { return !date.IsZero() && !date.After(now) }

// datesInOrder refuses a deactivation before the activation (KMIP 1.4, 3.27).
func (o *Object) datesInOrder() error {
	if !o.ActivationDate.IsZero() && !o.DeactivationDate.IsZero() && o.DeactivationDate.Before(o.ActivationDate) {
		return fault.New(fault.Invalid, "Deactivation Date may not lie before Activation Date.")
	}
	return nil
}

// RevocationReason is KMIP's Revocation Reason Code (9.1.3.2.19).
type RevocationReason uint32

// The reasons that mean a compromise, and the last one there is.
const (
	KeyCompromise      RevocationReason = 2
	CACompromise       RevocationReason = 3
	PrivilegeWithdrawn RevocationReason = 7
)

// Revocation says why an object was revoked.
type Revocation struct {
	Reason  RevocationReason `json:"reason"`
	Message string           `json:"message,omitempty"`
}

// Revoke deactivates an Active object, or marks one of any state but Destroyed
// Compromised as compromised since occurred (KMIP 1.4, 3.22 and 4.20).
func (o *Object) Revoke(why Revocation, occurred, now time.Time) error {
	s := o.Current(now)
	switch {
	case why.Reason < 1 || why.Reason > PrivilegeWithdrawn:
		return fault.New(fault.Invalid, "The Revocation Reason Code is not known.")
	case len(why.Message) > MaxTextValue || strings.ContainsRune(why.Message, 0):
		return fault.Newf(fault.Invalid, "The Revocation Message has at most %d bytes and no NUL.", MaxTextValue)
	case why.Reason == KeyCompromise || why.Reason == CACompromise:
		if occurred.IsZero() {
			return fault.New(fault.Invalid, "A compromise needs a Compromise Occurrence Date.")
		}
		switch s {
		case PreActive, Active, Deactivated:
			o.State = Compromised
		case Destroyed:
			o.State = DestroyedCompromised
		default:
			return fault.Newf(fault.Illegal, "An object that is %s can't be revoked again.", s)
		}
		o.CompromiseOccurrenceDate, o.CompromiseDate = second(occurred), second(now)
	case s == Active:
		o.State, o.DeactivationDate = Deactivated, second(now)
	default:
		return fault.Newf(fault.Illegal, "Only an Active object can be revoked without a compromise; this one is %s.", s)
	}
	o.Revocation, o.LastChangeDate = &why, second(now)
	return nil
}

// Activate moves the object from Pre-Active to Active (KMIP 1.4, 4.19).
func (o *Object) Activate(now time.Time) error {
	if s := o.Current(now); s != PreActive {
		return fault.Newf(fault.Denied, "Only a Pre-Active object can be activated; this one is %s.", s)
	}
	o.State, o.ActivationDate = Active, second(now)
	o.LastChangeDate = second(now)
	return nil
}

// Destroy moves the object to Destroyed, or Destroyed Compromised. An Active
// object has to be revoked first (KMIP 1.4, 3.22 and 4.21).
func (o *Object) Destroy(now time.Time) error {
	switch s := o.Current(now); s {
	case PreActive, Deactivated:
		o.State = Destroyed
	case Compromised:
		o.State = DestroyedCompromised
	default:
		return fault.Newf(fault.Denied, "An object that is %s can't be destroyed.", s)
	}
	o.DestroyDate, o.LastChangeDate = second(now), second(now)
	return nil
}

// AddAttribute adds one instance and returns it with the index it got
// (KMIP 1.4, 4.14).
func (o *Object) AddAttribute(a Attribute, now time.Time) (Attribute, error) {
	if a.Index != 0 {
		return Attribute{}, fault.New(fault.Invalid, "The index of a new attribute is chosen by the server.")
	}
	if take, system := systemAttributes[a.Name]; system {
		if take == nil {
			return Attribute{}, fault.Newf(fault.Denied, "Attribute %q is set by the server.", a.Name)
		}
		unset := a.Name == AttributeActivationDate && o.ActivationDate.IsZero() ||
			a.Name == AttributeDeactivationDate && o.DeactivationDate.IsZero()
		if !unset {
			return Attribute{}, fault.Newf(fault.Illegal, "Attribute %q can have one value only.", a.Name)
		}
		if err := take(o, a.Value, now); err != nil {
			return Attribute{}, err
		}
		o.LastChangeDate = second(now)
		return a, nil
	}
	added, err := o.addCustom(a)
	if err == nil {
		o.LastChangeDate = second(now)
	}
	return added, err
}

// addCustom appends a custom attribute or a Name; the index is one more than
// the highest in use under that name.
func (o *Object) addCustom(a Attribute) (Attribute, error) {
	switch {
	case strings.HasPrefix(a.Name, "y-"):
		return Attribute{}, fault.Newf(fault.Denied, "Attribute %q: names that begin with y- are the server's.", a.Name)
	case a.Name != AttributeName && !strings.HasPrefix(a.Name, "x-"):
		return Attribute{}, fault.Newf(fault.Invalid, "Attribute %q is not known; names of custom attributes begin with x-.", a.Name)
	case len(a.Name) > MaxAttributeName || a.Value.size() > MaxTextValue:
		return Attribute{}, fault.Newf(fault.Invalid, "Attribute %.40q is too long: names have at most %d bytes, values %d.", a.Name, MaxAttributeName, MaxTextValue)
	case len(o.ClientAttributes) >= MaxAttributes:
		return Attribute{}, fault.Newf(fault.IndexOutOfBounds, "An object can have at most %d attributes.", MaxAttributes)
	}
	if strings.ContainsRune(a.Name, 0) || a.Value.hasNUL() {
		return Attribute{}, fault.Newf(fault.Invalid, "Attribute %.40q: text may not hold the character NUL.", a.Name)
	}
	if a.Name == AttributeName && a.Value.Type != Structure {
		return Attribute{}, fault.New(fault.Invalid, "Name must be a structure of Name Value and Name Type.")
	}
	a.Index = 0
	for _, have := range o.ClientAttributes {
		if have.Name == a.Name && have.Index >= a.Index {
			a.Index = have.Index + 1
		}
	}
	// A new slice: the object may share the old one with a copy.
	o.ClientAttributes = append(slices.Clone(o.ClientAttributes), a)
	return a, nil
}

func second(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// hasNUL tells whether a text inside holds the one character that PostgreSQL
// can't store.
func (v Value) hasNUL() bool {
	return strings.ContainsRune(v.Text, 0) || slices.ContainsFunc(v.Fields, func(f Field) bool { return f.Value.hasNUL() })
}

func (v Value) size() int {
	n := len(v.Text) + len(v.Bytes)
	if v.Big != nil {
		n += len(v.Big.Bits()) * 8
	}
	for _, f := range v.Fields {
		n += 8 + f.Value.size()
	}
	return n
}
