package kmip

import (
	"slices"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// Limits of an object, in one place.
const (
	MaxAttributes    = 1000 // those in ClientAttributes of one object
	MaxAttributeName = 256  // bytes
	MaxTextValue     = 4096 // bytes
)

// Attributes returns the attributes with the given names, in that order, or
// all of them in a fixed order without names, as they are at a moment. A name
// without a value gives nothing.
func (o *Object) Attributes(names []string, now time.Time) (out []Attribute) {
	for _, n := range names {
		out = o.appendInstances(out, n, now)
	}
	if len(names) > 0 {
		return out
	}
	for i := range rules {
		if rules[i].value != nil {
			out = o.appendInstances(out, rules[i].name, now)
		}
	}
	return append(out, o.ClientAttributes...)
}

// appendInstances appends the instances of one attribute.
func (o *Object) appendInstances(to []Attribute, name string, now time.Time) []Attribute {
	if r := ruleOf(name); r != nil && r.value != nil {
		if v, ok := r.value(o, now); ok && r.applies(o.Type) {
			to = append(to, Attribute{Name: name, Value: v})
		}
		return to
	}
	for _, a := range o.ClientAttributes {
		if a.Name == name {
			to = append(to, a)
		}
	}
	return to
}

// AddAttribute adds one instance and returns it with the index it got
// (KMIP 1.4, 4.14). Errors: Invalid, Denied, Illegal, IndexOutOfBounds,
// NamespaceMissing.
func (o *Object) AddAttribute(a Attribute, now time.Time) (Attribute, error) {
	r := ruleOf(a.Name)
	switch {
	case a.Index != 0:
		return Attribute{}, fault.New(fault.Invalid, "The index of a new attribute is chosen by the server.")
	case r == nil:
		return Attribute{}, unknownAttribute(a.Name)
	case !r.applies(o.Type):
		return Attribute{}, fault.Newf(fault.Denied, "Attribute %q does not apply to this type of object.", a.Name)
	case r.may&(add|modify) == 0:
		return Attribute{}, readOnly(a.Name)
	case r.may&add == 0, !r.multi && len(o.appendInstances(nil, a.Name, now)) > 0:
		return Attribute{}, fault.Newf(fault.Illegal, "Attribute %q has a value and can have one only.", a.Name)
	}
	return o.change(r, now, func(next *Object) (Attribute, error) { return next.put(r, a) })
}

// ModifyAttribute gives one instance another value (KMIP 1.4, 4.15). Errors:
// Invalid (also without a value to modify), NotFound for the index, Denied,
// NamespaceMissing.
func (o *Object) ModifyAttribute(a Attribute, now time.Time) (Attribute, error) {
	r := ruleOf(a.Name)
	if r == nil {
		return Attribute{}, unknownAttribute(a.Name)
	}
	have := o.appendInstances(nil, a.Name, now)
	switch {
	case r.may&modify == 0:
		return Attribute{}, readOnly(a.Name)
	case len(have) == 0:
		return Attribute{}, fault.Newf(fault.Invalid, "Attribute %.40q has no value that could be modified.", a.Name)
	case !hasIndex(have, a.Index):
		return Attribute{}, unknownIndex(a.Name)
	}
	return o.change(r, now, func(next *Object) (Attribute, error) {
		v, err := r.accepted(a)
		switch {
		case err != nil:
			return Attribute{}, err
		case r.set != nil:
			if err := r.set(next, v); err != nil {
				return Attribute{}, err
			}
			next.Exposed = o.Exposed || next.Sensitive && !o.Sensitive
			next.Extracted = o.Extracted || next.Unextractable && !o.Unextractable
		default:
			next.ClientAttributes = slices.Clone(o.ClientAttributes)
			next.ClientAttributes[o.place(a.Name, a.Index)].Value = v
		}
		a.Value = v
		return a, nil
	})
}

// DeleteAttribute removes one instance and returns it; the others keep their
// indices (KMIP 1.4, 4.16). Errors: NotFound, Denied.
func (o *Object) DeleteAttribute(name string, index int32, now time.Time) (Attribute, error) {
	r := ruleOf(name)
	switch {
	case r == nil:
		return Attribute{}, fault.Newf(fault.NotFound, "The object has no attribute %.40q.", name)
	case r.may&remove == 0:
		return Attribute{}, fault.Newf(fault.Denied, "Attribute %q can't be deleted.", name)
	}
	at := o.place(name, index)
	if at < 0 {
		return Attribute{}, unknownIndex(name)
	}
	return o.change(r, now, func(next *Object) (Attribute, error) {
		deleted := o.ClientAttributes[at]
		next.ClientAttributes = slices.Delete(slices.Clone(o.ClientAttributes), at, at+1)
		return deleted, nil
	})
}

// change lets f change a copy, and takes it over if nothing speaks against it.
func (o *Object) change(r *rule, now time.Time, f func(next *Object) (Attribute, error)) (Attribute, error) {
	if r.while != nil {
		if err := r.while(o, now); err != nil {
			return Attribute{}, err
		}
	}
	next := *o
	a, err := f(&next)
	if err != nil {
		return Attribute{}, err
	}
	if err := next.datesInOrder(); err != nil {
		return Attribute{}, err
	}
	next.LastChangeDate = second(now)
	*o = next
	return a, nil
}

// put sets the object's own field, or appends an instance; its index is one
// more than the highest in use under that name.
func (o *Object) put(r *rule, a Attribute) (Attribute, error) {
	v, err := r.accepted(a)
	if err != nil {
		return a, err
	}
	a.Value = v
	if r.set != nil {
		return a, r.set(o, v)
	}
	if len(o.ClientAttributes) >= MaxAttributes {
		return a, fault.Newf(fault.IndexOutOfBounds, "An object can have at most %d attributes.", MaxAttributes)
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

// accepted returns the value to keep of one that a client gives.
func (r *rule) accepted(a Attribute) (Value, error) {
	switch {
	case len(a.Name) > MaxAttributeName || a.Value.size() > MaxTextValue:
		return a.Value, fault.Newf(fault.Invalid, "Attribute %.40q is too long: names have at most %d bytes, values %d.", a.Name, MaxAttributeName, MaxTextValue)
	case strings.ContainsRune(a.Name, 0) || a.Value.hasNUL():
		return a.Value, fault.Newf(fault.Invalid, "Attribute %.40q: text may not hold the character NUL.", a.Name)
	}
	if r.form.typ != 0 {
		if err := r.form.check(r.name, a.Value); err != nil {
			return a.Value, err
		}
	}
	if r.accept != nil {
		return r.accept(a.Value)
	}
	return a.Value, nil
}

// place returns where ClientAttributes has an instance, or -1.
func (o *Object) place(name string, index int32) int {
	return slices.IndexFunc(o.ClientAttributes, func(a Attribute) bool { return a.Name == name && a.Index == index })
}

func hasIndex(instances []Attribute, index int32) bool {
	return slices.ContainsFunc(instances, func(a Attribute) bool { return a.Index == index })
}

func unknownAttribute(name string) error {
	return fault.Newf(fault.Invalid, "Attribute %.40q is not known; names of custom attributes begin with x-.", name)
}

func unknownIndex(name string) error {
	return fault.Newf(fault.NotFound, "Attribute %.40q has no instance with this index.", name)
}

func readOnly(name string) error {
	return fault.Newf(fault.Denied, "Attribute %.40q is set by the server, or once for all.", name)
}
