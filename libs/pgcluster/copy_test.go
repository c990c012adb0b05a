package pgcluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
)

// TestCopies takes a backup and a standby of a running cluster: the backup has
// what was there, the standby follows until it is promoted.
func TestCopies(t *testing.T) {
	config := Config{Dir: t.TempDir(), Port: freePort(t), Password: "secret", Durable: true}
	primary := start(t, config)
	query(t, primary.SuperuserURL("postgres"), "CREATE ROLE replicator LOGIN REPLICATION PASSWORD 'secret'")
	query(t, primary.SuperuserURL("postgres"), "CREATE TABLE kept AS SELECT 1 AS n")
	backupDir, standbyDir := t.TempDir(), t.TempDir()
	for _, dir := range []string{backupDir, standbyDir} {
		if err := primary.CopyTo(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	follow := fmt.Sprintf("host=127.0.0.1 port=%d user=replicator password=secret", config.Port)
	standby := start(t, Config{Dir: standbyDir, Port: freePort(t), Password: "secret", Durable: true, StandbyOf: follow})

	query(t, primary.SuperuserURL("postgres"), "INSERT INTO kept VALUES (2)")
	const count = "SELECT count(*)::text FROM kept"
	eventually(t, "the standby follows", func() bool { return query(t, standby.SuperuserURL("postgres"), count) == "2" })
	stop(t, primary)
	if got := query(t, standby.SuperuserURL("postgres"), "SELECT pg_promote()::text"); got != "true" {
		t.Fatalf("promoting: %s", got)
	}
	query(t, standby.SuperuserURL("postgres"), "INSERT INTO kept VALUES (3)")
	backup := start(t, Config{Dir: backupDir, Port: config.Port, Password: "secret", Durable: true})
	if got := query(t, backup.SuperuserURL("postgres"), count); got != "1" {
		t.Errorf("the backup has %s rows, want 1", got)
	}
	if conn, err := pgx.Connect(t.Context(), backup.URL("postgres", "replicator")); err != nil {
		t.Error(err)
	} else {
		_ = conn.Close(t.Context())
	}
}

func TestWhoIsCalledOffLeavesNoNote(t *testing.T) {
	needPostgreSQL(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := Start(ctx, Config{Dir: dir}); err == nil {
		stop(t, c)
		t.Fatal("it started")
	}
	if _, err := os.Stat(filepath.Join(dir, PathFile)); !os.IsNotExist(err) {
		t.Errorf("the cluster is said to lie elsewhere: %v", err)
	}
}
