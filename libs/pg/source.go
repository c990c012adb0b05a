package pg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

const (
	pollInterval = 250 * time.Millisecond
	// readTimeout bounds the reading of a delta: a connection that is dead
	// without saying so is given up after it.
	readTimeout = 3 * time.Second
	// snapshotTimeout bounds the reading of a whole cell (100,000 tenants).
	snapshotTimeout = time.Minute
	// maxBackoff is no longer than a poll: a database that is back is heard from
	// as soon as one that was there all the time.
	maxBackoff = pollInterval
)

// Source is the change feed of a cell's configuration. Its pool's role is
// kmip_node.
type Source struct {
	pool *Pool
	log  *slog.Logger
	poll time.Duration
}

var _ tenant.Source = (*Source)(nil)

// NewSource returns the change feed in a database.
func NewSource(pool *Pool) *Source {
	s := &Source{pool: pool, log: pool.log, poll: pollInterval}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// Snapshot implements tenant.Source.
func (s *Source) Snapshot(ctx context.Context) (*tenant.Snapshot, []tenant.Quarantined, error) {
	conn, err := s.connect(ctx, snapshotTimeout)
	if err != nil {
		return nil, nil, mapError(err)
	}
	defer hangUp(conn)
	d, err := readDelta(ctx, conn, tenant.Revision{}, snapshotTimeout)
	if err != nil {
		return nil, nil, mapError(err)
	}
	snapshot, quarantined := tenant.NewSnapshot(d.To, d.Changed, d.Unreadable...)
	return snapshot, quarantined, nil
}

// Watch implements tenant.Source. It listens for notifications on a connection
// of its own and reads the newest revision four times a second besides.
func (s *Source) Watch(ctx context.Context, after tenant.Revision, apply func(tenant.Delta) error) error {
	backoff := backoff{}
	for {
		var final finalError
		err := s.follow(ctx, &after, apply, backoff.reset)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &final):
			return final.error
		}
		pause := backoff.next()
		if pause == minBackoff {
			s.log.WarnContext(ctx, "configuration feed lost its connection, reconnecting", "revision", after.Number, "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// finalError ends Watch: reconnecting would not help.
type finalError struct{ error }

// follow applies changes over one connection until something fails, and moves
// after along. It calls alive whenever the database has answered.
func (s *Source) follow(ctx context.Context, after *tenant.Revision, apply func(tenant.Delta) error, alive func()) error {
	conn, err := s.connect(ctx, readTimeout)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	if err := queries.New(conn).Listen(ctx); err != nil {
		return err
	}
	for {
		d, err := readDelta(ctx, conn, *after, readTimeout)
		if errors.Is(err, tenant.ErrTooOld) {
			return finalError{err}
		}
		if err != nil {
			return err
		}
		alive()
		if err := apply(d); err != nil {
			return finalError{err}
		}
		*after = d.To
		if err := s.wait(ctx, conn); err != nil {
			return err
		}
	}
}

// wait returns at the next notification, or after the poll interval.
func (s *Source) wait(ctx context.Context, conn *pgx.Conn) error {
	waiting, cancel := context.WithTimeout(ctx, s.poll)
	defer cancel()
	_, err := conn.WaitForNotification(waiting)
	if waiting.Err() != nil && ctx.Err() == nil && !conn.IsClosed() {
		return nil
	}
	return err
}

// readDelta reads what changed after a revision, as one consistent state at
// the newest. It returns tenant.ErrTooOld when that revision is not part of
// the database's history.
func readDelta(ctx context.Context, conn *pgx.Conn, after tenant.Revision, timeout time.Duration) (tenant.Delta, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	newest, err := queries.New(conn).NewestRevision(ctx)
	if err != nil || (tenant.Revision{Number: newest.Revision, ID: newest.ID}) == after {
		return tenant.Delta{After: after, To: after}, err
	}
	var d tenant.Delta
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		q := queries.New(tx)
		newest, err := q.NewestRevision(ctx)
		if err != nil {
			return err
		}
		if after != (tenant.Revision{}) {
			if err := checkHistory(ctx, q, after); err != nil {
				return err
			}
		}
		rows, err := q.ConfigurationSince(ctx, after.Number)
		d = decodeDelta(after, tenant.Revision{Number: newest.Revision, ID: newest.ID}, rows)
		return err
	})
	return d, err
}

// checkHistory returns tenant.ErrTooOld unless a revision happened in this
// database under this id. A lower newest number means that it did not.
func checkHistory(ctx context.Context, q *queries.Queries, after tenant.Revision) error {
	happened, err := q.RevisionHappened(ctx, queries.RevisionHappenedParams{Revision: after.Number, ID: after.ID})
	if err == nil && !happened {
		return fmt.Errorf("%w: revision %d with id %s is not in this database's history", tenant.ErrTooOld, after.Number, after.ID)
	}
	return err
}

// connect opens a connection beside the pool, whose statements may take as
// long as timeout.
func (s *Source) connect(ctx context.Context, timeout time.Duration) (*pgx.Conn, error) {
	config := s.pool.pool.Config().ConnConfig
	config.RuntimeParams["statement_timeout"] = fmt.Sprint(timeout.Milliseconds())
	return pgx.ConnectConfig(ctx, config)
}

// hangUp closes a connection that may be dead already.
func hangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

const minBackoff = 20 * time.Millisecond

// backoff doubles the pause between attempts up to maxBackoff.
type backoff struct{ last time.Duration }

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, minBackoff), maxBackoff)
	return b.last
}

func (b *backoff) reset() { b.last = 0 }
