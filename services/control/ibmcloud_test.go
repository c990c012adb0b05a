package control_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// What the stand-ins know.
const (
	issuer       = "https://iam.cloud.ibm.com/identity"
	kmsInstance  = "11111111-2222-4333-8444-555555555555"
	rootKey      = "99999999-8888-4777-8666-555555555555"
	otherRootKey = "77777777-8888-4777-8666-555555555555"
	canaryAPIKey = "CanaryKey-Zm9yLXRlc3RzLW9ubHk-0123456789"
	kmsToken     = "token-of-the-service-id"
	// The operator's own service ID, which mints tokens for instances.
	serviceAPIKey = "ServiceKey-Zm9yLXRlc3RzLW9ubHk-012345678"
	serviceToken  = "token-of-the-service"
	instanceToken = "token-of-crn-" // and the instance's CRN
)

// ibmCloud plays IAM and Key Protect, as far as the control plane uses them,
// from IBM's public pages.
type ibmCloud struct {
	iam, controller, keyProtect *httptest.Server
	signer                      *rsa.PrivateKey

	mu    sync.Mutex
	keys  map[string]map[string]any // of Key Protect, by id
	calls int                       // to Key Protect
	fault http.HandlerFunc          // answers Key Protect's calls if set
	// refuse gives Key Protect's refusal of a call; 0: it is carried out.
	refuse func(r *http.Request) (status int, code string)
	down   bool // IAM answers 503
	// authorized are CRNs of KMIP instances that have a service authorization.
	authorized map[string]bool

	policies  []policy         // of IAM, active
	resources []map[string]any // of the resource controller
	writer    bool             // the service ID may not delete keys
	trouble   string           // "before" or "after": creating a policy fails then; "late": no list shows it yet
	reads     int              // of policies that name a caller
}

func newIBMCloud(t *testing.T) *ibmCloud {
	t.Helper()
	c := &ibmCloud{signer: rsaKey(t, 2048), keys: map[string]map[string]any{}, authorized: map[string]bool{}}
	c.iam = httptest.NewServer(http.HandlerFunc(c.serveIAM))
	c.keyProtect = httptest.NewServer(http.HandlerFunc(c.serveKeyProtect))
	c.controller = httptest.NewServer(http.HandlerFunc(c.serveController))
	t.Cleanup(c.controller.Close)
	t.Cleanup(c.iam.Close)
	t.Cleanup(c.keyProtect.Close)
	return c
}

// token returns an access token of a user of an account; changes replace
// claims, nil removes one.
func (c *ibmCloud) token(t *testing.T, account string, changes jwt.MapClaims) string {
	t.Helper()
	return sign(t, c.signer, account, changes)
}

func sign(t *testing.T, key *rsa.PrivateKey, account string, changes jwt.MapClaims) string {
	t.Helper()
	claims := jwt.MapClaims{
		"iam_id": "IBMid-270004ABCD", "id": "IBMid-270004ABCD", "realmid": "IBMid", "sub": "ada@example.com", "name": "Ada L",
		"account": map[string]any{"valid": true, "bss": account, "frozen": true},
		"iss":     issuer, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(), "scope": "ibm openid",
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	token.Header["kid"] = "202611010000"
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// setFault makes Key Protect answer every call with h; nil heals it.
func (c *ibmCloud) setFault(h http.HandlerFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = h
}

// setWriter takes the right to delete keys from the service ID, or gives it back.
func (c *ibmCloud) setWriter(writer bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writer = writer
}

// setRefusal makes Key Protect refuse calls; nil heals it.
func (c *ibmCloud) setRefusal(refuse func(r *http.Request) (status int, code string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = refuse
}

// stopIAM makes every call to IAM fail.
func (c *ibmCloud) stopIAM() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = true
}

// authorize gives a KMIP instance a service authorization to Key Protect.
func (c *ibmCloud) authorize(crn string) { c.setAuthorized(crn, true) }

func (c *ibmCloud) setAuthorized(crn string, is bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.authorized[crn] = is
}

// store puts a standard key into Key Protect.
func (c *ibmCloud) store(id, name string, payload []byte, state int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys[id] = map[string]any{
		"id": id, "name": name, "payload": payload, "state": state, "deleted": state == 5, "extractable": true,
		"creationDate": time.Now().UTC().Format(time.RFC3339), "keyRingID": "default",
	}
}

// deleteNamed deletes all standard keys of a name, as the customer may.
func (c *ibmCloud) deleteNamed(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.keys {
		if k["name"] == name {
			k["state"], k["deleted"] = 5, true
		}
	}
}

// asked returns how many calls Key Protect has had.
func (c *ibmCloud) asked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

// left returns the names of keys that are not deleted.
func (c *ibmCloud) left() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for _, k := range c.keys {
		if k["state"] == 1 {
			names = append(names, fmt.Sprint(k["name"]))
		}
	}
	return names
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (c *ibmCloud) serveIAM(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	down := c.down
	c.mu.Unlock()
	if down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /identity/keys":
		b64 := base64.RawURLEncoding.EncodeToString
		answer(w, http.StatusOK, map[string]any{"keys": []any{map[string]any{
			"kty": "RSA", "alg": "RS256", "kid": "202611010000",
			"n": b64(c.signer.N.Bytes()), "e": b64(big.NewInt(int64(c.signer.E)).Bytes()),
		}}})
	case "GET /v1/policies", "POST /v1/policies":
		c.servePolicies(w, r)
	case "POST /identity/token":
		token := map[string]string{canaryAPIKey: kmsToken, serviceAPIKey: serviceToken}[r.PostFormValue("apikey")]
		if crn, ok := strings.CutPrefix(r.PostFormValue("desired_iam_id"), "crn-"); ok && r.PostFormValue("access_token") == serviceToken {
			token = instanceToken + crn
		}
		if token == "" {
			answer(w, http.StatusBadRequest, map[string]any{
				"errorCode": "BXNIM0415E", "errorMessage": "Provided API key could not be found.",
				"context": map[string]any{"requestId": "r1"},
			})
			return
		}
		answer(w, http.StatusOK, map[string]any{
			"access_token": token, "refresh_token": "not_supported", "token_type": "Bearer",
			"expires_in": 3600, "expiration": time.Now().Add(time.Hour).Unix(), "scope": "ibm openid",
		})
	default:
		http.NotFound(w, r)
	}
}

// kmsError is Key Protect's error document; without a code it has no reasons.
func kmsError(w http.ResponseWriter, status int, code string) {
	entry := map[string]any{"errorMsg": http.StatusText(status) + ": Key could not be used"}
	if code != "" {
		entry["reasons"] = []any{map[string]any{"code": code, "message": "no", "status": status}}
	}
	answer(w, status, envelope("error", entry))
}

func envelope(kind string, resources ...any) map[string]any {
	return map[string]any{
		"metadata":  map[string]any{"collectionType": "application/vnd.ibm.kms." + kind + "+json", "collectionTotal": len(resources)},
		"resources": append([]any{}, resources...),
	}
}

// serveKeyProtect knows one instance with two root keys in the ring "default".
// Its wrapping is none of AES: it binds a blob to the additional data.
func (c *ibmCloud) serveKeyProtect(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.calls++
	fault, refuse := c.fault, c.refuse
	c.mu.Unlock()
	w.Header().Set("Correlation-Id", uuid.NewString())
	if fault != nil {
		fault(w, r)
		return
	}
	if refuse != nil {
		if status, code := refuse(r); status != 0 {
			kmsError(w, status, code)
			return
		}
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	crn, _ := strings.CutPrefix(token, instanceToken)
	c.mu.Lock()
	allowed := token == kmsToken && (!c.writer || r.Method != http.MethodDelete) || c.authorized[crn] || c.may(token, "kms", "Reader", "Manager") && r.Method == http.MethodGet
	c.mu.Unlock()
	if !allowed || r.Header.Get("Bluemix-Instance") != kmsInstance {
		kmsError(w, http.StatusUnauthorized, "")
		return
	}
	var body struct {
		Resources             []map[string]any `json:"resources"`
		Plaintext, Ciphertext string
		AAD                   []string `json:"aad"`
	}
	_ = json.NewDecoder(r.Body).Decode(&body)
	c.mu.Lock()
	defer c.mu.Unlock()
	path := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/v2/keys"), "/") // "", id, actions, wrap
	version := map[string]any{"id": path[min(1, len(path)-1)]}
	switch route := r.Method + strings.Repeat("/*", min(len(path)-1, 1)) + strings.Join(path[min(len(path), 2):], "/"); {
	case route == "POST" && len(body.Resources) == 1:
		k := body.Resources[0]
		k["id"], k["state"], k["creationDate"], k["deleted"] = uuid.NewString(), 1, time.Now().UTC().Format(time.RFC3339), false
		k["keyRingID"] = "default"
		c.keys[fmt.Sprint(k["id"])] = k
		answer(w, http.StatusCreated, envelope("key", k))
	case route == "GET":
		var all []any
		for _, id := range []string{rootKey, otherRootKey} {
			all = append(all, map[string]any{"id": id, "name": "root", "state": 1, "extractable": false, "keyRingID": "default"})
		}
		if strings.Contains(r.URL.Query().Get("filter"), "creationDate") {
			all = nil
		}
		for _, k := range c.keys {
			listed := maps.Clone(k)
			delete(listed, "payload")
			all = append(all, listed)
		}
		answer(w, http.StatusOK, envelope("key", all...))
	case path[len(path)-1] == "wrap" || path[len(path)-1] == "unwrap":
		c.act(w, path[1], path[len(path)-1], body.Plaintext, body.Ciphertext, body.AAD, version)
	case len(path) == 2 && (path[1] == rootKey || path[1] == otherRootKey):
		answer(w, http.StatusOK, envelope("key", map[string]any{"id": path[1], "name": "root", "state": 1, "extractable": false}))
	case len(path) == 2 && c.keys[path[1]] == nil:
		kmsError(w, http.StatusNotFound, "KEY_NOT_FOUND_ERR")
	case route == "GET/*":
		answer(w, http.StatusOK, envelope("key", c.keys[path[1]]))
	case route == "DELETE/*":
		c.keys[path[1]]["state"], c.keys[path[1]]["deleted"] = 5, true
		if r.Header.Get("Prefer") == "return=minimal" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		answer(w, http.StatusOK, envelope("key", c.keys[path[1]]))
	default:
		kmsError(w, http.StatusBadRequest, "BAD_BODY_ERR")
	}
}

func (c *ibmCloud) act(w http.ResponseWriter, key, action, plain, cipher string, aad []string, version map[string]any) {
	if key != rootKey && key != otherRootKey {
		kmsError(w, http.StatusNotFound, "KEY_NOT_FOUND_ERR")
		return
	}
	if action == "wrap" {
		blob, _ := json.Marshal(append([]string{plain, key}, aad...))
		answer(w, http.StatusOK, map[string]any{"ciphertext": base64.StdEncoding.EncodeToString(blob), "keyVersion": version})
		return
	}
	var parts []string
	blob, _ := base64.StdEncoding.DecodeString(cipher)
	if json.Unmarshal(blob, &parts) != nil || len(parts) < 2 || parts[1] != key || !slices.Equal(parts[2:], aad) {
		kmsError(w, http.StatusUnprocessableEntity, "UNPROCESSABLE_CIPHERTEXT_ERR")
		return
	}
	answer(w, http.StatusOK, map[string]any{"plaintext": parts[0], "keyVersion": version})
}

// rsaKey returns a fresh key.
func rsaKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
