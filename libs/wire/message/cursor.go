package message

import (
	"encoding/binary"
	"time"

	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// Cursor steps over the items of one structure in a validated frame. It
// aliases the frame and allocates nothing but what a getter returns. Before
// the first Next it stands on no item: Tag is ttlv.TagNone and every getter
// fails. A copy of a Cursor moves on its own. The zero Cursor is empty.
type Cursor struct {
	item []byte // the current item with its head, without padding
	rest []byte // what follows it
}

// Open returns a cursor whose first Next steps on the message itself. The
// frame must have passed Validate; one that has not never causes a panic, but
// the cursor may end early.
func Open(frame []byte) Cursor { return Cursor{rest: frame} }

// Next steps on the next item and reports whether there is one.
func (c *Cursor) Next() bool {
	if len(c.rest) >= headSize {
		_, _, length := head(c.rest)
		if end := headSize + padded(length); end <= len(c.rest) {
			c.item, c.rest = c.rest[:headSize+length], c.rest[end:]
			return true
		}
	}
	*c = Cursor{}
	return false
}

// Tag returns the current item's tag.
func (c *Cursor) Tag() ttlv.Tag {
	if c.item == nil {
		return ttlv.TagNone
	}
	tag, _, _ := head(c.item)
	return tag
}

// Type returns the current item's type.
func (c *Cursor) Type() ttlv.Type {
	if c.item == nil {
		return 0
	}
	return ttlv.Type(c.item[3])
}

// Children returns a cursor over the current item, a Structure.
func (c *Cursor) Children() (Cursor, error) {
	b, err := c.value(ttlv.TypeStructure, 0)
	return Cursor{rest: b}, err
}

// Int32 returns an Integer.
func (c *Cursor) Int32() (int32, error) {
	b, err := c.value(ttlv.TypeInteger, 4)
	if err != nil {
		return 0, err
	}
	return int32(binary.BigEndian.Uint32(b)), nil //nolint:gosec // two's complement on the wire
}

// Int64 returns a Long Integer.
func (c *Cursor) Int64() (int64, error) { return c.wide(ttlv.TypeLongInteger) }

// Enum returns an Enumeration.
func (c *Cursor) Enum() (uint32, error) {
	b, err := c.value(ttlv.TypeEnumeration, 4)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(b), nil
}

// Bool returns a Boolean.
func (c *Cursor) Bool() (bool, error) {
	n, err := c.wide(ttlv.TypeBoolean)
	return n != 0, err
}

// Text returns a Text String.
func (c *Cursor) Text() (string, error) {
	b, err := c.value(ttlv.TypeTextString, 0)
	return string(b), err
}

// Bytes returns a Byte String: the frame's own bytes, not a copy.
func (c *Cursor) Bytes() ([]byte, error) { return c.value(ttlv.TypeByteString, 0) }

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
	b, err := c.value(ttlv.TypeInterval, 4)
	if err != nil {
		return 0, err
	}
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Second, nil
}

func (c *Cursor) wide(typ ttlv.Type) (int64, error) {
	b, err := c.value(typ, 8)
	if err != nil {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(b)), nil //nolint:gosec // two's complement on the wire
}

// value returns the current item's bytes if it has the type, and the length
// unless that is 0.
func (c *Cursor) value(want ttlv.Type, length int) ([]byte, error) {
	if c.item == nil || c.Type() != want || (length != 0 && len(c.item) != headSize+length) {
		return nil, fault.Newf(fault.Malformed, "The field %v has type %v where %v is expected.", c.Tag(), c.Type(), want)
	}
	return c.item[headSize:], nil
}
