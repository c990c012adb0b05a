package pgtest_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/pgtest"
)

func TestEveryTestHasItsOwnMigratedDatabase(t *testing.T) {
	first, second := pgtest.Database(t), pgtest.Database(t)
	query(t, first, "CREATE TABLE mine (x int)")
	if got := query(t, second, "SELECT coalesce(to_regclass('mine')::text, 'absent')"); got != "absent" {
		t.Errorf("a table of the first database is %s in the second", got)
	}
	if got := query(t, second, "SELECT to_regclass('instances')::text"); got != "instances" {
		t.Errorf("the schema is not there: %q", got)
	}
	if got := query(t, pgtest.URL(t, second, "kmip_node"), "SELECT current_user::text"); got != "kmip_node" {
		t.Errorf("URL logs in as %s", got)
	}
	if got := query(t, second, "SELECT rolsuper::text FROM pg_roles WHERE rolname = current_user"); got != "false" {
		t.Error("the owner is a superuser: row-level security would not hold for it")
	}
	if got := query(t, pgtest.Empty(t), "SELECT coalesce(to_regclass('instances')::text, 'absent')"); got != "absent" {
		t.Errorf("an empty database holds %s", got)
	}
}

func TestDatabaseIsDroppedAfterItsTest(t *testing.T) {
	var inner string
	t.Run("inner", func(t *testing.T) { inner = pgtest.Database(t) })
	if inner == "" {
		t.Skip("no PostgreSQL")
	}
	name := inner[strings.Index(inner, "test_"):strings.Index(inner, "?")]
	if got := query(t, pgtest.Database(t), "SELECT count(*)::text FROM pg_database WHERE datname = '"+name+"'"); got != "0" {
		t.Errorf("database %s is still there", name)
	}
}

func TestDatabasesAtTheSameTime(t *testing.T) {
	pgtest.Database(t) // a skip has to happen here
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { pgtest.Database(t) })
	}
	wg.Wait()
}

func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(got, "\n")
}
