package enginetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// KeyManagerUnderTest is an engine.KeyManager and what the customer can do
// behind its back.
type KeyManagerUnderTest struct {
	engine.KeyManager
	// DeleteRootKey deletes the root key in the key manager.
	DeleteRootKey func(t *testing.T)
	// DeleteStandardKey deletes a standard key in the key manager.
	DeleteStandardKey func(t *testing.T, ref engine.KeyRef)
}

// KeyManager checks an implementation of engine.KeyManager. Open returns one
// over a fresh root key.
func KeyManager(t *testing.T, open func(t *testing.T) KeyManagerUnderTest) {
	t.Run("what is wrapped and stored is loaded and unwrapped", func(t *testing.T) {
		m := open(t)
		kek, e, ref := store(t, m)
		got, err := m.Load(t.Context(), e.Object.ID, ref)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, e) {
			t.Errorf("loaded\n%+v\nwant\n%+v", got, e)
		}
		plain, err := m.Unwrap(t.Context(), got.Wrapped, binding(e))
		if err != nil {
			t.Fatal(err)
		}
		if !plain.Equal(kek) {
			t.Error("unwrapped bytes differ from those wrapped")
		}
	})

	t.Run("a blob of another object or tenant does not open", func(t *testing.T) {
		m := open(t)
		_, e, _ := store(t, m)
		for name, b := range map[string]engine.Binding{
			"object": {Tenant: e.Tenant, Object: "another"},
			"tenant": {Tenant: NewTenantID(), Object: e.Object.ID},
		} {
			if _, err := m.Unwrap(t.Context(), e.Wrapped, b); !errors.Is(err, engine.ErrCorrupt) {
				t.Errorf("another %s: %v, want ErrCorrupt", name, err)
			}
		}
	})

	t.Run("a standard key deleted by the customer is gone", func(t *testing.T) {
		m := open(t)
		_, e, ref := store(t, m)
		m.DeleteStandardKey(t, ref)
		if _, err := m.Load(t.Context(), e.Object.ID, ref); !errors.Is(err, engine.ErrGone) {
			t.Errorf("Load: %v, want ErrGone", err)
		}
	})

	t.Run("deleting twice is no error", func(t *testing.T) {
		m := open(t)
		_, e, ref := store(t, m)
		for range 2 {
			if err := m.Delete(t.Context(), ref); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := m.Load(t.Context(), e.Object.ID, ref); !errors.Is(err, engine.ErrGone) {
			t.Errorf("Load: %v, want ErrGone", err)
		}
	})

	t.Run("a stored key is found by its object, also once deleted", func(t *testing.T) {
		m := open(t)
		_, e, ref := store(t, m)
		_, other, otherRef := store(t, m)
		m.DeleteStandardKey(t, otherRef)
		for id, want := range map[kmip.ObjectID]engine.KeyRef{e.Object.ID: ref, other.Object.ID: otherRef} {
			if got, err := m.Find(t.Context(), id); err != nil || got != want {
				t.Errorf("Find(%s): %q, %v, want %q", id, got, err, want)
			}
		}
		if _, err := m.Load(t.Context(), other.Object.ID, otherRef); !errors.Is(err, engine.ErrGone) {
			t.Errorf("Load of the deleted one: %v, want ErrGone", err)
		}
	})

	t.Run("all keys of an object that are not deleted are found by their time", func(t *testing.T) {
		m := open(t)
		began := time.Now()
		_, e, first := store(t, m)
		second, err := m.Store(t.Context(), e.Object.ID, e)
		if err != nil {
			t.Fatal(err)
		}
		store(t, m)
		found := func(want ...engine.KeyRef) {
			t.Helper()
			got, err := m.FindSince(t.Context(), e.Object.ID, began)
			slices.Sort(got)
			if slices.Sort(want); err != nil || !slices.Equal(got, want) {
				t.Errorf("%v, %v, want %v", got, err, want)
			}
		}
		found(first, second)
		m.DeleteStandardKey(t, first)
		found(second)
		if got, err := m.FindSince(t.Context(), e.Object.ID, began.Add(time.Hour)); err != nil || len(got) > 1 {
			t.Errorf("from a time to come: %v, %v", got, err)
		}
	})

	t.Run("all stored keys are listed, also once deleted", func(t *testing.T) {
		m := open(t)
		_, one, first := store(t, m)
		_, two, second := store(t, m)
		third, err := m.Store(t.Context(), one.Object.ID, one)
		if err != nil {
			t.Fatal(err)
		}
		m.DeleteStandardKey(t, second)
		want := map[engine.KeyRef]engine.StoredKey{
			first: {Object: one.Object.ID, Ref: first}, second: {Object: two.Object.ID, Ref: second, Deleted: true}, third: {Object: one.Object.ID, Ref: third},
		}
		all, err := m.List(t.Context())
		for _, k := range all { // others may have keys there as well
			if one, ours := want[k.Ref]; ours && k == one {
				delete(want, k.Ref)
			} else if ours {
				t.Errorf("listed %+v, want %+v", k, one)
			}
		}
		if err != nil || len(want) > 0 {
			t.Errorf("not listed: %v, %v", want, err)
		}
	})

	t.Run("an object without a stored key is not found", func(t *testing.T) {
		m := open(t)
		_, e, _ := store(t, m)
		for _, id := range []kmip.ObjectID{NewRecord().Object.ID, e.Object.ID[:len(e.Object.ID)-1], e.Object.ID + "0", "not-a-uuid", ""} {
			if ref, err := m.Find(t.Context(), id); !errors.Is(err, engine.ErrNotFound) {
				t.Errorf("Find(%q): %q, %v, want ErrNotFound", id, ref, err)
			}
		}
	})

	t.Run("an envelope of another object is corrupt", func(t *testing.T) {
		m := open(t)
		_, _, ref := store(t, m)
		if _, err := m.Load(t.Context(), "another", ref); !errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("Load: %v, want ErrCorrupt", err)
		}
	})

	t.Run("a deleted root key denies", func(t *testing.T) {
		m := open(t)
		kek, e, ref := store(t, m)
		m.DeleteRootKey(t)
		if _, err := m.Wrap(t.Context(), kek, binding(e)); !errors.Is(err, engine.ErrDenied) {
			t.Errorf("Wrap: %v, want ErrDenied", err)
		}
		if _, err := m.Unwrap(t.Context(), e.Wrapped, binding(e)); !errors.Is(err, engine.ErrDenied) {
			t.Errorf("Unwrap: %v, want ErrDenied", err)
		}
		if _, err := m.Load(t.Context(), e.Object.ID, ref); err != nil {
			t.Errorf("Load of a standard key does not depend on the root key: %v", err)
		}
		if err := m.Check(t.Context()); !errors.Is(err, engine.ErrDenied) {
			t.Errorf("Check: %v, want ErrDenied", err)
		}
	})

	t.Run("check passes", func(t *testing.T) {
		if err := open(t).Check(t.Context()); err != nil {
			t.Error(err)
		}
	})

	t.Run("an ended context is unavailable", func(t *testing.T) {
		m := open(t)
		_, e, ref := store(t, m)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := m.Load(ctx, e.Object.ID, ref); !errors.Is(err, engine.ErrUnavailable) {
			t.Errorf("Load: %v, want ErrUnavailable", err)
		}
		if _, err := m.Unwrap(ctx, e.Wrapped, binding(e)); !errors.Is(err, engine.ErrUnavailable) {
			t.Errorf("Unwrap: %v, want ErrUnavailable", err)
		}
		if _, err := m.Find(ctx, e.Object.ID); !errors.Is(err, engine.ErrUnavailable) {
			t.Errorf("Find: %v, want ErrUnavailable", err)
		}
		if _, err := m.List(ctx); !errors.Is(err, engine.ErrUnavailable) {
			t.Errorf("List: %v, want ErrUnavailable", err)
		}
	})
}

func binding(e engine.Envelope) engine.Binding {
	return engine.Binding{Tenant: e.Tenant, Object: e.Object.ID}
}

// store wraps and stores a fresh KEK.
func store(t *testing.T, m engine.KeyManager) (*secret.Bytes, engine.Envelope, engine.KeyRef) {
	t.Helper()
	kek := secret.Random(32)
	sum := sha256.Sum256(kek.Reveal())
	e := engine.Envelope{Format: engine.EnvelopeFormat, Tenant: NewTenantID(), Object: NewRecord().Object, Location: m.Location()}
	e.Object.Digest = sum[:]
	var err error
	if e.Wrapped, err = m.Wrap(t.Context(), kek, binding(e)); err != nil {
		t.Fatal(err)
	}
	e.Location.RootKeyVersion = e.Wrapped.RootKeyVersion
	ref, err := m.Store(t.Context(), e.Object.ID, e)
	if err != nil {
		t.Fatal(err)
	}
	return kek, e, ref
}

// Vault is an engine.KeyManager in memory for tests of other parts. Its root
// key is a keyring that real key managers never show.
type Vault struct {
	mu   sync.Mutex
	ring *secret.Keyring
	keys map[engine.KeyRef][]byte          // envelopes; nil once deleted
	made []engine.StoredKey                // all that were stored, the oldest first; Deleted is not kept
	of   map[kmip.ObjectID][]engine.KeyRef // those of each object, the oldest first
	// Fail, when set, decides each call's error: before it takes effect, and
	// (done true) after. It is called with the name of the method.
	Fail func(method string, done bool) error
}

// NewKeyManager returns a Vault with a fresh root key and no keys.
func NewKeyManager() *Vault {
	ring, err := secret.ParseKeyring("ZW5naW5ldGVzdCdzIHJvb3Qga2V5IGlzIGZpeGVkLi4=")
	if err != nil {
		panic(err) // the text above is constant
	}
	return &Vault{ring: ring, keys: make(map[engine.KeyRef][]byte), of: make(map[kmip.ObjectID][]engine.KeyRef)}
}

// DeleteRootKey makes every wrap and unwrap fail from now on.
func (v *Vault) DeleteRootKey() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ring = nil
}

// Hide leaves a standard key out of lists, as one in a key ring that we may not
// see.
func (v *Vault) Hide(ref engine.KeyRef) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.made = slices.DeleteFunc(v.made, func(k engine.StoredKey) bool { return k.Ref == ref })
}

// Put replaces what a standard key holds.
func (v *Vault) Put(t *testing.T, ref engine.KeyRef, e engine.Envelope) {
	t.Helper()
	payload, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys[ref] = payload
}

// Stored returns the number of standard keys that are not deleted.
func (v *Vault) Stored() (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, payload := range v.keys {
		if payload != nil {
			n++
		}
	}
	return n
}

// Location implements engine.KeyManager.
func (v *Vault) Location() engine.Location {
	return engine.Location{KeyManagerCRN: "crn:v1:bluemix:public:kms:us-south:a/vault:vault::", KeyRing: "default", RootKeyID: "root"}
}

// Wrap implements engine.KeyManager.
func (v *Vault) Wrap(ctx context.Context, kek *secret.Bytes, b engine.Binding) (w engine.Wrapped, err error) {
	err = v.call(ctx, "Wrap", func() error {
		if v.ring == nil {
			return engine.ErrDenied
		}
		sealed, err := v.ring.Seal("wrap", fmt.Sprint(b.AdditionalData()), kek)
		w = engine.Wrapped{Ciphertext: fmt.Sprintf("%x", sealed), RootKeyID: "root", RootKeyVersion: "1"}
		return err
	})
	return w, err
}

// Unwrap implements engine.KeyManager.
func (v *Vault) Unwrap(ctx context.Context, w engine.Wrapped, b engine.Binding) (kek *secret.Bytes, err error) {
	err = v.call(ctx, "Unwrap", func() error {
		if v.ring == nil {
			return engine.ErrDenied
		}
		var sealed []byte
		if _, err := fmt.Sscanf(w.Ciphertext, "%x", &sealed); err != nil {
			return engine.ErrCorrupt
		}
		var err error
		if kek, err = v.ring.Open("wrap", fmt.Sprint(b.AdditionalData()), sealed); err != nil {
			return engine.ErrCorrupt
		}
		return nil
	})
	return kek, err
}

// Store implements engine.KeyManager.
func (v *Vault) Store(ctx context.Context, id kmip.ObjectID, e engine.Envelope) (ref engine.KeyRef, err error) {
	err = v.call(ctx, "Store", func() error {
		payload, err := e.Encode()
		ref = engine.KeyRef(uuid.NewString())
		v.keys[ref] = payload
		v.of[id] = append(v.of[id], ref)
		v.made = append(v.made, engine.StoredKey{Object: id, Ref: ref})
		return err
	})
	if err != nil {
		return "", err
	}
	return ref, nil
}

// Load implements engine.KeyManager.
func (v *Vault) Load(ctx context.Context, id kmip.ObjectID, ref engine.KeyRef) (e engine.Envelope, err error) {
	err = v.call(ctx, "Load", func() error {
		payload := v.keys[ref]
		if payload == nil {
			return engine.ErrGone
		}
		if e, err = engine.DecodeEnvelope(payload, id); err != nil {
			return fault.Wrap(fault.Corrupt, "The stored key is damaged.", err)
		}
		return nil
	})
	return e, err
}

// Find implements engine.KeyManager.
func (v *Vault) Find(ctx context.Context, id kmip.ObjectID) (ref engine.KeyRef, err error) {
	err = v.call(ctx, "Find", func() error {
		if len(v.of[id]) == 0 {
			return engine.ErrNotFound
		}
		ref = v.of[id][0]
		return nil
	})
	return ref, err
}

// FindSince implements engine.KeyManager.
func (v *Vault) FindSince(ctx context.Context, id kmip.ObjectID, _ time.Time) (refs []engine.KeyRef, err error) {
	err = v.call(ctx, "FindSince", func() error {
		for _, ref := range v.of[id] {
			if v.keys[ref] != nil {
				refs = append(refs, ref)
			}
		}
		return nil
	})
	return refs, err
}

// List implements engine.KeyManager.
func (v *Vault) List(ctx context.Context) (all []engine.StoredKey, err error) {
	err = v.call(ctx, "List", func() error {
		for _, k := range v.made {
			k.Deleted = v.keys[k.Ref] == nil
			all = append(all, k)
		}
		return nil
	})
	return all, err
}

// Delete implements engine.KeyManager.
func (v *Vault) Delete(ctx context.Context, ref engine.KeyRef) error {
	return v.call(ctx, "Delete", func() error {
		v.keys[ref] = nil
		return nil
	})
}

// Check implements engine.KeyManager.
func (v *Vault) Check(ctx context.Context) error {
	return v.call(ctx, "Check", func() error {
		if v.ring == nil {
			return engine.ErrDenied
		}
		return nil
	})
}

func (v *Vault) call(ctx context.Context, method string, f func() error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return fault.Wrap(fault.Unavailable, "The key manager does not answer.", err)
	}
	if v.Fail != nil {
		if err := v.Fail(method, false); err != nil {
			return err
		}
	}
	if err := f(); err != nil {
		return err
	}
	if v.Fail != nil {
		return v.Fail(method, true)
	}
	return nil
}

// KeyManagers returns an engine.KeyManagers that gives every tenant this one.
func (v *Vault) KeyManagers(*tenant.Tenant) (engine.KeyManager, error) { return v, nil }
