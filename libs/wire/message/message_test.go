package message_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unsafe"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// item encodes one item by hand, so that tests can lie in every field.
func item(tag uint32, typ byte, length int, value ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, tag<<8|uint32(typ))
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return append(b, value...)
}

// structure encodes items inside a structure.
func structure(tag uint32, items ...[]byte) []byte {
	body := bytes.Join(items, nil)
	return item(tag, 1, len(body), body...)
}

func request(items ...[]byte) []byte { return structure(0x420078, items...) }

func TestRead(t *testing.T) {
	small := request(item(0x42000D, 2, 4, 0, 0, 0, 1, 0, 0, 0, 0))
	large := request(item(0x42005A, 8, 10000, make([]byte, 10000)...))
	both := io.MultiReader(bytes.NewReader(small), bytes.NewReader(large))
	r := iotest.OneByteReader(both)
	for _, want := range [][]byte{small, large} {
		got, err := message.Read(r, len(large))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("read %d bytes, %v; want %d", len(got), err, len(want))
		}
	}
	if _, err := message.Read(r, message.MaxFrame); !errors.Is(err, io.EOF) {
		t.Errorf("after the last message: %v, want io.EOF", err)
	}
}

func TestReadRefuses(t *testing.T) {
	small := request(item(0x42000D, 2, 4, 0, 0, 0, 1, 0, 0, 0, 0))
	for name, c := range map[string]struct {
		in   string
		want error
	}{
		"nothing":           {"", io.EOF},
		"half a head":       {string(small[:5]), io.ErrUnexpectedEOF},
		"only a head":       {string(small[:8]), io.ErrUnexpectedEOF},
		"a cut value":       {string(small[:len(small)-1]), io.ErrUnexpectedEOF},
		"plain HTTP":        {"GET / HTTP/1.1\r\n\r\n", message.ErrNotKMIP},
		"a TLS hello":       {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", message.ErrNotKMIP},
		"another structure": {string(structure(0x420077)), message.ErrNotKMIP},
		"not a structure":   {string(item(0x420078, 8, 0)), message.ErrNotKMIP},
		"a length of 4 GiB": {string(item(0x420078, 1, 0xFFFFFFF8)), message.ErrTooLarge},
		"one byte too many": {string(item(0x420078, 1, message.MaxFrame-7)), message.ErrTooLarge},
		"a claimed 256 KiB": {string(item(0x420078, 1, message.MaxFrame-8)), io.ErrUnexpectedEOF},
	} {
		if _, err := message.Read(strings.NewReader(c.in), message.MaxFrame); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestReadAllocatesWhatHasCome(t *testing.T) {
	claim := item(0x420078, 1, message.MaxFrame-8)
	result := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = message.Read(bytes.NewReader(claim), message.MaxFrame)
		}
	})
	if n := result.AllocedBytesPerOp(); n > 1024 {
		t.Errorf("a head that claims 256 KiB made us allocate %d bytes", n)
	}
}

// nested returns a message of the given depth.
func nested(depth int) []byte {
	b := structure(0x420079)
	for range depth - 2 {
		b = structure(0x420079, b)
	}
	return request(b)
}

func TestValidate(t *testing.T) {
	text := func(s string) []byte {
		return item(0x42000A, 7, len(s), append([]byte(s), make([]byte, -len(s)&7)...)...)
	}
	long := make([]byte, 8)
	for name, c := range map[string]struct {
		frame []byte
		ok    bool
	}{
		"an empty message":                {request(), true},
		"every type":                      {request(everyType()), true},
		"dirty padding":                   {request(item(0x42000D, 2, 4, 0, 0, 0, 1, 9, 9, 9, 9)), true},
		"an extension's tag":              {request(item(0x540001, 9, 8, long...)), true},
		"a vendor's tag in its extension": {request(structure(0x42009C, structure(0x014242, item(0x000001, 9, 8, long...)))), true},
		"a vendor's tag elsewhere":        {request(item(0x014242, 9, 8, long...)), false},
		"a vendor's tag after it":         {request(structure(0x42009C), item(0x014242, 9, 8, long...)), false},
		"the deepest":                     {nested(message.MaxDepth), true},
		"one deeper":                      {nested(message.MaxDepth + 1), false},
		"far deeper":                      {nested(5000), false},
		"as many items as allowed":        {request(bytes.Repeat(structure(0x420079), message.MaxItems-1)), true},
		"one more":                        {request(bytes.Repeat(structure(0x420079), message.MaxItems)), false},
		"the longest text":                {request(text(strings.Repeat("a", message.MaxText))), true},
		"a longer text":                   {request(text(strings.Repeat("a", message.MaxText+1))), false},
		"text in Japanese":                {request(text("仮想マシン")), true},
		"text in Latin-1":                 {request(text("f\xfcr")), false},
		"text with a terminator":          {request(text("x-Name\x00")), false},
		"a Boolean of 2":                  {request(item(0x420010, 6, 8, 0, 0, 0, 0, 0, 0, 0, 2)), false},
		"a Boolean of 4 bytes":            {request(item(0x420010, 6, 4, 0, 0, 0, 1, 0, 0, 0, 0)), false},
		"an Integer of 8 bytes":           {request(item(0x42000D, 2, 8, long...)), false},
		"an Enumeration of none":          {request(item(0x42005C, 5, 0)), false},
		"a Big Integer of 12 bytes":       {request(item(0x42000D, 4, 12, make([]byte, 16)...)), false},
		"a Big Integer of none":           {request(item(0x42000D, 4, 0)), false},
		"type 0":                          {request(item(0x42000D, 0, 8, long...)), false},
		"type 0B of KMIP 2.0":             {request(item(0x42000D, 11, 8, long...)), false},
		"a structure of 4 bytes":          {item(0x420078, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0), false},
		"a child beyond its parent":       {request(item(0x42000D, 8, 100, long...)), false},
		"a child of 4 GiB":                {request(item(0x42000D, 8, 0xFFFFFFFF, long...)), false},
		"a cut padding":                   {request(item(0x42000A, 7, 9, make([]byte, 9)...)), false},
		"half a head":                     {request([]byte{0x42, 0, 0x0D, 2}), false},
		"bytes after the message":         {append(request(), 0), false},
		"another structure":               {structure(0x420077), false},
		"nothing":                         {nil, false},
	} {
		if err := message.Validate(c.frame, message.DefaultLimits()); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := message.Validate(request(), message.Limits{}); !errors.Is(err, message.ErrTooLarge) {
		t.Errorf("a message above the limit: %v", err)
	}
}

// everyType is a structure with a value of each type.
func everyType() []byte {
	var w message.Writer
	if err := w.Value(kmip14.TagAttributeValue, allTypes); err != nil {
		panic(err)
	}
	return w.Frame()
}

func field(tag ttlv.Tag, v kmip.Value) kmip.Field { return kmip.Field{Tag: uint32(tag), Value: v} }

var allTypes = kmip.Struct(
	field(kmip14.TagBatchCount, kmip.Int(-5)),
	field(kmip14.TagUsageLimitsCount, kmip.Value{Type: kmip.LongInteger, Number: -1 << 60}),
	field(kmip14.TagP, kmip.Value{Type: kmip.BigInteger, Big: new(big.Int).Lsh(big.NewInt(1), 127)}),
	field(kmip14.TagQ, kmip.Value{Type: kmip.BigInteger, Big: big.NewInt(-256)}),
	field(kmip14.TagState, kmip.Enum(uint32(0x80000001))),
	field(kmip14.TagBatchOrderOption, kmip.Value{Type: kmip.Boolean, Number: 1}),
	field(kmip14.TagNameValue, kmip.Text("nine bytes")),
	field(kmip14.TagComment, kmip.Text("")),
	field(kmip14.TagDigestValue, kmip.Value{Type: kmip.ByteString, Bytes: []byte{1, 2, 3}}),
	field(kmip14.TagTimeStamp, kmip.Time(time.Unix(-1, 0))),
	field(kmip14.TagLeaseTime, kmip.Value{Type: kmip.Interval, Number: 1<<32 - 1}),
	field(kmip14.TagLink, kmip.Struct(field(kmip14.TagLinkType, kmip.Enum(uint32(0x101))))),
)

func TestValueRoundTrip(t *testing.T) {
	frame := request(everyType())
	if err := message.Validate(frame, message.DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	if err := ttlv.TTLV(frame).Valid(); err != nil {
		t.Errorf("package ttlv finds our frame invalid: %v", err)
	}
	c := message.Open(frame)
	c.Next()
	children, err := c.Children()
	if err != nil || !children.Next() {
		t.Fatalf("the message has no fields: %v", err)
	}
	got, err := children.Value()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, allTypes) {
		t.Errorf("read back\n%+v\nwant\n%+v", got, allTypes)
	}
	if children.Next() {
		t.Error("a second field")
	}
}

func TestWriterRefusesUnknownTypes(t *testing.T) {
	var w message.Writer
	if err := w.Value(kmip14.TagState, kmip.Value{Type: 11}); err == nil {
		t.Error("type 11 was encoded")
	}
}

func TestGettersCheckTheType(t *testing.T) {
	getters := map[ttlv.Type]func(*message.Cursor) error{
		ttlv.TypeStructure:   func(c *message.Cursor) error { _, err := c.Children(); return err },
		ttlv.TypeInteger:     func(c *message.Cursor) error { _, err := c.Int32(); return err },
		ttlv.TypeLongInteger: func(c *message.Cursor) error { _, err := c.Int64(); return err },
		ttlv.TypeEnumeration: func(c *message.Cursor) error { _, err := c.Enum(); return err },
		ttlv.TypeBoolean:     func(c *message.Cursor) error { _, err := c.Bool(); return err },
		ttlv.TypeTextString:  func(c *message.Cursor) error { _, err := c.Text(); return err },
		ttlv.TypeByteString:  func(c *message.Cursor) error { _, err := c.Bytes(); return err },
		ttlv.TypeDateTime:    func(c *message.Cursor) error { _, err := c.Time(); return err },
		ttlv.TypeInterval:    func(c *message.Cursor) error { _, err := c.Interval(); return err },
	}
	c := message.Open(everyType())
	for typ, get := range getters {
		if err := get(&c); err == nil {
			t.Errorf("%v: a value before the first Next", typ)
		}
	}
	c.Next()
	fields, err := c.Children()
	if err != nil {
		t.Fatal(err)
	}
	for fields.Next() {
		for typ, get := range getters {
			if err := get(&fields); (err == nil) != (fields.Type() == typ) {
				t.Errorf("%v read as %v: %v", fields.Type(), typ, err)
			}
		}
	}
}

func TestStepsAllocateNothing(t *testing.T) {
	frame := request(everyType())
	if n := testing.AllocsPerRun(100, func() {
		_ = message.Validate(frame, message.DefaultLimits())
		c := message.Open(frame)
		c.Next()
		fields, _ := c.Children()
		for fields.Next() {
			_, _ = fields.Children()
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestFieldSize(t *testing.T) {
	if n := unsafe.Sizeof(kmip.Field{}); n != message.FieldSize {
		t.Errorf("a field has %d bytes", n)
	}
}
