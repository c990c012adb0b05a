package pg

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

func TestObjectsConform(t *testing.T) {
	enginetest.Objects(t, func(t *testing.T, _, _ tenant.ID) engine.Objects {
		return NewObjects(openAs(t, pgtest.Database(t), "kmip_node"))
	})
}

// Every role but a superuser sees the rows of the tenant that its transaction
// names, and none without a name.
func TestObjectsRowLevelSecurity(t *testing.T) {
	database := pgtest.Database(t)
	objects := NewObjects(openAs(t, database, "kmip_node"))
	mine, other := enginetest.NewTenantID(), enginetest.NewTenantID()
	r := enginetest.NewRecord()
	if err := objects.Create(t.Context(), mine, r); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"kmip_node", "kmip_owner"} {
		c := connectAs(t, database, role)
		for setting, want := range map[string]int{"": 0, string(other): 0, string(mine): 1} {
			if setting != "" {
				run(t, c, "SELECT set_config('kmip.tenant', $1, false)", setting)
			} else {
				run(t, c, "RESET kmip.tenant")
			}
			var rows int
			if err := c.QueryRow(t.Context(), "SELECT count(*) FROM objects").Scan(&rows); err != nil {
				t.Fatal(err)
			}
			if rows != want {
				t.Errorf("%s with setting %q sees %d rows, want %d", role, setting, rows, want)
			}
			tag, err := c.Exec(t.Context(), "UPDATE objects SET version = version")
			if err != nil || tag.RowsAffected() != int64(want) {
				t.Errorf("%s with setting %q changes %d rows (%v), want %d", role, setting, tag.RowsAffected(), err, want)
			}
		}
	}
	c := connectAs(t, database, "kmip_node")
	run(t, c, "SELECT set_config('kmip.tenant', $1, false)", string(mine))
	if _, err := c.Exec(t.Context(), "UPDATE objects SET tenant = $1", string(other)); err == nil {
		t.Error("a row was moved to another tenant")
	}
	for _, forbidden := range []string{"DELETE FROM objects", "SELECT FROM instances", "SELECT configuration_changed(gen_random_uuid())", "ALTER TABLE objects DISABLE ROW LEVEL SECURITY", "UPDATE object_names SET tenant = tenant"} {
		if _, err := c.Exec(t.Context(), forbidden); err == nil {
			t.Errorf("kmip_node may %s", forbidden)
		}
	}
}

func TestPendingDeadlineIsTheDatabases(t *testing.T) {
	database := pgtest.Database(t)
	objects := NewObjects(openAs(t, database, "kmip_node"))
	r := enginetest.NewRecord()
	r.PendingFor = 90 * time.Second
	if err := objects.Create(t.Context(), enginetest.NewTenantID(), r); err != nil {
		t.Fatal(err)
	}
	var seconds float64
	err := superuser(t, database).QueryRow(t.Context(), "SELECT extract(epoch FROM pending_until - created_at)::float8 FROM objects").Scan(&seconds)
	if err != nil || seconds != 90 {
		t.Errorf("the deadline is %v s after the row was made (%v), want 90", seconds, err)
	}
}

func TestUnstorableIdentifierIsNotFound(t *testing.T) {
	objects := NewObjects(openAs(t, pgtest.Database(t), "kmip_node"))
	for _, id := range []kmip.ObjectID{"a\x00b", "a\xffb"} {
		if _, err := objects.Get(t.Context(), enginetest.NewTenantID(), id); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("Get %q: %v, want ErrNotFound", id, err)
		}
		if err := objects.Replace(t.Context(), enginetest.NewTenantID(), engine.Record{Object: kmip.Object{ID: id}}); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("Replace %q: %v, want ErrNotFound", id, err)
		}
	}
}

// A ledger whose connections are cut says Unavailable, and works again
// without being opened anew.
func TestObjectsSurviveLostConnections(t *testing.T) {
	database := pgtest.Database(t)
	pool := openAs(t, database, "kmip_node")
	objects := NewObjects(pool)
	mine, r := enginetest.NewTenantID(), enginetest.NewRecord()
	if err := objects.Create(t.Context(), mine, r); err != nil {
		t.Fatal(err)
	}
	admin := superuser(t, database)
	// In the midst of a transaction.
	tx, err := pool.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cut(t, admin)
	_, err = tx.Exec(t.Context(), "SELECT 1")
	if err := mapError(err); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("a statement on a cut connection: %v, want ErrUnavailable", err)
	}
	_ = tx.Rollback(t.Context())

	name := databaseName(t, database)
	elsewhere := superuser(t, pgtest.URL(t, pgtest.Database(t), "postgres"))
	run(t, elsewhere, "ALTER DATABASE "+name+" CONNECTION LIMIT 0")
	cut(t, admin)
	if _, err := objects.Get(t.Context(), mine, r.Object.ID); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("without a free connection: %v, want ErrUnavailable", err)
	}
	if err := pool.Ping(t.Context()); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("Ping: %v, want ErrUnavailable", err)
	}
	run(t, elsewhere, "ALTER DATABASE "+name+" CONNECTION LIMIT -1")
	if _, err := objects.Get(t.Context(), mine, r.Object.ID); err != nil {
		t.Errorf("after it came back: %v", err)
	}
}

func TestLockedRowIsUnavailable(t *testing.T) {
	database := pgtest.Database(t)
	objects := NewObjects(openAs(t, database, "kmip_node"))
	mine, r := enginetest.NewTenantID(), enginetest.NewRecord()
	if err := objects.Create(t.Context(), mine, r); err != nil {
		t.Fatal(err)
	}
	admin := superuser(t, database)
	run(t, admin, "BEGIN")
	run(t, admin, "SELECT FROM objects FOR UPDATE")
	r.Version = 1
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := objects.Replace(ctx, mine, r); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("Replace of a row that stays locked: %v, want ErrUnavailable", err)
	}
}

// A restart of the server costs no request: connections that wait in the pool
// are replaced before anything is asked over them.
func TestDeadConnectionsAreReplaced(t *testing.T) {
	database := pgtest.Database(t)
	objects := NewObjects(openAs(t, database, "kmip_node"))
	id, r := enginetest.NewTenantID(), enginetest.NewRecord()
	if err := objects.Create(t.Context(), id, r); err != nil {
		t.Fatal(err)
	}
	const connections = 5
	results := make(chan error, connections)
	for range connections {
		go func() {
			_, err := objects.Get(t.Context(), id, r.Object.ID)
			results <- err
		}()
	}
	for range connections {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	cut(t, superuser(t, database))
	if _, err := objects.Get(t.Context(), id, r.Object.ID); err != nil {
		t.Errorf("the first request afterwards: %v", err)
	}
}
