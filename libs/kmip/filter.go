package kmip

import (
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// Filter is what Locate asks for: all of it has to hold (KMIP 1.4, 4.9). The
// zero Filter matches every object.
type Filter struct {
	attributes []Attribute
}

// NewFilter checks the attributes of a Locate. A date given twice is a range.
// A custom name that no object has matches none; a name that is neither custom
// nor known is Invalid.
func NewFilter(attributes []Attribute) (Filter, error) {
	for _, a := range attributes {
		_, system := systemAttributes[a.Name]
		custom := strings.HasPrefix(a.Name, "x-") || strings.HasPrefix(a.Name, "y-")
		if !system && !custom && a.Name != AttributeName {
			return Filter{}, fault.Newf(fault.Invalid, "Attribute %.40q can't be located by.", a.Name)
		}
	}
	return Filter{attributes: attributes}, nil
}

// Matches reports whether an object, as it is at a moment, has what the filter
// asks for.
func (f Filter) Matches(o *Object, now time.Time) bool {
	current := *o
	current.State = o.Current(now)
	done := make(map[string]bool, len(f.attributes))
	for _, want := range f.attributes {
		if done[want.Name] {
			continue
		}
		have := current.Attributes([]string{want.Name})
		switch {
		case want.Value.Type == DateTime && f.count(want.Name) == 2:
			done[want.Name] = true
			if !f.inRange(want.Name, have) {
				return false
			}
		case !slices.ContainsFunc(have, func(a Attribute) bool { return a.meets(want) }):
			return false
		}
	}
	return true
}

func (f Filter) count(name string) (n int) {
	for _, a := range f.attributes {
		if a.Name == name {
			n++
		}
	}
	return n
}

// inRange reports whether a date lies between the two that are given,
// inclusive, in whatever order they come.
func (f Filter) inRange(name string, have []Attribute) bool {
	var limits []int64
	for _, a := range f.attributes {
		if a.Name == name {
			limits = append(limits, a.Value.Number)
		}
	}
	return slices.ContainsFunc(have, func(a Attribute) bool {
		return a.Value.Type == DateTime && a.Value.Number >= slices.Min(limits) && a.Value.Number <= slices.Max(limits)
	})
}

// meets compares one instance with what is asked for; indices don't matter.
func (a Attribute) meets(want Attribute) bool {
	if a.Name == AttributeCryptographicUsageMask {
		return want.Value.Type == Integer && a.Value.Number&want.Value.Number == want.Value.Number
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
