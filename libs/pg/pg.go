// Package pg is PostgreSQL for both planes: the ledger of managed objects, the
// customers' instances, and the change feed between them. Every call names the
// tenant or the account, and sets it in its transaction for row-level security.
package pg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
)

// The limits of every connection in one place.
const (
	defaultConnections = 20
	connectTimeout     = 5 * time.Second
	statementTimeout   = 10 * time.Second
	idleInTransaction  = 10 * time.Second
	lockTimeout        = 5 * time.Second
)

// Config says which database to use.
type Config struct {
	URL            string // postgres://role:password@host:port/database
	MaxConnections int32  // 0: 20
	Log            *slog.Logger
}

// Pool is a set of connections to one database. Safe for concurrent use.
type Pool struct {
	pool *pgxpool.Pool
	log  *slog.Logger
}

// Open returns a pool without waiting for the database: it may be away.
func Open(ctx context.Context, c Config) (*Pool, error) {
	config, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		// pgx's own text may hold the password.
		return nil, errors.New("the database URL can't be read; it has the form postgres://role:password@host:port/database")
	}
	config.MaxConns = defaultConnections
	if c.MaxConnections > 0 {
		config.MaxConns = c.MaxConnections
	}
	config.ConnConfig.ConnectTimeout = connectTimeout
	for name, value := range map[string]string{
		"statement_timeout":                   milliseconds(statementTimeout),
		"idle_in_transaction_session_timeout": milliseconds(idleInTransaction),
		"lock_timeout":                        milliseconds(lockTimeout),
	} {
		config.ConnConfig.RuntimeParams[name] = value
	}
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "kmip"
	}
	config.ConnConfig.OnNotice = func(conn *pgconn.PgConn, n *pgconn.Notice) {
		if doubt, ok := conn.CustomData()[committing].(*atomic.Bool); ok && n.SeverityUnlocalized == "WARNING" {
			doubt.Store(true)
		}
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return &Pool{pool: pool, log: c.Log}, nil
}

func milliseconds(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }

// Close closes all connections.
func (p *Pool) Close() { p.pool.Close() }

// Ping asks whether the database answers.
func (p *Pool) Ping(ctx context.Context) error { return mapError(p.pool.Ping(ctx)) }

// transact runs f in a transaction; its error rolls back. An error of commit
// leaves the outcome unknown and is Unavailable. Within one that ctx carries
// (see enclose) it is a part of that, which decides.
func (p *Pool) transact(ctx context.Context, options pgx.TxOptions, f func(q *queries.Queries) error) error {
	return p.transactTx(ctx, options, func(tx pgx.Tx) error { return f(queries.New(tx)) })
}

// transactTx is transact for what needs the transaction itself.
func (p *Pool) transactTx(ctx context.Context, options pgx.TxOptions, f func(tx pgx.Tx) error) error {
	if outer, inside := ctx.Value(enclosing{}).(pgx.Tx); inside {
		part, err := outer.Begin(ctx) // a savepoint
		if err != nil {
			return mapError(err)
		}
		return finish(ctx, part, f)
	}
	tx, err := p.begin(ctx, options)
	if err != nil {
		return mapError(err)
	}
	return finish(ctx, tx, f)
}

type enclosing struct{}

// enclose is transact for an f whose own calls of the pool, with the context
// that it gets, become parts of this transaction.
func (p *Pool) enclose(ctx context.Context, f func(ctx context.Context, q *queries.Queries) error) error {
	tx, err := p.begin(ctx, pgx.TxOptions{})
	if err != nil {
		return mapError(err)
	}
	return finish(ctx, tx, func(tx pgx.Tx) error { return f(context.WithValue(ctx, enclosing{}, tx), queries.New(tx)) })
}

// finish runs f in tx and ends it.
func finish(ctx context.Context, tx pgx.Tx, f func(tx pgx.Tx) error) error {
	if err := f(tx); err != nil {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
		defer cancel()
		// Rolling back fails only if the connection is gone, which does it too.
		_ = tx.Rollback(end)
		return mapError(err)
	}
	return mapError(commit(ctx, tx))
}

// committing is where a connection has the *atomic.Bool that a warning sets.
const committing = "committing"

var errNotReplicated = errors.New("the server gave up waiting for its standby: a fail-over may undo the transaction")

// commit ends tx. A server that waits for a synchronous standby stops waiting
// when the statement is cancelled, be it by statement_timeout, and then reports
// success with a warning (PostgreSQL, Planning for High Availability). Nothing
// else warns at a commit.
func commit(ctx context.Context, tx pgx.Tx) error {
	doubt := new(atomic.Bool)
	tx.Conn().PgConn().CustomData()[committing] = doubt
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	if doubt.Load() {
		return errNotReplicated
	}
	return nil
}

// begin starts a transaction. When a connection turns out to be dead, all that
// wait in the pool are likely so, because the server was restarted: it lets go
// of them and begins once more on a new one. Nothing was asked for by then.
func (p *Pool) begin(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	tx, err := p.pool.BeginTx(ctx, options)
	if err != nil && ctx.Err() == nil {
		p.pool.Reset()
		tx, err = p.pool.BeginTx(ctx, options)
	}
	return tx, err
}

// mapError gives an error of the driver its kind. Errors that have one already
// stay as they are.
func mapError(err error) error {
	var kinded *fault.Error
	var answer *pgconn.PgError
	switch {
	case err == nil || errors.As(err, &kinded):
		return err
	case errors.Is(err, pgx.ErrNoRows):
		return fault.Wrap(fault.NotFound, "There is no such row.", err)
	case errors.As(err, &answer) && !passes(answer.Code):
		return fmt.Errorf("database: %w", err)
	}
	// No connection, a broken one, a deadline: what was asked may have happened.
	return fault.Wrap(fault.Unavailable, "The database does not answer.", err)
}

// passes tells whether an error code (PostgreSQL, appendix A) is about the
// server's state and not about what was asked.
func passes(code string) bool {
	const (
		serializationFailure = "40001"
		deadlockDetected     = "40P01"
		lockNotAvailable     = "55P03"
		readOnly             = "25006" // a standby answered
	)
	switch code {
	case serializationFailure, deadlockDetected, lockNotAvailable, readOnly:
		return true
	}
	// Connection exception, insufficient resources, operator intervention,
	// system error.
	for _, class := range []string{"08", "53", "57", "58"} {
		if strings.HasPrefix(code, class) {
			return true
		}
	}
	return false
}

// violates tells whether err is the violation of a named constraint.
func violates(err error, constraint string) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && answer.Code == "23505" && answer.ConstraintName == constraint
}
