package iam_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// cloud is IAM as far as these tests need it, written from IBM's public pages:
// POST /identity/token and GET /identity/keys. Each test sets what it answers.
type cloud struct {
	*httptest.Server
	mu     sync.Mutex
	token  http.HandlerFunc // nil: tokenAnswer of a new token
	keys   map[string]*rsa.PrivateKey
	down   bool
	tokens int // answered token requests
	reads  int // answered reads of the keys
	forms  []url.Values
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	c := &cloud{keys: map[string]*rsa.PrivateKey{}}
	c.Server = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.Close)
	return c
}

func (c *cloud) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *cloud) count(n *int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *n
}

func (c *cloud) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	down, handler := c.down, c.token
	c.mu.Unlock()
	switch {
	case down:
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.Method == http.MethodPost && r.URL.Path == "/identity/token":
		c.mu.Lock()
		c.tokens++
		n := c.tokens
		_ = r.ParseForm()
		c.forms = append(c.forms, r.PostForm)
		c.mu.Unlock()
		if handler != nil {
			handler(w, r)
			return
		}
		answerToken(w, fmt.Sprintf("token-%d", n), 3600)
	case r.Method == http.MethodGet && r.URL.Path == "/identity/keys":
		c.mu.Lock()
		defer c.mu.Unlock()
		c.reads++
		type key struct {
			Kty string `json:"kty"`
			N   string `json:"n"`
			E   string `json:"e"`
			Alg string `json:"alg"`
			Kid string `json:"kid"`
		}
		set := struct {
			Keys []key `json:"keys"`
		}{[]key{}}
		for kid, k := range c.keys {
			b64 := base64.RawURLEncoding.EncodeToString
			set.Keys = append(set.Keys, key{"RSA", b64(k.N.Bytes()), b64(big.NewInt(int64(k.E)).Bytes()), "RS256", kid})
		}
		writeJSON(w, http.StatusOK, set)
	default:
		http.NotFound(w, r)
	}
}

func answerToken(w http.ResponseWriter, token string, seconds int) {
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": token, "refresh_token": "not_supported", "token_type": "Bearer",
		"expires_in": seconds, "expiration": time.Now().Unix() + int64(seconds), "scope": "ibm openid",
	})
}

func answerError(w http.ResponseWriter, status int, code, echo string) {
	writeJSON(w, status, map[string]any{
		"errorCode": code, "errorMessage": "Provided API key could not be found. " + echo,
		"context": map[string]any{"requestId": "cmVxdWVzdA-17"},
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// rollOver makes kid the only signing key.
func (c *cloud) rollOver(t *testing.T, kid string) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c.set(func() { c.keys = map[string]*rsa.PrivateKey{kid: key} })
	return key
}

func sign(t *testing.T, method jwt.SigningMethod, kid string, key any, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	token.Header["kid"] = kid
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// clock is a settable time.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}
