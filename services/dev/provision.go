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
	rootKeyName = "kmip-root-key"
	// otherRootKeyName is a root key of the same customer that wraps nothing:
	// the proof tries it.
	otherRootKeyName = "unrelated-root-key"
	keyRing          = "default"
)

// instanceName is the name of a customer's instance.
func (c customer) instanceName() string { return fmt.Sprintf("local-%d", c.number) }

// product is the name of what holds the customer's root key.
func (c customer) product() string {
	if c.keyManager.Service == serviceHPCS {
		return "Hyper Protect Crypto Services"
	}
	return "Key Protect"
}

// tenantSetup is a customer's instance, ready for vCenter.
type tenantSetup struct {
	customer
	instance     string // its id
	suspended    bool   // somebody has done so: it can't be played
	rootKey      string
	otherRootKey string
	own          *api.Endpoint // nil: it is reached at the shared endpoints
	servers      [2]client.Config
	clientFiles  clientFiles
	certificate  tls.Certificate // of clientFiles
	service      keyProtect      // the key manager, as somebody sees it who may read its keys
}

// reached says where vCenter finds the tenant.
func (t *tenantSetup) reached() string {
	if t.own == nil {
		return "the shared endpoints"
	}
	return fmt.Sprintf("its own endpoint %s:%d", t.own.Hostname, t.own.Port)
}

// clientFiles are PEM files for a KMIP client.
type clientFiles struct{ certificate, key string }

// clientCertificate makes a certificate as vCenter makes its own, once.
func clientCertificate(f folder, number int, now time.Time) (clientFiles, tls.Certificate, error) {
	files := clientFiles{
		certificate: f.path(certificates, fmt.Sprintf("vcenter-%d.pem", number)),
		key:         f.path(certificates, fmt.Sprintf("vcenter-%d-key.pem", number)),
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
// IAM, the resource controller, the key manager and the REST API, and finds
// what an earlier run has done.
func provision(ctx context.Context, f folder, p ports, ca string, who customer, report func(step, what string)) (*tenantSetup, error) {
	w := newWeb()
	token, err := w.token(ctx, baseURL(p.iam), who.apiKey)
	if err != nil {
		return nil, fmt.Errorf("a token for the customer's administrator: %w", err)
	}
	t := &tenantSetup{customer: who}
	crn, err := w.resourceInstance(ctx, baseURL(p.controller), token, who.keyManager.Name)
	if err != nil {
		return nil, fmt.Errorf("the key manager among the account's instances: %w", err)
	}
	base := baseURL(p.keyProtect)
	if who.keyManager.Service == serviceHPCS {
		base = baseURL(p.hpcs)
	}
	keys := keyProtect{web: w, base: base, instance: who.keyManager.GUID, token: token}
	t.service = keys
	if who.serviceKey != "" {
		if t.service.token, err = w.token(ctx, baseURL(p.iam), who.serviceKey); err != nil {
			return nil, fmt.Errorf("a token for the customer's service ID: %w", err)
		}
	}

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
	instance, err := rest.instance(ctx, who.instanceName())
	if err != nil {
		return nil, err
	}
	t.instance, t.suspended = instance.ID, instance.Suspended
	report("instance", instance.ID)
	if who.serviceKey == "" {
		policy, err := w.serviceAuthorization(ctx, baseURL(p.iam), token, t)
		if err != nil {
			return nil, fmt.Errorf("the service authorization: %w", err)
		}
		report("service authorization", policy)
	}
	if err := rest.keyManager(ctx, instance, crn, t); err != nil {
		return nil, err
	}
	report("key manager", who.keyManager.GUID)
	if t.own, err = rest.ownEndpoint(ctx, t.instance); err != nil {
		return nil, err
	}
	if t.clientFiles, t.certificate, err = clientCertificate(f, who.number, time.Now()); err != nil {
		return nil, err
	}
	if err := rest.clientCertificate(ctx, t); err != nil {
		return nil, err
	}
	report("client certificate", t.certificate.Leaf.Subject.CommonName)
	return t, t.chooseServers(p, ca)
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

// instance returns the customer's instance of a name, created if there is none.
func (r rest) instance(ctx context.Context, name string) (api.Instance, error) {
	list, err := r.ListInstancesWithResponse(ctx, &api.ListInstancesParams{Name: &name})
	if err != nil {
		return api.Instance{}, err
	}
	if list.JSON200 == nil {
		return api.Instance{}, unexpected("GET /v1/instances", list.HTTPResponse, list.Body)
	}
	if len(list.JSON200.Instances) > 0 {
		return list.JSON200.Instances[0], nil
	}
	created, err := r.CreateInstanceWithResponse(ctx, nil, api.InstancePrototype{Name: &name})
	if err != nil {
		return api.Instance{}, err
	}
	if created.JSON202 == nil {
		return api.Instance{}, unexpected("POST /v1/instances", created.HTTPResponse, created.Body)
	}
	return *created.JSON202, nil
}

// keyManager connects the instance to the root key unless it is.
func (r rest) keyManager(ctx context.Context, instance api.Instance, crn string, t *tenantSetup) error {
	if m := instance.KeyManager; m != nil && m.RootKeyID == t.rootKey && m.InstanceCRN == crn {
		return nil
	}
	ring := keyRing
	settings := api.KeyManagerPrototype{Type: api.KeyManagerTypeHpcs, InstanceCRN: crn, KeyRing: &ring, RootKeyID: t.rootKey}
	if t.serviceKey != "" {
		settings.Type, settings.APIKey = api.KeyManagerTypeKeyProtect, &t.serviceKey
	}
	answer, err := r.ReplaceInstanceKeyManagerWithResponse(ctx, instance.ID, settings)
	if err != nil {
		return err
	}
	if answer.JSON200 == nil {
		return unexpected("PUT /v1/instances/{id}/key_manager", answer.HTTPResponse, answer.Body)
	}
	return nil
}

// ownEndpoint returns the endpoint that is the instance's alone, or nil.
func (r rest) ownEndpoint(ctx context.Context, instance string) (*api.Endpoint, error) {
	answer, err := r.ListInstanceEndpointsWithResponse(ctx, instance)
	if err != nil {
		return nil, err
	}
	if answer.JSON200 == nil {
		return nil, unexpected("GET /v1/instances/{id}/endpoints", answer.HTTPResponse, answer.Body)
	}
	if e := answer.JSON200.Endpoints[0]; e.Hostname != sharedNames[0] {
		return &e, nil
	}
	return nil, nil
}

// clientCertificate allows vCenter's certificate unless it is allowed.
func (r rest) clientCertificate(ctx context.Context, t *tenantSetup) error {
	list, err := r.ListInstanceClientCertificatesWithResponse(ctx, t.instance)
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
	created, err := r.CreateInstanceClientCertificateWithResponse(ctx, t.instance, nil, api.ClientCertificatePrototype{
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

// chooseServers makes the two nodes vCenter's two servers of one key provider.
func (t *tenantSetup) chooseServers(p ports, ca string) error {
	text, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return errors.New(ca + " holds no certificate in PEM")
	}
	for i := range t.servers {
		port, name := p.node[i], sharedNames[i]
		if t.own != nil {
			port, name = int(t.own.Port)+i*dedicatedPorts, t.own.Hostname
		}
		t.servers[i] = client.Config{
			Address: address(port), ServerName: name, VerifyName: name, RootCAs: roots, Certificate: &t.certificate,
		}
	}
	return nil
}
