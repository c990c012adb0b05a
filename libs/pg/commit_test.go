package pg

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/pgcluster"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
)

// TestCommitThatIsNotReplicated has a server whose standby is away stop waiting
// for it: it reports success, and a fail-over would undo what was committed.
func TestCommitThatIsNotReplicated(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	pgtest.Empty(t) // skips the test where there is no PostgreSQL
	cluster, err := pgcluster.Start(t.Context(), pgcluster.Config{Port: port, Password: "secret", Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.Stop(context.WithoutCancel(t.Context())) })
	if err := cluster.EnsureDatabase(t.Context(), "app", "app_owner"); err != nil {
		t.Fatal(err)
	}
	admin, err := pgx.Connect(t.Context(), cluster.SuperuserURL("app"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = admin.Close(context.WithoutCancel(t.Context())) })
	pool, err := Open(t.Context(), Config{URL: cluster.URL("app", "app_owner"), MaxConnections: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	write := func() error {
		return pool.transactTx(t.Context(), pgx.TxOptions{}, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), "CREATE TABLE IF NOT EXISTS kept (n int); INSERT INTO kept VALUES (1)")
			return err
		})
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	run(t, admin, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
	run(t, admin, "SELECT pg_reload_conf()")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for names := ""; names != "nobody"; <-tick.C {
		if err := pool.pool.QueryRow(t.Context(), "SHOW synchronous_standby_names").Scan(&names); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() { done <- write() }()
	for {
		select {
		case err = <-done:
			if fault.KindOf(err) != fault.Unavailable {
				t.Errorf("the commit is answered with %v, want Unavailable", err)
			}
			if err := pool.transact(t.Context(), pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(*queries.Queries) error { return nil }); err != nil {
				t.Errorf("the next transaction: %v", err)
			}
			return
		case <-tick.C:
			run(t, admin, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
		}
	}
}
