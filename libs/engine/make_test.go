package engine_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

var (
	password = kmip.Registration{Type: kmip.SecretData, Format: kmip.Opaque, DataType: kmip.Password}
	blob     = kmip.Registration{Type: kmip.OpaqueObject, Format: kmip.Opaque, DataType: 1 << 31}
	aesKey   = kmip.Registration{Type: kmip.SymmetricKey, Format: kmip.Raw, Algorithm: kmip.AES, Length: 256}
)

func TestRegisteredObjectsAreReadBack(t *testing.T) {
	transparent := aesKey
	transparent.Format, transparent.Digest = kmip.TransparentSymmetricKey, []byte("of its encoding")
	for _, c := range []struct {
		brought     kmip.Registration
		asked, want kmip.KeyFormat // want 0: refused
	}{
		{aesKey, 0, kmip.Raw},
		{aesKey, kmip.TransparentSymmetricKey, kmip.TransparentSymmetricKey},
		{aesKey, kmip.Opaque, 0},
		{transparent, 0, kmip.Raw},
		{transparent, kmip.TransparentSymmetricKey, kmip.TransparentSymmetricKey},
		{password, 0, kmip.Opaque},
		{password, kmip.Raw, kmip.Raw},
		{password, kmip.TransparentSymmetricKey, 0},
		{blob, 0, kmip.Opaque},
		{blob, kmip.Opaque, kmip.Opaque},
		{blob, kmip.Raw, 0},
	} {
		b := newBench()
		template := []kmip.Attribute{{Name: kmip.AttributeCryptographicUsageMask, Value: kmip.Int(12)}}
		if c.brought.Type == kmip.OpaqueObject {
			template = nil
		}
		material := secret.Random(32)
		kept := material.Clone()
		digest := sha256.Sum256(kept.Reveal())
		id, err := b.Register(t.Context(), b.one, c.brought, material, template)
		if err != nil {
			t.Fatal(err)
		}
		if material.Len() != 0 {
			t.Error("the bytes are still in memory")
		}
		key, err := b.Get(t.Context(), b.one, id, c.asked)
		switch {
		case c.want == 0 && fault.KindOf(err) != fault.FormatMissing, c.want != 0 && err != nil:
			t.Errorf("%+v asked as %d: %v", c.brought, c.asked, err)
		case c.want != 0 && (key.Format != c.want || !key.Material.Equal(kept)):
			t.Errorf("%+v asked as %d: given as %d, the same bytes: %t", c.brought, c.asked, key.Format, key.Material.Equal(kept))
		}
		shown, err := b.Attributes(t.Context(), b.one, id, []string{kmip.AttributeDigest})
		if err != nil {
			t.Fatal(err)
		}
		want := digest[:]
		if c.brought.Digest != nil {
			want = c.brought.Digest
		}
		if d := shown[0].Value.Fields; !slices.Equal(d[1].Value.Bytes, want) || kmip.KeyFormat(d[2].Value.Number) != c.brought.Format {
			t.Errorf("%+v: digest %+v", c.brought, d)
		}
	}
}

// TestTooLargeIsRefused registers more than a standard key can hold wrapped:
// nothing may be written.
func TestTooLargeIsRefused(t *testing.T) {
	b := newBench()
	b.objects.Fail = func(method string, _ bool) error {
		t.Errorf("%s was called", method)
		return nil
	}
	wrapped := 0
	b.keys.Fail = func(string, bool) error { wrapped++; return nil }
	for _, size := range []int{engine.MaxEnvelope, 1 << 20, engine.MaxEnvelope / 2} {
		if wrapped > 0 {
			t.Errorf("the key manager was asked to wrap more than it can hold")
		}
		if id, err := b.Register(t.Context(), b.one, blob, secret.Random(size), nil); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%d bytes: %q, %v, want Invalid", size, id, err)
		}
	}
	long := kmip.Attribute{Name: "x-a", Value: kmip.Text(strings.Repeat("a", kmip.MaxTextValue))}
	if id, err := b.Create(t.Context(), b.one, kmip.SymmetricKey, append(slices.Clone(vSphere), long, long)); fault.KindOf(err) != fault.Invalid {
		t.Errorf("long attributes: %q, %v, want Invalid", id, err)
	}
	if got := b.keys.Stored(); got != 0 {
		t.Errorf("%d standard keys", got)
	}
}

// TestRekeyFailsBeforeAndAfter fails each write of Re-key before and after it
// took effect: until the swap the old key keeps its name, and never do two
// keys have it.
func TestRekeyFailsBeforeAndAfter(t *testing.T) {
	for _, c := range []struct {
		method string
		done   bool
		err    error
		stored int // standard keys besides the old one
		moved  bool
	}{
		{"Wrap", false, engine.ErrUnavailable, 0, false},
		{"Create", false, engine.ErrUnavailable, 0, false},
		{"Create", true, engine.ErrUnavailable, 0, false},
		{"Store", false, engine.ErrUnavailable, 0, false},
		{"Store", true, engine.ErrUnavailable, 1, false},
		{"Replace", false, engine.ErrConflict, 0, false},
		{"Replace", false, engine.ErrNotFound, 0, false},
		{"Replace", false, engine.ErrExists, 0, false},
		{"Replace", false, engine.ErrUnavailable, 1, false},
		{"Replace", true, engine.ErrUnavailable, 1, true},
	} {
		b := newBench()
		id, err := b.Create(t.Context(), b.one, kmip.SymmetricKey, append(enginetest.Names("db"), vSphere...))
		if err != nil {
			t.Fatal(err)
		}
		fail := func(method string, done bool) error {
			if method == c.method && done == c.done {
				return c.err
			}
			return nil
		}
		b.objects.Fail, b.keys.Fail = fail, fail
		if next, err := b.Rekey(t.Context(), b.one, id, nil, nil); err == nil || next != "" {
			t.Errorf("%s (done %t): Re-key answered %q, %v", c.method, c.done, next, err)
		}
		b.objects.Fail, b.keys.Fail = nil, nil
		if got := b.keys.Stored() - 1; got != c.stored {
			t.Errorf("%s (done %t, %v): %d standard keys, want %d", c.method, c.done, c.err, got, c.stored)
		}
		if got := b.named(t, b.one, "db"); len(got) != 1 || (got[0] != id) != c.moved {
			t.Errorf("%s (done %t, %v): %v are named so, the old one is %s", c.method, c.done, c.err, got, id)
		}
	}
}

func (b *bench) named(t *testing.T, by *tenant.Tenant, name string) []kmip.ObjectID {
	t.Helper()
	found, err := b.Locate(t.Context(), by, engine.Query{Filter: kmip.NameFilter(name)})
	if err != nil {
		t.Fatal(err)
	}
	return found.IDs
}

func TestRekey(t *testing.T) {
	b := newBench()
	old, err := b.Create(t.Context(), b.one, kmip.SymmetricKey, append(enginetest.Names("db"), vSphere...))
	if err != nil {
		t.Fatal(err)
	}
	// A change that comes between is not lost, and does not stop it.
	between := false
	b.objects.Fail = func(method string, done bool) error {
		if method == "Replace" && !done && !between {
			between = true
			return engine.ErrConflict
		}
		return nil
	}
	next, err := b.Rekey(t.Context(), b.one, old, nil, enginetest.Names("db2"))
	if err != nil || !between {
		t.Fatal(err, between)
	}
	for _, name := range []string{"db", "db2"} {
		if got := b.named(t, b.one, name); len(got) != 1 || got[0] != next {
			t.Errorf("%v are named %s, want %s", got, name, next)
		}
	}
	one, err := b.Get(t.Context(), b.one, old, 0)
	if err != nil {
		t.Fatal(err)
	}
	two, err := b.Get(t.Context(), b.one, next, 0)
	if err != nil {
		t.Fatal(err)
	}
	if one.Material.Equal(two.Material) || two.Material.Len() != one.Material.Len() {
		t.Error("the new key is the old one, or of another length")
	}
}

// TestNames holds that a name is one object's in a tenant, until it is
// destroyed, and that two tenants may use the same.
func TestNames(t *testing.T) {
	b := newBench()
	template := append(enginetest.Names("db"), vSphere...)
	id, err := b.Create(t.Context(), b.one, kmip.SymmetricKey, template)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Create(t.Context(), b.two, kmip.SymmetricKey, template); err != nil {
		t.Errorf("the other tenant: %v", err)
	}
	taken := func(when string) {
		t.Helper()
		b.keys.Fail = func(method string, _ bool) error {
			t.Errorf("%s was asked of the key manager %s", method, when)
			return nil
		}
		defer func() { b.keys.Fail = nil }()
		if _, err := b.Create(t.Context(), b.one, kmip.SymmetricKey, template); fault.KindOf(err) != fault.Invalid {
			t.Errorf("Create %s: %v, want Invalid", when, err)
		}
		if _, err := b.Register(t.Context(), b.one, blob, secret.Random(4), enginetest.Names("db")); fault.KindOf(err) != fault.Invalid {
			t.Errorf("Register %s: %v, want Invalid", when, err)
		}
	}
	taken("with a taken name")
	// A rival takes the name after this one looked: the swap decides.
	b.keys.Fail = func(method string, done bool) error {
		if method == "Wrap" && !done {
			rival := enginetest.NewRecord()
			rival.Phase, rival.Object.ClientAttributes = engine.Live, enginetest.Names("race")
			if err := b.objects.Create(t.Context(), b.one.ID, rival); err != nil {
				t.Error(err)
			}
		}
		return nil
	}
	stored := b.keys.Stored()
	if _, err := b.Create(t.Context(), b.one, kmip.SymmetricKey, append(enginetest.Names("race"), vSphere...)); fault.KindOf(err) != fault.Invalid {
		t.Errorf("Create after a rival: %v, want Invalid", err)
	}
	b.keys.Fail = nil
	if got := b.keys.Stored(); got != stored {
		t.Errorf("%d standard keys after a rival, want %d", got, stored)
	}
	other := b.create(t)
	if _, err := b.AddAttribute(t.Context(), b.one, other, enginetest.Names("db")[0]); fault.KindOf(err) != fault.Exists {
		t.Errorf("Add Attribute: %v, want Exists", err)
	}
	if _, err := b.AddAttribute(t.Context(), b.one, other, enginetest.Names("db3")[0]); err != nil {
		t.Error(err)
	}
	if _, err := b.ModifyAttribute(t.Context(), b.one, other, enginetest.Names("db")[0]); fault.KindOf(err) != fault.Exists {
		t.Errorf("Modify Attribute: %v, want Exists", err)
	}
	if _, err := b.Rekey(t.Context(), b.one, other, nil, enginetest.Names("db")); fault.KindOf(err) != fault.Invalid {
		t.Errorf("Re-key: %v, want Invalid", err)
	}
	if err := b.Destroy(t.Context(), b.one, id); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Create(t.Context(), b.one, kmip.SymmetricKey, template); err != nil {
		t.Errorf("after the object was destroyed: %v", err)
	}
	shown, err := b.Attributes(t.Context(), b.one, id, []string{kmip.AttributeName})
	if err != nil || len(shown) != 1 {
		t.Errorf("the destroyed object shows the names %+v, %v", shown, err)
	}
}

// TestHostsBootTogether lets another host get a fresh key while this one waits
// for its bytes: what that one noted is not written again, so that many don't
// get into each other's way.
func TestHostsBootTogether(t *testing.T) {
	b := newBench()
	id := b.create(t)
	b.keys.Fail = func(method string, done bool) error {
		if method == "Unwrap" && done {
			r, err := b.objects.Get(t.Context(), b.one.ID, id)
			if err != nil {
				return err
			}
			r.Object.Serve(b.now)
			if err := b.objects.Replace(t.Context(), b.one.ID, r); err != nil {
				return err
			}
			b.objects.Fail = func(method string, _ bool) error {
				if method == "Replace" {
					return engine.ErrConflict
				}
				return nil
			}
		}
		return nil
	}
	if key, err := b.Get(t.Context(), b.one, id, 0); err != nil || key.Material.Len() != 32 {
		t.Errorf("Get: %d bytes, %v", key.Material.Len(), err)
	}
}

// TestOneMarksWhatManyGet holds the write with which a Get marks a key as
// served: other Gets neither write nor wait.
func TestOneMarksWhatManyGet(t *testing.T) {
	b := newBench()
	id := b.create(t)
	held := &heldLedger{Objects: b.objects, began: make(chan struct{}), hold: make(chan struct{})}
	node := engine.New(engine.Config{Objects: held, KeyManagers: b.keys.KeyManagers, Now: func() time.Time { return b.now }})
	first := make(chan error)
	go func() {
		_, err := node.Get(t.Context(), b.one, id, 0)
		first <- err
	}()
	<-held.began
	for range 64 {
		if _, err := node.Get(t.Context(), b.one, id, 0); err != nil {
			t.Error(err)
		}
	}
	close(held.hold)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if r, err := b.objects.Get(t.Context(), b.one.ID, id); err != nil || !r.Object.Served || r.Version != 3 {
		t.Errorf("the row: %+v, %v", r, err)
	}
}

// heldLedger lets a Replace wait; a second one at the same time panics.
type heldLedger struct {
	engine.Objects
	began, hold chan struct{}
}

func (h *heldLedger) Replace(ctx context.Context, t tenant.ID, records ...engine.Record) error {
	close(h.began)
	<-h.hold
	return h.Objects.Replace(context.WithoutCancel(ctx), t, records...)
}

// TestFreshIsServedOnce holds that no member of a group is given out as fresh
// twice, also when the ledger fails, which stops nobody from getting any other
// object (KMIP 1.4, 3.34).
func TestFreshIsServedOnce(t *testing.T) {
	for name, group := range map[string][]kmip.Attribute{
		"alone": nil, "in a group": {{Name: kmip.AttributeObjectGroup, Value: kmip.Text("pool")}},
	} {
		b := newBench()
		id, err := b.Create(t.Context(), b.one, kmip.SymmetricKey, append(group, vSphere...))
		if err != nil {
			t.Fatal(err)
		}
		fresh := func() bool {
			t.Helper()
			a, err := b.Attributes(t.Context(), b.one, id, []string{kmip.AttributeFresh})
			if err != nil || len(a) != 1 {
				t.Fatalf("Fresh: %+v, %v", a, err)
			}
			return a[0].Value.Number == 1
		}
		b.objects.Fail = func(method string, done bool) error {
			if method == "Replace" && !done {
				return engine.ErrUnavailable
			}
			return nil
		}
		key, err := b.Get(t.Context(), b.one, id, 0)
		if refused := errors.Is(err, engine.ErrUnavailable) && key.Material == nil; refused != (group != nil) || !fresh() {
			t.Errorf("%s: Get while the ledger fails: %v, fresh %t", name, err, fresh())
		}
		b.objects.Fail = nil
		if _, err := b.Get(t.Context(), b.one, id, 0); err != nil || fresh() {
			t.Errorf("%s: Get: %v, fresh %t", name, err, fresh())
		}
		b.objects.Fail = func(method string, _ bool) error {
			if method == "Replace" {
				t.Errorf("%s: a second Get wrote", name)
			}
			return nil
		}
		b.now = b.now.Add(time.Hour)
		if _, err := b.Get(t.Context(), b.one, id, 0); err != nil {
			t.Error(err)
		}
		b.away()
		for where, node := range map[string]*bench{"a node that knows it": b, "another": b.another()} {
			if _, err := node.Get(t.Context(), b.one, id, 0); err != nil {
				t.Errorf("%s, without the ledger, on %s: %v", name, where, err)
			}
		}
	}
}

// TestSensitiveKeysAreWithheld holds that a node without the ledger can't give
// out what may not leave.
func TestSensitiveKeysAreWithheld(t *testing.T) {
	for _, a := range []kmip.Attribute{
		{Name: kmip.AttributeSensitive, Value: kmip.Bool(true)}, {Name: kmip.AttributeExtractable, Value: kmip.Bool(false)},
	} {
		b := newBench()
		id := b.create(t)
		if _, err := b.ModifyAttribute(t.Context(), b.one, id, a); err != nil {
			t.Fatal(err)
		}
		r, err := b.objects.Get(t.Context(), b.one.ID, id)
		if err != nil || !r.Withheld() {
			t.Errorf("%s: withheld %t, %v", a.Name, r.Withheld(), err)
		}
	}
}
