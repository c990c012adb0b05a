//go:build linux

package faults

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// tenant is a customer with an instance.
type tenant struct {
	name, account, apiKey string
	service, keyManager   string // service and GUID of the key manager
	serviceKey            string // API key given to the instance; empty: it has a service authorization
	rootKey               string
	instance              string // its id
	certificate           *tls.Certificate
	servers               [nodeCount]client.Config
	keys                  keys
	settings              settings

	mu      sync.Mutex
	token   string
	fetched time.Time
}

// customerTime ends a customer's request.
const customerTime = 12 * time.Second

var web = &http.Client{Timeout: customerTime}

// statusError is an answer with another status than was wanted.
type statusError struct {
	asked  string
	status int
	body   []byte
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s answers %d: %.300s", e.asked, e.status, e.body)
}

// ask sends a request to one of IBM Cloud's services and reads a JSON answer.
func ask(req *http.Request, answer any) error {
	got, err := web.Do(req)
	if err != nil {
		return err
	}
	defer got.Body.Close()
	body, err := io.ReadAll(got.Body)
	if err != nil {
		return err
	}
	if got.StatusCode/100 != 2 {
		return &statusError{req.Method + " " + req.URL.Path, got.StatusCode, body}
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(body, answer)
}

// bearer returns a token of the customer, from IAM when it has none that is new.
func (x *tenant) bearer(ctx context.Context, c *cell) (string, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.token != "" && time.Since(x.fetched) < tokenLife/2 {
		return x.token, nil
	}
	form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {x.apiKey}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address(c.iam)+"/identity/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := ask(req, &answer); err != nil {
		return "", err
	}
	x.token, x.fetched = answer.Token, time.Now()
	return x.token, nil
}

// cloud asks a service of IBM Cloud in the customer's name.
func (x *tenant) cloud(ctx context.Context, c *cell, method string, port int, path string, body, answer any) error {
	token, err := x.bearer(ctx, c)
	if err != nil {
		return err
	}
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+address(port)+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Bluemix-Instance", x.keyManager)
	return ask(req, answer)
}

// rest returns the customer's side of one control plane's API.
func (x *tenant) rest(c *cell, at int) *api.ClientWithResponses {
	r, err := api.NewClientWithResponses("http://"+address(c.controls[at].api.port()), api.WithHTTPClient(web),
		api.WithRequestEditorFn(func(ctx context.Context, req *http.Request) error {
			token, err := x.bearer(ctx, c)
			req.Header.Set("Authorization", "Bearer "+token)
			return err
		}))
	if err != nil {
		panic(err) // the address is ours
	}
	return r
}

// answered makes an error of an answer that is not the wanted one.
func answered(asked string, got *http.Response, body []byte, want int) error {
	if got.StatusCode != want {
		return &statusError{asked, got.StatusCode, body}
	}
	return nil
}

// provision does what customers do, each with an API key of its own: a root
// key, an instance, its key manager, a client certificate.
func (c *cell) provision(t testing.TB) {
	t.Helper()
	ctx := t.Context()
	for _, x := range c.tenants {
		must(t, x.makeRootKey(ctx, c))
		r := x.rest(c, 0)
		name := "first"
		made, err := r.CreateInstanceWithResponse(ctx, nil, api.InstancePrototype{Name: &name})
		must(t, err)
		must(t, answered("POST instances", made.HTTPResponse, made.Body, http.StatusAccepted))
		x.instance = made.JSON202.ID
		x.settings = settings{name: map[string]bool{name: true}, certificates: map[string]certificateState{}}
		if x.serviceKey == "" {
			must(t, x.authorize(ctx, c))
		}
		must(t, x.connect(ctx, c, 0))
		var text string
		x.certificate, text = clientCertificate(time.Now().AddDate(1, 0, 0))
		certificate, err := r.CreateInstanceClientCertificateWithResponse(ctx, x.instance, nil, api.ClientCertificatePrototype{Name: "first", Certificate: text})
		must(t, err)
		must(t, answered("POST client_certificates", certificate.HTTPResponse, certificate.Body, http.StatusCreated))
		endpoints, err := r.ListInstanceEndpointsWithResponse(ctx, x.instance)
		must(t, err)
		must(t, answered("GET endpoints", endpoints.HTTPResponse, endpoints.Body, http.StatusOK))
		for i, n := range c.nodes {
			l := n.shared
			if x.service == serviceHPCS {
				l = n.own
			}
			host := endpoints.JSON200.Endpoints[0].Hostname
			x.servers[i] = client.Config{Address: address(l.port()), ServerName: host, VerifyName: host, RootCAs: c.roots, Certificate: x.certificate}
		}
		for i := range c.nodes {
			must(t, await(ctx, 20*time.Second, func(ctx context.Context) error {
				return discoverOnce(ctx, x.servers[i])
			}))
		}
	}
}

// discoverOnce asks a node for no more than its versions.
func discoverOnce(ctx context.Context, server client.Config) error {
	ctx, cancel := context.WithTimeout(ctx, clientTime)
	defer cancel()
	conn, err := client.Dial(ctx, server)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.DiscoverVersions(ctx)
	return err
}

func (x *tenant) makeRootKey(ctx context.Context, c *cell) error {
	const kind = "application/vnd.ibm.kms.key+json"
	type object = map[string]any
	var made struct {
		Resources []struct {
			ID string `json:"id"`
		} `json:"resources"`
	}
	err := x.cloud(ctx, c, http.MethodPost, c.keys[x.service], "/api/v2/keys", object{
		"metadata":  object{"collectionType": kind, "collectionTotal": 1},
		"resources": []object{{"type": kind, "name": "root", "extractable": false}},
	}, &made)
	if err == nil && len(made.Resources) != 1 {
		err = errors.New("the key manager made no root key")
	}
	if err == nil {
		x.rootKey = made.Resources[0].ID
	}
	return err
}

// authorize lets the customer's instance use the HPCS instance (IAM policy
// management API v1).
func (x *tenant) authorize(ctx context.Context, c *cell) error {
	type object = map[string]any
	attributes := func(pairs ...string) []object {
		list := make([]object, 0, len(pairs)/2)
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, object{"name": pairs[i], "value": pairs[i+1]})
		}
		return []object{{"attributes": list}}
	}
	return x.cloud(ctx, c, http.MethodPost, c.iam, "/v1/policies", object{
		"type":      "authorization",
		"subjects":  attributes("accountId", x.account, "serviceName", serviceVMware, "serviceInstance", x.instance),
		"resources": attributes("accountId", x.account, "serviceName", serviceHPCS, "serviceInstance", x.keyManager),
		"roles": []object{
			{"role_id": "crn:v1:bluemix:public:iam::::role:Viewer"},
			{"role_id": "crn:v1:bluemix:public:hs-crypto::::serviceRole:VMwareKMIPManager"},
		},
	}, nil)
}

// connect gives the instance its key manager, or gives its API key again.
func (x *tenant) connect(ctx context.Context, c *cell, control int) error {
	ring := "default"
	settings := api.KeyManagerPrototype{
		Type: api.KeyManagerTypeHpcs, KeyRing: &ring, RootKeyID: x.rootKey,
		InstanceCRN: fmt.Sprintf("crn:v1:bluemix:public:%s:%s:a/%s:%s::", x.service, region, x.account, x.keyManager),
	}
	if x.serviceKey != "" {
		settings.Type, settings.APIKey = api.KeyManagerTypeKeyProtect, &x.serviceKey
	}
	got, err := x.rest(c, control).ReplaceInstanceKeyManagerWithResponse(ctx, x.instance, settings)
	if err != nil {
		return err
	}
	return answered("PUT key_manager", got.HTTPResponse, got.Body, http.StatusOK)
}
