package pg

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// KeyMove is the moving of an instance's keys to another root key.
type KeyMove struct {
	Former  []tenant.KeyManager // settings that keys may still need
	Failed  int                 // keys that could not be moved in the last round
	Message string              // why the last of them could not; empty if none
	// Settled: it began so long ago that no node carries out a request under
	// the former settings.
	Settled bool
}

// GetMove returns the move of an instance that is under way; moving is false if
// none is.
func (s *Instances) GetMove(ctx context.Context, account string, id tenant.ID) (m KeyMove, moving bool, err error) {
	err = s.in(ctx, account, func(q *queries.Queries) error {
		rows, err := q.GetMove(ctx, string(id))
		if err != nil || len(rows) == 0 {
			return err
		}
		moving = true
		m = KeyMove{Failed: int(rows[0].Failed), Message: rows[0].Message, Settled: rows[0].Settled}
		former, err := q.ListFormer(ctx, string(id))
		for _, row := range former {
			m.Former = append(m.Former, tenant.KeyManager{
				Type: tenant.KeyManagerType(row.Type), InstanceCRN: row.InstanceCrn, KeyRing: row.KeyRing, RootKeyID: row.RootKeyID, SealedAPIKey: row.SealedApiKey,
			})
		}
		return err
	})
	return m, moving, err
}

// NoteMove records how many keys could not be moved in a round, and why.
func (s *Instances) NoteMove(ctx context.Context, account string, id tenant.ID, failed int, message string) error {
	return s.change(ctx, account, id, func(q *queries.Queries) error {
		return q.NoteMove(ctx, queries.NoteMoveParams{InstanceID: string(id), Failed: int32(failed), Message: message}) //nolint:gosec // a tenant's keys
	})
}

// FinishMove forgets the former settings, unless the present ones are no longer
// k: then the keys have to be moved on.
func (s *Instances) FinishMove(ctx context.Context, account string, id tenant.ID, k tenant.KeyManager) error {
	return s.change(ctx, account, id, func(q *queries.Queries) error {
		now, err := getInstance(ctx, q, account, id)
		if err != nil || now.KeyManager == nil || !now.KeyManager.Equal(k) {
			return err
		}
		return errors.Join(q.DeleteAllFormer(ctx, string(id)), q.EndMove(ctx, string(id)),
			q.SetInstalled(ctx, queries.SetInstalledParams{Account: account, ID: string(id)}))
	})
}

// beginMove keeps the settings before k for the keys that need them. It does
// nothing if k has the same root key and no key is on its way.
func beginMove(ctx context.Context, q *queries.Queries, id tenant.ID, before *tenant.KeyManager, k tenant.KeyManager) error {
	if before == nil {
		return nil
	}
	// A new credential opens the same instance's former root keys too.
	if err := q.RenewFormer(ctx, queries.RenewFormerParams{InstanceID: string(id), InstanceCrn: k.InstanceCRN, SealedApiKey: k.SealedAPIKey}); err != nil {
		return err
	}
	if before.InstanceCRN == k.InstanceCRN && before.RootKeyID == k.RootKeyID {
		return nil
	}
	sealed := before.SealedAPIKey
	if before.InstanceCRN == k.InstanceCRN {
		sealed = k.SealedAPIKey
	}
	err := q.AddFormer(ctx, queries.AddFormerParams{
		InstanceID: string(id), Type: string(before.Type), InstanceCrn: before.InstanceCRN, KeyRing: before.KeyRing,
		RootKeyID: before.RootKeyID, SealedApiKey: append([]byte{}, sealed...),
	})
	if err != nil {
		return err
	}
	return errors.Join(
		q.DeleteFormer(ctx, queries.DeleteFormerParams{InstanceID: string(id), InstanceCrn: k.InstanceCRN, RootKeyID: k.RootKeyID}),
		q.StartMove(ctx, string(id)))
}

// Elsewhere is a live row whose key is not yet where new ones are put.
type Elsewhere struct {
	engine.Record
	Place int64 // rows made later have a higher one
	// Begun is since when a job may have stored it anew; nil: none began to.
	Begun *time.Time
}

// ListElsewhere returns live rows whose key is not in the key manager and under
// the root key of a location, in the order in which they were made, after a
// place, at most 100.
func (l *Ledger) ListElsewhere(ctx context.Context, t tenant.ID, at engine.Location, after int64) ([]Elsewhere, error) {
	var all []Elsewhere
	err := l.in(ctx, t, func(q *queries.Queries) error {
		rows, err := q.ListElsewhere(ctx, queries.ListElsewhereParams{
			Tenant: string(t), KeyManager: at.KeyManagerCRN, RootKey: at.RootKeyID, After: after, Most: maxUnsettled,
		})
		for _, row := range rows {
			r := Elsewhere{Place: row.Place, Begun: row.MovingSince}
			r.Phase, r.KeyRef, r.Version = engine.Phase(row.Phase), engine.KeyRef(row.KeyRef), row.Version
			err = errors.Join(err, json.Unmarshal(row.Object, &r.Object), json.Unmarshal(row.Location, &r.Location))
			all = append(all, r)
		}
		return err
	})
	return all, err
}

// BeginMoving notes that a job is about to store a row's key anew, or returns
// engine.ErrConflict if the row no longer holds that key.
func (l *Ledger) BeginMoving(ctx context.Context, t tenant.ID, r engine.Record) error {
	return l.swap(ctx, t, func(q *queries.Queries) (int64, error) {
		return q.BeginMoving(ctx, queries.BeginMovingParams{Tenant: string(t), ID: string(r.Object.ID), KeyRef: string(r.KeyRef)})
	})
}

// EndMoving points a row to where its key is now, or returns
// engine.ErrConflict if it is no longer live with the key that r has.
func (l *Ledger) EndMoving(ctx context.Context, t tenant.ID, r engine.Record, ref engine.KeyRef, at engine.Location) error {
	location, err := json.Marshal(at)
	if err != nil {
		return err
	}
	return l.swap(ctx, t, func(q *queries.Queries) (int64, error) {
		return q.EndMoving(ctx, queries.EndMovingParams{
			Tenant: string(t), ID: string(r.Object.ID), Before: string(r.KeyRef), KeyRef: string(ref), Location: location,
		})
	})
}

// Holds tells whether a row names a standard key.
func (l *Ledger) Holds(ctx context.Context, t tenant.ID, id kmip.ObjectID, ref engine.KeyRef) (holds bool, err error) {
	err = l.in(ctx, t, func(q *queries.Queries) error {
		rows, err := q.GetKeyRef(ctx, queries.GetKeyRefParams{Tenant: string(t), ID: string(id)})
		holds = len(rows) == 1 && rows[0] == string(ref)
		return err
	})
	return holds, err
}

// KeysAt is how many of a tenant's keys one version of a root key protects.
type KeysAt struct {
	KeyManagerCRN, RootKeyID, RootKeyVersion string
	Keys                                     int // that are live
	Unfinished                               int // whose Create or Destroy is under way
}

// CountKeys counts a tenant's keys by what protects them.
func (l *Ledger) CountKeys(ctx context.Context, t tenant.ID) ([]KeysAt, error) {
	var all []KeysAt
	err := l.in(ctx, t, func(q *queries.Queries) error {
		rows, err := q.CountKeys(ctx, string(t))
		for _, row := range rows {
			all = append(all, KeysAt{
				KeyManagerCRN: row.KeyManager, RootKeyID: row.RootKeyID, RootKeyVersion: row.RootKeyVersion,
				Keys: int(row.Live), Unfinished: int(row.Unfinished),
			})
		}
		return err
	})
	return all, err
}
