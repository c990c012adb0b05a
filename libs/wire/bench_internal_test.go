package wire

import (
	"fmt"
	"slices"
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

// The three things that are measured: from a frame to the arguments of the
// engine's call, and from its result to a frame.
var measured = []struct {
	name string
	do   func() error
}{
	{"DecodeCreate", decodeCreate()},
	{"DecodeGet", decodeGet()},
	{"EncodeGet", encodeGet()},
}

func decodeCreate() func() error {
	attribute := func(name string, value any) ttlv.Value {
		return ttlv.NewStruct(kmip14.TagAttribute, ttlv.NewValue(kmip14.TagAttributeName, name), ttlv.NewValue(kmip14.TagAttributeValue, value))
	}
	frame := vSphereRequest(kmip14.OperationCreate, ttlv.NewValue(kmip14.TagObjectType, ttlv.EnumValue(2)),
		ttlv.NewStruct(kmip14.TagTemplateAttribute, attribute("Cryptographic Algorithm", ttlv.EnumValue(3)),
			attribute("Cryptographic Usage Mask", 12), attribute("Cryptographic Length", 256)))
	return func() error {
		var q request
		if err := q.parse(frame); err != nil {
			return err
		}
		nextItem(&q.items)
		it, err := q.parseItem(q.items)
		if err != nil {
			return err
		}
		r, err := q.decodeCreate(it.payload)
		if err == nil && len(r.template) != 3 {
			err = fmt.Errorf("decoded as %+v", r)
		}
		return err
	}
}

func decodeGet() func() error {
	frame := vSphereRequest(kmip14.OperationGet, ttlv.NewValue(kmip14.TagUniqueIdentifier, benchID))
	return func() error {
		var q request
		if err := q.parse(frame); err != nil {
			return err
		}
		nextItem(&q.items)
		it, err := q.parseItem(q.items)
		if err != nil {
			return err
		}
		r, err := q.decodeGet(it.payload)
		if err == nil && r.id != benchID {
			err = fmt.Errorf("decoded as %+v", r)
		}
		return err
	}
}

func encodeGet() func() error {
	it := batchItem{operation: kmip14.OperationGet, id: []byte("QLKC\x01\x00\x00\x00")}
	key := engine.Key{
		Object:   kmip.Object{ID: benchID, Type: kmip.SymmetricKey, Algorithm: kmip.AES, Length: 256},
		Format:   kmip.Raw,
		Material: secret.Random(32),
	}
	now := time.Unix(1793534400, 0)
	var a answer // part of the batch
	return func() error {
		a.count = 0
		a.open(version{1, 1})
		open := a.begin(&it)
		a.putGot(&key)
		a.succeed(open)
		_, err := a.finish(now, maxResponse)
		return err
	}
}

func BenchmarkCodec(b *testing.B) {
	for _, m := range measured {
		b.Run(m.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := m.do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkChanges(b *testing.B) {
	frame := vSphereRequest(kmip14.OperationGet, ttlv.NewValue(kmip14.TagUniqueIdentifier, benchID))
	b.ReportAllocs()
	for b.Loop() {
		if Changes(frame) {
			b.Fatal("a Get changes something")
		}
	}
}

// TestChanges tells reads from changes, a batch by its last item too.
func TestChanges(t *testing.T) {
	item := func(op kmip14.Operation) ttlv.Value {
		return ttlv.NewStruct(kmip14.TagBatchItem, ttlv.NewValue(kmip14.TagOperation, op), ttlv.NewStruct(kmip14.TagRequestPayload))
	}
	frame := func(ops ...kmip14.Operation) []byte {
		parts := []ttlv.Value{ttlv.NewStruct(kmip14.TagRequestHeader)}
		for _, op := range ops {
			parts = append(parts, item(op))
		}
		b, err := ttlv.Marshal(ttlv.NewStruct(kmip14.TagRequestMessage, parts...))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	reads := []kmip14.Operation{
		kmip14.OperationGet, kmip14.OperationGetAttributes, kmip14.OperationGetAttributeList, kmip14.OperationLocate,
		kmip14.OperationQuery, kmip14.OperationDiscoverVersions, kmip14.OperationCheck,
	}
	for code := range operations {
		op := kmip14.Operation(code) //nolint:gosec // an index
		if built(op) == nil {
			continue
		}
		want := !slices.Contains(reads, op)
		if got := Changes(frame(op)); got != want {
			t.Errorf("%v alone: %v, want %v", op, got, want)
		}
		if got := Changes(frame(kmip14.OperationGet, op)); got != want {
			t.Errorf("%v after a Get: %v, want %v", op, got, want)
		}
	}
	whole := frame(kmip14.OperationCreate)
	for n := range whole {
		Changes(whole[:n]) // must not panic
	}
}

// TestAllocations holds that each of them costs three allocations at most.
func TestAllocations(t *testing.T) {
	for _, m := range measured {
		if err := m.do(); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		if n := testing.AllocsPerRun(100, func() { _ = m.do() }); n > 3 {
			t.Errorf("%s: %v allocations", m.name, n)
		}
	}
}
