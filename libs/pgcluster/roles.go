package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// EnsureRole makes a role that may log in, unless it is there, and gives it
// Config.Password if there is one.
func (c *Cluster) EnsureRole(ctx context.Context, role string) error {
	return c.asSuperuser(ctx, superuser, func(conn *pgx.Conn) error {
		return c.ensureRole(ctx, conn, role, "LOGIN")
	})
}

// EnsureDatabase makes a database and its owner, unless they are there. The
// owner may make roles, as migrations do, and gets Config.Password.
func (c *Cluster) EnsureDatabase(ctx context.Context, database, owner string) error {
	return c.asSuperuser(ctx, superuser, func(conn *pgx.Conn) error {
		if err := c.ensureRole(ctx, conn, owner, "LOGIN CREATEROLE"); err != nil {
			return err
		}
		return ensure(ctx, conn, "SELECT FROM pg_database WHERE datname = $1", database,
			fmt.Sprintf("CREATE DATABASE %s OWNER %s", identifier(database), identifier(owner)))
	})
}

func (c *Cluster) ensureRole(ctx context.Context, conn *pgx.Conn, role, options string) error {
	err := ensure(ctx, conn, "SELECT FROM pg_roles WHERE rolname = $1", role,
		fmt.Sprintf("CREATE ROLE %s %s", identifier(role), options))
	if err != nil || c.config.Password == "" {
		return err
	}
	password := "'" + strings.ReplaceAll(c.config.Password, "'", "''") + "'"
	_, err = conn.Exec(ctx, fmt.Sprintf("ALTER ROLE %s PASSWORD %s", identifier(role), password))
	return err
}

// ensure runs a statement unless a query about name finds a row.
func ensure(ctx context.Context, conn *pgx.Conn, query, name, statement string) error {
	err := conn.QueryRow(ctx, query, name).Scan()
	if !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return err
}

func identifier(name string) string { return pgx.Identifier{name}.Sanitize() }

// asSuperuser runs do with a connection over the socket.
func (c *Cluster) asSuperuser(ctx context.Context, database string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, c.socketURL(database, superuser))
	if err != nil {
		return err
	}
	return errors.Join(do(conn), conn.Close(ctx))
}
