package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/google/uuid"
	ovh "github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/kmipclient"
	"github.com/ovh/kmip-go/payloads"
	"github.com/ovh/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// TestOVHClient drives both nodes with ovh/kmip-go's client through all that
// it knows: what it makes on one it reads on the other, and our own client
// reads the same.
func TestOVHClient(t *testing.T) {
	t.Parallel()
	inEachVersion(t, "ovh/kmip-go", "ovh.json", runOVH)
}

// ovhRun is one connection to each node, in one version.
type ovhRun struct {
	*testing.T
	to            tenant
	version       ovh.ProtocolVersion
	first, second *kmipclient.Client
	suffix        string // makes names this run's own

	mu     sync.Mutex
	asked  map[kmip14.Operation]int
	reason ovh.ResultReason // of the last answer
}

func runOVH(t *testing.T, to tenant, version string) map[kmip14.Operation]int {
	minor, err := strconv.ParseInt(strings.TrimPrefix(version, "1."), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	r := &ovhRun{
		T: t, to: to, version: ovh.ProtocolVersion{ProtocolVersionMajor: 1, ProtocolVersionMinor: int32(minor)},
		suffix: "-" + uuid.NewString(), asked: make(map[kmip14.Operation]int),
	}
	r.first, r.second = r.dial(0), r.dial(1)
	r.query()
	id := r.create()
	r.attributes(id)
	r.locate(id)
	r.register()
	r.life(r.rekey(id))
	r.notBuilt(id)
	return r.asked
}

// dial connects by address, without a server name.
func (r *ovhRun) dial(node int) *kmipclient.Client {
	r.Helper()
	c, err := kmipclient.DialContext(r.Context(), r.to.address(node),
		kmipclient.WithRootCAFile(r.to.ca), kmipclient.WithClientCertFiles(r.to.certificateFile, r.to.keyFile),
		kmipclient.WithKmipVersions(r.version), kmipclient.WithMiddlewares(r.record))
	r.must("connect", err)
	r.Cleanup(func() { c.Close() })
	return c
}

// record counts what is asked in this version and built, and keeps the reason
// of the last answer. The client negotiates in another version.
func (r *ovhRun) record(next kmipclient.Next, ctx context.Context, asked *ovh.RequestMessage) (*ovh.ResponseMessage, error) { //nolint:revive // the order is the client's
	answer, err := next(ctx, asked)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		return answer, err
	}
	for _, i := range answer.BatchItem {
		r.reason = i.ResultReason
		if r.reason != ovh.ResultReasonOperationNotSupported && asked.Header.ProtocolVersion == r.version {
			r.asked[kmip14.Operation(i.Operation)]++
		}
	}
	return answer, err
}

func (r *ovhRun) must(step string, err error) {
	r.Helper()
	if err != nil {
		r.Fatalf("%s: %v", step, err)
	}
}

// refused checks that a request failed for a reason.
func (r *ovhRun) refused(step string, err error, want ovh.ResultReason) {
	r.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil || r.reason != want {
		r.Errorf("%s: %v, reason %x; want reason %x", step, err, r.reason, want)
	}
}

func (r *ovhRun) query() {
	listed, err := r.first.Query().Operations().Objects().ServerInformation().ExecContext(r.Context())
	r.must("Query", err)
	for _, o := range []ovh.Operation{ovh.OperationCreate, ovh.OperationRegister, ovh.OperationReKey, ovh.OperationModifyAttribute} {
		if !slices.Contains(listed.Operations, o) {
			r.Errorf("Query lists %v without %v", listed.Operations, o)
		}
	}
	if len(listed.ObjectType) != 3 || listed.VendorIdentification == "" {
		r.Errorf("Query lists object types %v, vendor %q", listed.ObjectType, listed.VendorIdentification)
	}
	if _, err = r.first.Query().All().ExecContext(r.Context()); r.version.ProtocolVersionMinor >= 3 {
		r.must("Query with every function", err)
	} else {
		r.refused("Query with functions of KMIP 1.3", err, ovh.ResultReasonInvalidField)
	}
	answer, err := r.first.Request(r.Context(), &payloads.DiscoverVersionsRequestPayload{ProtocolVersion: []ovh.ProtocolVersion{r.version}})
	r.must("Discover Versions", err)
	if got := answer.(*payloads.DiscoverVersionsResponsePayload).ProtocolVersion; !slices.Equal(got, []ovh.ProtocolVersion{r.version}) {
		r.Errorf("Discover Versions: %v, want %v alone", got, r.version)
	}
}

const ovhUse = ovh.CryptographicUsageEncrypt | ovh.CryptographicUsageDecrypt

func (r *ovhRun) create() string {
	created, err := r.first.Create().AES(256, ovhUse).WithName("key" + r.suffix).ExecContext(r.Context())
	r.must("Create", err)
	id := created.UniqueIdentifier
	ours, err := r.to.dial(r.T, 0).Get(r.Context(), kmip.ObjectID(id))
	r.must("our Get", err)
	if !ours.Equal(secret.Of(r.material(r.second, id, 0))) || !ours.Equal(secret.Of(r.material(r.second, id, ovh.KeyFormatTypeRaw))) {
		r.Error("ovh's client and ours read different bytes")
	}
	if !ours.Equal(secret.Of(r.material(r.first, id, ovh.KeyFormatTypeTransparentSymmetricKey))) {
		r.Error("a transparent key has other bytes")
	}
	ours.Wipe()
	return id
}

// material returns a key's bytes, in a format unless that is 0.
func (r *ovhRun) material(c *kmipclient.Client, id string, format ovh.KeyFormatType) []byte {
	r.Helper()
	get := c.Get(id)
	if format != 0 {
		get = get.WithKeyFormat(format)
	}
	got, err := get.ExecContext(r.Context())
	r.must("Get", err)
	material, err := got.Object.(*ovh.SymmetricKey).KeyMaterial()
	r.must("key material", err)
	return material
}

// value returns the value of an attribute on node 2, or nil.
func (r *ovhRun) value(id string, name ovh.AttributeName) any {
	r.Helper()
	got, err := r.second.GetAttributes(id, name).ExecContext(r.Context())
	r.must("Get Attributes", err)
	if len(got.Attribute) == 0 {
		return nil
	}
	return plain(got.Attribute[0])
}

// plain returns the value of an attribute; a custom one's comes with its tag.
func plain(a ovh.Attribute) any {
	if v, custom := a.AttributeValue.(ttlv.Value); custom {
		return v.Value
	}
	return a.AttributeValue
}

func (r *ovhRun) attributes(id string) {
	ctx := r.Context()
	_, err := r.first.AddAttribute(id, "x-Name", "a virtual machine").ExecContext(ctx)
	r.must("Add Attribute", err)
	_, err = r.first.AddAttribute(id, ovh.AttributeNameObjectGroup, "group"+r.suffix).ExecContext(ctx)
	r.must("Add Attribute", err)
	_, err = r.first.AddAttribute(id, ovh.AttributeNameCryptographicLength, int32(128)).ExecContext(ctx)
	r.refused("Add Attribute of a length", err, ovh.ResultReasonPermissionDenied)
	changed, err := r.first.ModifyAttribute(id, "x-Name", "another machine").WithIndex(0).ExecContext(ctx)
	r.must("Modify Attribute", err)
	if plain(changed.Attribute) != "another machine" || r.value(id, "x-Name") != "another machine" {
		r.Errorf("Modify Attribute answered %v, and left %v", changed.Attribute, r.value(id, "x-Name"))
	}
	_, err = r.first.ModifyAttribute(id, ovh.AttributeNameInitialDate, time.Now()).ExecContext(ctx)
	r.refused("Modify Attribute of a date of the server's", err, ovh.ResultReasonPermissionDenied)
	all, err := r.second.GetAttributes(id).ExecContext(ctx)
	r.must("Get Attributes of all", err)
	list, err := r.second.GetAttributeList(id).ExecContext(ctx)
	r.must("Get Attribute List", err)
	for _, a := range all.Attribute {
		if !slices.Contains(list.AttributeName, a.AttributeName) {
			r.Errorf("Get Attribute List lacks %s", a.AttributeName)
		}
	}
	deleted, err := r.first.DeleteAttribute(id, "x-Name").WithIndex(0).ExecContext(ctx)
	r.must("Delete Attribute", err)
	if plain(deleted.Attribute) != "another machine" || r.value(id, "x-Name") != nil {
		r.Errorf("Delete Attribute answered %v, and left %v", deleted.Attribute, r.value(id, "x-Name"))
	}
	_, err = r.first.DeleteAttribute(id, "x-Name").ExecContext(ctx)
	r.refused("Delete Attribute again", err, ovh.ResultReasonItemNotFound)
}

func (r *ovhRun) locate(id string) {
	group := func() kmipclient.ExecLocate {
		return r.second.Locate().WithAttribute(ovh.AttributeNameObjectGroup, "group"+r.suffix)
	}
	born, ok := r.value(id, ovh.AttributeNameInitialDate).(time.Time)
	if !ok {
		r.Fatal("no Initial Date")
	}
	after := func(s time.Duration) time.Time { return born.Add(s * time.Second) }
	for _, l := range []struct {
		by    string
		exec  kmipclient.ExecLocate
		finds bool
	}{
		{"name", r.first.Locate().WithName("key" + r.suffix), true},
		{"another name", r.first.Locate().WithName("other" + r.suffix), false},
		{"group", group(), true},
		{"state", group().WithAttribute(ovh.AttributeNameState, ovh.StatePreActive), true},
		{"another state", group().WithAttribute(ovh.AttributeNameState, ovh.StateActive), false},
		{"date", group().WithAttribute(ovh.AttributeNameInitialDate, born), true},
		{"range", group().WithAttribute(ovh.AttributeNameInitialDate, after(-1)).WithAttribute(ovh.AttributeNameInitialDate, after(1)), true},
		{"a later range", group().WithAttribute(ovh.AttributeNameInitialDate, after(1)).WithAttribute(ovh.AttributeNameInitialDate, after(2)), false},
		{"mask", group().WithAttribute(ovh.AttributeNameCryptographicUsageMask, ovh.CryptographicUsageEncrypt), true},
		{"another mask", group().WithAttribute(ovh.AttributeNameCryptographicUsageMask, ovh.CryptographicUsageSign), false},
		{"type", group().WithObjectType(ovh.ObjectTypeSymmetricKey), true},
		{"another type", group().WithObjectType(ovh.ObjectTypeSecretData), false},
		{"on-line", group().WithStorageStatusMask(ovh.StorageStatusOnlineStorage), true},
		{"archived", group().WithStorageStatusMask(ovh.StorageStatusArchivalStorage), false},
		{"one at most", group().WithMaxItems(1), true},
		{"offset", group().WithOffset(1), r.version.ProtocolVersionMinor < 3}, // which has no offset
	} {
		located, err := l.exec.ExecContext(r.Context())
		r.must("Locate by "+l.by, err)
		if want := [][]string{nil, {id}}[map[bool]int{false: 0, true: 1}[l.finds]]; !slices.Equal(located.UniqueIdentifier, want) {
			r.Errorf("Locate by %s: %v, want %v", l.by, located.UniqueIdentifier, want)
		}
	}
}

// register brings an object of each type, and reads it on the other node.
func (r *ovhRun) register() {
	ctx, value := r.Context(), make([]byte, 32)
	if _, err := rand.Read(value); err != nil {
		r.Fatal(err)
	}
	for _, o := range []struct {
		what string
		exec kmipclient.ExecRegister
		read func(ovh.Object) ([]byte, error)
	}{
		{
			"a symmetric key", r.first.Register().SymmetricKey(ovh.CryptographicAlgorithmAES, ovhUse, value),
			func(o ovh.Object) ([]byte, error) { return o.(*ovh.SymmetricKey).KeyMaterial() },
		},
		{
			"a transparent key", r.first.Register().WithKeyFormat(kmipclient.Transparent).SymmetricKey(ovh.CryptographicAlgorithmAES, ovhUse, value),
			func(o ovh.Object) ([]byte, error) { return o.(*ovh.SymmetricKey).KeyMaterial() },
		},
		{
			"secret data", r.first.Register().Secret(ovh.SecretDataTypePassword, value).
				WithAttribute(ovh.AttributeNameCryptographicUsageMask, ovh.CryptographicUsageVerify),
			func(o ovh.Object) ([]byte, error) { return o.(*ovh.SecretData).Data() },
		},
		{
			"opaque data", r.first.Register().Object(&ovh.OpaqueObject{OpaqueDataType: 0x80000001, OpaqueDataValue: value}),
			func(o ovh.Object) ([]byte, error) { return o.(*ovh.OpaqueObject).OpaqueDataValue, nil },
		},
	} {
		made, err := o.exec.WithName(o.what + r.suffix).ExecContext(ctx)
		r.must("Register of "+o.what, err)
		got, err := r.second.Get(made.UniqueIdentifier).ExecContext(ctx)
		r.must("Get of "+o.what, err)
		back, err := o.read(got.Object)
		if err != nil || !bytes.Equal(back, value) {
			r.Errorf("%s comes back as %T, %v", o.what, got.Object, err)
		}
		located, err := r.second.Locate().WithName(o.what + r.suffix).ExecContext(ctx)
		r.must("Locate of "+o.what, err)
		if !slices.Equal(located.UniqueIdentifier, []string{made.UniqueIdentifier}) {
			r.Errorf("%s is located as %v", o.what, located.UniqueIdentifier)
		}
		_, err = r.second.Destroy(made.UniqueIdentifier).ExecContext(ctx)
		r.must("Destroy of "+o.what, err)
		_, err = r.first.Get(made.UniqueIdentifier).ExecContext(ctx)
		r.refused("Get of "+o.what+" after Destroy", err, ovh.ResultReasonItemNotFound)
	}
}

// rekey replaces a key and returns the new one, which takes over its name.
func (r *ovhRun) rekey(id string) string {
	made, err := r.first.Rekey(id).ExecContext(r.Context())
	r.must("Re-key", err)
	located, err := r.second.Locate().WithName("key" + r.suffix).ExecContext(r.Context())
	r.must("Locate", err)
	if !slices.Equal(located.UniqueIdentifier, []string{made.UniqueIdentifier}) {
		r.Errorf("the name leads to %v, want %s alone", located.UniqueIdentifier, made.UniqueIdentifier)
	}
	if bytes.Equal(r.material(r.second, id, 0), r.material(r.second, made.UniqueIdentifier, 0)) {
		r.Error("the new key has the old one's bytes")
	}
	for from, to := range map[string]ovh.Link{
		id:                    {LinkType: ovh.LinkTypeReplacementObjectLink, LinkedObjectIdentifier: made.UniqueIdentifier},
		made.UniqueIdentifier: {LinkType: ovh.LinkTypeReplacedObjectLink, LinkedObjectIdentifier: id},
	} {
		if link := r.value(from, ovh.AttributeNameLink); link != to {
			r.Errorf("%s has link %v, want %v", from, link, to)
		}
	}
	return made.UniqueIdentifier
}

func (r *ovhRun) life(id string) {
	ctx := r.Context()
	wantState := func(want ovh.State) {
		r.Helper()
		if got := r.value(id, ovh.AttributeNameState); got != want {
			r.Errorf("state %v, want %v", got, want)
		}
	}
	wantState(ovh.StatePreActive)
	_, err := r.second.Activate(id).ExecContext(ctx)
	r.must("Activate", err)
	wantState(ovh.StateActive)
	_, err = r.first.Destroy(id).ExecContext(ctx)
	r.refused("Destroy of an Active key", err, ovh.ResultReasonPermissionDenied)
	_, err = r.first.Revoke(id).ExecContext(ctx)
	r.must("Revoke", err)
	wantState(ovh.StateDeactivated)
	_, err = r.second.Destroy(id).ExecContext(ctx)
	r.must("Destroy", err)
	wantState(ovh.StateDestroyed)
	_, err = r.first.Get(id).ExecContext(ctx)
	r.refused("Get of a destroyed key", err, ovh.ResultReasonItemNotFound)
}

// notBuilt asks for the operations of each version that are not built.
func (r *ovhRun) notBuilt(id string) {
	ctx := r.Context()
	calls := []struct {
		what  string
		since int32
		call  func() error
	}{
		{"Obtain Lease", 0, func() error { _, err := r.first.ObtainLease(id).ExecContext(ctx); return err }},
		{"Get Usage Allocation", 0, func() error { _, err := r.first.GetUsageAllocation(id, 1).ExecContext(ctx); return err }},
		{"Archive", 0, func() error { _, err := r.first.Archive(id).ExecContext(ctx); return err }},
		{"Recover", 0, func() error { _, err := r.first.Recover(id).ExecContext(ctx); return err }},
		{"Create Key Pair", 0, func() error {
			_, err := r.first.CreateKeyPair().RSA(2048, ovh.CryptographicUsageSign, ovh.CryptographicUsageVerify).ExecContext(ctx)
			return err
		}},
		{"Re-key Key Pair", 1, func() error { _, err := r.first.RekeyKeyPair(id).ExecContext(ctx); return err }},
		{"Encrypt", 2, func() error { _, err := r.first.Encrypt(id).Data([]byte("text")).ExecContext(ctx); return err }},
		{"Decrypt", 2, func() error { _, err := r.first.Decrypt(id).Data([]byte("text")).ExecContext(ctx); return err }},
		{"Sign", 2, func() error { _, err := r.first.Sign(id).Data([]byte("text")).ExecContext(ctx); return err }},
		{"Signature Verify", 2, func() error {
			_, err := r.first.SignatureVerify(id).Data([]byte("text")).Signature([]byte("signature")).ExecContext(ctx)
			return err
		}},
		{"Export", 4, func() error { _, err := r.first.Export(id).ExecContext(ctx); return err }},
	}
	for _, c := range calls {
		if r.version.ProtocolVersionMinor >= c.since {
			r.refused(c.what, c.call(), ovh.ResultReasonOperationNotSupported)
		}
	}
}
