package wire_test

import (
	"encoding/binary"
	"testing"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"
)

// FuzzOperations carries out any operation on a new key: the first byte
// selects it among those that Query lists, the second the version; the others
// are its Request Payload's fields. Whatever they hold, the answer is whole, and
// the key keeps a state that KMIP knows.
func FuzzOperations(f *testing.F) {
	listed := newBench().one(f, query(4, uint32(kmip14.QueryFunctionQueryOperations))).ResponsePayload
	var codes []kmip14.Operation
	for c := listed.ValueStructure(); len(c) > 0; c = c.Next() {
		codes = append(codes, kmip14.Operation(c.ValueEnumeration()))
	}
	name := st(kmip14.TagAttributeValue, v(kmip14.TagNameValue, "a name"), v(kmip14.TagNameType, ttlv.EnumValue(1)))
	payloads := [][]ttlv.Value{
		nil, vSphere(), vSphere(attr("x-Name", "vm"), st(kmip14.TagAttribute, v(kmip14.TagAttributeName, "Name"), name)),
		{v(kmip14.TagKeyFormatType, ttlv.EnumValue(1))},
		{v(kmip14.TagAttributeName, "State")},
		{attr("x-Name", []byte{1})},
		{attr("Activation Date", now)},
		{revocation(1)},
		{revocation(2), v(kmip14.TagCompromiseOccurrenceDate, now)},
		{v(kmip14.TagQueryFunction, ttlv.EnumValue(1))},
		{protocol(1, 2)},
		{v(kmip14.TagMaximumItems, 1), v(kmip14.TagOffsetItems, 1)},
		registered(2, aes(1, raw()), attr("Cryptographic Usage Mask", 12)), registered(2, aes(7, transparent())), registered(8, opaqueObject()),
		{v(kmip14.TagAttributeName, "x-Name"), v(kmip14.TagAttributeIndex, 0)},
		{v(kmip14.TagCryptographicUsageMask, 4)},
	}
	for i := range codes {
		for n, fields := range payloads {
			body := marshal(st(kmip14.TagRequestPayload, fields...))[8:]
			f.Add(append([]byte{byte(i), byte(n)}, body...))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 2 {
			return
		}
		b := newBench()
		code := codes[int(in[0])%len(codes)]
		goOn := v(kmip14.TagBatchErrorContinuationOption, ttlv.EnumValue(1))
		a, r := b.send(t, message(header(int(in[1])%6, 3, goOn), numbered(1, kmip14.OperationCreate, vSphere()...),
			st(kmip14.TagBatchItem, v(kmip14.TagOperation, code), v(kmip14.TagUniqueBatchItemID, qlkc(2)), payload(in[2:])),
			numbered(3, kmip14.OperationQuery, v(kmip14.TagQueryFunction, kmip14.QueryFunctionQueryServerInformation))))
		defer r.Frame.Wipe()
		if len(a.BatchItem) == 1 {
			if !r.Close && a.BatchItem[0].ResultReason != kmip14.ResultReasonResponseTooLarge {
				t.Errorf("one answer to three items: %+v", a.BatchItem[0])
			}
			return
		}
		for n, it := range a.BatchItem {
			if !sameID(it, byte(n+1)) || it.ResultReason == kmip14.ResultReasonGeneralFailure || it.Operation == 0 {
				t.Errorf("item %d: %+v", n+1, it)
			}
		}
		wantReason(t, "Create", a.BatchItem[0], 0)
		wantReason(t, "the item after", a.BatchItem[2], 0)
		id := flat(a.BatchItem[0].ResponsePayload)[1][len("UniqueIdentifier="):]
		state := flat(b.one(t, single(kmip14.OperationGetAttributes, uid(id), v(kmip14.TagAttributeName, "State"))).ResponsePayload)
		if last := state[len(state)-1]; last < "AttributeValue=1" || last > "AttributeValue=6" {
			t.Errorf("after %v: %q", code, state)
		}
	})
}

// payload is a Request Payload of members that need not be any.
func payload(members []byte) ttlv.Value {
	frame := marshal(st(kmip14.TagRequestPayload))
	binary.BigEndian.PutUint32(frame[4:], uint32(len(members)))
	return ttlv.Value{Tag: kmip14.TagRequestPayload, Value: ttlv.TTLV(append(frame, members...))}
}
