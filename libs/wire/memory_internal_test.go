package wire

import (
	"bytes"
	"fmt"
	"math/big"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// decoders are what run calls for each operation before it asks the engine.
var decoders = map[kmip14.Operation]func(*batch, message.Cursor) error{
	kmip14.OperationCreate:           measure((*batch).decodeCreate),
	kmip14.OperationRegister:         measure((*batch).decodeRegister),
	kmip14.OperationReKey:            measure((*batch).decodeRekey),
	kmip14.OperationLocate:           measure((*batch).decodeLocate),
	kmip14.OperationCheck:            measure((*batch).decodeCheck),
	kmip14.OperationGet:              measure((*batch).decodeGet),
	kmip14.OperationGetAttributes:    measure((*batch).decodeGetAttributes),
	kmip14.OperationGetAttributeList: measure((*batch).decodeIdentified),
	kmip14.OperationAddAttribute:     measure((*batch).decodeAddAttribute),
	kmip14.OperationModifyAttribute:  measure((*batch).decodeModifyAttribute),
	kmip14.OperationDeleteAttribute:  measure((*batch).decodeDeleteAttribute),
	kmip14.OperationActivate:         measure((*batch).decodeIdentified),
	kmip14.OperationRevoke:           measure((*batch).decodeRevoke),
	kmip14.OperationDestroy:          measure((*batch).decodeIdentified),
	kmip14.OperationQuery:            measure((*batch).decodeQuery),
	kmip14.OperationDiscoverVersions: measure((*batch).decodeDiscoverVersions),
}

// measure makes a decoder of any result one that is called for its error.
func measure[T any](decode func(*batch, message.Cursor) (T, error)) func(*batch, message.Cursor) error {
	return func(b *batch, c message.Cursor) error {
		_, err := decode(b, c)
		return err
	}
}

// decodeAll decodes a frame and all its batch items, and returns the first
// error.
func decodeAll(frame []byte) error {
	var q request
	if err := q.parse(frame); err != nil {
		return err
	}
	b := batch{decoding: q.decoding, version: q.version.answered()}
	var first error
	for items := q.items; nextItem(&items); {
		it, err := b.parseItem(items)
		if err == nil {
			err = decoders[it.operation](&b, it.payload)
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// decodingTakes returns how many bytes of memory the decoding of a frame takes.
func decodingTakes(frame []byte) int {
	const runs = 4
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var before, after runtime.MemStats
	_ = decodeAll(frame)
	runtime.ReadMemStats(&before)
	for range runs {
		_ = decodeAll(frame)
	}
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc-before.TotalAlloc) / runs
}

// member is one item with a value of any type.
func member(tag ttlv.Tag, v kmip.Value) []byte {
	var w message.Writer
	if err := w.Value(tag, v); err != nil {
		panic(err)
	}
	return w.Frame()
}

// within is a structure of items.
func within(tag ttlv.Tag, items ...[]byte) []byte {
	at := member(tag, kmip.Struct())
	at = append(at, bytes.Join(items, nil)...)
	n := len(at) - 8
	at[4], at[5], at[6], at[7] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	return at
}

// manyOf is a request of one operation whose payload holds n times the same.
func manyOf(op kmip14.Operation, n int, repeated []byte) []byte {
	return requestOf(within(kmip14.TagBatchItem, member(kmip14.TagOperation, kmip.Enum(op)),
		within(kmip14.TagRequestPayload, bytes.Repeat(repeated, n))))
}

func requestOf(items ...[]byte) []byte {
	version := kmip.Struct(kmip.Field{Tag: uint32(kmip14.TagProtocolVersionMajor), Value: kmip.Int(1)},
		kmip.Field{Tag: uint32(kmip14.TagProtocolVersionMinor), Value: kmip.Int(4)})
	header := within(kmip14.TagRequestHeader, member(kmip14.TagProtocolVersion, version),
		member(kmip14.TagBatchCount, kmip.Int(int32(len(items)))))
	return within(kmip14.TagRequestMessage, append([][]byte{header}, items...)...)
}

// TestMemoryOfDecoding holds that decoding takes less than four times the
// memory of the frame, whatever the frame is made of, and that plain attributes
// are not refused for it.
func TestMemoryOfDecoding(t *testing.T) {
	text := func(tag ttlv.Tag, s string) []byte { return member(tag, kmip.Text(s)) }
	attribute := func(value kmip.Value) []byte {
		return within(kmip14.TagAttribute, text(kmip14.TagAttributeName, "x"), member(kmip14.TagAttributeValue, value))
	}
	fields := func(n int, v kmip.Value) kmip.Value {
		return kmip.Value{Type: kmip.Structure, Fields: slices.Repeat([]kmip.Field{{Tag: uint32(kmip14.TagComment), Value: v}}, n)}
	}
	deep := kmip.Struct()
	for range 25 {
		deep = fields(1, deep)
	}
	name := fields(1, kmip.Text("a name"))
	negative := kmip.Value{Type: kmip.BigInteger, Big: big.NewInt(-1)}
	large := kmip.Value{Type: kmip.BigInteger, Big: new(big.Int).Neg(new(big.Int).Lsh(big.NewInt(1), 20000))}
	discover := within(kmip14.TagBatchItem, member(kmip14.TagOperation, kmip.Enum(kmip14.OperationDiscoverVersions)),
		member(kmip14.TagUniqueBatchItemID, kmip.Value{Type: kmip.ByteString}), member(kmip14.TagRequestPayload, kmip.Struct()))
	version := member(kmip14.TagProtocolVersion, kmip.Struct(kmip.Field{Tag: uint32(kmip14.TagProtocolVersionMajor), Value: kmip.Int(1)},
		kmip.Field{Tag: uint32(kmip14.TagProtocolVersionMinor), Value: kmip.Int(1)}))

	hostile := map[string][]byte{
		"an empty batch item":        requestOf(within(kmip14.TagBatchItem)),
		"64 empty batch items":       requestOf(slices.Repeat([][]byte{within(kmip14.TagBatchItem)}, 64)...),
		"64 short batch items":       requestOf(slices.Repeat([][]byte{discover}, 64)...),
		"versions":                   manyOf(kmip14.OperationDiscoverVersions, 2000, version),
		"attribute names":            manyOf(kmip14.OperationGetAttributes, 4000, text(kmip14.TagAttributeName, "x-name")),
		"attribute names of nothing": manyOf(kmip14.OperationGetAttributes, 4000, text(kmip14.TagAttributeName, "")),
		"query functions":            manyOf(kmip14.OperationQuery, 4000, member(kmip14.TagQueryFunction, kmip.Enum(uint32(1)))),
		"identifiers":                manyOf(kmip14.OperationGet, 4000, text(kmip14.TagUniqueIdentifier, "i")),
		"a long identifier":          manyOf(kmip14.OperationGet, 1, text(kmip14.TagUniqueIdentifier, strings.Repeat("i", message.MaxText))),
	}
	small := attribute(kmip.Text(""))
	manySmall := bytes.Repeat(small, 300)
	template := within(kmip14.TagTemplateAttribute, manySmall)
	key := func(material []byte, attributes []byte) []byte {
		return within(kmip14.TagSymmetricKey, within(kmip14.TagKeyBlock, member(kmip14.TagKeyFormatType, kmip.Enum(kmip.Raw)),
			within(kmip14.TagKeyValue, material, attributes)))
	}
	bytesOf := func(tag ttlv.Tag, n int) []byte {
		return member(tag, kmip.Value{Type: kmip.ByteString, Bytes: make([]byte, n)})
	}
	for name, payload := range map[string][]byte{
		"a large key":               key(bytesOf(kmip14.TagKeyMaterial, 100_000), nil),
		"a large transparent key":   key(within(kmip14.TagKeyMaterial, bytesOf(kmip14.TagKey, 100_000)), nil),
		"a key with attributes":     append(slices.Clone(template), key(bytesOf(kmip14.TagKeyMaterial, 16), manySmall)...),
		"a key before its template": append(key(bytesOf(kmip14.TagKeyMaterial, 16), manySmall), template...),
		"two large objects":         bytes.Join([][]byte{key(bytesOf(kmip14.TagKeyMaterial, 50_000), nil), within(kmip14.TagSecretData, member(kmip14.TagSecretDataType, kmip.Enum(uint32(1))), within(kmip14.TagKeyBlock, within(kmip14.TagKeyValue, bytesOf(kmip14.TagKeyMaterial, 50_000))))}, nil),
	} {
		hostile[name] = manyOf(kmip14.OperationRegister, 1, payload)
	}
	fresh := member(kmip14.TagObjectGroupMember, kmip.Enum(uint32(1)))
	hostile["attributes in every place"] = manyOf(kmip14.OperationLocate, 1, bytes.Join([][]byte{manySmall, fresh, template, manySmall}, nil))
	for name, value := range map[string]kmip.Value{
		"empty texts": kmip.Text(""), "integers": kmip.Int(1), "long texts": kmip.Text(strings.Repeat("a", 4000)),
		"bytes": {Type: kmip.ByteString, Bytes: make([]byte, 3)}, "names": name, "empty structures": kmip.Struct(),
		"negative integers": negative, "large integers": large, "structures": fields(10, kmip.Int(1)),
		"structures of nothing": fields(30, kmip.Struct()), "dense structures": fields(200, kmip.Text("")),
		"structures of integers": fields(100, negative), "deep structures": deep,
	} {
		for _, n := range []int{1, 3, 20, 80, 400, 2000} {
			one := attribute(value)
			if n = min(n, (message.MaxItems-20)/(4+membersOf(value)), (message.MaxFrame-200)/len(one)); n == 0 {
				continue
			}
			hostile[fmt.Sprintf("%d attributes: %s", n, name)] = manyOf(kmip14.OperationLocate, n, one)
			hostile[fmt.Sprintf("a template of %d: %s", n, name)] = manyOf(kmip14.OperationCreate, 1, within(kmip14.TagTemplateAttribute, bytes.Repeat(one, n)))
		}
	}
	for _, plain := range []string{"400 attributes: integers", "400 attributes: bytes", "20 attributes: names", "20 attributes: long texts"} {
		if err := decodeAll(hostile[plain]); err != nil {
			t.Errorf("%s: %v", plain, err)
		}
	}
	for name, frame := range hostile {
		if err := message.Validate(frame, message.DefaultLimits()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if taken := decodingTakes(frame); taken >= max(4*len(frame), minRoom+len(frame)) {
			t.Errorf("%s: a frame of %d bytes takes %d (%v)", name, len(frame), taken, decodeAll(frame))
		}
	}
}

// membersOf counts a structure's members at any depth.
func membersOf(v kmip.Value) (n int) {
	for _, f := range v.Fields {
		n += 1 + membersOf(f.Value)
	}
	return n
}

func TestEveryOperationHasADecoder(t *testing.T) {
	for code := range operations {
		if built(kmip14.Operation(code)) != nil && decoders[kmip14.Operation(code)] == nil {
			t.Errorf("the memory of %s is not measured", operations[code].name)
		}
	}
}

func TestAttributeSize(t *testing.T) {
	if n := unsafe.Sizeof(kmip.Attribute{}); n != attributeSize {
		t.Errorf("an attribute has %d bytes", n)
	}
}
