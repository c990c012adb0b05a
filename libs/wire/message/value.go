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
func (c *Cursor) Value() (kmip.Value, error) { return c.valueWithin(MaxDepth) }

func (c *Cursor) valueWithin(depth int) (v kmip.Value, err error) {
	v.Type = kmip.ValueType(c.Type())
	switch v.Type {
	case kmip.Structure:
		if depth == 0 {
			return v, errDeep
		}
		v.Fields, err = c.fields(depth - 1)
	case kmip.Integer:
		var n int32
		n, err = c.Int32()
		v.Number = int64(n)
	case kmip.Enumeration, kmip.Interval:
		var n uint32
		n, err = c.narrow(c.typ)
		v.Number = int64(n)
	case kmip.LongInteger, kmip.Boolean, kmip.DateTime:
		v.Number, err = c.wide(c.typ)
	case kmip.BigInteger:
		v.Big = bigInteger(c.value)
	case kmip.TextString:
		v.Text, err = c.Text()
	case kmip.ByteString:
		v.Bytes = slices.Clone(c.value)
	default:
		err = fault.Newf(fault.Malformed, "The field %v has an unknown type.", c.Tag())
	}
	return v, err
}

func (c *Cursor) fields(depth int) ([]kmip.Field, error) {
	children, err := c.Children()
	if err != nil {
		return nil, err
	}
	n := 0
	for each := children; each.Next(); n++ {
	}
	fields := make([]kmip.Field, 0, n)
	for children.Next() {
		v, err := children.valueWithin(depth)
		if err != nil {
			return nil, err
		}
		fields = append(fields, kmip.Field{Tag: uint32(children.Tag()), Value: v})
	}
	return fields, nil
}

// Members returns how many items the current item's structure holds, those of
// inner structures included; 0 if it is no structure.
func (c *Cursor) Members() (n int) {
	if c.typ != ttlv.TypeStructure {
		return 0
	}
	for members := (Cursor{rest: c.value}); members.Next(); {
		n += 1 + members.Members()
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
