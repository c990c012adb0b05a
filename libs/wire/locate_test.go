package wire_test

import (
	"testing"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"
)

// revocation is a Revocation Reason with a code.
func revocation(code uint32, more ...ttlv.Value) ttlv.Value {
	return st(kmip14.TagRevocationReason, append([]ttlv.Value{v(kmip14.TagRevocationReasonCode, ttlv.EnumValue(code))}, more...)...)
}

func TestRevoke(t *testing.T) {
	b := newBench()
	state := func(id string) []string {
		return flat(b.one(t, single(kmip14.OperationGetAttributes, uid(id), v(kmip14.TagAttributeName, "State"))).ResponsePayload)
	}
	active := b.create(t)
	wantReason(t, "activate", b.one(t, single(kmip14.OperationActivate, uid(active))), 0)
	for _, c := range []struct {
		name    string
		request []byte
		want    kmip14.ResultReason
	}{
		{"no reason", single(kmip14.OperationRevoke, uid(active)), kmip14.ResultReasonMissingData},
		{"an unknown code", single(kmip14.OperationRevoke, uid(active), revocation(8)), kmip14.ResultReasonInvalidField},
		{"a compromise without its date", single(kmip14.OperationRevoke, uid(active), revocation(2)), kmip14.ResultReasonInvalidField},
		{"an unknown identifier", single(kmip14.OperationRevoke, uid("none"), revocation(1)), kmip14.ResultReasonItemNotFound},
		{"a field too many", single(kmip14.OperationRevoke, uid(active), revocation(1), v(kmip14.TagOffsetItems, 1)), kmip14.ResultReasonInvalidField},
		{"a Pre-Active object", single(kmip14.OperationRevoke, uid(b.create(t)), revocation(1)), kmip14.ResultReasonIllegalOperation},
	} {
		wantReason(t, c.name, b.one(t, c.request), c.want)
	}
	it := b.one(t, single(kmip14.OperationRevoke, uid(active), revocation(6, v(kmip14.TagRevocationMessage, "retired"))))
	wantReason(t, "revoke", it, 0)
	wantLines(t, it.ResponsePayload, "UniqueIdentifier="+active)
	if lines := state(active); !contains(lines, "AttributeValue=3") {
		t.Errorf("after Revoke: %q", lines)
	}
	it = b.one(t, single(kmip14.OperationRevoke, uid(active), revocation(2), v(kmip14.TagCompromiseOccurrenceDate, time.Unix(1_700_000_000, 0))))
	wantReason(t, "compromise", it, 0)
	if lines := state(active); !contains(lines, "AttributeValue=4") {
		t.Errorf("after a compromise: %q", lines)
	}
	wantReason(t, "destroy", b.one(t, single(kmip14.OperationDestroy, uid(active))), 0)
	if lines := state(active); !contains(lines, "AttributeValue=6") {
		t.Errorf("after Destroy: %q", lines)
	}
}

func TestLocate(t *testing.T) {
	b := newBench()
	named := b.create(t)
	wantReason(t, "add", b.one(t, single(kmip14.OperationAddAttribute, uid(named), attr("x-Name", "vm"))), 0)
	other := b.create(t)
	ids := func(fields ...ttlv.Value) []string {
		t.Helper()
		it := b.one(t, single(kmip14.OperationLocate, fields...))
		wantReason(t, "locate", it, 0)
		return flat(it.ResponsePayload)
	}
	for name, c := range map[string]struct {
		fields []ttlv.Value
		want   []string
	}{
		"everything, newest first": {nil, []string{"UniqueIdentifier=" + other, "UniqueIdentifier=" + named}},
		"by a custom attribute":    {[]ttlv.Value{attr("x-Name", "vm")}, []string{"UniqueIdentifier=" + named}},
		"by two, of which one":     {[]ttlv.Value{attr("x-Name", "vm"), attr("State", ttlv.EnumValue(2))}, nil},
		"in a template":            {[]ttlv.Value{st(kmip14.TagTemplateAttribute, attr("x-Name", "vm"))}, []string{"UniqueIdentifier=" + named}},
		"a name nobody has":        {[]ttlv.Value{attr("x-Nothing", "vm")}, nil},
		"part of the usage mask":   {[]ttlv.Value{attr("Cryptographic Usage Mask", 4), v(kmip14.TagMaximumItems, 1)}, []string{"UniqueIdentifier=" + other}},
		"the second":               {[]ttlv.Value{v(kmip14.TagMaximumItems, 1), v(kmip14.TagOffsetItems, 1)}, []string{"UniqueIdentifier=" + named}},
		"archived ones":            {[]ttlv.Value{v(kmip14.TagStorageStatusMask, 2)}, nil},
		"online ones":              {[]ttlv.Value{v(kmip14.TagStorageStatusMask, 1), attr("x-Name", "vm")}, []string{"UniqueIdentifier=" + named}},
	} {
		got := ids(c.fields...)
		if len(got) != len(c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
			continue
		}
		for n := range got {
			if got[n] != c.want[n] {
				t.Errorf("%s: %q, want %q", name, got, c.want)
			}
		}
	}
	wantReason(t, "an unknown attribute", b.one(t, single(kmip14.OperationLocate, attr("Colour", "red"))), kmip14.ResultReasonInvalidField)
	wantReason(t, "a negative maximum", b.one(t, single(kmip14.OperationLocate, v(kmip14.TagMaximumItems, -1))), kmip14.ResultReasonInvalidField)
	wantReason(t, "a group's default", b.one(t, single(kmip14.OperationLocate, v(kmip14.TagObjectGroupMember, ttlv.EnumValue(2)))), kmip14.ResultReasonFeatureNotSupported)
	wantReason(t, "another member", b.one(t, single(kmip14.OperationLocate, v(kmip14.TagObjectGroupMember, ttlv.EnumValue(3)))), kmip14.ResultReasonInvalidField)

	// A single match is what the next item is about; several are not.
	a, _ := b.send(t, message(header(1, 2), numbered(1, kmip14.OperationLocate, attr("x-Name", "vm")), numbered(2, kmip14.OperationActivate)))
	if len(a.BatchItem) != 2 {
		t.Fatalf("%d items", len(a.BatchItem))
	}
	wantReason(t, "activate what was located", a.BatchItem[1], 0)
	a, _ = b.send(t, message(header(1, 2), numbered(1, kmip14.OperationLocate), numbered(2, kmip14.OperationActivate)))
	wantReason(t, "activate one of many", a.BatchItem[1], kmip14.ResultReasonItemNotFound)
}
