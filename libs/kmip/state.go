package kmip

import (
	"slices"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// State is KMIP's State enumeration (3.22). Opaque objects have none; theirs
// is kept all the same, to tell those that are destroyed.
type State uint32

// The states.
const (
	PreActive            State = 1
	Active               State = 2
	Deactivated          State = 3
	Compromised          State = 4
	Destroyed            State = 5
	DestroyedCompromised State = 6
)

var stateNames = map[State]string{
	PreActive: "Pre-Active", Active: "Active", Deactivated: "Deactivated", Compromised: "Compromised",
	Destroyed: "Destroyed", DestroyedCompromised: "Destroyed Compromised",
}

// String returns the name that the specification gives the state.
func (s State) String() string { return stateNames[s] }

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

// destroyed reports whether the bytes are gone.
func (o *Object) destroyed() bool { return o.State == Destroyed || o.State == DestroyedCompromised }

// Activate moves the object from Pre-Active to Active (KMIP 1.4, 4.19).
func (o *Object) Activate(now time.Time) error {
	if o.Type == OpaqueObject {
		return fault.New(fault.Illegal, "An opaque object has no state, so it can't be activated.")
	}
	if s := o.Current(now); s != PreActive {
		return fault.Newf(fault.Denied, "Only a Pre-Active object can be activated; this one is %s.", s)
	}
	o.State, o.ActivationDate, o.LastChangeDate = Active, second(now), second(now)
	return nil
}

// Revoke deactivates an Active object, or marks one of any state but Destroyed
// Compromised as compromised since occurred (KMIP 1.4, 3.22 and 4.20).
func (o *Object) Revoke(why Revocation, occurred, now time.Time) error {
	next := *o
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
			next.State = Compromised
		case Destroyed:
			next.State = DestroyedCompromised
		default:
			return fault.Newf(fault.Illegal, "An object that is %s can't be revoked again.", s)
		}
		next.CompromiseOccurrenceDate, next.CompromiseDate = second(occurred), second(now)
	case o.Type == OpaqueObject && s == PreActive: // nothing to deactivate: the reason is noted
	case s == Active:
		next.State, next.DeactivationDate = Deactivated, second(now)
	default:
		return fault.Newf(fault.Illegal, "Only an Active object can be revoked without a compromise; this one is %s.", s)
	}
	next.Revocation, next.LastChangeDate = &why, second(now)
	*o = next
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

// Serve notes that a client gets the bytes (KMIP 1.4, 3.34).
func (o *Object) Serve(now time.Time) {
	o.Served, o.LastChangeDate = true, second(now)
}

// Grouped reports whether the object is a member of an object group
// (KMIP 1.4, 3.33).
func (o *Object) Grouped() bool {
	return slices.ContainsFunc(o.ClientAttributes, func(a Attribute) bool { return a.Name == AttributeObjectGroup })
}

// GiveAs returns the format in which the bytes are given out to a client that
// asks for one, or for none with 0 (KMIP 1.4, 2.1.3 and 4.11). Errors: Sensitive,
// NotExtractable, FormatMissing.
func (o *Object) GiveAs(asked KeyFormat) (KeyFormat, error) {
	usual := Raw
	if o.Type != SymmetricKey {
		usual = o.Format
	}
	switch {
	case o.Sensitive:
		return 0, fault.New(fault.Sensitive, "The object is sensitive: it is given out wrapped only, which is not supported.")
	case o.Unextractable:
		return 0, fault.New(fault.NotExtractable, "The object is not extractable.")
	case asked == 0, asked == usual:
		return usual, nil
	case o.Type == SymmetricKey && asked == TransparentSymmetricKey, o.Type == SecretData && (asked == Raw || asked == Opaque):
		return asked, nil
	}
	return 0, fault.New(fault.FormatMissing, "The object can't be given out in this Key Format Type.")
}

// Use is what a client asks with Check whether it may do it (KMIP 1.4, 4.10);
// zero fields ask nothing.
type Use struct {
	Mask  UsageMask
	Units int64 // Usage Limits Count
}

// Check returns the part of a use that the object's attributes don't allow.
func (o *Object) Check(u Use) (denied Use, err error) {
	if o.destroyed() {
		return Use{}, fault.Newf(fault.Illegal, "An object that is %s can't be used.", o.State)
	}
	if u.Mask&^o.UsageMask != 0 {
		denied.Mask = u.Mask
	}
	for _, a := range o.ClientAttributes {
		if a.Name == AttributeUsageLimits && u.Units > a.Value.member(tagUsageLimitsCount).Number {
			denied.Units = u.Units
		}
	}
	return denied, nil
}

// datesInOrder refuses dates that contradict each other (KMIP 1.4, 3.24 to
// 3.27). An Activation Date may lie before the Initial Date: clients bring keys
// that they already use.
func (o *Object) datesInOrder() error {
	var last time.Time
	for _, date := range []time.Time{o.ActivationDate, o.ProcessStartDate, o.ProtectStopDate, o.DeactivationDate} {
		switch {
		case date.IsZero():
		case date.Before(last):
			return fault.New(fault.Invalid, "Activation, Process Start, Protect Stop and Deactivation Date have to follow in this order.")
		default:
			last = date
		}
	}
	return nil
}

func second(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
