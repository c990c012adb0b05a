package control

import (
	"context"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

// remedies says for each cause of a refusal what was wrong and what to do. The
// holder of a foreign certificate is never named.
var remedies = map[tenant.Cause]string{
	tenant.NoCertificate:      "The client showed no certificate. In vCenter, let the key server trust vCenter: generate the vCenter certificate, and add it to this instance.",
	tenant.UnknownCertificate: "The client's certificate is not registered. Compare its fingerprint with vCenter's certificate; if it is yours, add that certificate.",
	tenant.ForeignCertificate: "The client's certificate can't be used at this instance. Use this instance's own certificate, or make a new one in vCenter and add that.",
	tenant.ExpiredCertificate: "The client's certificate has expired. Make a new certificate in vCenter and add that.",
	tenant.SuspendedTenant:    "The instance is suspended. Ask the operator of the service.",
	tenant.Unconfigured:       "The instance has no key manager yet. Connect it to one.",
	"no_tls":                  "No TLS connection came about. Let vCenter trust the key server's certificate, and check that the client speaks TLS 1.2 or 1.3.",

	"too_many_connections_of_tenant": "The instance has too many open connections. Find out which clients leave them open.",
	"source_too_fast":                "The client opens connections too fast. Find out what it repeats.",
}

// otherRemedy is for causes that lie in the node.
const otherRemedy = "The node had no room for the connection. The operator of the service sees this too."

// ListInstanceRefusals lists who was turned away at an instance's own name or port.
func (h *handlers) ListInstanceRefusals(ctx context.Context, request server.ListInstanceRefusalsRequestObject) (server.ListInstanceRefusalsResponseObject, error) {
	if !identifier.MatchString(request.ID) {
		return nil, errNoInstance
	}
	all, err := h.instances.ListRefusals(ctx, exchangeOf(ctx).caller.Account, tenant.ID(request.ID))
	if err != nil {
		return nil, orNoInstance(err)
	}
	list := make([]api.Refusal, 0, len(all))
	for _, r := range all {
		model := api.Refusal{
			Cause: string(r.Cause), Message: otherRemedy, Port: int32(r.Port), Count: r.Times,
			FirstAt: timestamp(r.FirstAt), LastAt: timestamp(r.LastAt),
		}
		if remedy, known := remedies[r.Cause]; known {
			model.Message = remedy
		}
		if r.Source.IsValid() {
			source := r.Source.String()
			model.Source = &source
		}
		if r.ServerName != "" {
			model.ServerName = &r.ServerName
		}
		if r.HasClient {
			fingerprint := r.Client.String()
			model.ClientCertificateFingerprint = &fingerprint
		}
		list = append(list, model)
	}
	return server.ListInstanceRefusals200JSONResponse{Refusals: list}, nil
}
