package pg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/golang-migrate/migrate/v4"
	_ "github.com/golang-migrate/migrate/v4/database/pgx/v5" // the scheme pgx5
	"github.com/golang-migrate/migrate/v4/source/iofs"

	"github.com/kmip-for-vmware/kmip/migrations"
)

// Migrate brings the schema to the version of this program. The role in the
// URL becomes the owner of what is new; it needs CREATEROLE as long as the
// services' roles are missing. Several may run at the same time. When ctx ends
// it stops after the current step.
func Migrate(ctx context.Context, url string) (err error) {
	_, rest, ok := strings.Cut(url, "://")
	if !ok {
		return errors.New("the database URL does not begin with postgres://")
	}
	source, err := iofs.New(migrations.FS, ".")
	if err != nil {
		return err
	}
	m, err := migrate.NewWithSourceInstance("migrations", source, "pgx5://"+rest)
	if err != nil {
		return mapError(err)
	}
	defer func() {
		sourceErr, databaseErr := m.Close()
		err = errors.Join(err, sourceErr, databaseErr)
	}()
	defer context.AfterFunc(ctx, func() { m.GracefulStop <- true })()

	err = m.Up()
	var half migrate.ErrDirty
	switch {
	case errors.Is(err, migrate.ErrNoChange):
		return nil
	case errors.As(err, &half):
		return fmt.Errorf("migration %d failed half-way before: repair what it left and the table schema_migrations: %w", half.Version, err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the database has a schema that this program does not know, from a newer one: %w", err)
	case err != nil:
		return mapError(err)
	}
	return ctx.Err()
}
