package control

import (
	"context"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/services/control/jobs"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

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
		model.Move = moveModel(move, jobs.ProgressOf(*i.KeyManager, counts))
	}
	return server.GetInstanceKeyManager200JSONResponse(model), nil
}

func moveModel(move pg.KeyMove, p jobs.Progress) *api.KeyMove {
	model := &api.KeyMove{
		Total: int32(p.Total), Done: int32(p.Done), Failed: int32(move.Failed), //nolint:gosec // a tenant's keys
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
	model.Move = moveModel(move, jobs.ProgressOf(*i.KeyManager, counts))
	return model, err
}
