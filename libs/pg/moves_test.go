package pg

import (
	"errors"
	"reflect"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Another root key keeps the former settings, for nodes too, until the move has
// ended; a new credential is that of former root keys in the same key manager;
// and back again leaves the settings in between.
func TestFormerKeyManagers(t *testing.T) {
	database := pgtest.Database(t)
	s := NewInstances(openAs(t, database, "kmip_control"))
	source := NewSource(openAs(t, database, "kmip_node"))
	i, other := newInstance(t, s, account, "i"), connected(t, s, stranger)
	a := newKeyManager()
	b := newKeyManager() // another root key and credential in the same key manager
	c := newKeyManager()
	c.InstanceCRN = "crn:v1:bluemix:public:hs-crypto:us-south:a/acc:another::"
	withCredentialOf := func(k, credential tenant.KeyManager) tenant.KeyManager {
		k.SealedAPIKey = credential.SealedAPIKey
		return k
	}
	set := func(k tenant.KeyManager, status Status, want ...tenant.KeyManager) Instance {
		t.Helper()
		changed, err := s.SetKeyManager(t.Context(), account, i.ID, k, nil)
		if err != nil || changed.Status != status {
			t.Fatalf("status %s, %v, want %s", changed.Status, err, status)
		}
		move, moving, err := s.GetMove(t.Context(), account, i.ID)
		byPlace := func(all []tenant.KeyManager) map[[2]string]string {
			m := map[[2]string]string{}
			for _, k := range all {
				m[[2]string{k.InstanceCRN, k.RootKeyID}] = string(k.SealedAPIKey)
			}
			return m
		}
		if err != nil || moving != (len(want) > 0) || !reflect.DeepEqual(byPlace(move.Former), byPlace(want)) || move.Settled {
			t.Errorf("moving %v, %v: former\n%+v\nwant\n%+v", moving, err, move.Former, want)
		}
		snapshot, quarantined, err := source.Snapshot(t.Context())
		if err != nil || len(quarantined) != 0 {
			t.Fatalf("%v, %v", quarantined, err)
		}
		if got := snapshot.Tenant(i.ID); !got.KeyManager.Equal(k) || !reflect.DeepEqual(byPlace(got.Former), byPlace(want)) {
			t.Errorf("nodes read\n%+v\nformer %+v", got.KeyManager, got.Former)
		}
		if got := snapshot.Tenant(other.ID); len(got.Former) != 0 {
			t.Errorf("the other tenant has former settings: %+v", got.Former)
		}
		return changed
	}
	set(a, Installed)
	set(b, Configuring, withCredentialOf(a, b))
	set(c, Configuring, withCredentialOf(a, b), b)
	set(a, Configuring, withCredentialOf(b, a), c)
	last := set(withCredentialOf(a, b), Configuring, b, c)

	if _, moving, err := s.GetMove(t.Context(), stranger, i.ID); moving || err != nil {
		t.Errorf("a stranger sees a move: %v", err)
	}
	if err := s.FinishMove(t.Context(), stranger, i.ID, *last.KeyManager); !errors.Is(err, ErrNotFound) {
		t.Errorf("a stranger ends a move: %v", err)
	}
	if err := errors.Join(s.NoteMove(t.Context(), account, i.ID, 3, "No."), s.FinishMove(t.Context(), account, i.ID, c)); err != nil {
		t.Fatal(err)
	}
	if move, moving, err := s.GetMove(t.Context(), account, i.ID); !moving || err != nil || move.Failed != 3 || move.Message != "No." {
		t.Errorf("after an end for other settings: %+v, %v", move, err)
	}
	deleteInstance(t, s, last)
	if restored, err := s.Restore(t.Context(), account, i.ID); err != nil || restored.Status != Configuring {
		t.Errorf("restored: %s, %v", restored.Status, err)
	}
	if err := s.FinishMove(t.Context(), account, i.ID, *last.KeyManager); err != nil {
		t.Fatal(err)
	}
	if now, err := s.Get(t.Context(), account, i.ID); err != nil || now.Status != Installed || now.Revision <= last.Revision {
		t.Errorf("at the end: %+v, %v", now, err)
	}
	if snapshot, _, err := source.Snapshot(t.Context()); err != nil || len(snapshot.Tenant(i.ID).Former) != 0 {
		t.Errorf("former settings are left, %v", err)
	}
}

// A row is pointed to another standard key once, by its own tenant, and not
// after its object was destroyed.
func TestMovingRows(t *testing.T) {
	database := pgtest.Database(t)
	l, nodes := NewLedger(openAs(t, database, "kmip_control")), NewObjects(openAs(t, database, "kmip_node"))
	mine, other := enginetest.NewTenantID(), enginetest.NewTenantID()
	add := func(who tenant.ID, phase engine.Phase) engine.Record {
		t.Helper()
		r := enginetest.NewRecord()
		r.Phase, r.KeyRef, r.PendingFor = phase, "old", 1
		if err := nodes.Create(t.Context(), who, r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	moved, destroyed := add(mine, engine.Live), add(mine, engine.Live)
	add(mine, engine.Pending)
	add(mine, engine.Gone)
	foreign := add(other, engine.Live)
	to := engine.Location{KeyManagerCRN: moved.Location.KeyManagerCRN, RootKeyID: "new", RootKeyVersion: "new-1"}

	rows, err := l.ListElsewhere(t.Context(), mine, to, 0)
	if err != nil || len(rows) != 2 || rows[0].Begun != nil || rows[0].Object.ID != moved.Object.ID {
		t.Fatalf("%+v, %v", rows, err)
	}
	if rest, err := l.ListElsewhere(t.Context(), mine, to, rows[0].Place); err != nil || len(rest) != 1 {
		t.Errorf("after the first: %+v, %v", rest, err)
	}
	if err := errors.Join(l.BeginMoving(t.Context(), mine, moved), l.BeginMoving(t.Context(), mine, destroyed)); err != nil {
		t.Fatal(err)
	}
	if rows, err := l.ListElsewhere(t.Context(), mine, to, 0); err != nil || len(rows) != 2 || rows[0].Begun == nil {
		t.Errorf("begun: %+v, %v", rows, err)
	}
	ending := rows[1].Record
	ending.Phase = engine.Destroying
	if err := nodes.Replace(t.Context(), mine, ending); err != nil {
		t.Fatal(err)
	}
	if err := l.EndMoving(t.Context(), mine, moved, "new", to); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"again":        l.EndMoving(t.Context(), mine, moved, "third", to),
		"destroyed":    l.EndMoving(t.Context(), mine, destroyed, "new", to),
		"foreign":      l.EndMoving(t.Context(), mine, foreign, "new", to),
		"begin again":  l.BeginMoving(t.Context(), mine, moved),
		"an old state": nodes.Replace(t.Context(), mine, rows[0].Record),
	} {
		if !errors.Is(err, engine.ErrConflict) {
			t.Errorf("%s: %v, want ErrConflict", name, err)
		}
	}
	if got, err := nodes.Get(t.Context(), mine, moved.Object.ID); err != nil || got.KeyRef != "new" || got.Location != to {
		t.Errorf("%+v, %v", got, err)
	}
	if holds, err := l.Holds(t.Context(), mine, moved.Object.ID, "new"); err != nil || !holds {
		t.Errorf("holds %v, %v", holds, err)
	}
	if holds, err := l.Holds(t.Context(), other, moved.Object.ID, "new"); err != nil || holds {
		t.Errorf("another tenant: holds %v, %v", holds, err)
	}
	counts, err := l.CountKeys(t.Context(), mine)
	if err != nil || len(counts) != 2 {
		t.Fatalf("%+v, %v", counts, err)
	}
	live, unfinished := 0, 0
	for _, c := range counts {
		live, unfinished = live+c.Keys, unfinished+c.Unfinished
	}
	if live != 1 || unfinished != 2 {
		t.Errorf("%d live, %d unfinished: %+v", live, unfinished, counts)
	}
}
