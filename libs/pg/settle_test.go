package pg

import (
	"errors"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Unsettled rows are those beyond their time; each is settled once, by its own
// tenant, and a row that a node has finished meanwhile is left alone.
func TestUnsettled(t *testing.T) {
	database := pgtest.Database(t)
	u := NewLedger(openAs(t, database, "kmip_control"))
	ledger, admin := NewObjects(openAs(t, database, "kmip_node")), superuser(t, database)
	mine, other := enginetest.NewTenantID(), enginetest.NewTenantID()
	add := func(t2 tenant.ID, phase engine.Phase) engine.Record {
		t.Helper()
		r := enginetest.NewRecord()
		r.Phase, r.PendingFor = phase, time.Minute
		if err := ledger.Create(t.Context(), t2, r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	claimed, dropped, finished, destroying := add(mine, engine.Pending), add(mine, engine.Pending), add(mine, engine.Pending), add(mine, engine.Destroying)
	add(mine, engine.Live)
	foreign := add(other, engine.Pending)
	if rows, err := u.ListUnsettled(t.Context(), mine); err != nil || len(rows) != 0 {
		t.Errorf("before their time: %+v, %v", rows, err)
	}
	run(t, admin, "UPDATE objects SET pending_until = now() - interval '61 minutes', updated_at = now() - interval '6 minutes'")
	rows, err := u.ListUnsettled(t.Context(), mine)
	if err != nil || len(rows) != 4 || rows[0].Object.ID != claimed.Object.ID || rows[3].Object.ID != destroying.Object.ID {
		t.Fatalf("%+v, %v", rows, err)
	}
	live := rows[2]
	live.Phase, live.KeyRef = engine.Live, "made"
	if err := ledger.Replace(t.Context(), mine, live); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(u.Claim(t.Context(), mine, rows[0], "found"), u.Drop(t.Context(), mine, rows[1]), u.FinishDestroy(t.Context(), mine, rows[3])); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"claim of a finished one": u.Claim(t.Context(), mine, rows[2], "found"),
		"drop of a finished one":  u.Drop(t.Context(), mine, rows[2]),
		"drop of a claimed one":   u.Drop(t.Context(), mine, rows[0]),
		"finish again":            u.FinishDestroy(t.Context(), mine, rows[3]),
		"drop of a foreign one":   u.Drop(t.Context(), mine, engine.Record{Object: foreign.Object, Version: 1}),
	} {
		if !errors.Is(err, engine.ErrConflict) {
			t.Errorf("%s: %v, want ErrConflict", name, err)
		}
	}
	for r, want := range map[*engine.Record]engine.Phase{&claimed: engine.Live, &finished: engine.Live, &destroying: engine.Gone} {
		if got, err := ledger.Get(t.Context(), mine, r.Object.ID); err != nil || got.Phase != want {
			t.Errorf("%s: %+v, %v, want %s", r.Object.ID, got, err, want)
		}
	}
	if _, err := ledger.Get(t.Context(), mine, dropped.Object.ID); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("dropped: %v", err)
	}
	var unclaimed int
	if err := admin.QueryRow(t.Context(), "SELECT count(*) FROM objects WHERE unclaimed AND id = $1 AND key_ref = 'found'", string(claimed.Object.ID)).Scan(&unclaimed); err != nil || unclaimed != 1 {
		t.Errorf("%d rows are marked, %v", unclaimed, err)
	}
	if rows, err := u.ListUnsettled(t.Context(), other); err != nil || len(rows) != 1 {
		t.Errorf("the other tenant's: %+v, %v", rows, err)
	}
}

// The control plane has no right to the ledger but as kmip_jobs, which sees one
// tenant and removes pending rows alone.
func TestJobsRole(t *testing.T) {
	database := pgtest.Database(t)
	ledger := NewObjects(openAs(t, database, "kmip_node"))
	mine, other := enginetest.NewTenantID(), enginetest.NewTenantID()
	for _, tenant := range []tenant.ID{mine, other} {
		r := enginetest.NewRecord()
		r.Phase = engine.Live
		if err := ledger.Create(t.Context(), tenant, r); err != nil {
			t.Fatal(err)
		}
	}
	c := connectAs(t, database, "kmip_control")
	run(t, c, "SELECT set_config('kmip.tenant', $1, false)", string(mine))
	if _, err := c.Exec(t.Context(), "SELECT FROM objects"); err == nil {
		t.Error("the control plane reads the ledger as itself")
	}
	run(t, c, "SET ROLE kmip_jobs")
	for sql, want := range map[string]int64{"SELECT FROM objects": 1, "UPDATE objects SET version = version": 1, "DELETE FROM objects": 0} {
		if tag, err := c.Exec(t.Context(), sql); err != nil || tag.RowsAffected() != want {
			t.Errorf("%s: %d rows, %v, want %d", sql, tag.RowsAffected(), err, want)
		}
	}
	run(t, c, "RESET kmip.tenant")
	if tag, err := c.Exec(t.Context(), "SELECT FROM objects"); err != nil || tag.RowsAffected() != 0 {
		t.Errorf("without a tenant: %d rows, %v", tag.RowsAffected(), err)
	}
	const add = "INSERT INTO objects (tenant, id, phase, object, location, key_ref, version, recovered, pending_until) VALUES ($1, $2, $3, '{}', '{}', '', 1, $4, now())"
	run(t, c, "SELECT set_config('kmip.tenant', $1, false)", string(mine))
	run(t, c, add, string(mine), "recovered", "live", true)
	for _, row := range []struct {
		tenant    tenant.ID
		phase     string
		recovered bool
	}{{mine, "live", false}, {mine, "pending", true}, {other, "live", true}} {
		if _, err := c.Exec(t.Context(), add, string(row.tenant), "another", row.phase, row.recovered); err == nil {
			t.Errorf("kmip_jobs makes a row %+v", row)
		}
	}
	for _, forbidden := range []string{"SELECT FROM instances", "SELECT FROM river_job", "INSERT INTO objects DEFAULT VALUES", "SELECT take_due_work(1)"} {
		if _, err := c.Exec(t.Context(), forbidden); err == nil {
			t.Errorf("kmip_jobs may: %s", forbidden)
		}
	}
}
