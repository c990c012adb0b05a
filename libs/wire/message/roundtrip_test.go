package message_test

import (
	"bytes"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// source makes a value of any kind out of bytes of any kind.
type source []byte

func (s *source) take(n int) []byte {
	n = min(n, len(*s))
	b := (*s)[:n]
	*s = (*s)[n:]
	return b
}

func (s *source) number() int64 { return new(big.Int).SetBytes(s.take(8)).Int64() }

func (s *source) value(depth int) kmip.Value {
	var choice [1]byte
	copy(choice[:], s.take(1))
	typ := kmip.ValueType(choice[0]%10 + 1)
	switch typ {
	case kmip.Structure:
		v := kmip.Value{Type: typ}
		for depth > 0 && len(*s) > 0 && len(v.Fields) < 1+int(choice[0]>>4) {
			tag := 0x420000 | uint32(s.number())&0xFFFF
			if choice[0]&0x10 != 0 {
				tag += 0x120000 // an extension's
			}
			v.Fields = append(v.Fields, kmip.Field{Tag: tag, Value: s.value(depth - 1)})
		}
		return v
	case kmip.Integer:
		return kmip.Int(int32(s.number()))
	case kmip.LongInteger, kmip.DateTime:
		return kmip.Value{Type: typ, Number: s.number()}
	case kmip.BigInteger:
		n := new(big.Int).SetBytes(s.take(int(choice[0]) / 2))
		if choice[0]&0x10 != 0 {
			n.Neg(n)
		}
		return kmip.Value{Type: typ, Big: n}
	case kmip.Enumeration, kmip.Interval:
		return kmip.Value{Type: typ, Number: int64(uint32(s.number()))}
	case kmip.Boolean:
		return kmip.Value{Type: typ, Number: s.number() & 1}
	case kmip.TextString:
		text := strings.ToValidUTF8(string(s.take(int(choice[0]))), "?")
		return kmip.Text(strings.ReplaceAll(text, "\x00", "0"))
	default:
		return kmip.Value{Type: kmip.ByteString, Bytes: s.take(int(choice[0]))}
	}
}

// same compares values; empty is as good as nil.
func same(a, b kmip.Value) bool {
	if a.Type != b.Type || a.Number != b.Number || a.Text != b.Text || !bytes.Equal(a.Bytes, b.Bytes) ||
		len(a.Fields) != len(b.Fields) || (a.Big == nil) != (b.Big == nil) || a.Big != nil && a.Big.Cmp(b.Big) != 0 {
		return false
	}
	for i := range a.Fields {
		if a.Fields[i].Tag != b.Fields[i].Tag || !same(a.Fields[i].Value, b.Fields[i].Value) {
			return false
		}
	}
	return true
}

// FuzzValueRoundTrip holds that a value of any type is read back as it was
// written, and written as others write it. Without -fuzz, it goes through
// values of a fixed seed.
func FuzzValueRoundTrip(f *testing.F) {
	random := rand.NewChaCha8([32]byte{'v', 'a', 'l', 'u', 'e', 's'})
	for n := range 2000 {
		b := make([]byte, n%300)
		_, _ = random.Read(b) // never fails
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := source(b)
		want := kmip.Struct(field(kmip14.TagAttributeValue, s.value(message.MaxDepth-2)))
		var w message.Writer
		if err := w.Value(kmip14.TagRequestMessage, want); err != nil {
			t.Fatal(err)
		}
		if err := message.Validate(w.Frame(), message.Limits{Frame: w.Len(), Depth: message.MaxDepth, Items: w.Len(), Text: w.Len()}); err != nil {
			t.Fatalf("%v: %+v", err, want)
		}
		c := message.Open(w.Frame())
		c.Next()
		got, err := c.Value()
		if err != nil || !same(got, want) {
			t.Errorf("%v: read back\n%+v\nwant\n%+v", err, got, want)
		}
		var others bytes.Buffer
		enc := ttlv.NewEncoder(&others)
		if err := encode(enc, kmip14.TagRequestMessage, want); err != nil {
			t.Fatal(err)
		}
		if err := enc.Flush(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(w.Frame(), others.Bytes()) {
			t.Errorf("we write\n%x\npackage ttlv writes\n%x", w.Frame(), others.Bytes())
		}
	})
}

// encode writes a value with the encoder of package ttlv.
func encode(e *ttlv.Encoder, tag ttlv.Tag, v kmip.Value) error {
	switch v.Type {
	case kmip.Structure:
		return e.EncodeStructure(tag, func(e *ttlv.Encoder) error {
			for _, f := range v.Fields {
				if err := encode(e, ttlv.Tag(f.Tag), f.Value); err != nil {
					return err
				}
			}
			return nil
		})
	case kmip.Integer:
		e.EncodeInteger(tag, int32(v.Number))
	case kmip.LongInteger:
		e.EncodeLongInteger(tag, v.Number)
	case kmip.BigInteger:
		e.EncodeBigInteger(tag, v.Big)
	case kmip.Enumeration:
		e.EncodeEnumeration(tag, uint32(v.Number))
	case kmip.Boolean:
		e.EncodeBoolean(tag, v.Number != 0)
	case kmip.TextString:
		e.EncodeTextString(tag, v.Text)
	case kmip.ByteString:
		e.EncodeByteString(tag, append([]byte{}, v.Bytes...)) // it leaves nil out
	case kmip.DateTime:
		e.EncodeDateTime(tag, time.Unix(v.Number, 0))
	case kmip.Interval:
		e.EncodeInterval(tag, time.Duration(v.Number)*time.Second)
	}
	return nil
}
