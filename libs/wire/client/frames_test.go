package client

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"
)

// Messages written byte by byte (KMIP 1.4, 9.1.1), so that no encoder has a
// say in what is expected.

func raw(tag ttlv.Tag, typ byte, value []byte) []byte {
	out := []byte{byte(tag >> 16), byte(tag >> 8), byte(tag), typ}
	out = binary.BigEndian.AppendUint32(out, uint32(len(value)))
	out = append(out, value...)
	return append(out, make([]byte, (8-len(value)%8)%8)...)
}

func st(tag ttlv.Tag, members ...[]byte) []byte { return raw(tag, 1, slices.Concat(members...)) }
func in(tag ttlv.Tag, n uint32) []byte          { return raw(tag, 2, binary.BigEndian.AppendUint32(nil, n)) }

func en(tag ttlv.Tag, n uint32) []byte { return raw(tag, 5, binary.BigEndian.AppendUint32(nil, n)) }
func tx(tag ttlv.Tag, s string) []byte { return raw(tag, 7, []byte(s)) }
func bs(tag ttlv.Tag, b []byte) []byte { return raw(tag, 8, b) }
func dt(tag ttlv.Tag, n uint64) []byte { return raw(tag, 9, binary.BigEndian.AppendUint64(nil, n)) }

func version(major, minor uint32) []byte {
	return st(kmip14.TagProtocolVersion,
		in(kmip14.TagProtocolVersionMajor, major), in(kmip14.TagProtocolVersionMinor, minor))
}

// qlkc is the batch item id of the nth item, from 1.
func qlkc(n byte) []byte { return []byte{0x51, 0x4c, 0x4b, 0x43, n, 0, 0, 0} }

// answer is a response with a header of that version and count.
func answer(ver []byte, count uint32, items ...[]byte) []byte {
	header := st(kmip14.TagResponseHeader, ver, dt(kmip14.TagTimeStamp, 1743675720), in(kmip14.TagBatchCount, count))
	return st(kmip14.TagResponseMessage, append([][]byte{header}, items...)...)
}

// ok is an item that succeeded; a nil id is left out.
func ok(op Operation, id []byte, payload ...[]byte) []byte {
	members := [][]byte{en(kmip14.TagOperation, uint32(op))}
	if id != nil {
		members = append(members, bs(kmip14.TagUniqueBatchItemID, id))
	}
	return st(kmip14.TagBatchItem, append(members,
		en(kmip14.TagResultStatus, 0), st(kmip14.TagResponsePayload, payload...))...)
}

// failed is an item that failed.
func failed(op Operation, id []byte, reason uint32, text string) []byte {
	return st(kmip14.TagBatchItem, en(kmip14.TagOperation, uint32(op)), bs(kmip14.TagUniqueBatchItemID, id),
		en(kmip14.TagResultStatus, 1), en(kmip14.TagResultReason, reason), tx(kmip14.TagResultMessage, text))
}

// keyObject is what follows the unique identifier in the answer to Get.
func keyObject(format uint32, key []byte, bits uint32, inValue ...[]byte) []byte {
	value := st(kmip14.TagKeyValue, append([][]byte{bs(kmip14.TagKeyMaterial, key)}, inValue...)...)
	return st(kmip14.TagSymmetricKey, st(kmip14.TagKeyBlock, en(kmip14.TagKeyFormatType, format), value,
		en(kmip14.TagCryptographicAlgorithm, 3), in(kmip14.TagCryptographicLength, bits)))
}

func uid(id string) []byte { return tx(kmip14.TagUniqueIdentifier, id) }

func attribute(name string, value []byte) []byte {
	return st(kmip14.TagAttribute, tx(kmip14.TagAttributeName, name), value)
}

// lines shows a message as a line for each item, read by gemalto's decoder.
func lines(t testing.TB, frame []byte) []string {
	t.Helper()
	if err := ttlv.TTLV(frame).Valid(); err != nil {
		t.Fatalf("not valid TTLV: %v\n%x", err, frame)
	}
	var out []string
	var walk func(item ttlv.TTLV, depth int)
	walk = func(item ttlv.TTLV, depth int) {
		for ; len(item) > 0; item = item.Next() {
			head := strings.Repeat(" ", depth) + item.Tag().String()
			switch item.Type() {
			case ttlv.TypeStructure:
				out = append(out, head)
				walk(item.ValueStructure(), depth+1)
			case ttlv.TypeByteString:
				out = append(out, fmt.Sprintf("%s = %x", head, item.ValueByteString()))
			default:
				out = append(out, fmt.Sprintf("%s %v = %v", head, item.Type(), item.Value()))
			}
		}
	}
	walk(frame, 0)
	return out
}

// find returns every item with the tag below the message, in order.
func find(item ttlv.TTLV, tag ttlv.Tag) []ttlv.TTLV {
	var out []ttlv.TTLV
	for ; len(item) > 0; item = item.Next() {
		if item.Tag() == tag {
			out = append(out, item[:item.FullLen()])
		}
		if item.Type() == ttlv.TypeStructure {
			out = append(out, find(item.ValueStructure(), tag)...)
		}
	}
	return out
}

func sameLines(t testing.TB, what string, got, want []string) {
	t.Helper()
	for n := range max(len(got), len(want)) {
		g, w := "(end)", "(end)"
		if n < len(got) {
			g = got[n]
		}
		if n < len(want) {
			w = want[n]
		}
		if g != w {
			t.Fatalf("%s: line %d is\n%s\nwhere\n%s\nis expected; all of it:\n%s", what, n+1, g, w, strings.Join(got, "\n"))
		}
	}
}
