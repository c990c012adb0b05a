package dev

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// What a customer does in IBM Cloud by hand, and what the proof looks at: IAM's
// tokens and the keys in Key Protect. It shares nothing with the clients that
// the services use, so that it can contradict them.

const (
	keyType     = "application/vnd.ibm.kms.key+json"
	maxAnswer   = 64 << 20
	listPage    = 5000 // the most that Key Protect lists at once
	stateActive = 1
)

// web asks HTTP services and wants one status.
type web struct{ client *http.Client }

func newWeb() web { return web{&http.Client{Timeout: 30 * time.Second}} }

// statusError is an answer with another status than was wanted.
type statusError struct {
	asked  string
	status int
	body   string
}

// Error names the request, the status and the beginning of the body.
func (e *statusError) Error() string {
	return fmt.Sprintf("%s answers %d: %s", e.asked, e.status, e.body[:min(len(e.body), 300)])
}

func (w web) do(req *http.Request, want int) ([]byte, error) {
	resp, err := w.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != want {
		return nil, &statusError{asked: req.Method + " " + req.URL.Path, status: resp.StatusCode, body: string(body)}
	}
	return body, nil
}

// token exchanges an API key for an access token (IAM identity API).
func (w web) token(ctx context.Context, iamURL, apiKey string) (string, error) {
	form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {apiKey}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, iamURL+"/identity/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	body, err := w.do(req, http.StatusOK)
	if err != nil {
		return "", err
	}
	var answer struct {
		Token string `json:"access_token"`
	}
	err = json.Unmarshal(body, &answer)
	if err == nil && answer.Token == "" {
		err = errors.New("IAM's answer holds no access token")
	}
	return answer.Token, err
}

// call makes a request with a bearer token and a JSON body, or none.
func (w web) call(ctx context.Context, method, url, token string, body any, want int) ([]byte, error) {
	req, err := jsonRequest(ctx, method, url, token, body)
	if err != nil {
		return nil, err
	}
	return w.do(req, want)
}

func jsonRequest(ctx context.Context, method, url, token string, body any) (*http.Request, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	return req, nil
}

// resourceInstance returns the CRN of the account's service instance of a name
// (resource controller API v2, list resource instances).
func (w web) resourceInstance(ctx context.Context, controllerURL, token, name string) (string, error) {
	text, err := w.call(ctx, http.MethodGet, controllerURL+"/v2/resource_instances?name="+url.QueryEscape(name), token, nil, http.StatusOK)
	if err != nil {
		return "", err
	}
	var answer struct {
		Resources []struct {
			CRN string `json:"crn"`
		} `json:"resources"`
	}
	err = json.Unmarshal(text, &answer)
	if err == nil && len(answer.Resources) != 1 {
		err = fmt.Errorf("the account has %d instances named %q", len(answer.Resources), name)
	}
	if err != nil {
		return "", err
	}
	return answer.Resources[0].CRN, nil
}

// serviceAuthorization lets the tenant's instance use its key manager (IAM
// policy management API v1). It returns the policy's id.
func (w web) serviceAuthorization(ctx context.Context, policyURL, token string, t *tenantSetup) (string, error) {
	type attribute struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	type attributes struct {
		Attributes []attribute `json:"attributes"`
	}
	type role struct {
		ID string `json:"role_id"`
	}
	type policy struct {
		ID        string       `json:"id,omitempty"`
		Type      string       `json:"type"`
		Subjects  []attributes `json:"subjects"`
		Roles     []role       `json:"roles"`
		Resources []attributes `json:"resources"`
	}
	wanted := policy{
		Type:      "authorization",
		Subjects:  []attributes{{[]attribute{{"accountId", t.account}, {"serviceName", serviceVMware}, {"serviceInstance", t.instance}}}},
		Roles:     []role{{"crn:v1:bluemix:public:iam::::role:Viewer"}, {"crn:v1:bluemix:public:hs-crypto::::serviceRole:VMwareKMIPManager"}},
		Resources: []attributes{{[]attribute{{"accountId", t.account}, {"serviceName", serviceHPCS}, {"serviceInstance", t.keyManager.GUID}}}},
	}
	text, err := w.call(ctx, http.MethodGet, policyURL+"/v1/policies?type=authorization&account_id="+t.account, token, nil, http.StatusOK)
	if err != nil {
		return "", err
	}
	var there struct {
		Policies []policy `json:"policies"`
	}
	if err := json.Unmarshal(text, &there); err != nil {
		return "", err
	}
	for _, p := range there.Policies {
		if len(p.Subjects) == 1 && slices.Contains(p.Subjects[0].Attributes, attribute{"serviceInstance", t.instance}) {
			return p.ID, nil
		}
	}
	if text, err = w.call(ctx, http.MethodPost, policyURL+"/v1/policies", token, wanted, http.StatusCreated); err != nil {
		return "", err
	}
	err = json.Unmarshal(text, &wanted)
	return wanted.ID, err
}

// keyProtect is one Key Protect or HPCS instance as one caller sees it (Key
// Protect API v2).
type keyProtect struct {
	web
	base, instance, token string
}

// cloudKey is a key in Key Protect.
type cloudKey struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	State       int    `json:"state"`
	Extractable bool   `json:"extractable"` // a standard key; else a root key
	Payload     string `json:"payload"`     // base64; of a standard key, never in a list
}

func (k keyProtect) call(ctx context.Context, method, path string, body any, want int) ([]byte, error) {
	req, err := jsonRequest(ctx, method, k.base+"/api/v2"+path, k.token, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Bluemix-Instance", k.instance)
	return k.do(req, want)
}

func decodeKeys(text []byte) ([]cloudKey, error) {
	var answer struct {
		Resources []cloudKey `json:"resources"`
	}
	err := json.Unmarshal(text, &answer)
	return answer.Resources, err
}

// list returns all keys that are not deleted, and the answers as they came.
func (k keyProtect) list(ctx context.Context) (keys []cloudKey, raw []byte, err error) {
	for offset := 0; ; offset += listPage {
		text, err := k.call(ctx, http.MethodGet, fmt.Sprintf("/keys?limit=%d&offset=%d", listPage, offset), nil, http.StatusOK)
		if err != nil {
			return nil, nil, err
		}
		page, err := decodeKeys(text)
		if err != nil {
			return nil, nil, err
		}
		keys, raw = append(keys, page...), append(raw, text...)
		if len(page) < listPage {
			return keys, raw, nil
		}
	}
}

// get returns one key, a standard key with its payload.
func (k keyProtect) get(ctx context.Context, id string) (cloudKey, error) {
	text, err := k.call(ctx, http.MethodGet, "/keys/"+url.PathEscape(id), nil, http.StatusOK)
	if err != nil {
		return cloudKey{}, err
	}
	return oneKey(text)
}

func oneKey(text []byte) (cloudKey, error) {
	keys, err := decodeKeys(text)
	if err == nil && len(keys) != 1 {
		err = fmt.Errorf("an answer of Key Protect holds %d keys, not one", len(keys))
	}
	if err != nil {
		return cloudKey{}, err
	}
	return keys[0], nil
}

// rootKey returns the root key of a name that can be used, made if there is none.
func (k keyProtect) rootKey(ctx context.Context, name string) (cloudKey, error) {
	keys, _, err := k.list(ctx)
	if err != nil {
		return cloudKey{}, err
	}
	for _, key := range keys {
		if key.Name == name && !key.Extractable && key.State == stateActive {
			return key, nil
		}
	}
	text, err := k.call(ctx, http.MethodPost, "/keys", map[string]any{
		"metadata":  map[string]any{"collectionType": keyType, "collectionTotal": 1},
		"resources": []any{map[string]any{"type": keyType, "name": name, "extractable": false}},
	}, http.StatusCreated)
	if err != nil {
		return cloudKey{}, err
	}
	return oneKey(text)
}

// unwrap opens a ciphertext with a root key. The caller wipes the result.
func (k keyProtect) unwrap(ctx context.Context, rootKey, ciphertext string, additionalData []string) (*secret.Bytes, error) {
	body := map[string]any{"ciphertext": ciphertext}
	if additionalData != nil {
		body["aad"] = additionalData
	}
	text, err := k.call(ctx, http.MethodPost, "/keys/"+url.PathEscape(rootKey)+"/actions/unwrap", body, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	var answer struct {
		Plaintext []byte `json:"plaintext"` // base64
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, err
	}
	return secret.Of(answer.Plaintext), nil
}

// payload returns what a standard key holds.
func (key cloudKey) payload() ([]byte, error) { return base64.StdEncoding.DecodeString(key.Payload) }
