package control

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"time"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/services/control/pasted"
	"github.com/kmip-for-vmware/kmip/services/control/server"
	"github.com/kmip-for-vmware/kmip/services/control/signing"
)

// SignInstanceClientCertificate signs vCenter's request and allows the certificate.
func (h *handlers) SignInstanceClientCertificate(ctx context.Context, request server.SignInstanceClientCertificateRequestObject) (server.SignInstanceClientCertificateResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	csr, csrErr := pasted.SigningRequest(request.Body.CSR)
	if err := errors.Join(checkName(request.Body.Name), locate("csr", csrErr)); err != nil {
		return nil, err
	}
	template := &x509.Certificate{RawSubject: csr.RawSubject}
	if len(csr.Subject.Names) == 0 {
		template = &x509.Certificate{Subject: pkix.Name{CommonName: request.Body.Name}}
	}
	return h.issue(ctx, instance, request.Body.Name, template, csr.PublicKey)
}

// IssueInstanceClientCertificate makes a key pair and a certificate, and allows it. The
// private key is in the answer and nowhere else.
func (h *handlers) IssueInstanceClientCertificate(ctx context.Context, request server.IssueInstanceClientCertificateRequestObject) (server.IssueInstanceClientCertificateResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	name := request.Body.Name
	if err := checkName(name); err != nil {
		return nil, err
	}
	key, err := rsa.GenerateKey(rand.Reader, signing.KeyBits)
	if err != nil {
		return nil, err
	}
	made, err := h.issue(ctx, instance, name, &x509.Certificate{Subject: pkix.Name{CommonName: name}}, key.Public())
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	made.key = secret.Of(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return made, nil
}

// issue signs a certificate for a client's key with the instance's own
// authority and allows it. The template gives the subject.
func (h *handlers) issue(ctx context.Context, instance pg.Instance, name string, template *x509.Certificate, public crypto.PublicKey) (*issued, error) {
	signing.ForClient(template, h.now())
	authority, signer, err := h.clientAuthority(ctx, instance, template.NotAfter)
	if err != nil {
		return nil, err
	}
	// Without a serial number in the template it becomes a random one.
	der, err := x509.CreateCertificate(rand.Reader, template, authority, public, signer)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	made := &issued{authority: certificatePEM(authority.Raw)}
	made.model, made.location, err = h.allow(ctx, instance, name, leaf, "")
	return made, err
}

// clientAuthority returns an instance's own authority, and makes one if there is none
// that lasts until a time. Of several that are made at once the first is kept.
func (h *handlers) clientAuthority(ctx context.Context, instance pg.Instance, until time.Time) (*x509.Certificate, crypto.Signer, error) {
	ring, err := h.manager.ring()
	if err != nil {
		return nil, nil, err
	}
	kept, err := h.instances.ClientAuthority(ctx, instance.Account, instance.ID, until)
	if err == nil && kept == nil {
		var made pg.Authority
		if made, err = signing.NewAuthority(ring, instance.ID, h.now()); err == nil {
			kept, err = h.instances.KeepClientAuthority(ctx, instance.Account, instance.ID, made, until)
		}
	}
	if err != nil {
		return nil, nil, orNoInstance(err)
	}
	return signing.OpenAuthority(ring, instance.ID, *kept)
}

// issued answers with a certificate that was signed here. It writes the JSON
// itself, so that the private key is in no string and can be wiped.
type issued struct {
	model     api.ClientCertificate
	location  string
	authority string        // in PEM
	key       *secret.Bytes // in PEM; nil: the client has it
}

// VisitSignInstanceClientCertificateResponse writes the answer.
func (i *issued) VisitSignInstanceClientCertificateResponse(w http.ResponseWriter) error {
	return i.write(w)
}

// VisitIssueInstanceClientCertificateResponse writes the answer.
func (i *issued) VisitIssueInstanceClientCertificateResponse(w http.ResponseWriter) error {
	return i.write(w)
}

func (i *issued) write(w http.ResponseWriter) error {
	text, err := json.Marshal(struct {
		api.ClientCertificate
		AuthorityCertificate string `json:"authority_certificate"`
	}{i.model, i.authority})
	if err != nil {
		return err
	}
	if i.key != nil {
		defer i.key.Wipe()
		quoted := bytes.ReplaceAll(i.key.Reveal(), []byte("\n"), []byte(`\n`))
		defer clear(quoted)
		text = bytes.Join([][]byte{text[:len(text)-1], []byte(`,"private_key":"`), quoted, []byte(`"}`)}, nil)
		defer clear(text)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Location", i.location)
	w.WriteHeader(http.StatusCreated)
	_, err = w.Write(text)
	return err
}
