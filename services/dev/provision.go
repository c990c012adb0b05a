package dev

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// The names under which every run finds what an earlier one made.
const (
	instanceName = "local-1"
	rootKeyName  = "kmip-root-key"
	// otherRootKeyName is a root key of the same customer that wraps nothing:
	// the proof tries it.
	otherRootKeyName = "unrelated-root-key"
	keyRing          = "default"
)

// tenantSetup is a customer's instance, ready for vCenter.
type tenantSetup struct {
	customer
	instance     string // its id
	rootKey      string
	otherRootKey string
	clientFiles  clientFiles
	certificate  tls.Certificate // of clientFiles
	service      keyProtect      // the key manager as the instance's service ID sees it
}

// clientFiles are PEM files for a KMIP client.
type clientFiles struct{ certificate, key string }

// clientCertificate makes a certificate as vCenter makes its own, once.
func clientCertificate(f folder, now time.Time) (clientFiles, tls.Certificate, error) {
	files := clientFiles{
		certificate: f.path(certificates, "vcenter-1.pem"),
		key:         f.path(certificates, "vcenter-1-key.pem"),
	}
	if pair, err := tls.LoadX509KeyPair(files.certificate, files.key); err == nil && now.Before(pair.Leaf.NotAfter) {
		return files, pair, nil
	}
	certificate, key, err := client.NewCertificate(now)
	if err != nil {
		return files, tls.Certificate{}, err
	}
	if err := writeFile(files.key, key, 0o600); err != nil {
		return files, tls.Certificate{}, err
	}
	if err := writeFile(files.certificate, certificate, 0o644); err != nil {
		return files, tls.Certificate{}, err
	}
	pair, err := tls.LoadX509KeyPair(files.certificate, files.key)
	return files, pair, err
}

// provision does what a customer does, with the customer's API key, through
// IAM, Key Protect and the REST API, and finds what an earlier run has done.
func provision(ctx context.Context, f folder, p ports, who customer, report func(step, what string)) (*tenantSetup, error) {
	w := newWeb()
	token, err := w.token(ctx, baseURL(p.iam), who.apiKey)
	if err != nil {
		return nil, fmt.Errorf("a token for the customer's administrator: %w", err)
	}
	serviceToken, err := w.token(ctx, baseURL(p.iam), who.serviceKey)
	if err != nil {
		return nil, fmt.Errorf("a token for the customer's service ID: %w", err)
	}
	keys := keyProtect{web: w, base: baseURL(p.keyProtect), instance: who.keyManager.GUID, token: token}
	t := &tenantSetup{customer: who, service: keys}
	t.service.token = serviceToken

	root, err := keys.rootKey(ctx, rootKeyName)
	if err != nil {
		return nil, fmt.Errorf("the root key: %w", err)
	}
	report("root key", root.ID)
	other, err := keys.rootKey(ctx, otherRootKeyName)
	if err != nil {
		return nil, fmt.Errorf("a second root key: %w", err)
	}
	t.rootKey, t.otherRootKey = root.ID, other.ID

	rest, err := newREST(baseURL(p.api), token)
	if err != nil {
		return nil, err
	}
	instance, err := rest.instance(ctx)
	if err != nil {
		return nil, err
	}
	t.instance = instance.ID
	report("instance", instance.ID)
	if err := rest.keyManager(ctx, instance, t); err != nil {
		return nil, err
	}
	report("key manager", who.keyManager.GUID)
	if t.clientFiles, t.certificate, err = clientCertificate(f, time.Now()); err != nil {
		return nil, err
	}
	if err := rest.clientCertificate(ctx, t); err != nil {
		return nil, err
	}
	report("client certificate", t.certificate.Leaf.Subject.CommonName)
	return t, nil
}

// rest is the customer's side of the REST API.
type rest struct{ *api.ClientWithResponses }

func newREST(url, token string) (rest, error) {
	c, err := api.NewClientWithResponses(url,
		api.WithHTTPClient(&http.Client{Timeout: time.Minute}),
		api.WithRequestEditorFn(func(_ context.Context, req *http.Request) error {
			req.Header.Set("Authorization", "Bearer "+token)
			return nil
		}))
	return rest{c}, err
}

// unexpected is the error for an answer without the wanted document.
func unexpected(asked string, answer *http.Response, body []byte) error {
	return &statusError{asked: asked, status: answer.StatusCode, body: string(body)}
}

// instance returns the customer's instance, created if there is none.
func (r rest) instance(ctx context.Context) (api.Instance, error) {
	list, err := r.ListInstancesWithResponse(ctx)
	if err != nil {
		return api.Instance{}, err
	}
	if list.JSON200 == nil {
		return api.Instance{}, unexpected("GET /v1/instances", list.HTTPResponse, list.Body)
	}
	for _, instance := range list.JSON200.Instances {
		if instance.Name == instanceName {
			return instance, nil
		}
	}
	name := instanceName
	created, err := r.CreateInstanceWithResponse(ctx, api.InstancePrototype{Name: &name})
	if err != nil {
		return api.Instance{}, err
	}
	if created.JSON202 == nil {
		return api.Instance{}, unexpected("POST /v1/instances", created.HTTPResponse, created.Body)
	}
	return *created.JSON202, nil
}

// keyManager connects the instance to the root key unless it is.
func (r rest) keyManager(ctx context.Context, instance api.Instance, t *tenantSetup) error {
	if m := instance.KeyManager; m != nil && m.RootKeyID == t.rootKey && m.InstanceCRN == t.keyManager.crn() {
		return nil
	}
	ring := keyRing
	answer, err := r.ReplaceKeyManagerWithResponse(ctx, instance.ID, api.KeyManagerPrototype{
		Type: api.KeyManagerTypeKeyProtect, InstanceCRN: t.keyManager.crn(), KeyRing: &ring, RootKeyID: t.rootKey, APIKey: &t.serviceKey,
	})
	if err != nil {
		return err
	}
	if answer.JSON200 == nil {
		return unexpected("PUT /v1/instances/{id}/key_manager", answer.HTTPResponse, answer.Body)
	}
	return nil
}

// clientCertificate allows vCenter's certificate unless it is allowed.
func (r rest) clientCertificate(ctx context.Context, t *tenantSetup) error {
	list, err := r.ListClientCertificatesWithResponse(ctx, t.instance)
	if err != nil {
		return err
	}
	if list.JSON200 == nil {
		return unexpected("GET /v1/instances/{id}/client_certificates", list.HTTPResponse, list.Body)
	}
	fingerprint := tenant.FingerprintOf(t.certificate.Leaf.Raw).String()
	for _, c := range list.JSON200.ClientCertificates {
		if c.Fingerprint == fingerprint {
			return nil
		}
	}
	text, err := os.ReadFile(t.clientFiles.certificate)
	if err != nil {
		return err
	}
	created, err := r.CreateClientCertificateWithResponse(ctx, t.instance, api.ClientCertificatePrototype{
		Name: t.certificate.Leaf.Subject.CommonName, Certificate: string(text),
	})
	if err != nil {
		return err
	}
	if created.JSON201 == nil {
		return unexpected("POST /v1/instances/{id}/client_certificates", created.HTTPResponse, created.Body)
	}
	return nil
}

// servers are the two nodes as vCenter's two servers of one key provider.
func (t *tenantSetup) servers(p ports, ca string) ([2]client.Config, error) {
	text, err := os.ReadFile(ca)
	if err != nil {
		return [2]client.Config{}, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return [2]client.Config{}, errors.New(ca + " holds no certificate in PEM")
	}
	var servers [2]client.Config
	for i := range servers {
		servers[i] = client.Config{
			Address: address(p.node[i]), ServerName: sharedNames[i], VerifyName: sharedNames[i],
			RootCAs: roots, Certificate: &t.certificate,
		}
	}
	return servers, nil
}
