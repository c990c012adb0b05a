package pg

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Ledger is what jobs and operators' commands do to the ledger. Its pool's role
// is kmip_control, which becomes kmip_jobs for each transaction; that makes no
// rows but recovered ones. Every call names the tenant and sees its rows alone.
type Ledger struct {
	*Objects
}

var _ engine.Ledger = (*Ledger)(nil)

// NewLedger returns the ledger in a database.
func NewLedger(pool *Pool) *Ledger { return &Ledger{&Objects{pool: pool, jobs: true}} }

// maxUnsettled is how many rows a list has.
const maxUnsettled = 100

// ListUnsettled returns rows whose Create or Destroy nobody finishes any more, those made first first, at most 100: pending ones, one
// hour after their deadline, and those that have been destroying for five
// minutes.
func (l *Ledger) ListUnsettled(ctx context.Context, t tenant.ID) ([]engine.Record, error) {
	var all []engine.Record
	err := l.in(ctx, t, func(q *queries.Queries) error {
		rows, err := q.ListUnsettled(ctx, queries.ListUnsettledParams{Tenant: string(t), Most: maxUnsettled})
		for _, row := range rows {
			r := engine.Record{Phase: engine.Phase(row.Phase), KeyRef: engine.KeyRef(row.KeyRef), Version: row.Version}
			err = errors.Join(err, json.Unmarshal(row.Object, &r.Object), json.Unmarshal(row.Location, &r.Location))
			all = append(all, r)
		}
		return err
	})
	return all, err
}

// Claim makes a pending row live with the standard key that was found, and
// marks it as one that no client was told of. It returns engine.ErrConflict if
// the row is no longer what r says.
func (l *Ledger) Claim(ctx context.Context, t tenant.ID, r engine.Record, found engine.KeyRef) error {
	return l.swap(ctx, t, func(q *queries.Queries) (int64, error) {
		return q.ClaimNobody(ctx, queries.ClaimNobodyParams{Tenant: string(t), ID: string(r.Object.ID), Version: r.Version, KeyRef: string(found)})
	})
}

// Drop removes a pending row without a standard key, or returns
// engine.ErrConflict.
func (l *Ledger) Drop(ctx context.Context, t tenant.ID, r engine.Record) error {
	return l.swap(ctx, t, func(q *queries.Queries) (int64, error) {
		return q.DropPending(ctx, queries.DropPendingParams{Tenant: string(t), ID: string(r.Object.ID), Version: r.Version})
	})
}

// FinishDestroy marks an object as destroyed, whose standard key is deleted, or
// returns engine.ErrConflict.
func (l *Ledger) FinishDestroy(ctx context.Context, t tenant.ID, r engine.Record) error {
	return l.swap(ctx, t, func(q *queries.Queries) (int64, error) {
		return q.FinishDestroy(ctx, queries.FinishDestroyParams{Tenant: string(t), ID: string(r.Object.ID), Version: r.Version})
	})
}

func (l *Ledger) swap(ctx context.Context, t tenant.ID, do func(*queries.Queries) (int64, error)) error {
	return l.in(ctx, t, func(q *queries.Queries) error {
		swapped, err := do(q)
		if err == nil && swapped == 0 {
			return errObjectConflict
		}
		return err
	})
}
