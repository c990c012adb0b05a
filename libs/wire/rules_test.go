package wire_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// TestVersions holds the header's version against the answer's.
func TestVersions(t *testing.T) {
	b := newBench()
	future := v(0x42FFF0, 1)
	for name, c := range map[string]struct {
		major, minor int
		more         []ttlv.Value
		wantMinor    int
		reason       kmip14.ResultReason
	}{
		"1.0":                         {1, 0, nil, 0, 0},
		"1.1":                         {1, 1, nil, 1, 0},
		"1.2":                         {1, 2, nil, 2, 0},
		"1.3":                         {1, 3, nil, 3, 0},
		"1.4":                         {1, 4, nil, 4, 0},
		"1.5":                         {1, 5, nil, 4, 0},
		"1.9 with an unknown field":   {1, 9, []ttlv.Value{future}, 4, 0},
		"1.4 with an unknown field":   {1, 4, []ttlv.Value{future}, 4, kmip14.ResultReasonInvalidField},
		"1.-1":                        {1, -1, nil, 4, kmip14.ResultReasonInvalidMessage},
		"0.9":                         {0, 9, nil, 4, kmip14.ResultReasonInvalidMessage},
		"2.0":                         {2, 0, nil, 4, kmip14.ResultReasonInvalidMessage},
		"2.1 with fields of that one": {2, 1, []ttlv.Value{future, future}, 4, kmip14.ResultReasonInvalidMessage},
		"3.0":                         {3, 0, nil, 4, kmip14.ResultReasonInvalidMessage},
	} {
		fields := append([]ttlv.Value{protocol(c.major, c.minor)}, c.more...)
		head := st(kmip14.TagRequestHeader, append(fields, v(kmip14.TagBatchCount, 1))...)
		a, r := b.send(t, message(head, item(kmip14.OperationDiscoverVersions)))
		if got := a.ResponseHeader.ProtocolVersion; got.ProtocolVersionMajor != 1 || got.ProtocolVersionMinor != c.wantMinor {
			t.Errorf("%s: answered in %+v", name, got)
		}
		wantReason(t, name, a.BatchItem[0], c.reason)
		if r.Close {
			t.Errorf("%s: the connection is to be closed", name)
		}
		if c.major != 1 && a.BatchItem[0].Operation != 0 {
			t.Errorf("%s: an operation in the version error", name)
		}
	}
}

// TestHeaderRules are the failures of a request as a whole.
func TestHeaderRules(t *testing.T) {
	dv := item(kmip14.OperationDiscoverVersions)
	two := []ttlv.Value{numbered(1, kmip14.OperationDiscoverVersions), numbered(2, kmip14.OperationDiscoverVersions)}
	option := func(n uint32) ttlv.Value { return v(kmip14.TagBatchErrorContinuationOption, ttlv.EnumValue(n)) }
	many := func(n int) []ttlv.Value {
		parts := []ttlv.Value{header(1, n)}
		for range n {
			parts = append(parts, two[0])
		}
		return parts
	}
	credential := st(kmip14.TagAuthentication, st(kmip14.TagCredential,
		v(kmip14.TagCredentialType, ttlv.EnumValue(1)),
		st(kmip14.TagCredentialValue, v(kmip14.TagUsername, "vcenter"), v(kmip14.TagPassword, "hunter2"))))
	invalid := kmip14.ResultReasonInvalidMessage
	for name, c := range map[string]struct {
		parts  []ttlv.Value
		items  int
		reason kmip14.ResultReason
		closes bool
	}{
		"all optional fields": {[]ttlv.Value{header(4, 1, v(kmip14.TagMaximumResponseSize, 8192),
			v(kmip14.TagClientCorrelationValue, "c"), v(kmip14.TagServerCorrelationValue, "s"),
			v(kmip14.TagAsynchronousIndicator, true), v(kmip14.TagAttestationCapableIndicator, true),
			v(kmip14.TagAttestationType, ttlv.EnumValue(1)), v(kmip14.TagAttestationType, ttlv.EnumValue(2)),
			credential, option(1), v(kmip14.TagBatchOrderOption, true), v(kmip14.TagTimeStamp, time.Unix(0, 0))), dv}, 1, 0, false},
		"a batch of two":        {append([]ttlv.Value{header(1, 2)}, two...), 2, 0, false},
		"64 items":              {many(64), 64, 0, false},
		"65 items":              {many(65), 1, invalid, true},
		"count too high":        {append([]ttlv.Value{header(1, 3)}, two...), 1, invalid, true},
		"count too low":         {append([]ttlv.Value{header(1, 1)}, two...), 1, invalid, true},
		"count negative":        {[]ttlv.Value{header(1, -1), dv}, 1, invalid, true},
		"no items":              {[]ttlv.Value{header(1, 0)}, 1, invalid, true},
		"no count":              {[]ttlv.Value{st(kmip14.TagRequestHeader, protocol(1, 1)), dv}, 1, invalid, true},
		"count twice":           {[]ttlv.Value{header(1, 1, v(kmip14.TagBatchCount, 1)), dv}, 1, invalid, true},
		"no header":             {[]ttlv.Value{dv}, 1, invalid, true},
		"two headers":           {[]ttlv.Value{header(1, 1), header(1, 1), dv}, 1, invalid, true},
		"header last":           {[]ttlv.Value{dv, header(1, 1)}, 1, invalid, true},
		"no version":            {[]ttlv.Value{st(kmip14.TagRequestHeader, v(kmip14.TagBatchCount, 1)), dv}, 1, invalid, true},
		"half a version":        {[]ttlv.Value{st(kmip14.TagRequestHeader, st(kmip14.TagProtocolVersion, v(kmip14.TagProtocolVersionMajor, 1)), v(kmip14.TagBatchCount, 1)), dv}, 1, invalid, true},
		"two items without ids": {[]ttlv.Value{header(1, 2), dv, dv}, 1, invalid, true},
		"one of two without id": {[]ttlv.Value{header(1, 2), two[0], dv}, 1, invalid, true},
		"Undo":                  {[]ttlv.Value{header(1, 1, option(3)), dv}, 1, kmip14.ResultReasonFeatureNotSupported, false},
		"an unknown option":     {[]ttlv.Value{header(1, 1, option(4)), dv}, 1, kmip14.ResultReasonInvalidField, false},
		"a count as text":       {[]ttlv.Value{st(kmip14.TagRequestHeader, protocol(1, 1), v(kmip14.TagBatchCount, "one")), dv}, 1, invalid, true},
	} {
		a, r := newBench().send(t, message(c.parts...))
		if len(a.BatchItem) != c.items || r.Close != c.closes || len(r.Items) != c.items {
			t.Errorf("%s: %d items (told of %d), close %t", name, len(a.BatchItem), len(r.Items), r.Close)
			continue
		}
		wantReason(t, name, a.BatchItem[0], c.reason)
	}
}

// TestBatchItemRules are failures of one item that leave the next one alone.
func TestBatchItemRules(t *testing.T) {
	op := v(kmip14.TagOperation, kmip14.OperationDiscoverVersions)
	body := st(kmip14.TagRequestPayload)
	id := v(kmip14.TagUniqueBatchItemID, qlkc(1))
	extension := func(critical bool) ttlv.Value {
		return st(kmip14.TagMessageExtension, v(kmip14.TagVendorIdentification, "acme"),
			v(kmip14.TagCriticalityIndicator, critical), st(kmip14.TagVendorExtension, v(0x540001, 1)))
	}
	b := newBench()
	for name, c := range map[string]struct {
		fields []ttlv.Value
		want   kmip14.ResultReason
	}{
		"complete":               {[]ttlv.Value{op, id, body}, 0},
		"no operation":           {[]ttlv.Value{id, body}, kmip14.ResultReasonInvalidMessage},
		"no payload":             {[]ttlv.Value{op, id}, kmip14.ResultReasonInvalidMessage},
		"two payloads":           {[]ttlv.Value{op, id, body, body}, kmip14.ResultReasonInvalidMessage},
		"an unknown field first": {[]ttlv.Value{v(kmip14.TagResultMessage, "x"), op, id, body}, kmip14.ResultReasonInvalidField},
		"a nested operation":     {[]ttlv.Value{st(kmip14.TagOperation), id, body}, kmip14.ResultReasonInvalidMessage},
		"a payload as bytes":     {[]ttlv.Value{op, id, v(kmip14.TagRequestPayload, []byte{1})}, kmip14.ResultReasonInvalidMessage},
		"an extension":           {[]ttlv.Value{op, id, body, extension(false), extension(false)}, 0},
		"a critical extension":   {[]ttlv.Value{op, id, body, extension(false), extension(true)}, kmip14.ResultReasonFeatureNotSupported},
		"an empty extension":     {[]ttlv.Value{op, id, body, st(kmip14.TagMessageExtension)}, 0},
	} {
		a, r := b.send(t, message(
			header(1, 2, v(kmip14.TagBatchErrorContinuationOption, ttlv.EnumValue(1))),
			st(kmip14.TagBatchItem, c.fields...), numbered(2, kmip14.OperationDiscoverVersions)))
		if len(a.BatchItem) != 2 || r.Close {
			t.Errorf("%s: %d items, close %t", name, len(a.BatchItem), r.Close)
			continue
		}
		wantReason(t, name, a.BatchItem[0], c.want)
		if !sameID(a.BatchItem[0], 1) {
			t.Errorf("%s: id %x", name, a.BatchItem[0].UniqueBatchItemID)
		}
		wantReason(t, name+", the next item", a.BatchItem[1], 0)
	}
}

func TestBatchStopsOrContinues(t *testing.T) {
	b := newBench()
	id := b.create(t)
	items := []ttlv.Value{
		numbered(1, kmip14.OperationGetAttributes, uid(id), v(kmip14.TagAttributeName, "State")),
		numbered(2, kmip14.OperationGet, uid("missing")),
		numbered(3, kmip14.OperationActivate, uid(id)),
	}
	stopped, r := b.send(t, message(append([]ttlv.Value{header(1, 3)}, items...)...))
	if len(stopped.BatchItem) != 2 || len(r.Items) != 2 {
		t.Fatalf("Stop: %d items answered, %d told of", len(stopped.BatchItem), len(r.Items))
	}
	wantReason(t, "the failing item", stopped.BatchItem[1], kmip14.ResultReasonItemNotFound)

	goOn := v(kmip14.TagBatchErrorContinuationOption, ttlv.EnumValue(1))
	all, _ := b.send(t, message(append([]ttlv.Value{header(1, 3, goOn)}, items...)...))
	if len(all.BatchItem) != 3 {
		t.Fatalf("Continue: %d items answered", len(all.BatchItem))
	}
	wantReason(t, "the item after", all.BatchItem[2], 0) // so Stop had not activated it
}

func TestIDPlaceholder(t *testing.T) {
	b := newBench()
	a, r := b.send(t, message(header(1, 4), numbered(1, kmip14.OperationCreate, vSphere()...),
		numbered(2, kmip14.OperationAddAttribute, attr("x-Vendor", "VMware, Inc.")),
		numbered(3, kmip14.OperationActivate), numbered(4, kmip14.OperationGet)))
	if len(a.BatchItem) != 4 || r.Items[3].Err != nil || r.Items[3].Object != r.Items[0].Object {
		t.Fatalf("%+v", r.Items)
	}
	goOn := v(kmip14.TagBatchErrorContinuationOption, ttlv.EnumValue(1))
	a, _ = b.send(t, message(header(1, 3, goOn), numbered(1, kmip14.OperationCreate, vSphere()...),
		numbered(2, kmip14.OperationCreate), numbered(3, kmip14.OperationActivate)))
	wantReason(t, "after a Create that failed", a.BatchItem[2], kmip14.ResultReasonItemNotFound)
	wantReason(t, "in the next request", b.one(t, single(kmip14.OperationActivate)), kmip14.ResultReasonItemNotFound)
}

func TestMaximumResponseSize(t *testing.T) {
	b := newBench()
	id := b.create(t)
	ask := func(size int) []byte {
		return message(header(1, 1, v(kmip14.TagMaximumResponseSize, size)), numbered(1, kmip14.OperationGet, uid(id)))
	}
	_, whole := b.send(t, ask(8192))
	size := whole.Frame.Len()
	wantReason(t, "exactly enough", b.one(t, ask(size)), 0)
	for _, n := range []int{size - 1, 1, 0, -1} {
		a, r := b.send(t, ask(n))
		wantReason(t, "too small", a.BatchItem[0], kmip14.ResultReasonResponseTooLarge)
		if !sameID(a.BatchItem[0], 1) || r.Close || keyMaterial(r.Frame.Reveal()) != nil {
			t.Errorf("%d: id %x, close %t", n, a.BatchItem[0].UniqueBatchItemID, r.Close)
		}
		if last := r.Items[len(r.Items)-1]; len(r.Items) != 2 || fault.KindOf(last.Err) != fault.TooLarge || r.Items[0].Err != nil {
			t.Errorf("%d: told %+v", n, r.Items)
		}
	}
}

func TestRefuse(t *testing.T) {
	b := newBench()
	throttled := fault.New(fault.Throttled, "Too many requests.")
	r := b.Refuse(single(kmip14.OperationCreate, vSphere()...), throttled)
	a := decode(t, r)
	wantReason(t, "throttled", a.BatchItem[0], kmip14.ResultReasonGeneralFailure)
	if !sameID(a.BatchItem[0], 1) || a.ResponseHeader.ProtocolVersion.ProtocolVersionMinor != 1 || r.Close {
		t.Errorf("%+v, close %t", a, r.Close)
	}
	if b.keys.Stored() != 0 || !errors.Is(r.Items[0].Err, throttled) {
		t.Errorf("stored %d keys, told %+v", b.keys.Stored(), r.Items)
	}
	nothing := b.Refuse(nil, fault.New(fault.Malformed, "The data is not a KMIP message."))
	wantReason(t, "nothing", decode(t, nothing).BatchItem[0], kmip14.ResultReasonInvalidMessage)
	if !nothing.Close {
		t.Error("the connection stays open")
	}
}

func TestEchoesIDsOfAnyLength(t *testing.T) {
	b := newBench()
	for _, id := range [][]byte{{}, {1}, bytes.Repeat([]byte{0xFE}, 300)} {
		it := b.one(t, message(header(1, 1), st(kmip14.TagBatchItem, v(kmip14.TagOperation, kmip14.OperationDiscoverVersions),
			v(kmip14.TagUniqueBatchItemID, id), st(kmip14.TagRequestPayload))))
		if !bytes.Equal(it.UniqueBatchItemID, id) {
			t.Errorf("%x came back as %x", id, it.UniqueBatchItemID)
		}
	}
}
