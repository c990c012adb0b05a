// Package pgtest gives every test a PostgreSQL database of its own with the
// current schema. All tests of a run share one server: the one that
// ./cluster started around `go test`, else one per test binary, which ends
// with it.
package pgtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-migrate/migrate/v4"
	_ "github.com/golang-migrate/migrate/v4/database/pgx/v5" // the scheme pgx5
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/pgcluster"
	"github.com/kmip-for-vmware/kmip/migrations"
)

// Variable is the environment variable with the URL of a server's superuser,
// without password, that the tests of all packages share.
const Variable = "KMIP_TEST_DATABASE_URL"

// owner owns the test databases. It is no superuser: row-level security holds
// for it as it does for the owner in production.
const owner = "kmip_owner"

// Database returns the URL of a fresh, migrated database as its owner. It is
// dropped when the test ends. Without PostgreSQL on this machine the test is
// skipped, or fails if CI=true.
func Database(t testing.TB) string {
	t.Helper()
	s := use(t)
	return s.create(t, s.template)
}

// Empty is Database without the schema, to test migrations with.
func Empty(t testing.TB) string {
	t.Helper()
	return use(t).create(t, "template1")
}

// URL returns the URL of a database that Database returned, as another role.
func URL(t testing.TB, database, role string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	return replace(database, strings.TrimPrefix(u.Path, "/"), role)
}

func replace(server, database, role string) string {
	u, err := url.Parse(server)
	if err != nil {
		return server // the connection will say it better
	}
	u.User, u.Path = url.User(role), "/"+database
	return u.String()
}

// use returns the server, or skips or fails the test.
func use(t testing.TB) *server {
	t.Helper()
	s, err := shared()
	if errors.Is(err, pgcluster.ErrNotInstalled) && os.Getenv("CI") != "true" { //nolint:forbidigo // for tests alone
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// server is a running PostgreSQL with a migrated template.
type server struct {
	superuser string // URL
	template  string // database name
}

// shared finds or starts the server of this run, once per test binary. One
// that is started here ends with this process: pgcluster sees to it.
var shared = sync.OnceValues(func() (*server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	superuser := os.Getenv(Variable) //nolint:forbidigo // from ./cluster, for tests alone
	if superuser == "" {
		c, err := pgcluster.Start(ctx, pgcluster.Config{})
		if err != nil {
			return nil, err
		}
		superuser = c.URL("postgres", "postgres")
	}
	template, err := templateName()
	if err != nil {
		return nil, err
	}
	s := &server{superuser: superuser, template: template}
	return s, s.prepare(ctx)
})

// templateName is that of the database with exactly these migrations.
func templateName() (string, error) {
	sum := sha256.New()
	files, err := fs.Glob(migrations.FS, "*.up.sql")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		text, err := fs.ReadFile(migrations.FS, file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %d\n%s", file, len(text), text)
	}
	return "template_" + hex.EncodeToString(sum.Sum(nil)[:8]), nil
}

// prepare makes owner and template unless another test binary has done so. The
// template gets its name when it is complete.
func (s *server) prepare(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.superuser)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // gives up the lock as well
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock(hashtext('pgtest'))"); err != nil {
		return err
	}
	var done bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", s.template).Scan(&done); err != nil || done {
		return err
	}
	const half = "template_half"
	err = s.do(ctx,
		`DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '`+owner+`') THEN
			CREATE ROLE `+owner+` LOGIN CREATEROLE; END IF; END $$`,
		"DROP DATABASE IF EXISTS "+half+" WITH (FORCE)",
		"CREATE DATABASE "+half+" OWNER "+owner)
	if err != nil {
		return err
	}
	if err := migrateUp(replace(s.superuser, half, owner)); err != nil {
		return err
	}
	return s.do(ctx, "ALTER DATABASE "+half+" RENAME TO "+s.template)
}

func migrateUp(database string) error {
	source, err := iofs.New(migrations.FS, ".")
	if err != nil {
		return err
	}
	m, err := migrate.NewWithSourceInstance("migrations", source, "pgx5"+strings.TrimPrefix(database, "postgres"))
	if err != nil {
		return err
	}
	err = m.Up()
	sourceErr, databaseErr := m.Close()
	return errors.Join(err, sourceErr, databaseErr)
}

// create clones a template for one test.
func (s *server) create(t testing.TB, template string) string {
	t.Helper()
	name := "test_" + strings.ToLower(rand.Text())
	if err := s.do(t.Context(), fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s OWNER %s", name, template, owner)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := s.do(ctx, fmt.Sprintf("DROP DATABASE %s WITH (FORCE)", name)); err != nil {
			t.Error(err)
		}
	})
	return replace(s.superuser, name, owner)
}

func (s *server) do(ctx context.Context, statements ...string) error {
	return execute(ctx, s.superuser, statements...)
}

func execute(ctx context.Context, database string, statements ...string) error {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}
