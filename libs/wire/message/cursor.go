package message

import (
	"encoding/binary"
	"time"

	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// Cursor steps over the items of one structure in a validated frame. It
// aliases the frame and allocates nothing but what a getter returns. Before
// the first Next and after the last it stands on no item: Tag is ttlv.TagNone
// and every getter fails. A copy of a Cursor moves on its own. The zero Cursor
// is empty.
type Cursor struct {
	rest  []byte // what follows the current item
	value []byte // of the current item, without padding
	tag   ttlv.Tag
	typ   ttlv.Type
}

// Open returns a cursor whose first Next steps on the message itself. The
// frame must have passed Validate; one that has not never causes a panic, but
// the cursor may end early.
func Open(frame []byte) Cursor { return Cursor{rest: frame} }

// Next steps on the next item and reports whether there is one.
func (c *Cursor) Next() bool {
	if len(c.rest) >= headSize {
		tag, typ, length := head(c.rest)
		if end := headSize + padded(length); end <= len(c.rest) {
			c.tag, c.typ = tag, typ
			c.value, c.rest = c.rest[headSize:headSize+length], c.rest[end:]
			return true
		}
	}
	*c = Cursor{}
	return false
}

// Tag returns the current item's tag.
func (c *Cursor) Tag() ttlv.Tag { return c.tag }

// Type returns the current item's type.
func (c *Cursor) Type() ttlv.Type { return c.typ }

// Children returns a cursor over the current item, a Structure.
func (c *Cursor) Children() (Cursor, error) {
	if c.typ != ttlv.TypeStructure {
		return Cursor{}, c.mismatch(ttlv.TypeStructure)
	}
	return Cursor{rest: c.value}, nil
}

// Count returns how many items with a tag follow the current one.
func (c *Cursor) Count(tag ttlv.Tag) (n int) {
	for left := (Cursor{rest: c.rest}); left.Next(); {
		if left.tag == tag {
			n++
		}
	}
	return n
}

// Int32 returns an Integer.
func (c *Cursor) Int32() (int32, error) {
	n, err := c.narrow(ttlv.TypeInteger)
	return int32(n), err //nolint:gosec // two's complement on the wire
}

// Int64 returns a Long Integer.
func (c *Cursor) Int64() (int64, error) { return c.wide(ttlv.TypeLongInteger) }

// Enum returns an Enumeration.
func (c *Cursor) Enum() (uint32, error) { return c.narrow(ttlv.TypeEnumeration) }

// Bool returns a Boolean.
func (c *Cursor) Bool() (bool, error) {
	n, err := c.wide(ttlv.TypeBoolean)
	return n != 0, err
}

// Text returns a Text String.
func (c *Cursor) Text() (string, error) {
	b, err := c.RawText()
	return string(b), err
}

// RawText returns a Text String as the frame's own bytes, not a copy.
func (c *Cursor) RawText() ([]byte, error) { return c.ofType(ttlv.TypeTextString) }

// Bytes returns a Byte String: the frame's own bytes, not a copy.
func (c *Cursor) Bytes() ([]byte, error) { return c.ofType(ttlv.TypeByteString) }

// Time returns a Date-Time in UTC.
func (c *Cursor) Time() (time.Time, error) {
	n, err := c.wide(ttlv.TypeDateTime)
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(n, 0).UTC(), nil
}

// Interval returns an Interval, which counts whole seconds.
func (c *Cursor) Interval() (time.Duration, error) {
	n, err := c.narrow(ttlv.TypeInterval)
	return time.Duration(n) * time.Second, err
}

func (c *Cursor) narrow(want ttlv.Type) (uint32, error) {
	if c.typ != want || len(c.value) != 4 {
		return 0, c.mismatch(want)
	}
	return binary.BigEndian.Uint32(c.value), nil
}

func (c *Cursor) wide(want ttlv.Type) (int64, error) {
	if c.typ != want || len(c.value) != 8 {
		return 0, c.mismatch(want)
	}
	return int64(binary.BigEndian.Uint64(c.value)), nil //nolint:gosec // two's complement on the wire
}

func (c *Cursor) ofType(want ttlv.Type) ([]byte, error) {
	if c.typ != want {
		return nil, c.mismatch(want)
	}
	return c.value, nil
}

func (c *Cursor) mismatch(want ttlv.Type) error {
	return fault.Newf(fault.Malformed, "The field %v has type %v where %v is expected.", c.tag, c.typ, want)
}
