package message

import (
	"encoding/binary"
	"fmt"
	"math/big"
	"time"

	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

// Writer appends items to a message (KMIP 1.4, 9.1.1). Structures nest:
//
//	at := w.Begin(kmip14.TagRequestHeader)
//	w.Int32(kmip14.TagBatchCount, 1)
//	w.End(at)
//
// The zero Writer is empty. Not safe for concurrent use.
type Writer struct {
	b []byte
}

// NewWriter returns a Writer that holds size bytes before it has to grow.
func NewWriter(size int) Writer { return Writer{b: make([]byte, 0, size)} }

// Frame returns what has been written: the Writer's own bytes, not a copy.
func (w *Writer) Frame() []byte { return w.b }

// Len returns the number of bytes written.
func (w *Writer) Len() int { return len(w.b) }

// Truncate takes back what was written after the first n bytes.
func (w *Writer) Truncate(n int) { w.b = w.b[:n] }

// Over returns a Writer that overwrites what begins at the byte at. Whoever
// uses it writes items of the same sizes as stand there.
func (w *Writer) Over(at int) Writer { return Writer{b: w.b[:at]} }

// Begin begins a structure; what is written until End with the same at are its
// members.
func (w *Writer) Begin(tag ttlv.Tag) (at int) {
	at = len(w.b)
	w.head(tag, ttlv.TypeStructure, 0)
	return at
}

// End ends the structure that began at the byte at.
func (w *Writer) End(at int) {
	binary.BigEndian.PutUint32(w.b[at+4:], uint32(len(w.b)-at-headSize)) //nolint:gosec // messages are far below 4 GiB
}

// Int32 writes an Integer.
func (w *Writer) Int32(tag ttlv.Tag, n int32) { w.narrow(tag, ttlv.TypeInteger, uint32(n)) } //nolint:gosec // two's complement on the wire

// Int64 writes a Long Integer.
func (w *Writer) Int64(tag ttlv.Tag, n int64) { w.wide(tag, ttlv.TypeLongInteger, uint64(n)) } //nolint:gosec // two's complement on the wire

// Enum writes an Enumeration.
func (w *Writer) Enum(tag ttlv.Tag, n uint32) { w.narrow(tag, ttlv.TypeEnumeration, n) }

// Bool writes a Boolean.
func (w *Writer) Bool(tag ttlv.Tag, v bool) {
	var n uint64
	if v {
		n = 1
	}
	w.wide(tag, ttlv.TypeBoolean, n)
}

// Time writes a Date-Time, cut to seconds.
func (w *Writer) Time(tag ttlv.Tag, t time.Time) {
	w.wide(tag, ttlv.TypeDateTime, uint64(t.Unix())) //nolint:gosec // two's complement on the wire
}

// Text writes a Text String.
func (w *Writer) Text(tag ttlv.Tag, s string) {
	w.head(tag, ttlv.TypeTextString, len(s))
	w.b = append(w.b, s...)
	w.pad(len(s))
}

// Bytes writes a Byte String.
func (w *Writer) Bytes(tag ttlv.Tag, b []byte) {
	w.head(tag, ttlv.TypeByteString, len(b))
	w.b = append(w.b, b...)
	w.pad(len(b))
}

// Room writes a Byte String of n zeros and returns where they begin.
func (w *Writer) Room(tag ttlv.Tag, n int) (at int) {
	w.head(tag, ttlv.TypeByteString, n)
	at = len(w.b)
	w.b = append(w.b, make([]byte, padded(n))...)
	return at
}

// Value writes a value of any type. It fails on a type that KMIP 1.4 does not
// have, and then the structures around it are incomplete.
func (w *Writer) Value(tag ttlv.Tag, v kmip.Value) error {
	switch v.Type {
	case kmip.Structure:
		at := w.Begin(tag)
		for _, f := range v.Fields {
			if err := w.Value(ttlv.Tag(f.Tag), f.Value); err != nil {
				return err
			}
		}
		w.End(at)
	case kmip.Integer, kmip.Enumeration, kmip.Interval:
		w.narrow(tag, ttlv.Type(v.Type), uint32(v.Number)) //nolint:gosec // these have 32 bits
	case kmip.LongInteger, kmip.Boolean, kmip.DateTime:
		w.wide(tag, ttlv.Type(v.Type), uint64(v.Number)) //nolint:gosec // two's complement on the wire
	case kmip.BigInteger:
		w.bigInteger(tag, v.Big)
	case kmip.TextString:
		w.Text(tag, v.Text)
	case kmip.ByteString:
		w.Bytes(tag, v.Bytes)
	default:
		return fmt.Errorf("message: value type %d of tag %v can't be encoded", v.Type, tag)
	}
	return nil
}

// bigInteger writes two's complement, sign-extended to whole groups of 8 bytes
// (KMIP 1.4, 9.1.1.4); nil is 0.
func (w *Writer) bigInteger(tag ttlv.Tag, n *big.Int) {
	bits := new(big.Int)
	if n != nil {
		bits.Set(n)
	}
	if n = bits; n.Sign() < 0 {
		bits = new(big.Int).Not(n)
	}
	size := padded(bits.BitLen()/8 + 1) // one bit more for the sign
	if n.Sign() < 0 {
		n.Add(n, new(big.Int).Lsh(big.NewInt(1), uint(size)*8))
	}
	w.head(tag, ttlv.TypeBigInteger, size)
	w.b = append(w.b, n.FillBytes(make([]byte, size))...)
}

// head writes an item's head.
func (w *Writer) head(tag ttlv.Tag, typ ttlv.Type, length int) {
	w.b = binary.BigEndian.AppendUint64(w.b, packHead(tag, typ, length))
}

func packHead(tag ttlv.Tag, typ ttlv.Type, length int) uint64 {
	return uint64(tag)<<40 | uint64(typ)<<32 | uint64(length) //nolint:gosec // messages are far below 4 GiB
}

func (w *Writer) narrow(tag ttlv.Tag, typ ttlv.Type, n uint32) {
	w.head(tag, typ, 4)
	w.b = binary.BigEndian.AppendUint64(w.b, uint64(n)<<32)
}

func (w *Writer) wide(tag ttlv.Tag, typ ttlv.Type, n uint64) {
	w.head(tag, typ, 8)
	w.b = binary.BigEndian.AppendUint64(w.b, n)
}

// pad rounds a value of n bytes up to whole groups of 8.
func (w *Writer) pad(n int) {
	var zeros [8]byte
	w.b = append(w.b, zeros[:padded(n)-n]...)
}
