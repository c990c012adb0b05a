package control

import (
	"context"
	"errors"
	"time"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/services/control/server"
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
func (j *jobs) moveKeys(ctx context.Context, job pg.MoveKeys) error {
	i, there, err := j.subject(ctx, job.Subject)
	if !there || err != nil {
		return err
	}
	move, moving, err := j.instances.GetMove(ctx, i.Account, i.ID)
	if !moving || err != nil {
		return err
	}
	// A node that does not know the present settings can't serve what is moved.
	nodes, err := j.instances.Nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Heard && n.Revision < i.Revision {
			return pg.Again{After: moveSoon}
		}
	}
	t := tenantOf(i)
	t.Former = move.Former
	failed, last, err := j.moveRound(ctx, t)
	if err != nil {
		return err
	}
	if failed > 0 {
		return errors.Join(j.instances.NoteMove(ctx, i.Account, i.ID, failed, fault.Public(last)), pg.Again{After: moveLater})
	}
	counts, err := j.ledger.CountKeys(ctx, i.ID)
	if err != nil {
		return err
	}
	if p := progressOf(*i.KeyManager, counts); p.left > 0 || !move.Settled {
		return errors.Join(j.instances.NoteMove(ctx, i.Account, i.ID, 0, ""), pg.Again{After: moveSoon})
	}
	return j.instances.FinishMove(ctx, i.Account, i.ID, *i.KeyManager)
}

// moveRound moves what there is to move, for some time. It returns how many
// keys failed, and why the last of them did.
func (j *jobs) moveRound(ctx context.Context, t *tenant.Tenant) (failed int, last error, err error) {
	to, err := j.reach(t)
	if err != nil {
		return 0, nil, err
	}
	at := j.reacher(t)
	until, wrong := j.now().Add(moveRound), 0
	for after := int64(0); ; {
		rows, err := j.ledger.ListElsewhere(ctx, t.ID, to.Location(), after)
		if err != nil || len(rows) == 0 {
			return failed, last, err
		}
		for _, r := range rows {
			after = r.Place
			switch err := j.moveKey(ctx, t.ID, r, at, to); {
			case err == nil, errors.Is(err, engine.ErrConflict): // or changed meanwhile: the next round sees it
				wrong = 0
			default:
				failed, last = failed+1, err
				j.log.WarnContext(ctx, "a key could not be moved", "tenant", t.ID, "unique_identifier", r.Object.ID, "error", err)
				if wrong++; wrong == movesWrong {
					return failed, last, nil
				}
			}
			if ctx.Err() != nil {
				return 0, nil, ctx.Err()
			}
			if j.now().After(until) {
				return failed, last, pg.Again{}
			}
		}
	}
}

// moveKey moves one key. It may be killed at any point: what was stored and not
// noted is found again. A key whose standard key the customer deleted needs no
// root key; its row moves along, and it stays as gone as it was.
func (j *jobs) moveKey(ctx context.Context, t tenant.ID, r pg.Elsewhere, reach func(engine.Location) (engine.KeyManager, error), to engine.KeyManager) error {
	from, err := reach(r.Location)
	if err != nil {
		return err
	}
	if r.Begun != nil {
		ref, at, err := engine.Moved(ctx, t, r.Record, to, *r.Begun)
		if err == nil {
			return j.point(ctx, t, r.Record, ref, at, to)
		}
		if !errors.Is(err, engine.ErrNotFound) {
			return err
		}
	}
	if err := j.ledger.BeginMoving(ctx, t, r.Record); err != nil {
		return err
	}
	ref, at, err := engine.Move(ctx, t, r.Record, from, to)
	if errors.Is(err, engine.ErrGone) {
		return j.ledger.EndMoving(ctx, t, r.Record, r.KeyRef, to.Location())
	}
	if err != nil {
		return err
	}
	return j.point(ctx, t, r.Record, ref, at, to)
}

// point lets a row name the standard key that was made for it. If another job
// was faster, or the object was destroyed meanwhile, nothing needs that standard
// key, unless it is the very one that the other job has found.
func (j *jobs) point(ctx context.Context, t tenant.ID, r engine.Record, ref engine.KeyRef, at engine.Location, to engine.KeyManager) error {
	err := j.ledger.EndMoving(ctx, t, r, ref, at)
	if !errors.Is(err, engine.ErrConflict) {
		return err
	}
	if held, err := j.ledger.Holds(ctx, t, r.Object.ID, ref); held || err != nil {
		return err
	}
	return to.Delete(ctx, ref)
}

// progress is how far the keys of an instance have come to its present root key.
type progress struct {
	total, done int // live keys
	left        int // keys, and Creates and Destroys under way, that need former settings
}

func progressOf(k tenant.KeyManager, counts []pg.KeysAt) (p progress) {
	for _, c := range counts {
		p.total += c.Keys
		if c.KeyManagerCRN == k.InstanceCRN && c.RootKeyID == k.RootKeyID {
			p.done += c.Keys
		} else {
			p.left += c.Keys + c.Unfinished
		}
	}
	return p
}

// GetInstanceKeyManager returns the settings, what protects how many keys, and
// how far a move has come.
func (h *handlers) GetInstanceKeyManager(ctx context.Context, request server.GetInstanceKeyManagerRequestObject) (server.GetInstanceKeyManagerResponseObject, error) {
	i, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	if i.KeyManager == nil {
		return nil, fault.New(fault.NotFound, "This instance has no key manager yet. Connect it to one with PUT on this path.")
	}
	move, moving, err := h.instances.GetMove(ctx, i.Account, i.ID)
	if err != nil {
		return nil, err
	}
	counts, err := h.ledger.CountKeys(ctx, i.ID)
	if err != nil {
		return nil, err
	}
	model := keyManagerModel(*i.KeyManager)
	model.Keys = &api.KeyCount{ByRootKeyVersion: []api.KeysByRootKeyVersion{}}
	for _, c := range counts {
		if c.Keys > 0 && c.RootKeyVersion != "" { // none protects those that the customer deleted before a move
			model.Keys.ByRootKeyVersion = append(model.Keys.ByRootKeyVersion, api.KeysByRootKeyVersion{
				InstanceCRN: c.KeyManagerCRN, RootKeyID: c.RootKeyID, Version: c.RootKeyVersion, Keys: int32(c.Keys), //nolint:gosec // a tenant's keys
			})
		}
	}
	if moving {
		model.Move = moveModel(move, progressOf(*i.KeyManager, counts))
	}
	return server.GetInstanceKeyManager200JSONResponse(model), nil
}

func moveModel(move pg.KeyMove, p progress) *api.KeyMove {
	model := &api.KeyMove{
		Total: int32(p.total), Done: int32(p.done), Failed: int32(move.Failed), //nolint:gosec // a tenant's keys
		FormerRootKeys: []api.RootKeyReference{},
	}
	if move.Message != "" {
		model.Message = &move.Message
	}
	for _, k := range move.Former {
		model.FormerRootKeys = append(model.FormerRootKeys, api.RootKeyReference{InstanceCRN: k.InstanceCRN, RootKeyID: k.RootKeyID})
	}
	return model
}

// showMove adds to the settings that were just changed the move that this may
// have begun.
func (h *handlers) showMove(ctx context.Context, i pg.Instance, model api.KeyManager) (api.KeyManager, error) {
	if i.Status != pg.Configuring {
		return model, nil
	}
	move, moving, err := h.instances.GetMove(ctx, i.Account, i.ID)
	if err != nil || !moving {
		return model, err
	}
	counts, err := h.ledger.CountKeys(ctx, i.ID)
	model.Move = moveModel(move, progressOf(*i.KeyManager, counts))
	return model, err
}
