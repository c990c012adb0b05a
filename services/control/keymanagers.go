package control

import (
	"cmp"
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
	"github.com/kmip-for-vmware/kmip/services/control/ibmcloud"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

// asked is how many key managers are asked for their root keys at once.
const asked = 4

// defaultRing is where root keys of HPCS have to be.
const defaultRing = "default"

// keyManagerType is the type of key managers whose CRNs name a service.
func keyManagerType(service string) (api.KeyManagerType, bool) {
	for kind, name := range kmsServices {
		if name == service {
			return kind, true
		}
	}
	return "", false
}

func isKeyManager(service string) bool {
	_, is := keyManagerType(service)
	return is
}

// ListKeyManagers lists the key managers that the caller sees in IBM Cloud.
func (h *handlers) ListKeyManagers(ctx context.Context, request server.ListKeyManagersRequestObject) (server.ListKeyManagersResponseObject, error) {
	if t := request.Params.Type; t != nil && !t.Valid() {
		return nil, inParameter("type", "Query parameter `type` has to be key_protect or hpcs.")
	}
	found, err := h.cloud.Instances(ctx, exchangeOf(ctx).caller.Account, isKeyManager)
	if err != nil {
		return nil, err
	}
	list := []api.AvailableKeyManager{}
	for _, f := range found {
		kind, _ := keyManagerType(f.CRN.Service)
		if request.Params.Type == nil || *request.Params.Type == kind {
			list = append(list, api.AvailableKeyManager{
				Type: kind, CRN: f.CRN.String(), GUID: f.CRN.Instance, Name: f.Name, Region: f.CRN.Location,
			})
		}
	}
	slices.SortFunc(list, func(a, b api.AvailableKeyManager) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.GUID, b.GUID))
	})
	var asking errgroup.Group
	asking.SetLimit(asked)
	for i := range list {
		asking.Go(func() error {
			reason := h.unusable(ctx, list[i])
			if list[i].Usable = reason == ""; reason != "" {
				list[i].Reason = &reason
			}
			return nil
		})
	}
	_ = asking.Wait() // what is wrong with one is its reason
	return server.ListKeyManagers200JSONResponse{KeyManagers: list}, nil
}

// unusable says why no instance can be connected to a key manager, or "". HPCS
// has to have a root key in the default key ring; in Key Protect one may still
// be made, in any ring.
func (h *handlers) unusable(ctx context.Context, m api.AvailableKeyManager) string {
	switch {
	case m.Region != h.region:
		return "It is in region `" + fault.Shorten(m.Region) + "`. Instances here are in `" + h.region + "` and need a key manager there."
	case m.Type != api.KeyManagerTypeHpcs:
		name, err := crn.Parse(m.CRN)
		if err == nil {
			_, err = h.manager.address(name)
		}
		if err != nil {
			return fault.Public(err)
		}
		return ""
	case h.dedicated == nil:
		return "Hyper Protect Crypto Services can't be used here: this cell has no dedicated endpoints."
	}
	keys, err := h.rootKeys(ctx, m.CRN)
	switch {
	case err != nil:
		return fault.Public(err)
	case !slices.ContainsFunc(keys, func(k keyprotect.RootKey) bool { return unusableKey(m.Type, k) == "" }):
		return "It has no active root key in the key ring `" + defaultRing + "`. Create one there."
	}
	return ""
}

// ListKeyManagerRootKeys lists the root keys of a key manager that the caller
// sees there.
func (h *handlers) ListKeyManagerRootKeys(ctx context.Context, request server.ListKeyManagerRootKeysRequestObject) (server.ListKeyManagerRootKeysResponseObject, error) {
	if !identifier.MatchString(request.GUID) {
		return nil, ibmcloud.ErrNotFound
	}
	m, err := h.cloud.Instance(ctx, exchangeOf(ctx).caller.Account, request.GUID)
	if err != nil {
		return nil, err
	}
	kind, known := keyManagerType(m.CRN.Service)
	if !known {
		return nil, ibmcloud.ErrNotFound
	}
	keys, err := h.rootKeys(ctx, m.CRN.String())
	if err != nil {
		return nil, err
	}
	list := make([]api.RootKey, 0, len(keys))
	for _, k := range keys {
		model := api.RootKey{ID: k.ID, Name: k.Name, KeyRing: k.KeyRing, State: api.RootKeyState(k.State)}
		reason := unusableKey(kind, k)
		if model.Usable = reason == ""; reason != "" {
			model.Reason = &reason
		}
		list = append(list, model)
	}
	return server.ListKeyManagerRootKeys200JSONResponse{RootKeys: list}, nil
}

// rootKeys asks a key manager with the caller's token.
func (h *handlers) rootKeys(ctx context.Context, instanceCRN string) ([]keyprotect.RootKey, error) {
	name, err := crn.Parse(instanceCRN)
	if err != nil {
		return nil, err
	}
	address, err := h.manager.address(name)
	if err != nil {
		return nil, err
	}
	keys, err := keyprotect.RootKeys(ctx, keyprotect.Config{BaseURL: address, InstanceCRN: instanceCRN, Tokens: asCaller{}})
	if fault.KindOf(err) == fault.Denied {
		return nil, fault.Wrap(fault.Denied, "The key manager does not let you list its keys. Ask for the service role Reader on it, or have its crypto units initialized if it is a new HPCS instance.", err)
	}
	return keys, err
}

// unusableKey says why a root key can't protect an instance's keys, or "".
func unusableKey(kind api.KeyManagerType, k keyprotect.RootKey) string {
	switch {
	case k.State == keyprotect.Suspended:
		return "It is disabled. Enable it in the key manager."
	case k.State == keyprotect.Deactivated:
		return "It has expired. Choose another one."
	case k.State != keyprotect.Active:
		return "It is not active yet."
	case kind == api.KeyManagerTypeHpcs && k.KeyRing != defaultRing:
		return "It is in the key ring `" + fault.Shorten(k.KeyRing) + "`. With Hyper Protect Crypto Services it has to be in `" + defaultRing + "`."
	}
	return ""
}
