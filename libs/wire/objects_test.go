package wire_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"
)

// brought is what clients register here; it may be in no answer but Get's.
var brought = bytes.Repeat([]byte{0xa5, 0x5a}, 16)

func enum(tag ttlv.Tag, n uint32) ttlv.Value { return v(tag, ttlv.EnumValue(n)) }

// block is a Key Block of a format whose Key Value has the fields.
func block(format uint32, value []ttlv.Value, more ...ttlv.Value) ttlv.Value {
	return st(kmip14.TagKeyBlock, append([]ttlv.Value{enum(kmip14.TagKeyFormatType, format), st(kmip14.TagKeyValue, value...)}, more...)...)
}

func raw(fields ...ttlv.Value) []ttlv.Value {
	return append([]ttlv.Value{v(kmip14.TagKeyMaterial, brought)}, fields...)
}

func transparent(fields ...ttlv.Value) []ttlv.Value {
	return []ttlv.Value{st(kmip14.TagKeyMaterial, append([]ttlv.Value{v(kmip14.TagKey, brought)}, fields...)...)}
}

func aes(format uint32, value []ttlv.Value, more ...ttlv.Value) ttlv.Value {
	return st(kmip14.TagSymmetricKey, block(format, value,
		append([]ttlv.Value{enum(kmip14.TagCryptographicAlgorithm, 3), v(kmip14.TagCryptographicLength, 256)}, more...)...))
}

func secretData(format uint32) ttlv.Value {
	return st(kmip14.TagSecretData, enum(kmip14.TagSecretDataType, 1), block(format, raw()))
}

func opaqueObject() ttlv.Value {
	return st(kmip14.TagOpaqueObject, enum(kmip14.TagOpaqueDataType, 1<<31), v(kmip14.TagOpaqueDataValue, brought))
}

// registered is the payload of a Register.
func registered(typ uint32, object ttlv.Value, template ...ttlv.Value) []ttlv.Value {
	return []ttlv.Value{enum(kmip14.TagObjectType, typ), st(kmip14.TagTemplateAttribute, template...), object}
}

func (b *bench) register(t testing.TB, payload ...ttlv.Value) string {
	t.Helper()
	it := b.one(t, single(kmip14.OperationRegister, payload...))
	lines := flat(it.ResponsePayload)
	if it.ResultReason != 0 || len(lines) != 1 {
		t.Fatalf("Register: %+v %q", it, lines)
	}
	return strings.TrimPrefix(lines[0], "UniqueIdentifier=")
}

// TestRegisterAndGet has every object come back as it was brought, or in the
// format asked for (KMIP 1.4, 4.3 and 4.11).
func TestRegisterAndGet(t *testing.T) {
	mask := attr("Cryptographic Usage Mask", 12)
	bits := []string{"CryptographicAlgorithm=3", "CryptographicLength=256"}
	for name, c := range map[string]struct {
		payload []ttlv.Value
		options []ttlv.Value
		want    []string // after the identifier
	}{
		"a key": {registered(2, aes(1, raw()), mask), nil, append([]string{"KeyFormatType=1", "KeyMaterial"}, bits...)},
		"a key with its attributes": {
			registered(2, aes(1, raw(mask, attr("x-a", "b")))), nil, append([]string{"KeyFormatType=1", "KeyMaterial"}, bits...),
		},
		"a key, transparent": {
			registered(2, aes(1, raw()), mask),
			[]ttlv.Value{enum(kmip14.TagKeyFormatType, 7)},
			append([]string{"KeyFormatType=7", "Key"}, bits...),
		},
		"a transparent key":     {registered(2, aes(7, transparent()), mask), nil, append([]string{"KeyFormatType=1", "KeyMaterial"}, bits...)},
		"a password, as opaque": {registered(7, secretData(2), mask), nil, []string{"SecretDataType=1", "KeyFormatType=2", "KeyMaterial"}},
		"a password, as raw":    {registered(7, secretData(1)), nil, []string{"SecretDataType=1", "KeyFormatType=1", "KeyMaterial"}},
		"an opaque object":      {registered(8, opaqueObject()), nil, []string{"OpaqueDataType=2147483648", "OpaqueDataValue"}},
	} {
		b := newBench()
		id := b.register(t, c.payload...)
		it := b.one(t, single(kmip14.OperationGet, append([]ttlv.Value{uid(id)}, c.options...)...))
		wantReason(t, name, it, 0)
		want := []string{fmt.Sprintf("ObjectType=%d", uint32(c.payload[0].Value.(ttlv.EnumValue))), "UniqueIdentifier=" + id}
		for _, line := range c.want {
			if !strings.Contains(line, "=") {
				line = fmt.Sprintf("%s=%v", line, brought)
			}
			want = append(want, line)
		}
		wantLines(t, it.ResponsePayload, want...)
	}
}

func TestRegisterRefuses(t *testing.T) {
	mask := attr("Cryptographic Usage Mask", 12)
	none := st(kmip14.TagSymmetricKey, st(kmip14.TagKeyBlock, enum(kmip14.TagKeyFormatType, 1)))
	for name, c := range map[string]struct {
		payload []ttlv.Value
		want    kmip14.ResultReason
	}{
		"another object":        {registered(2, secretData(1), mask), kmip14.ResultReasonInvalidField},
		"no object":             {registered(2, aes(1, raw()), mask)[:2], kmip14.ResultReasonMissingData},
		"no type":               {registered(2, aes(1, raw()), mask)[1:], kmip14.ResultReasonMissingData},
		"a certificate":         {registered(1, st(kmip14.TagCertificate)), kmip14.ResultReasonInvalidField},
		"two objects":           {append(registered(2, aes(1, raw()), mask), aes(1, raw())), kmip14.ResultReasonInvalidMessage},
		"two kinds of objects":  {append(registered(2, aes(1, raw()), mask), secretData(1)), kmip14.ResultReasonInvalidMessage},
		"no value":              {registered(2, none, mask), kmip14.ResultReasonFeatureNotSupported},
		"no material":           {registered(2, aes(1, nil), mask), kmip14.ResultReasonMissingData},
		"material as text":      {registered(2, aes(1, []ttlv.Value{v(kmip14.TagKeyMaterial, "text")}), mask), kmip14.ResultReasonInvalidMessage},
		"wrapped":               {registered(2, aes(1, raw(), st(kmip14.TagKeyWrappingData)), mask), kmip14.ResultReasonFeatureNotSupported},
		"compressed":            {registered(2, aes(1, raw(), enum(kmip14.TagKeyCompressionType, 1)), mask), kmip14.ResultReasonKeyCompressionTypeNotSupported},
		"raw, said to be not":   {registered(2, aes(7, raw()), mask), kmip14.ResultReasonInvalidField},
		"not raw, said to be":   {registered(2, aes(1, transparent()), mask), kmip14.ResultReasonInvalidField},
		"more than a key":       {registered(2, aes(7, transparent(v(kmip14.TagP, brought))), mask), kmip14.ResultReasonInvalidField},
		"a PKCS#1 key":          {registered(2, aes(3, raw()), mask), kmip14.ResultReasonKeyFormatTypeNotSupported},
		"no mask":               {registered(2, aes(1, raw())), kmip14.ResultReasonMissingData},
		"a mask for opaque":     {registered(8, opaqueObject(), mask), kmip14.ResultReasonInvalidField},
		"opaque as secret":      {registered(7, opaqueObject()), kmip14.ResultReasonInvalidField},
		"a mask given twice":    {registered(2, aes(1, raw(mask)), mask), kmip14.ResultReasonInvalidField},
		"a secret's type twice": {registered(7, st(kmip14.TagSecretData, enum(kmip14.TagSecretDataType, 1), enum(kmip14.TagSecretDataType, 1))), kmip14.ResultReasonInvalidMessage},
	} {
		b := newBench()
		a, response := b.send(t, single(kmip14.OperationRegister, c.payload...))
		wantReason(t, name, a.BatchItem[0], c.want)
		if b.keys.Stored() != 0 {
			t.Errorf("%s: a standard key was made", name)
		}
		if err := response.Items[0].Err; bytes.Contains(response.Frame.Reveal(), brought[:8]) || strings.Contains(fmt.Sprintf("%v %x", err, err), "a55a") {
			t.Errorf("%s: the bytes come back: %v", name, err)
		}
	}
}

// TestAttributeOperations follows one key through Get Attribute List, Modify
// and Delete Attribute (KMIP 1.4, 4.13, 4.15 and 4.16).
func TestAttributeOperations(t *testing.T) {
	b := newBench()
	it := b.one(t, single(kmip14.OperationCreate, vSphere(attr("x-a", "1"), attr("x-a", "2"))...))
	wantReason(t, "Create", it, 0)
	id := strings.TrimPrefix(flat(it.ResponsePayload)[1], "UniqueIdentifier=")
	list := func(minor int) []string {
		it := b.one(t, message(header(minor, 1), item(kmip14.OperationGetAttributeList, uid(id))))
		wantReason(t, "Get Attribute List", it, 0)
		lines := flat(it.ResponsePayload)
		if sorted := slices.Sorted(slices.Values(lines)); len(slices.Compact(sorted)) != len(lines) {
			t.Errorf("a name is listed twice: %q", lines)
		}
		return lines
	}
	for name, since := range map[string]int{
		"State": 0, "x-a": 0, "Fresh": 1, "Original Creation Date": 2, "Random Number Generator": 3, "Sensitive": 4, "Never Extractable": 4,
	} {
		for minor := range 5 {
			if got := contains(list(minor), "AttributeName="+name); got != (minor >= since) {
				t.Errorf("1.%d lists %s: %t", minor, name, got)
			}
		}
	}
	if contains(list(4), "AttributeName=Activation Date") {
		t.Error("an attribute without a value is listed")
	}

	at := func(name string, index int, value string) ttlv.Value {
		return st(kmip14.TagAttribute, v(kmip14.TagAttributeName, name), v(kmip14.TagAttributeIndex, index), v(kmip14.TagAttributeValue, value))
	}
	modify := func(a ttlv.Value) answerItem { return b.one(t, single(kmip14.OperationModifyAttribute, uid(id), a)) }
	wantLines(t, modify(attr("x-a", "3")).ResponsePayload, "UniqueIdentifier="+id, "AttributeName=x-a", "AttributeIndex=0", "AttributeValue=3")
	wantLines(t, modify(at("x-a", 1, "4")).ResponsePayload, "UniqueIdentifier="+id, "AttributeName=x-a", "AttributeIndex=1", "AttributeValue=4")
	wantReason(t, "modify the third of two", modify(at("x-a", 2, "4")), kmip14.ResultReasonItemNotFound)
	wantReason(t, "modify what is unset", modify(attr("x-b", "4")), kmip14.ResultReasonInvalidField)
	wantReason(t, "modify a state", modify(attr("State", ttlv.EnumValue(2))), kmip14.ResultReasonPermissionDenied)
	wantReason(t, "modify nothing", b.one(t, single(kmip14.OperationModifyAttribute, uid(id))), kmip14.ResultReasonMissingData)

	remove := func(fields ...ttlv.Value) answerItem {
		return b.one(t, single(kmip14.OperationDeleteAttribute, append([]ttlv.Value{uid(id)}, fields...)...))
	}
	named := v(kmip14.TagAttributeName, "x-a")
	wantLines(t, remove(named).ResponsePayload, "UniqueIdentifier="+id, "AttributeName=x-a", "AttributeIndex=0", "AttributeValue=3")
	wantReason(t, "delete it again", remove(named), kmip14.ResultReasonItemNotFound)
	wantLines(t, remove(named, v(kmip14.TagAttributeIndex, 1)).ResponsePayload, "UniqueIdentifier="+id, "AttributeName=x-a", "AttributeIndex=1", "AttributeValue=4")
	wantReason(t, "delete a state", remove(v(kmip14.TagAttributeName, "State")), kmip14.ResultReasonPermissionDenied)
	wantReason(t, "delete nothing", remove(), kmip14.ResultReasonMissingData)
	if contains(list(4), "AttributeName=x-a") {
		t.Error("an attribute that was deleted is listed")
	}
}

// TestSensitiveKeysStay refuses by the reasons that the version has.
func TestSensitiveKeysStay(t *testing.T) {
	for minor, want := range map[int][2]kmip14.ResultReason{
		3: {kmip14.ResultReasonPermissionDenied, kmip14.ResultReasonPermissionDenied},
		4: {kmip14.ResultReasonSensitive, kmip14.ResultReasonNotExtractable},
	} {
		for n, a := range []ttlv.Value{attr("Sensitive", true), attr("Extractable", false)} {
			b := newBench()
			created := b.one(t, single(kmip14.OperationCreate, vSphere(a)...))
			id := strings.TrimPrefix(flat(created.ResponsePayload)[1], "UniqueIdentifier=")
			it := b.one(t, message(header(minor, 1), item(kmip14.OperationGet, uid(id))))
			wantReason(t, fmt.Sprintf("1.%d, %d", minor, n), it, want[n])
		}
	}
}

// TestCheck empties the ID Placeholder when a use is not allowed, so that the
// Get behind it fails (KMIP 1.4, 4.10).
func TestCheck(t *testing.T) {
	b := newBench()
	id := b.create(t)
	check := func(mask int) (answer, []string) {
		a, _ := b.send(t, message(header(2, 3, v(kmip14.TagBatchErrorContinuationOption, ttlv.EnumValue(1))),
			numbered(1, kmip14.OperationLocate, attr("Unique Identifier", id)),
			numbered(2, kmip14.OperationCheck, v(kmip14.TagCryptographicUsageMask, mask), v(kmip14.TagLeaseTime, time.Hour)),
			numbered(3, kmip14.OperationGet)))
		if len(a.BatchItem) != 3 {
			t.Fatalf("%d items", len(a.BatchItem))
		}
		return a, flat(a.BatchItem[1].ResponsePayload)
	}
	a, lines := check(4)
	wantReason(t, "Get after an allowed use", a.BatchItem[2], 0)
	if !slices.Equal(lines, []string{"UniqueIdentifier=" + id}) {
		t.Errorf("an allowed use: %q", lines)
	}
	a, lines = check(1)
	wantReason(t, "Get after a denied use", a.BatchItem[2], kmip14.ResultReasonItemNotFound)
	if !slices.Equal(lines, []string{"CryptographicUsageMask=1"}) {
		t.Errorf("a denied use: %q", lines)
	}
}

// TestRekey makes a key that takes the name and becomes the ID Placeholder
// (KMIP 1.4, 4.4).
func TestRekey(t *testing.T) {
	b := newBench()
	named := attr("Name", ttlv.Values{v(kmip14.TagNameValue, "db"), enum(kmip14.TagNameType, 1)})
	created := b.one(t, single(kmip14.OperationCreate, vSphere(named)...))
	old := strings.TrimPrefix(flat(created.ResponsePayload)[1], "UniqueIdentifier=")
	a, _ := b.send(t, message(header(1, 3),
		numbered(1, kmip14.OperationReKey, uid(old), v(kmip14.TagOffset, time.Hour)),
		numbered(2, kmip14.OperationGetAttributes, v(kmip14.TagAttributeName, "Activation Date")),
		numbered(3, kmip14.OperationLocate, named)))
	if len(a.BatchItem) != 3 {
		t.Fatalf("%d items: %+v", len(a.BatchItem), a)
	}
	next := flat(a.BatchItem[0].ResponsePayload)
	if len(next) != 1 || next[0] == "UniqueIdentifier="+old {
		t.Errorf("Re-key answers %q", next)
	}
	wantLines(t, a.BatchItem[1].ResponsePayload, next[0], "AttributeName=Activation Date", fmt.Sprintf("AttributeValue=%v", now.Add(time.Hour)))
	wantLines(t, a.BatchItem[2].ResponsePayload, next[0])
	both := single(kmip14.OperationReKey, uid(old), v(kmip14.TagOffset, time.Hour), st(kmip14.TagTemplateAttribute, attr("Activation Date", now)))
	wantReason(t, "offset and dates", b.one(t, both), kmip14.ResultReasonInvalidMessage)
}

// TestFreshMembersAreHandedOutOnce locates and gets the members of a group as
// OASIS's case 15.2 does, the first made first.
func TestFreshMembersAreHandedOutOnce(t *testing.T) {
	b := newBench()
	var want []string
	for range 3 {
		it := b.one(t, single(kmip14.OperationCreate, vSphere(attr("Object Group", "pool"))...))
		want = append(want, strings.TrimPrefix(flat(it.ResponsePayload)[1], "UniqueIdentifier="))
	}
	for _, id := range append(want, "") {
		a, _ := b.send(t, message(header(1, 2),
			numbered(1, kmip14.OperationLocate, v(kmip14.TagMaximumItems, 1), enum(kmip14.TagObjectGroupMember, 1), attr("Object Group", "pool")),
			numbered(2, kmip14.OperationGet)))
		if id == "" {
			wantReason(t, "Get from an empty pool", a.BatchItem[1], kmip14.ResultReasonItemNotFound)
			continue
		}
		wantReason(t, "Get from the pool", a.BatchItem[1], 0)
		wantLines(t, a.BatchItem[0].ResponsePayload, "UniqueIdentifier="+id)
	}
}

func TestLocatedItems(t *testing.T) {
	b := newBench()
	for range 3 {
		b.create(t)
	}
	for minor, want := range map[int]int{2: 1, 3: 2} {
		it := b.one(t, message(header(minor, 1), item(kmip14.OperationLocate, v(kmip14.TagMaximumItems, 1), v(kmip14.TagOffsetItems, 1))))
		if lines := flat(it.ResponsePayload); len(lines) != want || contains(lines, "LocatedItems=3") != (minor == 3) {
			t.Errorf("1.%d: %q", minor, lines)
		}
	}
}
