package kmip

import (
	"math/big"
	"slices"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// Filter is what Locate asks for: all of it has to hold (KMIP 1.4, 4.9). The
// zero Filter matches every object whose bytes exist.
type Filter struct {
	attributes []Attribute
	ranges     map[string][2]int64 // dates given twice: both limits are included
	destroyed  bool                // match destroyed objects too
}

// NewFilter checks the attributes of a Locate. A date given twice is a range.
// A custom name that no object has matches none; a name that is neither custom
// nor known is Invalid. Destroyed objects match only a filter that asks for
// State or Destroy Date: they are no longer in on-line storage, and the OASIS
// test cases expect them gone.
func NewFilter(attributes []Attribute) (Filter, error) {
	f := Filter{ranges: make(map[string][2]int64)}
	dates := make(map[string][]int64)
	for _, a := range attributes {
		switch {
		case ruleOf(a.Name) == nil:
			return Filter{}, fault.Newf(fault.Invalid, "Attribute %.40q can't be located by.", a.Name)
		case a.Name == AttributeState, a.Name == AttributeDestroyDate:
			f.destroyed = true
		}
		if a.Value.Type == DateTime {
			dates[a.Name] = append(dates[a.Name], a.Value.Number)
		} else {
			f.attributes = append(f.attributes, a)
		}
	}
	for name, limits := range dates {
		if len(limits) > 2 {
			return Filter{}, fault.Newf(fault.Invalid, "Attribute %.40q is given more than twice.", name)
		}
		f.ranges[name] = [2]int64{slices.Min(limits), slices.Max(limits)}
	}
	return f, nil
}

// NameFilter matches the object that holds a name (Names).
func NameFilter(name string) Filter {
	return Filter{attributes: []Attribute{{Name: AttributeName, Value: Struct(Field{tagNameValue, Text(name)})}}}
}

// Name returns a Name Value that every match has, if the filter asks for one
// that no destroyed object may match either: the ledger finds those directly.
func (f Filter) Name() (value string, ok bool) {
	for _, a := range f.attributes {
		if v := a.Value.member(tagNameValue); a.Name == AttributeName && v.Type == TextString && !f.destroyed {
			return v.Text, true
		}
	}
	return "", false
}

// Matches reports whether an object, as it is at a moment, has what the filter
// asks for.
func (f Filter) Matches(o *Object, now time.Time) bool {
	if o.destroyed() && !f.destroyed {
		return false
	}
	var room [4]Attribute
	for _, want := range f.attributes {
		have := o.appendInstances(room[:0], want.Name, now)
		if !slices.ContainsFunc(have, func(a Attribute) bool { return a.meets(want) }) {
			return false
		}
	}
	for name, limits := range f.ranges {
		have := o.appendInstances(room[:0], name, now)
		if !slices.ContainsFunc(have, func(a Attribute) bool {
			return a.Value.Type == DateTime && a.Value.Number >= limits[0] && a.Value.Number <= limits[1]
		}) {
			return false
		}
	}
	return true
}

// meets compares one instance with what is asked for; indices don't matter.
// Masks and limits have to hold at least what is asked for.
func (a Attribute) meets(want Attribute) bool {
	switch a.Name {
	case AttributeCryptographicUsageMask:
		return want.Value.Type == Integer && a.Value.Number&want.Value.Number == want.Value.Number
	case AttributeUsageLimits:
		return want.Value.Type == Structure && !slices.ContainsFunc(want.Value.Fields, func(f Field) bool {
			has := a.Value.member(f.Tag)
			return has.Type != f.Value.Type || has.Number < f.Value.Number || f.Tag == tagUsageLimitsUnit && has.Number != f.Value.Number
		})
	}
	return a.Value.holds(want.Value)
}

// holds compares values; of a structure only the members that are asked for.
func (v Value) holds(want Value) bool {
	if v.Type != want.Type {
		return false
	}
	switch v.Type {
	case TextString:
		return v.Text == want.Text
	case ByteString:
		return string(v.Bytes) == string(want.Bytes)
	case BigInteger:
		return orZero(v.Big).Cmp(orZero(want.Big)) == 0
	case Structure:
		for _, field := range want.Fields {
			if !slices.ContainsFunc(v.Fields, func(f Field) bool { return f.Tag == field.Tag && f.Value.holds(field.Value) }) {
				return false
			}
		}
		return true
	default:
		return v.Number == want.Number
	}
}

func orZero(n *big.Int) *big.Int {
	if n == nil {
		return new(big.Int)
	}
	return n
}
