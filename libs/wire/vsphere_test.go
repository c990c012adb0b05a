package wire_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire"
)

// TestVSphereEncryptsAVM goes through what vCenter sends for a first VM.
func TestVSphereEncryptsAVM(t *testing.T) {
	b := newBench()

	hello := b.one(t, message(header(1, 1), item(kmip14.OperationDiscoverVersions)))
	wantReason(t, "Discover Versions without an id", hello, 0)
	if hello.UniqueBatchItemID != nil {
		t.Errorf("an id %x that nobody sent", hello.UniqueBatchItemID)
	}

	id := b.create(t)
	get := b.one(t, single(kmip14.OperationGet, uid(id)))
	wantReason(t, "Get", get, 0)
	lines := flat(get.ResponsePayload)
	material, _, _ := strings.Cut(strings.TrimPrefix(lines[3], "KeyMaterial=["), "]")
	wantLines(t, get.ResponsePayload, "ObjectType=2", "UniqueIdentifier="+id, "KeyFormatType=1",
		"KeyMaterial=["+material+"]", "CryptographicAlgorithm=3", "CryptographicLength=256")
	if !sameID(get, 1) || get.Operation != kmip14.OperationGet {
		t.Errorf("Get's answer has operation %v, id %q", get.Operation, get.UniqueBatchItemID)
	}

	for _, name := range []string{"x-Product_Version", "x-Vendor", "x-Product"} {
		unset := b.one(t, single(kmip14.OperationGetAttributes, uid(id), v(kmip14.TagAttributeName, name)))
		wantReason(t, name, unset, 0)
		wantLines(t, unset.ResponsePayload, "UniqueIdentifier="+id)
	}
	a, _ := b.send(t, message(header(1, 3),
		numbered(1, kmip14.OperationAddAttribute, uid(id), attr("x-Product_Version", "8.0.1 build-21560480")),
		numbered(2, kmip14.OperationAddAttribute, uid(id), attr("x-Vendor", "VMware, Inc.")),
		numbered(3, kmip14.OperationAddAttribute, uid(id), attr("x-Product", "VMware vSphere")),
	))
	for i, it := range a.BatchItem {
		wantReason(t, "Add Attribute", it, 0)
		if !sameID(it, byte(i+1)) {
			t.Errorf("item %d has id %x", i, it.UniqueBatchItemID)
		}
	}
	wantLines(t, a.BatchItem[1].ResponsePayload, "UniqueIdentifier="+id, "AttributeName=x-Vendor", "AttributeValue=VMware, Inc.")

	state := func(want string) {
		t.Helper()
		it := b.one(t, single(kmip14.OperationGetAttributes, uid(id), v(kmip14.TagAttributeName, "State")))
		wantLines(t, it.ResponsePayload, "UniqueIdentifier="+id, "AttributeName=State", "AttributeValue="+want)
	}
	state("1")
	activated := b.one(t, single(kmip14.OperationActivate, uid(id)))
	wantReason(t, "Activate", activated, 0)
	wantLines(t, activated.ResponsePayload, "UniqueIdentifier="+id)
	state("2")
	wantReason(t, "a second Activate", b.one(t, single(kmip14.OperationActivate, uid(id))), kmip14.ResultReasonPermissionDenied)
	wantReason(t, "Destroy while Active", b.one(t, single(kmip14.OperationDestroy, uid(id))), kmip14.ResultReasonPermissionDenied)
}

func TestGetCarriesTheKeyOnce(t *testing.T) {
	b := newBench()
	first, second := b.create(t), b.create(t)
	a, r := b.send(t, message(header(1, 3, v(kmip14.TagBatchErrorContinuationOption, ttlv.EnumValue(1))),
		numbered(1, kmip14.OperationGet, uid(second)),
		numbered(2, kmip14.OperationGet, uid("missing")),
		numbered(3, kmip14.OperationGet, uid(first))))
	for i, id := range map[int]string{0: second, 2: first} {
		record, err := b.objects.Get(t.Context(), b.tenant.ID, kmip.ObjectID(id))
		if err != nil {
			t.Fatal(err)
		}
		material := keyMaterial(a.BatchItem[i].ResponsePayload)
		if digest := sha256.Sum256(material); !bytes.Equal(digest[:], record.Object.Digest) {
			t.Errorf("item %d: the key is not that of %s", i, id)
		}
	}
	wantReason(t, "the missing one", a.BatchItem[1], kmip14.ResultReasonItemNotFound)
	if len(r.Items) != 3 || string(r.Items[2].Object) != first || r.Items[1].Err == nil || r.Items[0].Operation != "Get" {
		t.Errorf("items %+v", r.Items)
	}
	frame := r.Frame.Reveal()
	r.Frame.Wipe()
	if !bytes.Equal(frame, make([]byte, len(frame))) {
		t.Error("bytes left after Wipe")
	}
}

func keyMaterial(b ttlv.TTLV) []byte {
	if b.Tag() == kmip14.TagKeyMaterial {
		return b.ValueByteString()
	}
	if b.Type() != ttlv.TypeStructure {
		return nil
	}
	for c := b.ValueStructure(); len(c) > 0; c = c.Next() {
		if found := keyMaterial(c); found != nil {
			return found
		}
	}
	return nil
}

func TestGetOptions(t *testing.T) {
	b := newBench()
	id := b.create(t)
	for name, c := range map[string]struct {
		option ttlv.Value
		want   kmip14.ResultReason
	}{
		"Raw":         {v(kmip14.TagKeyFormatType, ttlv.EnumValue(1)), 0},
		"Transparent": {v(kmip14.TagKeyFormatType, ttlv.EnumValue(7)), 0},
		"Opaque":      {v(kmip14.TagKeyFormatType, ttlv.EnumValue(2)), kmip14.ResultReasonKeyFormatTypeNotSupported},
		"compressed":  {v(kmip14.TagKeyCompressionType, ttlv.EnumValue(1)), kmip14.ResultReasonKeyCompressionTypeNotSupported},
		"wrapped":     {st(kmip14.TagKeyWrappingSpecification), kmip14.ResultReasonFeatureNotSupported},
		"unwrapped":   {v(kmip14.TagKeyWrapType, ttlv.EnumValue(1)), 0},
		"unheard of":  {v(kmip14.TagState, ttlv.EnumValue(1)), kmip14.ResultReasonInvalidField},
		"id again":    {uid(id), kmip14.ResultReasonInvalidMessage},
		"as text":     {v(kmip14.TagKeyFormatType, "Raw!"), kmip14.ResultReasonInvalidMessage},
	} {
		wantReason(t, name, b.one(t, single(kmip14.OperationGet, uid(id), c.option)), c.want)
	}
}

// TestFailuresOfTheKeyManager holds that a key is called missing only when it
// is gone for good: vCenter locks VMs whose keys are missing.
func TestFailuresOfTheKeyManager(t *testing.T) {
	b := newBench()
	id := b.create(t)
	other := &tenant.Tenant{ID: enginetest.NewTenantID()}
	foreign := decode(t, b.Respond(t.Context(), other, &wire.Session{}, single(kmip14.OperationGet, uid(id)))).BatchItem[0]
	unknown := b.one(t, single(kmip14.OperationGet, uid("no-such-key")))
	wantReason(t, "another tenant's key", foreign, kmip14.ResultReasonItemNotFound)
	if foreign.ResultMessage != unknown.ResultMessage {
		t.Errorf("foreign %q, unknown %q", foreign.ResultMessage, unknown.ResultMessage)
	}
	for kind, want := range map[fault.Kind]kmip14.ResultReason{
		fault.Unavailable: kmip14.ResultReasonGeneralFailure,
		fault.Corrupt:     kmip14.ResultReasonGeneralFailure,
		fault.Internal:    kmip14.ResultReasonGeneralFailure,
		fault.Gone:        kmip14.ResultReasonItemNotFound,
		fault.Denied:      kmip14.ResultReasonPermissionDenied,
	} {
		b.keys.Fail = func(string, bool) error { return fault.Wrap(kind, "", errors.New("10.0.0.1 refused")) }
		it := b.one(t, single(kmip14.OperationGet, uid(id)))
		wantReason(t, kind.String(), it, want)
		if strings.Contains(it.ResultMessage, "10.0.0.1") {
			t.Errorf("%s: the client sees %q", kind, it.ResultMessage)
		}
	}
	b.keys.Fail = nil
	b.keys.DeleteRootKey()
	wantReason(t, "root key deleted", b.one(t, single(kmip14.OperationGet, uid(id))), kmip14.ResultReasonPermissionDenied)
}

func TestGetAttributes(t *testing.T) {
	b := newBench()
	id := b.create(t)
	names := func(minor int) []string {
		it := b.one(t, message(header(minor, 1), item(kmip14.OperationGetAttributes, uid(id))))
		wantReason(t, "all attributes", it, 0)
		return flat(it.ResponsePayload)
	}
	if lines := names(1); !contains(lines, "KeyFormatType=1") || !contains(lines, "AttributeName=Digest") {
		t.Errorf("1.1 shows %q", lines)
	}
	if lines := names(0); contains(lines, "KeyFormatType=1") || !contains(lines, "AttributeName=Digest") {
		t.Errorf("1.0 shows %q", lines)
	}
	twice := single(kmip14.OperationGetAttributes, uid(id), v(kmip14.TagAttributeName, "State"), v(kmip14.TagAttributeName, "State"))
	wantReason(t, "a name twice", b.one(t, twice), kmip14.ResultReasonInvalidMessage)

	for i := range 2 {
		it := b.one(t, single(kmip14.OperationAddAttribute, uid(id), attr("x-Name", "vm")))
		if got := contains(flat(it.ResponsePayload), "AttributeIndex=1"); got != (i == 1) {
			t.Errorf("instance %d: %q", i, flat(it.ResponsePayload))
		}
	}
	it := b.one(t, single(kmip14.OperationGetAttributes, uid(id), v(kmip14.TagAttributeName, "x-Name")))
	wantLines(t, it.ResponsePayload, "UniqueIdentifier="+id, "AttributeName=x-Name", "AttributeValue=vm",
		"AttributeName=x-Name", "AttributeIndex=1", "AttributeValue=vm")
}

func contains(lines []string, want string) bool {
	for _, l := range lines {
		if l == want {
			return true
		}
	}
	return false
}

func TestPayloadRules(t *testing.T) {
	b := newBench()
	id := b.create(t)
	withIndex := func(n int) ttlv.Value {
		return st(kmip14.TagAttribute, v(kmip14.TagAttributeName, "x-a"), v(kmip14.TagAttributeIndex, n), v(kmip14.TagAttributeValue, "a"))
	}
	typ := v(kmip14.TagObjectType, ttlv.EnumValue(2))
	named := st(kmip14.TagTemplateAttribute, st(kmip14.TagName, v(kmip14.TagNameValue, "t"), v(kmip14.TagNameType, ttlv.EnumValue(1))))
	for name, c := range map[string]struct {
		request []byte
		want    kmip14.ResultReason
	}{
		"Create, index 0":           {single(kmip14.OperationCreate, vSphere(withIndex(0))...), 0},
		"Create, index 1":           {single(kmip14.OperationCreate, vSphere(withIndex(1))...), kmip14.ResultReasonInvalidField},
		"Create, no type":           {single(kmip14.OperationCreate, vSphere()[1]), kmip14.ResultReasonMissingData},
		"Create, no template":       {single(kmip14.OperationCreate, typ), kmip14.ResultReasonMissingData},
		"Create from a template":    {single(kmip14.OperationCreate, typ, named), kmip14.ResultReasonItemNotFound},
		"Create, type twice":        {single(kmip14.OperationCreate, typ, typ), kmip14.ResultReasonInvalidMessage},
		"Create a certificate":      {single(kmip14.OperationCreate, v(kmip14.TagObjectType, ttlv.EnumValue(1)), vSphere()[1]), kmip14.ResultReasonInvalidField},
		"Add Attribute, index":      {single(kmip14.OperationAddAttribute, uid(id), withIndex(0)), kmip14.ResultReasonInvalidField},
		"Add Attribute, State":      {single(kmip14.OperationAddAttribute, uid(id), attr("State", ttlv.EnumValue(2))), kmip14.ResultReasonPermissionDenied},
		"Add Attribute, none":       {single(kmip14.OperationAddAttribute, uid(id)), kmip14.ResultReasonMissingData},
		"Add Attribute, set once":   {single(kmip14.OperationAddAttribute, uid(id), attr("Cryptographic Length", 256)), kmip14.ResultReasonPermissionDenied},
		"a long identifier":         {single(kmip14.OperationGet, uid(strings.Repeat("a", kmip.MaxObjectID+1))), kmip14.ResultReasonItemNotFound},
		"an empty identifier":       {single(kmip14.OperationGet, uid("")), kmip14.ResultReasonItemNotFound},
		"no identifier":             {single(kmip14.OperationActivate), kmip14.ResultReasonItemNotFound},
		"an operation not built":    {single(kmip14.OperationArchive), kmip14.ResultReasonOperationNotSupported},
		"an operation nobody knows": {single(0x7777), kmip14.ResultReasonOperationNotSupported},
	} {
		it := b.one(t, c.request)
		wantReason(t, name, it, c.want)
		if !sameID(it, 1) || it.Operation == 0 {
			t.Errorf("%s: operation %v, id %x not echoed", name, it.Operation, it.UniqueBatchItemID)
		}
	}
}

func TestQueryAndDiscoverVersions(t *testing.T) {
	b := newBench()
	query := func(minor int, functions ...uint32) answerItem {
		var fields []ttlv.Value
		for _, f := range functions {
			fields = append(fields, v(kmip14.TagQueryFunction, ttlv.EnumValue(f)))
		}
		return b.one(t, message(header(minor, 1), item(kmip14.OperationQuery, fields...)))
	}
	wantLines(t, query(1, 3).ResponsePayload, "VendorIdentification=IBM Cloud")
	wantLines(t, query(0, 3, 2, 1).ResponsePayload, "Operation=1", "Operation=3", "Operation=4", "Operation=8", "Operation=9",
		"Operation=10", "Operation=11", "Operation=12", "Operation=13", "Operation=14", "Operation=15", "Operation=18",
		"Operation=19", "Operation=20", "Operation=24", "ObjectType=2", "ObjectType=7", "ObjectType=8", "VendorIdentification=IBM Cloud")
	if lines := flat(query(1, 1).ResponsePayload); !contains(lines, "Operation=30") {
		t.Errorf("1.1: %q", lines)
	}
	wantReason(t, "function 0", query(1, 0), kmip14.ResultReasonInvalidField)
	wantReason(t, "function 2^32-1", query(1, 1<<32-1), kmip14.ResultReasonInvalidField)
	wantReason(t, "no function", query(1), kmip14.ResultReasonMissingData)

	discover := func(listed ...ttlv.Value) ttlv.TTLV {
		return b.one(t, single(kmip14.OperationDiscoverVersions, listed...)).ResponsePayload
	}
	line := func(minors ...int) (lines []string) {
		for _, m := range minors {
			lines = append(lines, "ProtocolVersionMajor=1", fmt.Sprintf("ProtocolVersionMinor=%d", m))
		}
		return lines
	}
	wantLines(t, discover(), line(4, 3, 2, 1, 0)...)
	wantLines(t, discover(protocol(1, 0), protocol(2, 0), protocol(1, 2)), line(2, 0)...)
	wantLines(t, discover(protocol(2, 1)))
}
