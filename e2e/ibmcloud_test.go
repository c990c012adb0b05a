package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// answer is an HTTP answer with its body read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// decode reads the body as JSON.
func (a answer) decode(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal(a.body, into); err != nil {
		t.Fatalf("status %d, body %q: %v", a.status, a.body, err)
	}
}

// call makes an HTTP request; body may be nil, a string or something for JSON.
func call(t *testing.T, method, address string, header map[string]string, body any) answer {
	t.Helper()
	var content io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		content = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, address, content)
	if err != nil {
		t.Fatal(err)
	}
	if content != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 8<<20))
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, text}
}

// token exchanges an API key at IAM.
func token(t *testing.T, iam, apiKey string) string {
	t.Helper()
	form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {apiKey}}
	a := call(t, http.MethodPost, iam+"/identity/token", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, form.Encode())
	var got struct {
		AccessToken string `json:"access_token"`
	}
	a.decode(t, &got)
	if a.status != http.StatusOK || got.AccessToken == "" {
		t.Fatalf("token: status %d, %s", a.status, a.body)
	}
	return got.AccessToken
}

// keyProtect is one Key Protect instance as a customer uses it.
type keyProtect struct {
	base, instance, token string
}

func (k keyProtect) call(t *testing.T, method, path string, body any) answer {
	t.Helper()
	return call(t, method, k.base+"/api/v2"+path, map[string]string{
		"Authorization": "Bearer " + k.token, "Bluemix-Instance": k.instance, "Prefer": "return=representation",
	}, body)
}

// key is what the tests need of a Key Protect key.
type key struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	State       int    `json:"state"`
	Extractable bool   `json:"extractable"`
	Payload     string `json:"payload"`
}

func keysOf(t *testing.T, a answer) []key {
	t.Helper()
	var envelope struct {
		Resources []key `json:"resources"`
	}
	a.decode(t, &envelope)
	return envelope.Resources
}

// createRootKey makes a root key and returns its id.
func (k keyProtect) createRootKey(t *testing.T) string {
	t.Helper()
	a := k.call(t, http.MethodPost, "/keys", map[string]any{
		"metadata": map[string]any{"collectionType": "application/vnd.ibm.kms.key+json", "collectionTotal": 1},
		"resources": []any{map[string]any{
			"type": "application/vnd.ibm.kms.key+json", "name": "e2e-" + uuid.NewString()[:8], "extractable": false,
		}},
	})
	if a.status != http.StatusCreated {
		t.Fatalf("creating a root key: status %d, %s", a.status, a.body)
	}
	return keysOf(t, a)[0].ID
}

// find returns the keys with exactly this name, deleted ones included.
func (k keyProtect) find(t *testing.T, name string) []key {
	t.Helper()
	var found []key
	for offset := 0; ; offset += 200 {
		page := keysOf(t, k.call(t, http.MethodGet, fmt.Sprintf("/keys?state=0,1,2,3,5&limit=200&offset=%d", offset), nil))
		for _, one := range page {
			if one.Name == name {
				found = append(found, one)
			}
		}
		if len(page) < 200 {
			return found
		}
	}
}

// delete deletes a key as the customer does.
func (k keyProtect) delete(t *testing.T, id string) {
	t.Helper()
	if a := k.call(t, http.MethodDelete, "/keys/"+id, nil); a.status != http.StatusOK && a.status != http.StatusNoContent {
		t.Fatalf("deleting key %s: status %d, %s", id, a.status, a.body)
	}
}

// claims reads a token's claims without checking it.
func claims(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("a token has %d parts", len(parts))
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	return c
}
