package wire

import (
	"testing"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// vSphereRequest is a KMIP 1.1 request of one item as vCenter sends it.
func vSphereRequest(op kmip14.Operation, fields ...ttlv.Value) []byte {
	b, err := ttlv.Marshal(ttlv.NewStruct(kmip14.TagRequestMessage,
		ttlv.NewStruct(kmip14.TagRequestHeader,
			ttlv.NewStruct(kmip14.TagProtocolVersion,
				ttlv.NewValue(kmip14.TagProtocolVersionMajor, 1), ttlv.NewValue(kmip14.TagProtocolVersionMinor, 1)),
			ttlv.NewValue(kmip14.TagBatchCount, 1)),
		ttlv.NewStruct(kmip14.TagBatchItem,
			ttlv.NewValue(kmip14.TagOperation, op),
			ttlv.NewValue(kmip14.TagUniqueBatchItemID, []byte("QLKC\x01\x00\x00\x00")),
			ttlv.NewStruct(kmip14.TagRequestPayload, fields...))))
	if err != nil {
		panic(err)
	}
	return b
}

const benchID = "01932c07-5f2a-7c1e-8b3e-6a1d2f3c4b5a"

func BenchmarkDecodeCreate(b *testing.B) {
	attribute := func(name string, value any) ttlv.Value {
		return ttlv.NewStruct(kmip14.TagAttribute, ttlv.NewValue(kmip14.TagAttributeName, name), ttlv.NewValue(kmip14.TagAttributeValue, value))
	}
	frame := vSphereRequest(kmip14.OperationCreate, ttlv.NewValue(kmip14.TagObjectType, ttlv.EnumValue(2)),
		ttlv.NewStruct(kmip14.TagTemplateAttribute, attribute("Cryptographic Algorithm", ttlv.EnumValue(3)),
			attribute("Cryptographic Usage Mask", 12), attribute("Cryptographic Length", 256)))
	b.ReportAllocs()
	for b.Loop() {
		var q request
		if err := q.parse(frame); err != nil {
			b.Fatal(err)
		}
		nextItem(&q.items)
		it, err := q.parseItem(q.items)
		if err != nil {
			b.Fatal(err)
		}
		if r, err := q.decodeCreate(it.payload); err != nil || len(r.template) != 3 {
			b.Fatal(r, err)
		}
	}
}

func BenchmarkDecodeGet(b *testing.B) {
	frame := vSphereRequest(kmip14.OperationGet, ttlv.NewValue(kmip14.TagUniqueIdentifier, benchID))
	b.ReportAllocs()
	for b.Loop() {
		var q request
		if err := q.parse(frame); err != nil {
			b.Fatal(err)
		}
		nextItem(&q.items)
		it, err := q.parseItem(q.items)
		if err != nil {
			b.Fatal(err)
		}
		if r, err := q.decodeGet(it.payload); err != nil || r.id != benchID {
			b.Fatal(r, err)
		}
	}
}

func BenchmarkEncodeGet(b *testing.B) {
	it := batchItem{operation: kmip14.OperationGet, id: []byte("QLKC\x01\x00\x00\x00")}
	key := engine.Key{
		Object:   kmip.Object{ID: benchID, Type: kmip.SymmetricKey, Algorithm: kmip.AES, Length: 256},
		Format:   kmip.Raw,
		Material: secret.Random(32),
	}
	now := time.Unix(1793534400, 0)
	var a answer // part of the batch
	b.ReportAllocs()
	for b.Loop() {
		a.count = 0
		a.open(version{1, 1})
		open := a.begin(&it)
		a.putGot(&key)
		a.succeed(open)
		frame, err := a.finish(now, maxResponse)
		if err != nil {
			b.Fatal(err)
		}
		frame.Wipe()
	}
}
