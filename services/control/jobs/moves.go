package jobs

import (
	"context"
	"errors"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// The pace of moves.
const (
	moveRound  = 15 * time.Second // one try of the job; the next goes on
	moveSoon   = time.Second      // until nodes have been asked again
	moveLater  = 10 * time.Second // until keys that failed are tried again
	movesWrong = 3                // failures in a row that end a round
)

// moveKeys stores an instance's keys anew under its present root key, one after
// the other, and forgets the former settings when no key needs them. Clients
// are served all the while: each key by the settings that its row leads to.
func (w *Worker) moveKeys(ctx context.Context, job pg.MoveKeys) error {
	i, there, err := w.subject(ctx, job.Subject)
	if !there || err != nil {
		return err
	}
	move, moving, err := w.Instances.GetMove(ctx, i.Account, i.ID)
	if !moving || err != nil {
		return err
	}
	// A node that does not know the present settings can't serve what is moved.
	nodes, err := w.Instances.Nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Heard && n.Revision < i.Revision {
			return pg.Again{After: moveSoon}
		}
	}
	failed, last, err := w.moveRound(ctx, i.Tenant(move.Former))
	if err != nil {
		return err
	}
	if failed > 0 {
		return errors.Join(w.Instances.NoteMove(ctx, i.Account, i.ID, failed, fault.Public(last)), pg.Again{After: moveLater})
	}
	counts, err := w.Ledger.CountKeys(ctx, i.ID)
	if err != nil {
		return err
	}
	if p := ProgressOf(*i.KeyManager, counts); p.Left > 0 || !move.Settled {
		return errors.Join(w.Instances.NoteMove(ctx, i.Account, i.ID, 0, ""), pg.Again{After: moveSoon})
	}
	return w.Instances.FinishMove(ctx, i.Account, i.ID, *i.KeyManager)
}

// moveRound moves what there is to move, for some time. It returns how many
// keys failed, and why the last of them did.
func (w *Worker) moveRound(ctx context.Context, t *tenant.Tenant) (failed int, last error, err error) {
	to, err := w.Open(t)
	if err != nil {
		return 0, nil, err
	}
	at := w.reacher(t)
	until, wrong := w.Now().Add(moveRound), 0
	for after := int64(0); ; {
		rows, err := w.Ledger.ListElsewhere(ctx, t.ID, to.Location(), after)
		if err != nil || len(rows) == 0 {
			return failed, last, err
		}
		for _, r := range rows {
			after = r.Place
			switch err := w.moveKey(ctx, t.ID, r, at, to); {
			case err == nil, errors.Is(err, engine.ErrConflict): // or changed meanwhile: the next round sees it
				wrong = 0
			default:
				failed, last = failed+1, err
				w.Log.WarnContext(ctx, "a key could not be moved", "tenant", t.ID, "unique_identifier", r.Object.ID, "error", err)
				if wrong++; wrong == movesWrong {
					return failed, last, nil
				}
			}
			if ctx.Err() != nil {
				return 0, nil, ctx.Err()
			}
			if w.Now().After(until) {
				return failed, last, pg.Again{}
			}
		}
	}
}

// moveKey moves one key. It may be killed at any point: what was stored and not
// noted is found again. A key whose standard key the customer deleted needs no
// root key; its row moves along, and it stays as gone as it was.
func (w *Worker) moveKey(ctx context.Context, t tenant.ID, r pg.Elsewhere, reach func(engine.Location) (engine.KeyManager, error), to engine.KeyManager) error {
	from, err := reach(r.Location)
	if err != nil {
		return err
	}
	if r.Begun != nil {
		ref, at, err := engine.Moved(ctx, t, r.Record, to, *r.Begun)
		if err == nil {
			return w.point(ctx, t, r.Record, ref, at, to)
		}
		if !errors.Is(err, engine.ErrNotFound) {
			return err
		}
	}
	if err := w.Ledger.BeginMoving(ctx, t, r.Record); err != nil {
		return err
	}
	ref, at, err := engine.Move(ctx, t, r.Record, from, to)
	if errors.Is(err, engine.ErrGone) {
		return w.Ledger.EndMoving(ctx, t, r.Record, r.KeyRef, to.Location())
	}
	if err != nil {
		return err
	}
	return w.point(ctx, t, r.Record, ref, at, to)
}

// point lets a row name the standard key that was made for it. If another job
// was faster, or the object was destroyed meanwhile, nothing needs that standard
// key, unless it is the very one that the other job has found.
func (w *Worker) point(ctx context.Context, t tenant.ID, r engine.Record, ref engine.KeyRef, at engine.Location, to engine.KeyManager) error {
	err := w.Ledger.EndMoving(ctx, t, r, ref, at)
	if !errors.Is(err, engine.ErrConflict) {
		return err
	}
	if held, err := w.Ledger.Holds(ctx, t, r.Object.ID, ref); held || err != nil {
		return err
	}
	return to.Delete(ctx, ref)
}

// Progress is how far the keys of an instance have come to its present root key.
type Progress struct {
	Total, Done int // live keys
	Left        int // keys, and Creates and Destroys under way, that need former settings
}

// ProgressOf tells by the keys under each root key how many have come to that of k.
func ProgressOf(k tenant.KeyManager, counts []pg.KeysAt) (p Progress) {
	for _, c := range counts {
		p.Total += c.Keys
		if c.KeyManagerCRN == k.InstanceCRN && c.RootKeyID == k.RootKeyID {
			p.Done += c.Keys
		} else {
			p.Left += c.Keys + c.Unfinished
		}
	}
	return p
}
