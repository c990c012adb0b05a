package oasis

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"path/filepath"
	"testing"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// verdict says what became of an encoding.
type verdict string

const (
	same      verdict = "are the same again"
	malformed verdict = "are not well formed"
	padding   verdict = "are padded with zeros only now"
	later     verdict = "have a type of KMIP 2.0"
	different verdict = "differ"
)

// report says it as if of a case.
func (v verdict) report() (r Report) {
	if v != same {
		r.Different = []string{string(v)}
	}
	if v == different {
		r.Unclean = r.Different
	}
	return r
}

// TestEncodings decodes what other libraries encoded, and encodes it again:
// byte for byte the same. A type of KMIP 2.0 is refused.
func TestEncodings(t *testing.T) { t.Log(encodings(t)) }

func encodings(t *testing.T) map[verdict]int {
	t.Helper()
	count := make(map[verdict]int)
	for _, v := range vectors(t, "codec") {
		if v.Class != "codec" {
			continue
		}
		lines, err := ReadLines(v.File)
		if err != nil {
			t.Fatal(err)
		}
		for n, l := range lines {
			b, err := hex.DecodeString(l.Hex)
			if err != nil {
				t.Fatal(err)
			}
			is := judge(l, b, b)
			count[is]++
			if is == different {
				t.Errorf("%s:%d: %x", filepath.Base(v.File), n+1, b)
			}
		}
	}
	return count
}

// judge recodes a line's bytes and compares with those wanted.
func judge(l Line, b, want []byte) verdict {
	switch again, err := recode(b); {
	case err == nil && bytes.Equal(again, want):
		return same
	case !l.WellFormed && err != nil:
		return malformed
	case !l.WellFormed && len(again) == len(want):
		return padding
	case err != nil && b[3] == dateTimeExtended:
		return later
	default:
		return different
	}
}

const dateTimeExtended = 0x0b // of KMIP 2.0

// recode decodes items of any tag, as fields of a message, with the server's
// codec, and encodes them again.
func recode(items []byte) ([]byte, error) {
	frame := binary.BigEndian.AppendUint32(nil, uint32(kmip14.TagRequestMessage)<<8|uint32(ttlv.TypeStructure))
	frame = append(binary.BigEndian.AppendUint32(frame, uint32(len(items))), items...)
	if err := message.Validate(frame, message.DefaultLimits()); err != nil {
		return nil, err
	}
	c := message.Open(frame)
	c.Next()
	fields, err := c.Children()
	if err != nil {
		return nil, err
	}
	var w message.Writer
	for fields.Next() {
		v, err := fields.Value()
		if err != nil {
			return nil, err
		}
		if err := w.Value(fields.Tag(), v); err != nil {
			return nil, err
		}
	}
	return w.Frame(), nil
}
