// Package oasis plays conformance cases against a KMIP server: OASIS's cases
// in XML (KMIP Profiles 1.4 and KMIP Test Cases: requests and the answers
// expected of them, in turns), and the same in hexadecimal TTLV. It shares no code with
// the server: it reads and writes TTLV with gemalto/kmip-go alone, so that no
// wrong belief passes on both sides.
//
// Read reads the Cases of a folder, and a Player plays one: its Report says
// what differed from the case's answers, and which answers no client should
// ever get. Evidence is what the cases and the clients of others show; the
// statement in docs/kmip.md is made of it.
package oasis

//go:generate go test -count=1 -run ^(TestEvidence|TestStatement)$ -update .

import (
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"
)

// Case is one conformance case.
type Case struct {
	Name  string // as OASIS names it: TC-41-10
	Class string // what the manifest says of it
	Steps []Step
}

// Step is a request and the answer that the case expects, as messages.
type Step struct {
	Request, Response Item
}

// Item is one TTLV item.
type Item struct {
	Tag   ttlv.Tag
	Value any    // as ttlv.TTLV.Value returns it; nil in a Structure
	Items []Item // of a Structure
	// Placeholder names a value that the case leaves open: a date relative
	// to now ($NOW-3600), or one that a server chooses and that stays the same
	// from then on ($UNIQUE_IDENTIFIER_0).
	Placeholder string
	structure   bool
}

// String returns tag and value.
func (i Item) String() string {
	switch v := i.Value.(type) {
	case nil:
		return i.Tag.String() + " " + i.Placeholder
	case []byte:
		return fmt.Sprintf("%v %x", i.Tag, v)
	case ttlv.EnumValue:
		return fmt.Sprintf("%v %s", i.Tag, names.FormatEnum(i.Tag, uint32(v)))
	default:
		return fmt.Sprintf("%v %v", i.Tag, v)
	}
}

// find returns the items at a path of tags.
func (i Item) find(path ...ttlv.Tag) []Item {
	found := []Item{i}
	for _, tag := range path {
		var deeper []Item
		for _, f := range found {
			for _, c := range f.Items {
				if c.Tag == tag {
					deeper = append(deeper, c)
				}
			}
		}
		found = deeper
	}
	return found
}

// at returns the first item at a path of tags, or the zero Item.
func (i Item) at(path ...ttlv.Tag) Item {
	if found := i.find(path...); len(found) > 0 {
		return found[0]
	}
	return Item{}
}

// each calls f with every item, structures before what they hold.
func (i *Item) each(f func(*Item)) {
	f(i)
	for n := range i.Items {
		i.Items[n].each(f)
	}
}

// equal reports whether two values are equal, type included.
func equal(a, b any) bool {
	if x, ok := a.(time.Time); ok {
		y, ok := b.(time.Time)
		return ok && x.Equal(y)
	}
	if x, ok := a.(*big.Int); ok {
		y, ok := b.(*big.Int)
		return ok && x.Cmp(y) == 0
	}
	return reflect.DeepEqual(a, b)
}

// value returns what package ttlv encodes.
func (i Item) value() ttlv.Value {
	if !i.structure {
		return ttlv.NewValue(i.Tag, i.Value)
	}
	fields := make(ttlv.Values, len(i.Items))
	for n, c := range i.Items {
		fields[n] = c.value()
	}
	return ttlv.Value{Tag: i.Tag, Value: fields}
}

// Encode returns the TTLV encoding of an item without placeholders.
func (i Item) Encode() ([]byte, error) { return ttlv.Marshal(i.value()) }

// Decode returns the item that is encoded in b, which holds nothing else.
func Decode(b []byte) (Item, error) {
	i, rest, err := decode(b, false)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("oasis: %d bytes follow the %v", len(rest), i.Tag)
	}
	return i, err
}

const headSize = 8 // tag, type, length

// decode returns the first item in b and what follows it. Foreign items are
// those below a Vendor Extension, whose tags are the vendor's own.
func decode(b []byte, foreign bool) (i Item, rest []byte, err error) {
	t := ttlv.TTLV(b)
	if len(b) < headSize || t.FullLen() > len(b) {
		return i, nil, errors.New("oasis: the message ends inside an item")
	}
	t, rest = t[:t.FullLen()], b[t.FullLen():]
	i.Tag, i.structure = t.Tag(), t.Type() == ttlv.TypeStructure
	if !i.structure {
		if err := t.Valid(); err != nil && !foreign {
			return i, nil, fmt.Errorf("oasis: not TTLV: %w", err)
		}
		i.Value = t.Value()
		return i, rest, nil
	}
	for fields := t.ValueRaw(); len(fields) > 0; {
		var c Item
		if c, fields, err = decode(fields, foreign || i.Tag == kmip14.TagVendorExtension); err != nil {
			return i, nil, err
		}
		i.Items = append(i.Items, c)
	}
	return i, rest, nil
}

// version returns the Protocol Version of a message's header, as 1.4.
func (i Item) version() string {
	header := kmip14.TagRequestHeader
	if i.Tag == kmip14.TagResponseMessage {
		header = kmip14.TagResponseHeader
	}
	return protocolVersion(i.at(header, kmip14.TagProtocolVersion))
}

func protocolVersion(v Item) string {
	return fmt.Sprintf("%v.%v", v.at(kmip14.TagProtocolVersionMajor).Value, v.at(kmip14.TagProtocolVersionMinor).Value)
}

// spoken reports whether a message has a version of KMIP 1.x.
func spoken(m Item) bool { return strings.HasPrefix(m.version(), "1.") }

// Version returns the protocol version that the case's requests have, as 1.4.
func (c Case) Version() string { return c.Steps[0].Request.version() }
