package message

import (
	"fmt"
	"math/big"
	"slices"
	"time"

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
	case kmip.LongInteger:
		v.Number, err = c.Int64()
	case kmip.BigInteger:
		var b []byte
		b, err = c.value(ttlv.TypeBigInteger, 0)
		v.Big = bigInteger(b)
	case kmip.Enumeration:
		var n uint32
		n, err = c.Enum()
		v.Number = int64(n)
	case kmip.Boolean:
		v.Number, err = c.wide(ttlv.TypeBoolean)
	case kmip.TextString:
		v.Text, err = c.Text()
	case kmip.ByteString:
		var b []byte
		b, err = c.Bytes()
		v.Bytes = slices.Clone(b)
	case kmip.DateTime:
		v.Number, err = c.wide(ttlv.TypeDateTime)
	case kmip.Interval:
		var d time.Duration
		d, err = c.Interval()
		v.Number = int64(d / time.Second)
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
	var fields []kmip.Field
	for children.Next() {
		v, err := children.valueWithin(depth)
		if err != nil {
			return nil, err
		}
		fields = append(fields, kmip.Field{Tag: uint32(children.Tag()), Value: v})
	}
	return fields, nil
}

// bigInteger reads two's complement, most significant byte first
// (KMIP 1.4, 9.1.1.4).
func bigInteger(b []byte) *big.Int {
	n := new(big.Int).SetBytes(b)
	if len(b) > 0 && b[0]&0x80 != 0 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(len(b))*8))
	}
	return n
}

// PutValue writes a value of any type under a tag. It fails on a type that
// KMIP 1.4 does not have, and then has written nothing of that value.
func PutValue(e *ttlv.Encoder, tag ttlv.Tag, v kmip.Value) error {
	switch v.Type {
	case kmip.Structure:
		return e.EncodeStructure(tag, func(e *ttlv.Encoder) error {
			for _, f := range v.Fields {
				if err := PutValue(e, ttlv.Tag(f.Tag), f.Value); err != nil {
					return err
				}
			}
			return nil
		})
	case kmip.Integer:
		e.EncodeInteger(tag, int32(v.Number)) //nolint:gosec // an Integer has 32 bits
	case kmip.LongInteger:
		e.EncodeLongInteger(tag, v.Number)
	case kmip.BigInteger:
		n := v.Big
		if n == nil {
			n = new(big.Int) // the encoder would leave the field out
		}
		e.EncodeBigInteger(tag, n)
	case kmip.Enumeration:
		e.EncodeEnumeration(tag, uint32(v.Number)) //nolint:gosec // an Enumeration has 32 bits
	case kmip.Boolean:
		e.EncodeBoolean(tag, v.Number != 0)
	case kmip.TextString:
		e.EncodeTextString(tag, v.Text)
	case kmip.ByteString:
		PutBytes(e, tag, v.Bytes)
	case kmip.DateTime:
		e.EncodeDateTime(tag, time.Unix(v.Number, 0))
	case kmip.Interval:
		e.EncodeInterval(tag, time.Duration(v.Number)*time.Second)
	default:
		return fmt.Errorf("message: value type %d of tag %v can't be encoded", v.Type, tag)
	}
	return nil
}

// PutBytes writes a Byte String, also an empty one, which the encoder would
// leave out if it is nil.
func PutBytes(e *ttlv.Encoder, tag ttlv.Tag, b []byte) {
	if b == nil {
		b = []byte{}
	}
	e.EncodeByteString(tag, b)
}
