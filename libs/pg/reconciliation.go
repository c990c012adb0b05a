package pg

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// rowsPage is how many rows ListRows returns at once.
const rowsPage = 1000

// ListRows implements engine.Ledger.
func (l *Ledger) ListRows(ctx context.Context, t tenant.ID, after int64) ([]engine.Row, error) {
	var page []engine.Row
	err := l.in(ctx, t, func(q *queries.Queries) error {
		rows, err := q.ListRows(ctx, queries.ListRowsParams{Tenant: string(t), After: after, Most: rowsPage})
		for _, row := range rows {
			r := engine.Row{Place: row.Place, Overdue: row.Overdue}
			r.Phase, r.KeyRef, r.Recovered, r.Version = engine.Phase(row.Phase), engine.KeyRef(row.KeyRef), row.Recovered, row.Version
			err = errors.Join(err, json.Unmarshal(row.Object, &r.Object), json.Unmarshal(row.Location, &r.Location))
			page = append(page, r)
		}
		return err
	})
	return page, err
}

// RecordedElsewhere implements engine.Ledger, for other tenants that have a key
// manager in common with this one.
func (l *Ledger) RecordedElsewhere(ctx context.Context, t tenant.ID, ids []kmip.ObjectID) (elsewhere []kmip.ObjectID, err error) {
	asked := make([]string, 0, len(ids))
	for _, id := range ids {
		if storable(id) {
			asked = append(asked, string(id))
		}
	}
	err = l.in(ctx, t, func(q *queries.Queries) error {
		rows, err := q.RecordedElsewhere(ctx, queries.RecordedElsewhereParams{Asking: string(t), Asked: asked})
		for _, id := range rows {
			elsewhere = append(elsewhere, kmip.ObjectID(id))
		}
		return err
	})
	return elsewhere, err
}

// ListWithheld returns the tenant's objects that must not be served without the
// ledger, as tenant.Tenant holds them.
func (l *Ledger) ListWithheld(ctx context.Context, t tenant.ID) (ids []string, err error) {
	err = l.in(ctx, t, func(q *queries.Queries) (err error) {
		ids, err = q.ListWithheld(ctx, string(t))
		return err
	})
	return ids, err
}

// Connected returns all instances of the cell that have a key manager.
func (s *Instances) Connected(ctx context.Context) (all []Subject, err error) {
	err = s.pool.transact(ctx, pgx.TxOptions{}, func(q *queries.Queries) error {
		rows, err := q.ListConnected(ctx)
		for _, row := range rows {
			all = append(all, Subject{Account: row.Account, Instance: tenant.ID(row.InstanceID)})
		}
		return err
	})
	return all, err
}

// Reconciliation is what the last comparison of an instance's ledger has found.
type Reconciliation struct {
	Found      engine.Comparison
	Took       time.Duration
	FinishedAt time.Time
}

// SetReconciliation records what a comparison has found, and the condition that
// follows from it, unless the instance has other settings than k by now. It
// takes no revision.
func (s *Instances) SetReconciliation(ctx context.Context, account string, id tenant.ID, k tenant.KeyManager, found engine.Comparison, took time.Duration, c Condition) error {
	document, err := json.Marshal(found)
	if err != nil {
		return err
	}
	return s.change(ctx, account, id, func(q *queries.Queries) error {
		now, err := getInstance(ctx, q, account, id)
		if err != nil || now.KeyManager == nil || !now.KeyManager.Equal(k) {
			return err
		}
		return errors.Join(
			q.PutReconciliation(ctx, queries.PutReconciliationParams{InstanceID: string(id), Found: document, Seconds: took.Seconds()}),
			q.PutCondition(ctx, queries.PutConditionParams{
				InstanceID: string(id), Type: string(c.Type), Status: string(c.Status), Reason: c.Reason, Message: c.Message,
			}))
	})
}

// ReconcileSoon makes an instance's ledger the next to be compared, because
// somebody has changed it.
func (s *Instances) ReconcileSoon(ctx context.Context, account string, id tenant.ID) error {
	return s.change(ctx, account, id, func(q *queries.Queries) error { return q.ReconcileSoon(ctx, string(id)) })
}

// GetReconciliation returns what the last comparison has found, or ErrNotFound.
func (s *Instances) GetReconciliation(ctx context.Context, account string, id tenant.ID) (r Reconciliation, err error) {
	err = s.in(ctx, account, func(q *queries.Queries) error {
		row, err := q.GetReconciliation(ctx, string(id))
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		r.Took, r.FinishedAt = time.Duration(row.Seconds*float64(time.Second)), row.FinishedAt
		return json.Unmarshal(row.Found, &r.Found)
	})
	return r, err
}
