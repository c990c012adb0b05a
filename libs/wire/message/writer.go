package message

import (
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"
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

// Skip leaves out n bytes, to be written by way of Over.
func (w *Writer) Skip(n int) { w.grow(n) }

// Over returns a Writer that overwrites what begins at the byte at; End of the
// structures that reach beyond it is the first Writer's.
func (w *Writer) Over(at int) Writer { return Writer{b: w.b[:at]} }

// Begin begins a structure; what is written until End with the same at are its
// members.
func (w *Writer) Begin(tag ttlv.Tag) (at int) {
	at = len(w.b)
	putHead(w.grow(headSize), tag, ttlv.TypeStructure, 0)
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
func (w *Writer) Text(tag ttlv.Tag, s string) { copy(w.bytes(tag, ttlv.TypeTextString, len(s)), s) }

// Bytes writes a Byte String.
func (w *Writer) Bytes(tag ttlv.Tag, b []byte) { copy(w.bytes(tag, ttlv.TypeByteString, len(b)), b) }

// Room writes a Byte String of n zeros and returns where they begin.
func (w *Writer) Room(tag ttlv.Tag, n int) (at int) {
	at = len(w.b) + headSize
	clear(w.bytes(tag, ttlv.TypeByteString, n))
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
	n.FillBytes(w.bytes(tag, ttlv.TypeBigInteger, size))
}

// grow appends n bytes to be written over: they hold anything.
func (w *Writer) grow(n int) []byte {
	at := len(w.b)
	if cap(w.b)-at < n {
		w.b = slices.Grow(w.b, n)
	}
	w.b = w.b[:at+n]
	return w.b[at:]
}

func putHead(b []byte, tag ttlv.Tag, typ ttlv.Type, length int) {
	binary.BigEndian.PutUint64(b, uint64(tag)<<40|uint64(typ)<<32|uint64(length)) //nolint:gosec // messages are far below 4 GiB
}

func (w *Writer) narrow(tag ttlv.Tag, typ ttlv.Type, n uint32) {
	b := w.grow(headSize + 8)
	putHead(b, tag, typ, 4)
	binary.BigEndian.PutUint64(b[headSize:], uint64(n)<<32)
}

func (w *Writer) wide(tag ttlv.Tag, typ ttlv.Type, n uint64) {
	b := w.grow(headSize + 8)
	putHead(b, tag, typ, 8)
	binary.BigEndian.PutUint64(b[headSize:], n)
}

// bytes appends an item of n bytes, rounded up to whole groups of 8 with
// zeros, and returns where the bytes belong.
func (w *Writer) bytes(tag ttlv.Tag, typ ttlv.Type, n int) []byte {
	b := w.grow(headSize + padded(n))
	binary.BigEndian.PutUint64(b[len(b)-8:], 0)
	putHead(b, tag, typ, n)
	return b[headSize : headSize+n]
}
