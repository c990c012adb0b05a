package control

import (
	"context"
	"crypto/x509"
	"errors"
	"mime"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/services/control/pasted"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

// errNoCertificate is the answer for an unknown certificate and for another
// instance's alike.
var errNoCertificate = fault.New(fault.NotFound, "This instance has no client certificate with this id.")

// CreateInstanceClientCertificate allows a client certificate.
func (h *handlers) CreateInstanceClientCertificate(ctx context.Context, request server.CreateInstanceClientCertificateRequestObject) (server.CreateInstanceClientCertificateResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	certificate, certErr := pasted.ClientCertificate(request.Body.Certificate, h.now())
	if err := errors.Join(checkName(request.Body.Name), locate("certificate", certErr)); err != nil {
		return nil, err
	}
	model, location, err := h.allow(ctx, instance, request.Body.Name, certificate, "")
	if err != nil {
		return nil, err
	}
	return server.CreateInstanceClientCertificate201JSONResponse{
		Body: model, Headers: server.CreateInstanceClientCertificate201ResponseHeaders{Location: location},
	}, nil
}

// RotateInstanceClientCertificate allows a client certificate that replaces another.
func (h *handlers) RotateInstanceClientCertificate(ctx context.Context, request server.RotateInstanceClientCertificateRequestObject) (server.RotateInstanceClientCertificateResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	if !identifier.MatchString(request.CertificateID) {
		return nil, errNoCertificate
	}
	certificate, certErr := pasted.ClientCertificate(request.Body.Certificate, h.now())
	if err := errors.Join(checkName(request.Body.Name), locate("certificate", certErr)); err != nil {
		return nil, err
	}
	model, location, err := h.allow(ctx, instance, request.Body.Name, certificate, request.CertificateID)
	if err != nil {
		return nil, err
	}
	return server.RotateInstanceClientCertificate201JSONResponse{
		Body: model, Headers: server.RotateInstanceClientCertificate201ResponseHeaders{Location: location},
	}, nil
}

// allow adds a certificate to an instance, in place of the one with an id if
// that is not empty, and returns its model and path.
func (h *handlers) allow(ctx context.Context, instance pg.Instance, name string, certificate *x509.Certificate, replaced string) (model api.ClientCertificate, location string, err error) {
	c := pg.Certificate{Name: name, DER: certificate.Raw, NotBefore: certificate.NotBefore, NotAfter: certificate.NotAfter}
	var added pg.Certificate
	if replaced == "" {
		added, err = h.instances.AddCertificate(ctx, instance.Account, instance.ID, c)
		err = orNoInstance(err)
	} else {
		added, err = h.instances.RotateCertificate(ctx, instance.Account, instance.ID, replaced, c)
		err = orNoCertificate(err)
	}
	switch {
	case errors.Is(err, pg.ErrNameTaken):
		return model, "", inField("name", fault.Exists, "This instance has a client certificate named `%s` already. Choose another name.", name)
	case errors.Is(err, pg.ErrFingerprintTaken):
		return model, "", inField("certificate", fault.Exists,
			"This certificate is in use already: one certificate can belong to one instance only. Make a new certificate in vCenter and add that.")
	case errors.Is(err, pg.ErrReplaced):
		return model, "", fault.Wrap(fault.Illegal, "Another certificate replaces this one already, the one that `replaced_by` names. Rotate that one, or remove it first.", err)
	case err != nil:
		return model, "", err
	}
	nodes, err := h.instances.Nodes(ctx)
	return h.certificateModel(added, nodes), "/v1/instances/" + string(instance.ID) + "/client_certificates/" + added.ID, err
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
		list = append(list, h.certificateModel(c, nodes))
	}
	return server.ListInstanceClientCertificates200JSONResponse{ClientCertificates: list}, nil
}

// GetInstanceClientCertificate returns a client certificate, or its PEM alone if the
// caller prefers that.
func (h *handlers) GetInstanceClientCertificate(ctx context.Context, request server.GetInstanceClientCertificateRequestObject) (server.GetInstanceClientCertificateResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	if !identifier.MatchString(request.CertificateID) {
		return nil, errNoCertificate
	}
	c, err := h.instances.GetCertificate(ctx, instance.Account, instance.ID, request.CertificateID)
	if err != nil {
		return nil, orNoCertificate(err)
	}
	if prefersPEM(exchangeOf(ctx).accept) {
		text := certificatePEM(c.DER)
		file := mime.FormatMediaType("attachment", map[string]string{"filename": c.Name + ".pem"})
		return server.GetInstanceClientCertificate200ApplicationXPemFileResponse{
			Body: strings.NewReader(text), ContentLength: int64(len(text)),
			Headers: server.GetInstanceClientCertificate200ResponseHeaders{ContentDisposition: &file},
		}, nil
	}
	nodes, err := h.instances.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	return server.GetInstanceClientCertificate200JSONResponse{Body: h.certificateModel(c, nodes)}, nil
}

// prefersPEM reads an Accept header: whichever of the two forms it names first
// is wanted, and JSON if it names neither.
func prefersPEM(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		switch media, _, _ := mime.ParseMediaType(part); media {
		case "application/x-pem-file":
			return true
		case "application/json", "application/*", "*/*":
			return false
		}
	}
	return false
}

// DeleteInstanceClientCertificate removes a client certificate.
func (h *handlers) DeleteInstanceClientCertificate(ctx context.Context, request server.DeleteInstanceClientCertificateRequestObject) (server.DeleteInstanceClientCertificateResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	if !identifier.MatchString(request.CertificateID) {
		return nil, errNoCertificate
	}
	if err := h.instances.DeleteCertificate(ctx, instance.Account, instance.ID, request.CertificateID); err != nil {
		return nil, orNoCertificate(err)
	}
	return server.DeleteInstanceClientCertificate204Response{}, nil
}

// orNoCertificate gives a store's "not found" the sentence for the customer.
func orNoCertificate(err error) error {
	if fault.KindOf(err) == fault.NotFound {
		return errNoCertificate
	}
	return err
}

func (h *handlers) certificateModel(c pg.Certificate, nodes []pg.Node) api.ClientCertificate {
	const day = 24 * time.Hour
	model := api.ClientCertificate{
		ID: c.ID, Name: c.Name, Fingerprint: c.Fingerprint.String(), Certificate: certificatePEM(c.DER),
		NotBefore: timestamp(c.NotBefore), NotAfter: timestamp(c.NotAfter), CreatedAt: timestamp(c.CreatedAt),
		DaysLeft: int32(max(c.NotAfter.Sub(h.now())/day, 0)), //nolint:gosec // a Duration holds 106,751 days
		InForce:  inForce(nodes, c.Revision),
	}
	if !c.FirstUsedAt.IsZero() {
		first, last := timestamp(c.FirstUsedAt), timestamp(c.LastUsedAt)
		model.FirstUsedAt, model.LastUsedAt = &first, &last
	}
	if c.LastUsedFrom.IsValid() {
		from := c.LastUsedFrom.String()
		model.LastUsedFrom = &from
	}
	if c.ReplacedBy != "" {
		when := "Once the certificate that replaces it has been used and this one was not for 7 days."
		if !c.RemovableAt.IsZero() {
			when = "After " + timestamp(c.RemovableAt).Format(time.RFC3339) + ", unless it is used before."
		}
		model.ReplacedBy, model.RemovedWhen = &c.ReplacedBy, &when
	}
	return model
}
