package control

import (
	"context"
	"errors"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

// maxQuantity is the most of anything that an estimate takes.
const maxQuantity = 1_000_000

// ListRegions returns the region of this cell.
func (h *handlers) ListRegions(context.Context, server.ListRegionsRequestObject) (server.ListRegionsResponseObject, error) {
	here := api.Region{ID: h.region, KeyManagers: []api.KeyManagerType{}}
	for _, e := range h.endpoints {
		here.Hostnames = append(here.Hostnames, e.HostName)
	}
	for _, t := range []api.KeyManagerType{api.KeyManagerTypeKeyProtect, api.KeyManagerTypeHpcs} {
		if h.manager.served(kmsServices[t], h.region) && (t != api.KeyManagerTypeHpcs || h.dedicated != nil) {
			here.KeyManagers = append(here.KeyManagers, t)
		}
	}
	return server.ListRegions200JSONResponse{Regions: []api.Region{here}}, nil
}

// GetKeyEstimate counts the keys that an environment needs (IBM's manual,
// planning): with vSphere encryption a root key, and a standard key for each
// cluster and each encrypted VM; with vSAN encryption a root key, and two
// standard keys for each cluster.
func (h *handlers) GetKeyEstimate(_ context.Context, request server.GetKeyEstimateRequestObject) (server.GetKeyEstimateResponseObject, error) {
	var problems []error
	quantity := func(name string, given *int32) int32 {
		if given == nil {
			return 0
		}
		if *given < 0 || *given > maxQuantity {
			problems = append(problems, inParameter(name, "Query parameter `%s` has to be a number from 0 to %d.", name, maxQuantity))
		}
		return *given
	}
	vms := quantity("encrypted_vms", request.Params.EncryptedVms)
	vSphere := quantity("vsphere_clusters", request.Params.VsphereClusters)
	vSAN := quantity("vsan_clusters", request.Params.VsanClusters)
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	estimate := api.KeyEstimate{StandardKeys: vms + vSphere + 2*vSAN}
	if vms+vSphere > 0 {
		estimate.RootKeys++
	}
	if vSAN > 0 {
		estimate.RootKeys++
	}
	return server.GetKeyEstimate200JSONResponse(estimate), nil
}
