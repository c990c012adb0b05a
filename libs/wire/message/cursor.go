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
	b        []byte // the structure's members
	at, next uint32 // where the current item and the one after it begin; equal on no item
}

// Open returns a cursor whose first Next steps on the message itself. The
// frame must have passed Validate; one that has not never causes a panic, but
// the cursor may end early.
func Open(frame []byte) Cursor { return Cursor{b: frame} }

// Next steps on the next item and reports whether there is one.
func (c *Cursor) Next() bool {
	c.at = c.next
	if left := c.b[c.at:]; len(left) >= headSize {
		length := binary.BigEndian.Uint32(left[4:])
		if size := headSize + padded(int(length)); size <= len(left) {
			c.next = c.at + uint32(size) //nolint:gosec // no more than len(left)
			return true
		}
	}
	return false
}

// kind returns the current item's tag and type, as on the wire; 0 on no item.
func (c *Cursor) kind() uint32 {
	if c.at == c.next {
		return 0
	}
	return binary.BigEndian.Uint32(c.b[c.at:])
}

// value returns the current item's bytes without head and padding.
func (c *Cursor) value() []byte {
	if c.at == c.next {
		return nil
	}
	item := c.b[c.at:c.next]
	return item[headSize:][:binary.BigEndian.Uint32(item[4:])]
}

// Tag returns the current item's tag.
func (c *Cursor) Tag() ttlv.Tag { return ttlv.Tag(c.kind() >> 8) }

// Type returns the current item's type.
func (c *Cursor) Type() ttlv.Type { return ttlv.Type(c.kind()) } //nolint:gosec // cut on purpose

// Children returns a cursor over the current item, a Structure.
func (c *Cursor) Children() (Cursor, error) {
	if c.Type() != ttlv.TypeStructure {
		return Cursor{}, c.mismatch(ttlv.TypeStructure)
	}
	return Open(c.b[c.at+headSize : c.next]), nil
}

// Count returns how many items with a tag follow the current one.
func (c *Cursor) Count(tag ttlv.Tag) (n int) {
	for left := *c; left.Next(); {
		if left.Tag() == tag {
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
	v := c.value()
	if c.Type() != want || len(v) != 4 {
		return 0, c.mismatch(want)
	}
	return binary.BigEndian.Uint32(v), nil
}

func (c *Cursor) wide(want ttlv.Type) (int64, error) {
	v := c.value()
	if c.Type() != want || len(v) != 8 {
		return 0, c.mismatch(want)
	}
	return int64(binary.BigEndian.Uint64(v)), nil //nolint:gosec // two's complement on the wire
}

func (c *Cursor) ofType(want ttlv.Type) ([]byte, error) {
	if c.Type() != want {
		return nil, c.mismatch(want)
	}
	return c.value(), nil
}

func (c *Cursor) mismatch(want ttlv.Type) error {
	return fault.Newf(fault.Malformed, "The field %v has type %v where %v is expected.", c.Tag(), c.Type(), want)
}
