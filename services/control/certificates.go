package control

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

// Limits of a client certificate. crypto/tls refuses RSA keys above the upper
// bound.
const (
	maxPEM     = 16 << 10 // characters
	minRSABits = 2048
	maxRSABits = 8192
	minECBits  = 256
)

// CreateInstanceClientCertificate allows a client certificate.
func (h *handlers) CreateInstanceClientCertificate(ctx context.Context, request server.CreateInstanceClientCertificateRequestObject) (server.CreateInstanceClientCertificateResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	certificate, certErr := clientCertificate(request.Body.Certificate, h.now())
	if err := errors.Join(checkName(request.Body.Name), certErr); err != nil {
		return nil, err
	}
	added, err := h.instances.AddCertificate(ctx, instance.Account, instance.ID, pg.Certificate{
		Name: request.Body.Name, DER: certificate.Raw, NotBefore: certificate.NotBefore, NotAfter: certificate.NotAfter,
	})
	switch {
	case errors.Is(err, pg.ErrNameTaken):
		return nil, inField("name", fault.Exists, "This instance has a client certificate named `%s` already. Choose another name.", request.Body.Name)
	case errors.Is(err, pg.ErrFingerprintTaken):
		return nil, inField("certificate", fault.Exists,
			"This certificate is in use already: one certificate can belong to one instance only. Make a new certificate in vCenter and add that.")
	case err != nil:
		return nil, orNoInstance(err)
	}
	nodes, err := h.instances.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	return server.CreateInstanceClientCertificate201JSONResponse{
		Body:    certificateModel(added, nodes),
		Headers: server.CreateInstanceClientCertificate201ResponseHeaders{Location: "/v1/instances/" + string(instance.ID) + "/client_certificates/" + added.ID},
	}, nil
}

// ListInstanceClientCertificates lists an instance's client certificates.
func (h *handlers) ListInstanceClientCertificates(ctx context.Context, request server.ListInstanceClientCertificatesRequestObject) (server.ListInstanceClientCertificatesResponseObject, error) {
	if !identifier.MatchString(request.ID) {
		return nil, errNoInstance
	}
	all, err := h.instances.ListCertificates(ctx, exchangeOf(ctx).caller.Account, tenant.ID(request.ID))
	if err != nil {
		return nil, orNoInstance(err)
	}
	nodes, err := h.instances.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]api.ClientCertificate, 0, len(all))
	for _, c := range all {
		list = append(list, certificateModel(c, nodes))
	}
	return server.ListInstanceClientCertificates200JSONResponse{ClientCertificates: list}, nil
}

// DeleteInstanceClientCertificate removes a client certificate.
func (h *handlers) DeleteInstanceClientCertificate(ctx context.Context, request server.DeleteInstanceClientCertificateRequestObject) (server.DeleteInstanceClientCertificateResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	missing := fault.New(fault.NotFound, "This instance has no client certificate with this id.")
	if !identifier.MatchString(request.CertificateID) {
		return nil, missing
	}
	if err := h.instances.DeleteCertificate(ctx, instance.Account, instance.ID, request.CertificateID); err != nil {
		if fault.KindOf(err) == fault.NotFound {
			return nil, missing
		}
		return nil, err
	}
	return server.DeleteInstanceClientCertificate204Response{}, nil
}

func certificateModel(c pg.Certificate, nodes []pg.Node) api.ClientCertificate {
	return api.ClientCertificate{
		ID: c.ID, Name: c.Name, Fingerprint: c.Fingerprint.String(),
		Certificate: certificatePEM(c.DER),
		NotBefore:   timestamp(c.NotBefore), NotAfter: timestamp(c.NotAfter), CreatedAt: timestamp(c.CreatedAt),
		InForce: inForce(nodes, c.Revision),
	}
}

// clientCertificate reads the one certificate of a PEM text and checks that a
// node can admit it.
func clientCertificate(text string, now time.Time) (*x509.Certificate, error) {
	wrong := func(kind fault.Kind, format string, args ...any) (*x509.Certificate, error) {
		return nil, inField("certificate", kind, format, args...)
	}
	const paste = "Paste the public certificate, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----."
	switch {
	case strings.TrimSpace(text) == "":
		return wrong(fault.Missing, "Field `certificate` is missing. "+paste)
	case len(text) > maxPEM:
		return wrong(fault.Invalid, "Field `certificate` is longer than %d characters. "+paste, maxPEM)
	case strings.Contains(text, "PRIVATE KEY"):
		return wrong(fault.Invalid, "Field `certificate` holds a private key. "+paste+
			" The key was not stored; as it has left vCenter, make a new certificate there.")
	}
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return wrong(fault.Invalid, "Field `certificate` is not PEM. "+paste)
	case block.Type != "CERTIFICATE":
		return wrong(fault.Invalid, "Field `certificate` holds a %s. "+paste, shorten(block.Type))
	case bytes.Contains(rest, []byte("-----BEGIN")):
		return wrong(fault.Invalid, "Field `certificate` holds more than one PEM block. Paste the client's own certificate alone, without its chain.")
	case len(bytes.TrimSpace(rest)) > 0, !strings.HasPrefix(strings.TrimSpace(text), "-----BEGIN CERTIFICATE-----"), len(block.Headers) > 0:
		return wrong(fault.Invalid, "Field `certificate` holds text beside the PEM block. "+paste)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, &locatedError{
			target: api.ErrorTarget{Type: api.ErrorTargetTypeField, Name: "certificate"},
			err:    fault.Wrap(fault.Invalid, "Field `certificate` is not an X.509 certificate. Copy it again, whole.", err),
		}
	}
	if !now.Before(certificate.NotAfter) {
		return wrong(fault.Invalid, "The certificate expired at %s. Make a new certificate in vCenter.", certificate.NotAfter.UTC().Format(time.RFC3339))
	}
	switch key := certificate.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return wrong(fault.Invalid, "The certificate's RSA key has %d bits; %d to %d are allowed. Make a new certificate in vCenter.", bits, minRSABits, maxRSABits)
		}
	case *ecdsa.PublicKey:
		if key.Params().BitSize < minECBits {
			return wrong(fault.Invalid, "The certificate's key is on curve %s; P-256, P-384 and P-521 are allowed. Make a new certificate in vCenter.", key.Params().Name)
		}
	default:
		return wrong(fault.Invalid, "The certificate's key is %s; RSA and elliptic curve keys are allowed. Make a new certificate in vCenter.", certificate.PublicKeyAlgorithm)
	}
	return certificate, nil
}
