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
)

// authorityKeyPurpose is the sealing purpose of the keys of instances' own
// authorities; the owner is the instance.
const authorityKeyPurpose = "client-authority-key" //nolint:gosec // a purpose, not a credential

const (
	clientYears    = 2
	authorityYears = 10
	// issuedKeyBits is the length of the RSA keys that are made here: 128 bits
	// of strength, for use beyond 2030 (NIST SP 800-57 part 1, table 4).
	issuedKeyBits = 3072
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
	key, err := rsa.GenerateKey(rand.Reader, issuedKeyBits)
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
	now := h.now()
	template.NotBefore, template.NotAfter = now.Add(-time.Minute), now.AddDate(clientYears, 0, 0)
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	template.BasicConstraintsValid = true
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
		if made, err = newAuthority(ring, instance, h.now()); err == nil {
			kept, err = h.instances.KeepClientAuthority(ctx, instance.Account, instance.ID, made, until)
		}
	}
	if err != nil {
		return nil, nil, orNoInstance(err)
	}
	certificate, err := x509.ParseCertificate(kept.Certificate)
	if err != nil {
		return nil, nil, err
	}
	der, err := ring.Open(authorityKeyPurpose, string(instance.ID), kept.SealedKey)
	if err != nil {
		return nil, nil, err
	}
	defer der.Wipe()
	key, err := x509.ParsePKCS8PrivateKey(der.Reveal())
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, nil, errors.New("the key of an instance's authority is not readable") // the parser's own words may quote it
	}
	return certificate, signer, nil
}

// newAuthority makes an authority for the clients of one instance.
func newAuthority(ring *secret.Keyring, instance pg.Instance, now time.Time) (pg.Authority, error) {
	key, err := rsa.GenerateKey(rand.Reader, issuedKeyBits)
	if err != nil {
		return pg.Authority{}, err
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "KMIP clients of " + string(instance.ID)}, // 52 characters; X.520 allows 64
		NotBefore: now.Add(-time.Minute), NotAfter: now.AddDate(authorityYears, 0, 0).UTC().Truncate(time.Second),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, MaxPathLenZero: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return pg.Authority{}, err
	}
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return pg.Authority{}, err
	}
	private := secret.Of(plain)
	defer private.Wipe()
	sealed, err := ring.Seal(authorityKeyPurpose, string(instance.ID), private)
	return pg.Authority{Certificate: der, SealedKey: sealed, NotAfter: template.NotAfter}, err
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
