package pg

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// The ledger of jobs lists all rows, and knows those of tenants in the same key
// manager alone.
func TestLedgerConforms(t *testing.T) {
	enginetest.Ledgers(t, func(t *testing.T, one, two tenant.ID) (engine.Ledger, engine.Objects) {
		database := pgtest.Database(t)
		admin := superuser(t, database)
		for n, id := range []tenant.ID{one, two} {
			run(t, admin, "INSERT INTO instances (id, account, name, region, status, shared, created_by) VALUES ($1, $2, 'i', 'us-south', 'installed', true, 'x')",
				string(id), fmt.Sprint("account ", n))
			run(t, admin, "INSERT INTO key_managers (instance_id, type, instance_crn, key_ring, root_key_id, sealed_api_key) VALUES ($1, 'hpcs', 'crn', 'ring', 'root', '')", string(id))
		}
		return NewLedger(openAs(t, database, "kmip_control")), NewObjects(openAs(t, database, "kmip_node"))
	})
}

func TestRecordedElsewhereNeedsACommonKeyManager(t *testing.T) {
	database := pgtest.Database(t)
	s, ledger, objects := NewInstances(openAs(t, database, "kmip_control")), NewLedger(openAs(t, database, "kmip_control")), NewObjects(openAs(t, database, "kmip_node"))
	mine, neighbour, far := newInstance(t, s, account, "i"), newInstance(t, s, stranger, "i"), newInstance(t, s, stranger, "far")
	common, away := newKeyManager(), newKeyManager()
	away.InstanceCRN = "crn:v1:bluemix:public:hs-crypto:us-south:a/acc:another::"
	set := func(i Instance, k tenant.KeyManager) {
		t.Helper()
		if _, err := s.SetKeyManager(t.Context(), i.Account, i.ID, k, nil); err != nil {
			t.Fatal(err)
		}
	}
	set(mine, common)
	set(neighbour, common)
	set(far, away)
	var ids []kmip.ObjectID
	for _, i := range []Instance{neighbour, far} {
		r := enginetest.NewRecord()
		ids = append(ids, r.Object.ID)
		if err := objects.Create(t.Context(), i.ID, r); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range [][]kmip.ObjectID{ids[:1], ids} {
		got, err := ledger.RecordedElsewhere(t.Context(), mine.ID, ids)
		if slices.Sort(got); err != nil || len(got) != len(want) {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
		set(mine, away) // the former key manager counts as well
	}
}

// A lost row is written as recovered, with its names, and withheld if it has to
// be; nothing else is, and no other tenant's.
func TestLedgerWritesRecoveredRows(t *testing.T) {
	database := pgtest.Database(t)
	ledger, objects := NewLedger(openAs(t, database, "kmip_control")), NewObjects(openAs(t, database, "kmip_node"))
	mine, other := enginetest.NewTenantID(), enginetest.NewTenantID()
	r := enginetest.NewRecord()
	r.Phase, r.KeyRef, r.Object.Sensitive, r.Object.ClientAttributes = engine.Live, "ref", true, enginetest.Names("a")
	for _, phase := range []engine.Phase{engine.Live, engine.Pending} {
		r.Phase = phase
		if r.Recovered = phase == engine.Pending; ledger.Create(t.Context(), mine, r) == nil {
			t.Errorf("%s, recovered %t: it was written", r.Phase, r.Recovered)
		}
	}
	r.Phase, r.Recovered = engine.Live, true
	if err := ledger.Create(t.Context(), mine, r); err != nil {
		t.Fatal(err)
	}
	if err := ledger.Create(t.Context(), mine, r); !errors.Is(err, engine.ErrExists) {
		t.Errorf("again: %v", err)
	}
	if got, err := objects.Get(t.Context(), mine, r.Object.ID); err != nil || !got.Recovered || got.KeyRef != "ref" {
		t.Errorf("%+v, %v", got, err)
	}
	rival := enginetest.NewRecord()
	rival.Phase, rival.Object.ClientAttributes = engine.Live, enginetest.Names("a")
	if err := objects.Create(t.Context(), mine, rival); !errors.Is(err, engine.ErrExists) {
		t.Errorf("its name is free: %v", err)
	}
	for id, want := range map[tenant.ID][]string{mine: {string(r.Object.ID)}, other: nil} {
		if got, err := ledger.ListWithheld(t.Context(), id); err != nil || !slices.Equal(got, want) {
			t.Errorf("withheld %v, %v, want %v", got, err, want)
		}
	}
	if _, err := ledger.Get(t.Context(), other, r.Object.ID); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("the other tenant: %v", err)
	}
}

// Each ledger is due once within the interval, a new one at any time in it; who
// is deleted, or has no key manager, never.
func TestReconciliationsAreDue(t *testing.T) {
	database := pgtest.Database(t)
	pool := openAs(t, database, "kmip_control")
	s, admin := NewInstances(pool), superuser(t, database)
	one, two, deleted := connected(t, s, account), connected(t, s, stranger), newInstance(t, s, account, "deleted")
	newInstance(t, s, account, "inactive")
	if _, err := s.SetKeyManager(t.Context(), account, deleted.ID, newKeyManager(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Delete(t.Context(), account, deleted.ID, nil); err != nil {
		t.Fatal(err)
	}
	q := queries.New(pool.pool)
	due := func(want ...Instance) {
		t.Helper()
		rows, err := q.TakeDueWork(t.Context(), queries.TakeDueWorkParams{CheckSeconds: time.Hour.Seconds(), ReconcileSeconds: time.Hour.Seconds()})
		rows = slices.DeleteFunc(rows, func(r queries.TakeDueWorkRow) bool { return r.Kind != (Reconcile{}).Kind() })
		if err != nil || len(rows) != len(want) {
			t.Fatalf("due are %v, %v, want %v", rows, err, want)
		}
		for _, i := range want {
			if !slices.Contains(rows, queries.TakeDueWorkRow{Kind: (Reconcile{}).Kind(), Account: i.Account, InstanceID: string(i.ID)}) {
				t.Errorf("due are %v, want %s", rows, i.ID)
			}
		}
	}
	due()
	run(t, admin, "UPDATE key_manager_checks SET reconcile_at = now() - interval '1 second' WHERE reconcile_at IS NOT NULL AND instance_id <> $1", string(two.ID))
	due(one)
	due()
	run(t, admin, "UPDATE key_manager_checks SET reconcile_at = now() WHERE reconcile_at BETWEEN now() AND now() + interval '1 hour'")
	due(one, two)
	if err := s.ReconcileSoon(t.Context(), account, one.ID); err != nil {
		t.Fatal(err)
	}
	due(one)
	if err := s.ReconcileSoon(t.Context(), account, two.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("another account's: %v", err)
	}
	all, err := s.Connected(t.Context())
	want := []Subject{{account, one.ID}, {stranger, two.ID}}
	if slices.SortFunc(want, func(a, b Subject) int { return compareIDs(a.Instance, b.Instance) }); err != nil || !reflect.DeepEqual(all, want) {
		t.Errorf("connected are %v, %v, want %v", all, err, want)
	}
}

func compareIDs(a, b tenant.ID) int {
	x, y := uuid.MustParse(string(a)), uuid.MustParse(string(b))
	return slices.Compare(x[:], y[:])
}

// What was found is kept beside the conditions of checks, for its own account.
func TestReconciliationIsKept(t *testing.T) {
	s := NewInstances(openAs(t, pgtest.Database(t), "kmip_control"))
	i, other := connected(t, s, account), connected(t, s, stranger)
	found := engine.Comparison{
		Rows: 3, StandardKeys: 2, Counts: map[engine.FindingKind]int{engine.KeyMissing: 1},
		Findings: []engine.Finding{{Kind: engine.KeyMissing, Object: "object", KeyRef: "ref", Restorable: true}},
	}
	c := Condition{Type: KeysReconciled, Status: False, Reason: "key_missing", Message: "One is missing."}
	set := func(k tenant.KeyManager, rows int) {
		t.Helper()
		found.Rows = rows
		if err := s.SetReconciliation(t.Context(), account, i.ID, k, found, 1500*time.Millisecond, c); err != nil {
			t.Fatal(err)
		}
	}
	set(*i.KeyManager, 3)
	set(newKeyManager(), 9) // settings that it no longer has
	found.Rows = 3
	ready := Condition{Type: KeyManagerReady, Status: True, Reason: "ready", Message: "It is ready."}
	if err := s.SetConditions(t.Context(), account, i.ID, *i.KeyManager, []Condition{ready}); err != nil {
		t.Fatal(err)
	}
	got, err := s.GetReconciliation(t.Context(), account, i.ID)
	if err != nil || !reflect.DeepEqual(got.Found, found) || got.Took != 1500*time.Millisecond || got.FinishedAt.IsZero() {
		t.Errorf("%+v, %v, want %+v", got, err, found)
	}
	standings, err := s.Standings(t.Context(), account, i.ID)
	if err != nil || len(standings[i.ID].Stored) != 2 || standings[i.ID].Stored[1].Reason != "key_missing" {
		t.Errorf("%+v, %v", standings[i.ID], err)
	}
	for name, who := range map[string]Instance{"another's": {Account: stranger, ID: i.ID}, "none yet": other} {
		if _, err := s.GetReconciliation(t.Context(), who.Account, who.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
