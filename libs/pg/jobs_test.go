package pg

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// connected creates an instance of an account with a key manager.
func connected(t *testing.T, s *Instances, account string) Instance {
	t.Helper()
	i := newInstance(t, s, account, "i")
	i, err := s.SetKeyManager(t.Context(), account, i.ID, newKeyManager(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// queued returns the kinds of the jobs that wait, with their instances.
func queued(t *testing.T, admin *pgx.Conn) []string {
	t.Helper()
	rows, err := admin.Query(t.Context(), "SELECT kind || ' ' || coalesce(args ->> 'account', '') || ' ' || coalesce(args ->> 'instance', '') FROM river_job WHERE state = 'available' ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func check(i Instance) string { return "check_key_manager " + i.Account + " " + string(i.ID) }

func sorted(texts ...string) []string {
	slices.Sort(texts)
	return texts
}

// Two processes work one queue: each job is done by one of them, once for each
// part that it wants to do, with the account that it belongs to.
func TestJobsSideBySide(t *testing.T) {
	database := pgtest.Database(t)
	s := NewInstances(openAs(t, database, "kmip_control"))
	const parts = 3
	done := map[Subject]int{}
	for _, account := range []string{account, stranger} {
		i := connected(t, s, account)
		done[Subject{i.Account, i.ID}] = 0
	}
	jobs, more := make(chan Subject), make(chan bool)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 2)
	for range 2 {
		j := NewJobs(openAs(t, database, "kmip_control"), Intervals{Check: time.Hour, Reconcile: time.Hour}, slog.New(slog.DiscardHandler))
		Handle(j, func(_ context.Context, job CheckKeyManager) error {
			jobs <- job.Subject
			if <-more {
				return Again{}
			}
			return nil
		})
		go func() { ended <- j.Run(ctx) }()
	}
	for range parts * len(done) {
		select {
		case s := <-jobs:
			if _, known := done[s]; !known {
				t.Fatalf("a job for %+v", s)
			}
			done[s]++
			more <- done[s] < parts
		case <-time.After(30 * time.Second):
			t.Fatalf("not done within 30 seconds: %v", done)
		}
	}
	stop()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	for s, n := range done {
		if n != parts {
			t.Errorf("%+v was done %d times, want %d", s, n, parts)
		}
	}
}

// A check is due after a change of settings, after its time unless a node has
// used the key manager with success, and at once when it denied something or
// works again. Another tenant's is not.
func TestWhatIsDue(t *testing.T) {
	database := pgtest.Database(t)
	pool := openAs(t, database, "kmip_control")
	s, admin := NewInstances(pool), superuser(t, database)
	node := NewReports(openAs(t, database, "kmip_node"), "node-1")
	mine, other := connected(t, s, account), connected(t, s, stranger)
	newInstance(t, s, account, "without a key manager")
	j := NewJobs(pool, Intervals{Check: time.Hour, Reconcile: time.Hour}, slog.New(slog.DiscardHandler))
	due := func(when string, want ...string) {
		t.Helper()
		if err := j.sweep(t.Context(), sweep{}); err != nil {
			t.Fatal(err)
		}
		if got := queued(t, admin); !slices.Equal(got, sorted(want...)) {
			t.Errorf("%s: %q is due, want %q", when, got, want)
		}
		run(t, admin, "DELETE FROM river_job")
	}
	used := func(served, denied []tenant.ID) {
		t.Helper()
		if err := node.Used(t.Context(), served, denied); err != nil {
			t.Fatal(err)
		}
	}
	well := []Condition{{Type: KeyManagerReady, Status: True, Reason: "ready", Message: "Well."}}
	ill := []Condition{{Type: KeyManagerReady, Status: False, Reason: "root_key_gone", Message: "Ill."}}
	found := func(i Instance, c []Condition) {
		t.Helper()
		if err := s.SetConditions(t.Context(), i.Account, i.ID, *i.KeyManager, c); err != nil {
			t.Fatal(err)
		}
	}
	hour := func() { run(t, admin, "UPDATE key_manager_checks SET due_at = due_at - interval '1 hour'") }

	due("after the first settings", check(mine), check(other))
	due("right after that")
	found(mine, well)
	found(other, well)
	hour()
	used([]tenant.ID{mine.ID}, nil)
	due("an hour later, one in use", check(other))
	used(nil, []tenant.ID{mine.ID})
	due("after a denial", check(mine))
	found(mine, ill)
	used(nil, []tenant.ID{mine.ID})
	due("after another denial, which is no news")
	hour()
	due("an hour later, one ill", check(mine), check(other))
	used([]tenant.ID{mine.ID}, nil)
	due("when it serves again", check(mine))
	if _, err := s.SetKeyManager(t.Context(), account, mine.ID, newKeyManager(), nil); err != nil {
		t.Fatal(err)
	}
	due("after other settings", check(mine), "move_keys "+mine.Account+" "+string(mine.ID))
	if _, err := s.Delete(t.Context(), account, mine.ID, nil); err != nil {
		t.Fatal(err)
	}
	hour()
	due("after one was deleted", check(other))
}

// What is enqueued in a transaction exists if that commits, and once.
func TestEnqueueInTransaction(t *testing.T) {
	database := pgtest.Database(t)
	pool, admin := openAs(t, database, "kmip_control"), superuser(t, database)
	job := CheckKeyManager{Subject{account, "11111111-2222-4333-8444-555555555555"}}
	failure := errors.New("no")
	for _, want := range []error{failure, nil, nil} {
		err := pool.transactTx(t.Context(), pgx.TxOptions{}, func(tx pgx.Tx) error {
			return errors.Join(enqueue(t.Context(), tx, job), want)
		})
		if (want == nil) != (err == nil) || want != nil && len(queued(t, admin)) != 0 {
			t.Errorf("%v: %q", err, queued(t, admin))
		}
	}
	if got := queued(t, admin); len(got) != 1 {
		t.Errorf("queue %q", got)
	}
}

// Conditions keep the time since they hold, take no revision, and are seen and
// written in their own account alone, for the settings that were tried.
func TestConditions(t *testing.T) {
	database := pgtest.Database(t)
	s := NewInstances(openAs(t, database, "kmip_control"))
	i := connected(t, s, account)
	set := func(account string, k tenant.KeyManager, status ConditionStatus, reason, message string) error {
		return s.SetConditions(t.Context(), account, i.ID, k, []Condition{{Type: KeyManagerReady, Status: status, Reason: reason, Message: message}})
	}
	get := func() Condition {
		t.Helper()
		all, err := s.Standings(t.Context(), account, i.ID)
		if err != nil || len(all) != 1 || len(all[i.ID].Stored) != 1 {
			t.Fatalf("%+v, %v", all, err)
		}
		return all[i.ID].Stored[0]
	}
	if err := set(account, *i.KeyManager, False, "root_key_gone", "Gone."); err != nil {
		t.Fatal(err)
	}
	first := get()
	if err := set(account, *i.KeyManager, False, "root_key_gone", "Still gone."); err != nil {
		t.Fatal(err)
	}
	if again := get(); again.Since != first.Since || again.Message != "Still gone." || again.Status != False {
		t.Errorf("%+v, at first %+v", again, first)
	}
	if err := set(stranger, *i.KeyManager, True, "ready", "x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a stranger's condition: %v", err)
	}
	if all, err := s.Standings(t.Context(), stranger, i.ID); err != nil || len(all) != 0 {
		t.Errorf("a stranger's list: %+v, %v", all, err)
	}
	if err := set(account, newKeyManager(), True, "ready", "x"); err != nil || get().Status != False {
		t.Errorf("of other settings: %v, %+v", err, get())
	}
	if err := set(account, *i.KeyManager, True, "ready", "Well."); err != nil {
		t.Fatal(err)
	}
	if last := get(); !last.Since.After(first.Since) {
		t.Errorf("%+v after %+v", last, first)
	}
	now, err := s.Get(t.Context(), account, i.ID)
	if err != nil || now.Revision != i.Revision {
		t.Errorf("revision %d, was %d, %v", now.Revision, i.Revision, err)
	}
}
