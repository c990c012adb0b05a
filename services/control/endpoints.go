package control

import (
	"context"
	"crypto/sha1" //nolint:gosec // shown to compare with what a client shows, beside SHA-256
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

// ListInstanceEndpoints returns the addresses to enter in vCenter.
func (h *handlers) ListInstanceEndpoints(ctx context.Context, request server.ListInstanceEndpointsRequestObject) (server.ListInstanceEndpointsResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	var found []pg.Endpoint
	if instance.Shared {
		found = h.endpoints
	} else {
		found, err = h.instances.ListEndpoints(ctx, instance.Account, instance.ID)
	}
	if err != nil {
		return nil, orNoInstance(err)
	}
	collection := api.EndpointCollection{CACertificate: certificatePEM(h.authority.Raw)}
	for _, e := range found {
		collection.Endpoints = append(collection.Endpoints, h.endpointModel(e))
	}
	return server.ListInstanceEndpoints200JSONResponse(collection), nil
}

// endpointModel shows an endpoint. The authority itself signs every server
// certificate.
func (h *handlers) endpointModel(e pg.Endpoint) api.Endpoint {
	long, short := sha256.Sum256(e.ServerCertificate), sha1.Sum(e.ServerCertificate) //nolint:gosec // as above
	return api.Endpoint{
		Hostname: e.HostName, Port: int32(e.Port),
		CertificateChain:  []string{certificatePEM(e.ServerCertificate), certificatePEM(h.authority.Raw)},
		Sha256Fingerprint: hex.EncodeToString(long[:]), Sha1Fingerprint: hex.EncodeToString(short[:]),
	}
}

func certificatePEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
