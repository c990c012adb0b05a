package engine_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

func TestStandIns(t *testing.T) {
	t.Run("objects", func(t *testing.T) {
		enginetest.Objects(t, func(*testing.T, tenant.ID, tenant.ID) engine.Objects { return enginetest.NewObjects() })
	})
	t.Run("ledger", func(t *testing.T) {
		enginetest.Ledgers(t, func(*testing.T, tenant.ID, tenant.ID) (engine.Ledger, engine.Objects) {
			l := enginetest.NewObjects()
			return l, l
		})
	})
	t.Run("key manager", func(t *testing.T) {
		enginetest.KeyManager(t, func(*testing.T) enginetest.KeyManagerUnderTest {
			v := enginetest.NewKeyManager()
			return enginetest.KeyManagerUnderTest{
				KeyManager:    v,
				DeleteRootKey: func(*testing.T) { v.DeleteRootKey() },
				DeleteStandardKey: func(t *testing.T, ref engine.KeyRef) {
					if err := v.Delete(t.Context(), ref); err != nil {
						t.Fatal(err)
					}
				},
			}
		})
	})
}

// bench is an engine over stand-ins with two tenants.
type bench struct {
	*engine.Engine
	objects  *enginetest.Ledger
	keys     *enginetest.Vault
	one, two *tenant.Tenant
	now      time.Time
}

func newBench() *bench {
	b := &bench{
		objects: enginetest.NewObjects(), keys: enginetest.NewKeyManager(),
		one: &tenant.Tenant{ID: enginetest.NewTenantID()}, two: &tenant.Tenant{ID: enginetest.NewTenantID()},
		now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC),
	}
	b.Engine = engine.New(engine.Config{Objects: b.objects, KeyManagers: b.keys.KeyManagers, Now: func() time.Time { return b.now }})
	return b
}

// vSphere is the template that vCenter sends.
var vSphere = []kmip.Attribute{
	{Name: kmip.AttributeCryptographicAlgorithm, Value: kmip.Enum(kmip.AES)},
	{Name: kmip.AttributeCryptographicUsageMask, Value: kmip.Int(12)},
	{Name: kmip.AttributeCryptographicLength, Value: kmip.Int(256)},
}

func (b *bench) create(t *testing.T) kmip.ObjectID {
	t.Helper()
	id, err := b.Create(t.Context(), b.one, kmip.SymmetricKey, vSphere)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestCreatedKeyIsReadBack(t *testing.T) {
	b := newBench()
	id := b.create(t)
	first, err := b.Get(t.Context(), b.one, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.Get(t.Context(), b.one, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	if first.Material.Len() != 32 || !first.Material.Equal(second.Material) {
		t.Errorf("two Gets of one key differ or have the wrong length: %d bytes", first.Material.Len())
	}
	other := b.create(t)
	third, err := b.Get(t.Context(), b.one, other, 0)
	if err != nil {
		t.Fatal(err)
	}
	if third.Material.Equal(first.Material) {
		t.Error("two keys have the same bytes")
	}
}

func TestLifeCycle(t *testing.T) {
	b := newBench()
	id := b.create(t)
	b.wantState(t, id, kmip.PreActive)
	if err := b.Activate(t.Context(), b.one, id); err != nil {
		t.Fatal(err)
	}
	b.wantState(t, id, kmip.Active)
	if err := b.Activate(t.Context(), b.one, id); fault.KindOf(err) != fault.Denied {
		t.Errorf("second Activate: %v, want Denied", err)
	}
	if err := b.Destroy(t.Context(), b.one, id); fault.KindOf(err) != fault.Denied {
		t.Errorf("Destroy of an Active key: %v, want Denied", err)
	}

	id = b.create(t)
	before := b.keys.Stored()
	if err := b.Destroy(t.Context(), b.one, id); err != nil {
		t.Fatal(err)
	}
	if got := b.keys.Stored(); got != before-1 {
		t.Errorf("%d standard keys after Destroy, want %d", got, before-1)
	}
	b.wantState(t, id, kmip.Destroyed)
	if _, err := b.Get(t.Context(), b.one, id, 0); fault.KindOf(err) != fault.NotFound {
		t.Errorf("Get after Destroy: %v, want NotFound", err)
	}
	if err := b.Destroy(t.Context(), b.one, id); fault.KindOf(err) != fault.Denied {
		t.Errorf("second Destroy: %v, want Denied", err)
	}
}

func (b *bench) wantState(t *testing.T, id kmip.ObjectID, want kmip.State) {
	t.Helper()
	got, err := b.Attributes(t.Context(), b.one, id, []string{kmip.AttributeState})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || kmip.State(got[0].Value.Number) != want {
		t.Errorf("State is %+v, want %s", got, want)
	}
}

// TestForeignObject asks for every operation whether tenant two learns
// anything of tenant one's key: the answer must be that of an identifier that
// never existed.
func TestForeignObject(t *testing.T) {
	b := newBench()
	id := b.create(t)
	for name, operation := range map[string]func(kmip.ObjectID) error{
		"Get": func(id kmip.ObjectID) error { _, err := b.Get(t.Context(), b.two, id, 0); return err },
		"Get Attributes": func(id kmip.ObjectID) error {
			_, err := b.Attributes(t.Context(), b.two, id, nil)
			return err
		},
		"Add Attribute": func(id kmip.ObjectID) error {
			_, err := b.AddAttribute(t.Context(), b.two, id, kmip.Attribute{Name: "x-Name", Value: kmip.Text("vm")})
			return err
		},
		"Modify Attribute": func(id kmip.ObjectID) error {
			_, err := b.ModifyAttribute(t.Context(), b.two, id, kmip.Attribute{Name: "x-Name", Value: kmip.Text("vm")})
			return err
		},
		"Delete Attribute": func(id kmip.ObjectID) error {
			_, err := b.DeleteAttribute(t.Context(), b.two, id, "x-Name", 0)
			return err
		},
		"Check": func(id kmip.ObjectID) error {
			_, err := b.Check(t.Context(), b.two, id, kmip.Use{Mask: kmip.Encrypt})
			return err
		},
		"Re-key": func(id kmip.ObjectID) error {
			_, err := b.Rekey(t.Context(), b.two, id, nil, nil)
			return err
		},
		"Activate": func(id kmip.ObjectID) error { return b.Activate(t.Context(), b.two, id) },
		"Revoke": func(id kmip.ObjectID) error {
			return b.Revoke(t.Context(), b.two, id, kmip.Revocation{Reason: 1}, time.Time{})
		},
		"Destroy": func(id kmip.ObjectID) error { return b.Destroy(t.Context(), b.two, id) },
	} {
		foreign, unknown := operation(id), operation("00000000-0000-7000-8000-000000000000")
		if fault.KindOf(foreign) != fault.NotFound || foreign.Error() != unknown.Error() {
			t.Errorf("%s: foreign %v, unknown %v", name, foreign, unknown)
		}
	}
	if found, err := b.Locate(t.Context(), b.two, engine.Query{}); err != nil || len(found.IDs) != 0 {
		t.Errorf("Locate by the other tenant found %v, %v", found, err)
	}
	if found, err := b.Locate(t.Context(), b.one, engine.Query{}); err != nil || len(found.IDs) != 1 || found.IDs[0] != id {
		t.Errorf("Locate by the owner found %v, %v", found, err)
	}
	if _, err := b.Get(t.Context(), b.one, id, 0); err != nil {
		t.Errorf("the owner's Get afterwards: %v", err)
	}
}

// TestCreateFailsBeforeAndAfter fails each write of Create before and after it
// took effect: no failed Create may leave a key that its identifier reads, and
// a swap that failed for certain leaves no standard key behind.
func TestCreateFailsBeforeAndAfter(t *testing.T) {
	for _, c := range []struct {
		method string
		done   bool
		err    error
		stored int
	}{
		{"Wrap", false, engine.ErrUnavailable, 0},
		{"Wrap", true, engine.ErrUnavailable, 0},
		{"Create", false, engine.ErrUnavailable, 0},
		{"Create", true, engine.ErrUnavailable, 0},
		{"Store", false, engine.ErrUnavailable, 0},
		{"Store", true, engine.ErrUnavailable, 1}, // the job decides
		{"Replace", false, engine.ErrConflict, 0},
		{"Replace", false, engine.ErrNotFound, 0},
		{"Replace", false, engine.ErrUnavailable, 1}, // outcome unknown: the job decides
		{"Replace", true, engine.ErrUnavailable, 1},
	} {
		b := newBench()
		fail := func(method string, done bool) error {
			if method == c.method && done == c.done {
				return c.err
			}
			return nil
		}
		b.objects.Fail, b.keys.Fail = fail, fail
		id, err := b.Create(t.Context(), b.one, kmip.SymmetricKey, vSphere)
		if err == nil || id != "" {
			t.Errorf("%s (done %t): Create answered %q, %v", c.method, c.done, id, err)
		}
		if !errors.Is(err, c.err) {
			t.Errorf("%s (done %t): %v, want %v", c.method, c.done, err, c.err)
		}
		if kind := fault.KindOf(err); kind != fault.Unavailable {
			t.Errorf("%s (done %t): the client is told %s, want unavailable", c.method, c.done, kind)
		}
		if got := b.keys.Stored(); got != c.stored {
			t.Errorf("%s (done %t): %d standard keys, want %d", c.method, c.done, got, c.stored)
		}
	}
}

// TestCleanUpOutlivesTheClient ends the client's context just as the swap
// fails: the orphaned standard key must still be deleted.
func TestCleanUpOutlivesTheClient(t *testing.T) {
	b := newBench()
	ctx, cancel := context.WithCancel(t.Context())
	b.objects.Fail = func(method string, done bool) error {
		if method == "Replace" && !done {
			cancel()
			return engine.ErrConflict
		}
		return nil
	}
	if _, err := b.Create(ctx, b.one, kmip.SymmetricKey, vSphere); err == nil {
		t.Fatal("Create succeeded")
	}
	if got := b.keys.Stored(); got != 0 {
		t.Errorf("%d standard keys left behind", got)
	}
}

func TestDestroyIsFinishedLater(t *testing.T) {
	b := newBench()
	id := b.create(t)
	b.keys.Fail = func(method string, done bool) error {
		if method == "Delete" && !done {
			return engine.ErrUnavailable
		}
		return nil
	}
	if err := b.Destroy(t.Context(), b.one, id); fault.KindOf(err) != fault.Unavailable {
		t.Fatalf("Destroy: %v, want Unavailable", err)
	}
	if _, err := b.Get(t.Context(), b.one, id, 0); fault.KindOf(err) != fault.NotFound {
		t.Errorf("Get of a key being destroyed: %v, want NotFound", err)
	}
	b.keys.Fail = nil
	if err := b.Destroy(t.Context(), b.one, id); err != nil {
		t.Errorf("Destroy again: %v", err)
	}
	if got := b.keys.Stored(); got != 0 {
		t.Errorf("%d standard keys left", got)
	}
}

func TestKeyManagersWord(t *testing.T) {
	b := newBench()
	id := b.create(t)
	for _, c := range []struct {
		method string
		err    error
		want   fault.Kind
	}{
		{"Load", engine.ErrGone, fault.Gone},
		{"Load", engine.ErrUnavailable, fault.Unavailable},
		{"Load", engine.ErrCorrupt, fault.Corrupt},
		{"Unwrap", engine.ErrDenied, fault.Denied},
		{"Unwrap", engine.ErrCorrupt, fault.Corrupt},
	} {
		b.keys.Fail = func(method string, _ bool) error {
			if method == c.method {
				return c.err
			}
			return nil
		}
		if key, err := b.Get(t.Context(), b.one, id, 0); fault.KindOf(err) != c.want || key.Material != nil {
			t.Errorf("%s fails with %v: Get gave %v, want %s", c.method, c.err, err, c.want)
		}
	}
}

// TestWrongBytesAreNotServed stores one object's standard key under another's
// reference: the digest must stop it.
func TestWrongBytesAreNotServed(t *testing.T) {
	b := newBench()
	id := b.create(t)
	r, err := b.objects.Get(t.Context(), b.one.ID, id)
	if err != nil {
		t.Fatal(err)
	}
	r.Object.Digest = make([]byte, 32)
	if err := b.objects.Replace(t.Context(), b.one.ID, r); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(t.Context(), b.one, id, 0); fault.KindOf(err) != fault.Corrupt {
		t.Errorf("Get: %v, want Corrupt", err)
	}
}

func TestConcurrentChangesAllTakeEffect(t *testing.T) {
	b := newBench()
	id := b.create(t)
	const writers = 4
	results := make(chan error, writers)
	for range writers {
		go func() {
			_, err := b.AddAttribute(t.Context(), b.one, id, kmip.Attribute{Name: "x-Name", Value: kmip.Text("vm")})
			results <- err
		}()
	}
	for range writers {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	got, err := b.Attributes(t.Context(), b.one, id, []string{"x-Name"})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != writers {
		t.Errorf("%d instances of x-Name, want %d", len(got), writers)
	}
	for i, a := range got {
		if int(a.Index) != i {
			t.Errorf("instance %d has index %d", i, a.Index)
		}
	}
}
