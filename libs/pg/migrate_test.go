package pg

import (
	"strings"
	"testing"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/source/iofs"

	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/migrations"
)

func TestMigrateFromManySides(t *testing.T) {
	database := pgtest.Empty(t)
	const sides = 4
	errs := make(chan error, sides)
	for range sides {
		go func() { errs <- Migrate(t.Context(), database) }()
	}
	for range sides {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := Migrate(t.Context(), database); err != nil {
		t.Errorf("again: %v", err)
	}
}

// Every step can be undone and done again.
func TestMigrationsDownAndUp(t *testing.T) {
	database := pgtest.Database(t)
	source, err := iofs.New(migrations.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	m, err := migrate.NewWithSourceInstance("migrations", source, "pgx5"+strings.TrimPrefix(database, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Down(); err != nil {
		t.Fatal(err)
	}
	var left int
	err = superuser(t, database).QueryRow(t.Context(), `SELECT
		(SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'schema_migrations')
		+ (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)`).Scan(&left)
	if err != nil || left != 0 {
		t.Errorf("%d tables and functions are left, %v", left, err)
	}
	if err := m.Up(); err != nil {
		t.Fatal(err)
	}
	if sourceErr, databaseErr := m.Close(); sourceErr != nil || databaseErr != nil {
		t.Error(sourceErr, databaseErr)
	}
}

func TestMigrateNamesANewerSchema(t *testing.T) {
	database := pgtest.Database(t)
	run(t, superuser(t, database), "UPDATE schema_migrations SET version = 9999")
	if err := Migrate(t.Context(), database); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("got %v", err)
	}
	run(t, superuser(t, database), "UPDATE schema_migrations SET version = 1, dirty = true")
	if err := Migrate(t.Context(), database); err == nil || !strings.Contains(err.Error(), "half-way") {
		t.Errorf("got %v", err)
	}
}
