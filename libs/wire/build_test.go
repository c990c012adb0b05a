package wire_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// bench is a Responder over the stand-ins of package enginetest.
type bench struct {
	*wire.Responder
	objects *enginetest.Ledger
	keys    *enginetest.Vault
	tenant  *tenant.Tenant
	session wire.Session
}

func newBench() *bench {
	b := &bench{objects: enginetest.NewObjects(), keys: enginetest.NewKeyManager(), tenant: &tenant.Tenant{ID: enginetest.NewTenantID()}}
	clock := func() time.Time { return now }
	b.Responder = &wire.Responder{
		Engine: engine.New(engine.Config{Objects: b.objects, KeyManagers: b.keys.KeyManagers, Now: clock}),
		Now:    clock, Vendor: "IBM Cloud",
	}
	return b
}

// v is one item of a message under construction.
func v(tag ttlv.Tag, value any) ttlv.Value { return ttlv.NewValue(tag, value) }

// st is a structure under construction.
func st(tag ttlv.Tag, fields ...ttlv.Value) ttlv.Value {
	return ttlv.Value{Tag: tag, Value: ttlv.Values(fields)}
}

func marshal(m ttlv.Value) []byte {
	b, err := ttlv.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func protocol(major, minor int) ttlv.Value {
	return st(kmip14.TagProtocolVersion, v(kmip14.TagProtocolVersionMajor, major), v(kmip14.TagProtocolVersionMinor, minor))
}

// header has the fields given between version and batch count.
func header(minor, count int, more ...ttlv.Value) ttlv.Value {
	fields := append([]ttlv.Value{protocol(1, minor)}, more...)
	return st(kmip14.TagRequestHeader, append(fields, v(kmip14.TagBatchCount, count))...)
}

func message(parts ...ttlv.Value) []byte { return marshal(st(kmip14.TagRequestMessage, parts...)) }

// item is a batch item without an id.
func item(op kmip14.Operation, fields ...ttlv.Value) ttlv.Value {
	return st(kmip14.TagBatchItem, v(kmip14.TagOperation, op), st(kmip14.TagRequestPayload, fields...))
}

// numbered is a batch item with the id that vCenter gives its n-th.
func numbered(n byte, op kmip14.Operation, fields ...ttlv.Value) ttlv.Value {
	return st(kmip14.TagBatchItem, v(kmip14.TagOperation, op),
		v(kmip14.TagUniqueBatchItemID, qlkc(n)), st(kmip14.TagRequestPayload, fields...))
}

func qlkc(n byte) []byte { return []byte{'Q', 'L', 'K', 'C', n, 0, 0, 0} }

// single is a KMIP 1.1 request as vCenter sends it.
func single(op kmip14.Operation, fields ...ttlv.Value) []byte {
	return message(header(1, 1), numbered(1, op, fields...))
}

func attr(name string, value any) ttlv.Value {
	return st(kmip14.TagAttribute, v(kmip14.TagAttributeName, name), v(kmip14.TagAttributeValue, value))
}

// vSphere is the payload of vCenter's Create.
func vSphere(more ...ttlv.Value) []ttlv.Value {
	template := append([]ttlv.Value{
		attr("Cryptographic Algorithm", ttlv.EnumValue(3)),
		attr("Cryptographic Usage Mask", 12),
		attr("Cryptographic Length", 256),
	}, more...)
	return []ttlv.Value{v(kmip14.TagObjectType, ttlv.EnumValue(2)), st(kmip14.TagTemplateAttribute, template...)}
}

func uid(id string) ttlv.Value { return v(kmip14.TagUniqueIdentifier, id) }

// answer is a Response Message as package ttlv decodes it.
type answer struct {
	ResponseHeader struct {
		ProtocolVersion struct {
			ProtocolVersionMajor, ProtocolVersionMinor int
		}
		TimeStamp  time.Time
		BatchCount int
	}
	BatchItem []answerItem
}

type answerItem struct {
	Operation         kmip14.Operation
	UniqueBatchItemID []byte
	ResultStatus      kmip14.ResultStatus
	ResultReason      kmip14.ResultReason
	ResultMessage     string
	ResponsePayload   ttlv.TTLV
}

// send responds to a request and checks what holds of every response.
func (b *bench) send(t testing.TB, request []byte) (answer, wire.Response) {
	t.Helper()
	r := b.Respond(t.Context(), b.tenant, &b.session, request)
	return decode(t, r), r
}

func decode(t testing.TB, r wire.Response) answer {
	t.Helper()
	frame := r.Frame.Reveal()
	if err := ttlv.TTLV(frame).Valid(); err != nil || ttlv.TTLV(frame).FullLen() != len(frame) {
		t.Fatalf("the response is not TTLV: %v\n%x", err, frame)
	}
	var a answer
	if err := ttlv.Unmarshal(frame, &a); err != nil {
		t.Fatal(err)
	}
	if a.ResponseHeader.BatchCount != len(a.BatchItem) || !a.ResponseHeader.TimeStamp.Equal(now) {
		t.Errorf("header %+v over %d items", a.ResponseHeader, len(a.BatchItem))
	}
	for _, it := range a.BatchItem {
		if it.ResultStatus != kmip14.ResultStatusSuccess && (it.ResultMessage == "" || it.ResultReason == 0) {
			t.Errorf("a failure without reason or message: %+v", it)
		}
	}
	return a
}

// one sends a request whose answer has one item.
func (b *bench) one(t testing.TB, request []byte) answerItem {
	t.Helper()
	a, _ := b.send(t, request)
	if len(a.BatchItem) != 1 {
		t.Fatalf("%d items, want 1", len(a.BatchItem))
	}
	return a.BatchItem[0]
}

func (b *bench) create(t testing.TB) string {
	t.Helper()
	it := b.one(t, single(kmip14.OperationCreate, vSphere()...))
	lines := flat(it.ResponsePayload)
	if it.ResultReason != 0 || len(lines) != 2 || lines[0] != "ObjectType=2" {
		t.Fatalf("Create: %+v %q", it, lines)
	}
	return lines[1][len("UniqueIdentifier="):]
}

// flat lists the leaves of a payload in order, as Tag=value.
func flat(b ttlv.TTLV) (lines []string) {
	if b.Type() != ttlv.TypeStructure {
		return []string{fmt.Sprintf("%v=%v", b.Tag(), b.Value())}
	}
	for c := b.ValueStructure(); len(c) > 0; c = c.Next() {
		lines = append(lines, flat(c)...)
	}
	return lines
}

func wantLines(t testing.TB, p ttlv.TTLV, want ...string) {
	t.Helper()
	if got := flat(p); !slices.Equal(got, want) {
		t.Errorf("payload\n%q\nwant\n%q", got, want)
	}
}

func wantReason(t testing.TB, what string, it answerItem, want kmip14.ResultReason) {
	t.Helper()
	if it.ResultReason != want || (it.ResultStatus == kmip14.ResultStatusSuccess) != (want == 0) {
		t.Errorf("%s: %v %v %q, want %v", what, it.ResultStatus, it.ResultReason, it.ResultMessage, want)
	}
}

func sameID(it answerItem, n byte) bool { return bytes.Equal(it.UniqueBatchItemID, qlkc(n)) }
