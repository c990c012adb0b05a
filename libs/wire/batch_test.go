package wire_test

import (
	"testing"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"
)

// TestLaterMinorVersion sends fields that nobody knows, in every structure:
// they are left out when the request's version may have brought them.
func TestLaterMinorVersion(t *testing.T) {
	future := v(0x42FFF0, 1)
	plain := func() map[string][]ttlv.Value {
		return map[string][]ttlv.Value{"header": nil, "item": nil, "payload": nil, "template": nil, "attribute": nil, "extension": nil}
	}
	create := func(minor int, in map[string][]ttlv.Value) []byte {
		length := st(kmip14.TagAttribute, append([]ttlv.Value{v(kmip14.TagAttributeName, "Cryptographic Length"), v(kmip14.TagAttributeValue, 256)}, in["attribute"]...)...)
		template := append([]ttlv.Value{attr("Cryptographic Algorithm", ttlv.EnumValue(3)), attr("Cryptographic Usage Mask", 12), length}, in["template"]...)
		payload := append([]ttlv.Value{v(kmip14.TagObjectType, ttlv.EnumValue(2)), st(kmip14.TagTemplateAttribute, template...)}, in["payload"]...)
		extension := append([]ttlv.Value{v(kmip14.TagVendorIdentification, "acme"), v(kmip14.TagCriticalityIndicator, false)}, in["extension"]...)
		item := append([]ttlv.Value{v(kmip14.TagOperation, kmip14.OperationCreate), st(kmip14.TagRequestPayload, payload...), st(kmip14.TagMessageExtension, extension...)}, in["item"]...)
		return message(header(minor, 1, in["header"]...), st(kmip14.TagBatchItem, item...))
	}
	b := newBench()
	wantReason(t, "without", b.one(t, create(4, plain())), 0)
	for where := range plain() {
		in := plain()
		in[where] = []ttlv.Value{future}
		wantReason(t, "1.9 with an unknown field in "+where, b.one(t, create(9, in)), 0)
		wantReason(t, "1.4 with an unknown field in "+where, b.one(t, create(4, in)), kmip14.ResultReasonInvalidField)
	}
}

// TestLimitStopsTheBatch holds that nothing is carried out whose result can't
// be sent any more.
func TestLimitStopsTheBatch(t *testing.T) {
	b := newBench()
	id := b.create(t)
	goOn := v(kmip14.TagBatchErrorContinuationOption, ttlv.EnumValue(1))
	a, r := b.send(t, message(header(1, 3, goOn, v(kmip14.TagMaximumResponseSize, 300)),
		numbered(1, kmip14.OperationGet, uid(id)), numbered(2, kmip14.OperationActivate, uid(id)), numbered(3, kmip14.OperationActivate, uid(id))))
	if len(a.BatchItem) != 1 || len(r.Items) != 2 || a.BatchItem[0].UniqueBatchItemID != nil {
		t.Fatalf("%d items answered, %+v", len(a.BatchItem), r.Items)
	}
	wantReason(t, "the batch", a.BatchItem[0], kmip14.ResultReasonResponseTooLarge)
	wantReason(t, "Activate", b.one(t, single(kmip14.OperationActivate, uid(id))), 0) // so the batch had not
}

// TestPlaceholderIsForItemsWithoutIdentifier holds that an identifier that is
// there counts, even an empty one.
func TestPlaceholderIsForItemsWithoutIdentifier(t *testing.T) {
	b := newBench()
	other := b.create(t)
	goOn := v(kmip14.TagBatchErrorContinuationOption, ttlv.EnumValue(1))
	a, r := b.send(t, message(header(1, 4, goOn), numbered(1, kmip14.OperationCreate, vSphere()...),
		numbered(2, kmip14.OperationActivate, uid("")), numbered(3, kmip14.OperationActivate, uid(other)), numbered(4, kmip14.OperationActivate)))
	wantReason(t, "an empty identifier", a.BatchItem[1], kmip14.ResultReasonItemNotFound)
	if string(r.Items[2].Object) != other || r.Items[3].Object != r.Items[0].Object || r.Items[3].Err != nil {
		t.Errorf("%+v", r.Items)
	}
}

// TestLocateByTemplateAndAttributes holds that a Template-Attribute, which
// FortiOS sends, narrows the search beside the other attributes.
func TestLocateByTemplateAndAttributes(t *testing.T) {
	b := newBench()
	id := b.create(t)
	wantReason(t, "add", b.one(t, single(kmip14.OperationAddAttribute, uid(id), attr("x-Name", "vm"))), 0)
	b.create(t)
	template := st(kmip14.TagTemplateAttribute, attr("x-Name", "vm"))
	state := attr("State", ttlv.EnumValue(1))
	for name, fields := range map[string][]ttlv.Value{"before": {template, state}, "after": {state, template}} {
		it := b.one(t, single(kmip14.OperationLocate, fields...))
		wantReason(t, name, it, 0)
		wantLines(t, it.ResponsePayload, "UniqueIdentifier="+id)
	}
}
