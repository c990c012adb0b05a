package pg

import (
	"slices"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// What is revoked or destroyed becomes part of the configuration in the same
// transaction, of its tenant alone.
func TestWithheldObjects(t *testing.T) {
	f := newFeed(t)
	mine, theirs := newInstance(t, f.instances, account, "mine"), newInstance(t, f.instances, stranger, "theirs")
	objects := NewObjects(openAs(t, f.database, "kmip_node"))
	at := func() (*tenant.Tenant, *tenant.Tenant, int64) {
		t.Helper()
		s, quarantined := f.snapshot(t)
		if len(quarantined) != 0 {
			t.Fatalf("quarantined: %v", quarantined)
		}
		return s.Tenant(mine.ID), s.Tenant(theirs.ID), s.Revision().Number
	}
	change := func(r engine.Record, f func(*engine.Record)) engine.Record {
		t.Helper()
		f(&r)
		if err := objects.Replace(t.Context(), mine.ID, r); err != nil {
			t.Fatal(err)
		}
		r.Version++
		return r
	}
	newLive := func() engine.Record {
		t.Helper()
		r := enginetest.NewRecord()
		r.Phase, r.KeyRef = engine.Live, "ref"
		if err := objects.Create(t.Context(), mine.ID, r); err != nil {
			t.Fatal(err)
		}
		r.Version = 1
		return r
	}
	revoked, destroyed := newLive(), newLive()
	revoked = change(revoked, func(r *engine.Record) { r.Object.State = kmip.Active })
	_, _, before := at()
	if tenant, _, _ := at(); tenant.Withholds(string(revoked.Object.ID)) || before != mine.Revision+1 {
		t.Errorf("an active object is withheld, or its changes took revisions: %d after %d", before, mine.Revision)
	}
	revoked = change(revoked, func(r *engine.Record) { r.Object.State = kmip.Deactivated })
	revoked = change(revoked, func(r *engine.Record) { r.Object.State = kmip.Compromised })
	destroyed = change(destroyed, func(r *engine.Record) { r.Phase = engine.Destroying })
	change(destroyed, func(r *engine.Record) { r.Phase = engine.Gone })
	got, other, after := at()
	want := []string{string(revoked.Object.ID), string(destroyed.Object.ID)}
	slices.Sort(want)
	if !slices.Equal(got.Withheld, want) || after != before+2 {
		t.Errorf("withheld %v, want %v; %d revisions, want 2", got.Withheld, want, after-before)
	}
	if len(other.Withheld) != 0 || other.Withholds(want[0]) {
		t.Errorf("the other tenant withholds %v", other.Withheld)
	}

	// The other tenant's transactions can't withhold for this one.
	c := connectAs(t, f.database, "kmip_node")
	run(t, c, "SELECT set_config('kmip.tenant', $1, false)", string(theirs.ID))
	if _, err := c.Exec(t.Context(), "INSERT INTO withheld_objects VALUES ($1, 'x')", string(mine.ID)); err == nil {
		t.Error("a transaction of another tenant withheld an object")
	}

	// A list that is too long stands for everything.
	run(t, superuser(t, f.database), "INSERT INTO withheld_objects SELECT $1, n::text FROM generate_series(1, 1000) n", string(mine.ID))
	if got, _, _ := at(); !got.WithheldAll || len(got.Withheld) != 0 || !got.Withholds("anything") {
		t.Errorf("with 1,002 objects: all %t, %d listed", got.WithheldAll, len(got.Withheld))
	}
}
