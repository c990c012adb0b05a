package message

import (
	"math/big"
	"slices"

	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

// Value returns a copy of the current item's value, whatever its type; depth
// and size are those that Validate allowed.
func (c *Cursor) Value() (v kmip.Value, err error) {
	err = c.CopyValue(&v)
	return v, err
}

// CopyValue is Value into a zero one.
func (c *Cursor) CopyValue(v *kmip.Value) error { return c.copyWithin(v, MaxDepth) }

func (c *Cursor) copyWithin(v *kmip.Value, depth int) (err error) {
	v.Type = kmip.ValueType(c.Type())
	switch v.Type {
	case kmip.Structure:
		if depth == 0 {
			return errDeep
		}
		v.Fields, err = c.fields(depth - 1)
	case kmip.Integer:
		var n int32
		n, err = c.Int32()
		v.Number = int64(n)
	case kmip.Enumeration, kmip.Interval:
		var n uint32
		n, err = c.narrow(c.Type())
		v.Number = int64(n)
	case kmip.LongInteger, kmip.Boolean, kmip.DateTime:
		v.Number, err = c.wide(c.Type())
	case kmip.BigInteger:
		v.Big = bigInteger(c.value())
	case kmip.TextString:
		v.Text, err = c.Text()
	case kmip.ByteString:
		v.Bytes = slices.Clone(c.value())
	default:
		err = fault.Newf(fault.Malformed, "The field %v has an unknown type.", c.Tag())
	}
	return err
}

func (c *Cursor) fields(depth int) ([]kmip.Field, error) {
	children, err := c.Children()
	if err != nil {
		return nil, err
	}
	n := 0
	for each := children; each.Next(); n++ {
	}
	fields := make([]kmip.Field, n)
	for i := range fields {
		children.Next()
		fields[i].Tag = uint32(children.Tag())
		if err := children.copyWithin(&fields[i].Value, depth); err != nil {
			return nil, err
		}
	}
	return fields, nil
}

// The memory of what a kmip.Value may point to, in bytes.
const (
	fieldSize  = 96 // a kmip.Field
	bigIntSize = 80 // a big.Int, and what making it needs beside its digits
)

// ValueSize returns how many bytes of memory Value takes at most beside the
// kmip.Value itself.
func (c *Cursor) ValueSize() (n int) {
	switch c.Type() {
	case ttlv.TypeStructure:
		members, _ := c.Children()
		for members.Next() {
			n += fieldSize + members.ValueSize()
		}
	case ttlv.TypeBigInteger:
		n = bigIntSize + 3*len(c.value()) // negative ones are made of a copy
	case ttlv.TypeTextString, ttlv.TypeByteString:
		n = len(c.value())
	default: // a number
	}
	return n
}

// bigInteger reads two's complement, most significant byte first
// (KMIP 1.4, 9.1.1.4).
func bigInteger(b []byte) *big.Int {
	if len(b) == 0 || b[0]&0x80 == 0 {
		return new(big.Int).SetBytes(b)
	}
	inverse := make([]byte, len(b))
	for i := range b {
		inverse[i] = ^b[i]
	}
	n := new(big.Int).SetBytes(inverse)
	return n.Not(n)
}
