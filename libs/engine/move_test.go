package engine_test

import (
	"errors"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// elsewhere is a vault at another location.
type elsewhere struct{ *enginetest.Vault }

func (e elsewhere) Location() engine.Location {
	l := e.Vault.Location()
	l.RootKeyID = "another"
	return l
}

// A moved key opens where it was moved to, is found there though nobody took
// note of it, and is not mistaken for the one before, for another object's or
// for another tenant's.
func TestMove(t *testing.T) {
	from, objects, who := enginetest.NewKeyManager(), enginetest.NewObjects(), &tenant.Tenant{ID: enginetest.NewTenantID()}
	to := elsewhere{from} // the same key manager, another root key
	e := engine.New(engine.Config{Objects: objects, KeyManagers: from.KeyManagers, Now: time.Now})
	create := func() engine.Record {
		t.Helper()
		id, err := e.Create(t.Context(), who, kmip.SymmetricKey, vSphere)
		if err != nil {
			t.Fatal(err)
		}
		r, err := objects.Get(t.Context(), who.ID, id)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r, other := create(), create()
	began := time.Now()
	if _, _, err := engine.Moved(t.Context(), who.ID, r, to, began); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	ref, at, err := engine.Move(t.Context(), who.ID, r, from, to)
	if err != nil || at.RootKeyID != "another" || ref == r.KeyRef {
		t.Fatalf("%s, %+v, %v", ref, at, err)
	}
	if again, where, err := engine.Moved(t.Context(), who.ID, r, to, began); err != nil || again != ref || where != at {
		t.Errorf("%s, %+v, %v, want %s, %+v", again, where, err, ref, at)
	}
	for name, one := range map[string]struct {
		t tenant.ID
		r engine.Record
	}{"another object": {who.ID, other}, "another tenant": {enginetest.NewTenantID(), r}} {
		if _, _, err := engine.Moved(t.Context(), one.t, one.r, to, began); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.KeyRef, r.Location = ref, at
	if err := objects.Replace(t.Context(), who.ID, r); err != nil {
		t.Fatal(err)
	}
	key, err := e.Get(t.Context(), who, r.Object.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	key.Material.Wipe()
	if _, _, err := engine.Move(t.Context(), enginetest.NewTenantID(), r, from, to); !errors.Is(err, engine.ErrCorrupt) {
		t.Errorf("by another tenant: %v", err)
	}
	r.Object.Digest = other.Object.Digest
	if _, _, err := engine.Move(t.Context(), who.ID, r, from, to); !errors.Is(err, engine.ErrCorrupt) {
		t.Errorf("of other bytes: %v", err)
	}
}

// A key that lies in a key manager which these settings do not lead to is
// unavailable, never unknown; former settings lead to it.
func TestKeyInFormerKeyManager(t *testing.T) {
	const here, there = "crn:v1:bluemix:public:kms:us-south:a/a:here::", "crn:v1:bluemix:public:kms:us-south:a/a:there::"
	vaults := map[string]*enginetest.Vault{here: enginetest.NewKeyManager(), there: enginetest.NewKeyManager()}
	objects := enginetest.NewObjects()
	managers := func(t *tenant.Tenant) (engine.KeyManager, error) {
		return placed{vaults[t.KeyManager.InstanceCRN], t.KeyManager.InstanceCRN}, nil
	}
	e := engine.New(engine.Config{Objects: objects, Now: time.Now, KeyManagers: managers})
	settings := func(crn string) *tenant.KeyManager { return &tenant.KeyManager{InstanceCRN: crn, RootKeyID: "root"} }
	before := &tenant.Tenant{ID: enginetest.NewTenantID(), KeyManager: settings(there)}
	id, err := e.Create(t.Context(), before, kmip.SymmetricKey, vSphere)
	if err != nil {
		t.Fatal(err)
	}
	now := &tenant.Tenant{ID: before.ID, KeyManager: settings(here)}
	if _, err := e.Get(t.Context(), now, id, 0); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("without former settings: %v", err)
	}
	now.Former = []tenant.KeyManager{*settings(there)}
	key, err := e.Get(t.Context(), now, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	key.Material.Wipe()

	// A row that the ledger lost comes back from there too.
	lost := engine.New(engine.Config{Objects: enginetest.NewObjects(), Now: time.Now, KeyManagers: managers})
	if key, err = lost.Get(t.Context(), now, id, 0); err != nil {
		t.Fatal(err)
	}
	key.Material.Wipe()
}

type placed struct {
	*enginetest.Vault
	crn string
}

func (p placed) Location() engine.Location {
	l := p.Vault.Location()
	l.KeyManagerCRN = p.crn
	return l
}
