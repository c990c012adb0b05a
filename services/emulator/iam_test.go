package emulator

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func get(t *testing.T, url string, headers ...string) reply {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return send(t, req)
}

// verified checks a token's signature against the served keys without the emulator's own code or
// its JWT library, and returns header and claims.
func verified(t *testing.T, w *world, token string) (header, claims map[string]any) {
	t.Helper()
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(get(t, w.iam+"/identity/keys").body, &set); err != nil {
		t.Fatal(err)
	}
	part := func(s string) []byte {
		raw, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("token has %d parts", len(parts))
	}
	if err := json.Unmarshal(part(parts[0]), &header); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(part(parts[1]), &claims); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	for _, k := range set.Keys {
		if k["kid"] != header["kid"] {
			continue
		}
		pub := &rsa.PublicKey{N: new(big.Int).SetBytes(part(k["n"])), E: int(new(big.Int).SetBytes(part(k["e"])).Int64())}
		if err := rsa.VerifyPKCS1v15(pub, crypto.SHA256, sum[:], part(parts[2])); err != nil {
			t.Fatal(err)
		}
		return header, claims
	}
	t.Fatalf("no served key has kid %v", header["kid"])
	return nil, nil
}

func TestTokenClaims(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		name, path, key string
		want, absent    string
	}{
		{"user", "/identity/token", userKey, `{
			"iam_id":"IBMid-270004ABCD","id":"IBMid-270004ABCD","realmid":"IBMid","identifier":"270004ABCD",
			"sub":"ada@example.com","email":"ada@example.com","name":"Ada Lovelace","given_name":"Ada","family_name":"Lovelace",
			"iss":"https://iam.cloud.ibm.com/identity","scope":"ibm openid","client_id":"default","acr":1,"amr":["pwd"],
			"grant_type":"urn:ibm:params:oauth:grant-type:apikey"}`, "sub_type"},
		{"service ID, old path", "/oidc/token", managerKey, `{
			"iam_id":"iam-` + managerID + `","id":"iam-` + managerID + `","realmid":"iam","identifier":"` + managerID + `",
			"sub":"` + managerID + `","sub_type":"ServiceId","name":"service 1",
			"account":{"valid":true,"bss":"` + testAccount + `","frozen":true}}`, "email"},
	} {
		r := w.postToken(c.path, url.Values{"grant_type": {grantAPIKey}, "apikey": {c.key}, "response_type": {"cloud_iam"}})
		if r.status != 200 {
			t.Fatalf("%s: %d %s", c.name, r.status, r.body)
		}
		answer := r.decode(t)
		expires := float64(w.clock.now().Add(time.Hour).Unix())
		if answer["expiration"] != expires || answer["expires_in"] != 3600.0 || answer["token_type"] != "Bearer" ||
			answer["refresh_token"] != "not_supported" || answer["scope"] != "ibm openid" {
			t.Errorf("%s: answer %s", c.name, r.body)
		}
		header, claims := verified(t, w, answer["access_token"].(string))
		if len(header) != 2 || header["alg"] != "RS256" {
			t.Errorf("%s: header %v", c.name, header)
		}
		var want map[string]any
		if err := json.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatal(err)
		}
		for name, v := range want {
			if got := jsonOf(t, claims[name]); got != jsonOf(t, v) {
				t.Errorf("%s: claim %s is %s, want %s", c.name, name, got, jsonOf(t, v))
			}
		}
		if claims["exp"] != expires || claims["iat"] != expires-3600 {
			t.Errorf("%s: iat %v, exp %v", c.name, claims["iat"], claims["exp"])
		}
		for _, name := range []string{c.absent, "aud"} {
			if _, ok := claims[name]; ok {
				t.Errorf("%s: claim %s should be absent", c.name, name)
			}
		}
	}
}

func TestTokenErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		name    string
		form    url.Values
		code    string
		details string
	}{
		{"unknown key", url.Values{"grant_type": {grantAPIKey}, "apikey": {"nobody's"}}, "BXNIM0415E", ""},
		{"no key", url.Values{"grant_type": {grantAPIKey}}, "BXNIM0109E", "apikey"},
		{"no grant", url.Values{"apikey": {userKey}}, "BXNIM0109E", "grant_type"},
	} {
		r := w.postToken("/identity/token", c.form)
		body := r.decode(t)
		details, _ := body["errorDetails"].(string)
		if r.status != 400 || body["errorCode"] != c.code || details != c.details || body["errorMessage"] == "" {
			t.Errorf("%s: %d %s", c.name, r.status, r.body)
		}
		context := body["context"].(map[string]any)
		for _, member := range []string{"requestId", "requestType", "startTime", "endTime", "elapsedTime", "locale"} {
			if _, ok := context[member].(string); !ok {
				t.Errorf("%s: context has no %s", c.name, member)
			}
		}
		if strings.Contains(string(r.body), "nobody's") || strings.Contains(string(r.body), userKey) {
			t.Errorf("%s: the answer shows the API key", c.name)
		}
	}
	if r := get(t, w.iam+"/identity/token"); r.status != 405 || r.decode(t)["errorCode"] != "BXNIM0060E" {
		t.Errorf("GET: %d %s", r.status, r.body)
	}
	form := url.Values{"grant_type": {grantAPIKey}, "apikey": {userKey}}.Encode()
	chunked, _ := http.NewRequest(http.MethodPost, w.iam+"/identity/token", io.MultiReader(strings.NewReader(form)))
	chunked.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if r := send(t, chunked); r.status != 411 {
		t.Errorf("without Content-Length: %d %s", r.status, r.body)
	}
}

func TestSigningKeysAndDiscovery(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	keys := get(t, w.iam+"/identity/keys").decode(t)["keys"].([]any)
	if len(keys) < 2 {
		t.Errorf("%d signing keys", len(keys))
	}
	for _, k := range keys {
		key := k.(map[string]any)
		n, err := base64.RawURLEncoding.DecodeString(key["n"].(string))
		if _, use := key["use"]; use || err != nil || len(n) != 256 || key["kty"] != "RSA" || key["e"] != "AQAB" || key["alg"] != "RS256" {
			t.Errorf("signing key %v", key)
		}
		if _, err := time.Parse("200601021504", key["kid"].(string)); err != nil {
			t.Error(err)
		}
	}
	d := get(t, w.iam+"/identity/.well-known/openid-configuration").decode(t)
	if d["issuer"] != DefaultIssuer || d["jwks_uri"] != w.iam+"/identity/keys" || d["token_endpoint"] != w.iam+"/identity/token" {
		t.Errorf("discovery: %v", d)
	}
}

func TestAPIKeyDetails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.iam + "/v1/apikeys/details"
	bearer := "Bearer " + w.token(managerKey)
	r := get(t, at, "Authorization", bearer, "IAM-ApiKey", userKey)
	body := r.decode(t)
	if r.status != 200 || body["iam_id"] != "IBMid-270004ABCD" || body["account_id"] != testAccount || body["apikey"] != "" {
		t.Errorf("details: %d %s", r.status, r.body)
	}
	if r := get(t, at, "Authorization", bearer, "IAM-ApiKey", "unknown"); r.status != 404 || r.decode(t)["status_code"] != "404" {
		t.Errorf("unknown key: %d %s", r.status, r.body)
	}
	if r := get(t, at, "IAM-ApiKey", userKey); r.status != 401 {
		t.Errorf("no token: %d %s", r.status, r.body)
	}
}
