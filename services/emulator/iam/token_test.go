package iam

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

// verified checks a token's signature against the served keys without the emulator's own code or
// its JWT library, and returns header and claims.
func verified(t *testing.T, r *rig, token string) (header, claims map[string]any) {
	t.Helper()
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(r.call("GET", "/identity/keys", "").body, &set); err != nil {
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

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestTokenClaims(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	asInstance := url.Values{"grant_type": {grantAuthz}, "access_token": {r.token(serviceKey)}, "desired_iam_id": {"crn-" + instanceCRN}}
	for _, c := range []struct {
		name, path string
		form       url.Values
		lifetime   float64
		want       string
		absent     []string
	}{
		{"user", "/identity/token", apiKeyForm(userKey), 3600, `{
			"iam_id":"IBMid-270004ABCD","id":"IBMid-270004ABCD","realmid":"IBMid","identifier":"270004ABCD",
			"sub":"ada@example.com","email":"ada@example.com","name":"Ada Lovelace","given_name":"Ada","family_name":"Lovelace",
			"iss":"https://iam.cloud.ibm.com/identity","scope":"ibm openid","client_id":"default","acr":1,"amr":["pwd"],
			"grant_type":"urn:ibm:params:oauth:grant-type:apikey"}`, []string{"sub_type", "unique_instance_crns"}},
		{"service ID, old path", "/oidc/token", apiKeyForm(idKey), 3600, `{
			"iam_id":"` + serviceID + `","id":"` + serviceID + `","realmid":"iam","identifier":"` + serviceID[4:] + `",
			"sub":"` + serviceID[4:] + `","sub_type":"ServiceId","name":"service 1",
			"account":{"valid":true,"bss":"` + testAccount + `","frozen":true}}`, []string{"email"}},
		{"instance", "/identity/token", asInstance, 1796, `{
			"iam_id":"crn-` + instanceCRN + `","id":"crn-` + instanceCRN + `","realmid":"crn","identifier":"` + instanceCRN + `",
			"sub":"` + instanceCRN + `","sub_type":"CRN","account":{"valid":true,"bss":"` + otherAccount + `","frozen":true},
			"authn":{"sub":"` + instanceCRN + `","iam_id":"crn-` + instanceCRN + `","sub_type":"CRN"},
			"scope":"ibm openid vmware-solutions","client_id":"vmware-solutions","acr":0,"amr":[],
			"grant_type":"urn:ibm:params:oauth:grant-type:iam-authz"}`, []string{"name", "email", "unique_instance_crns"}},
		{"instance, old path", "/oidc/token", asInstance, 1796, `{"sub_type":"CRN"}`, nil},
	} {
		got := r.call("POST", c.path, c.form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
		if got.status != 200 {
			t.Fatalf("%s: %d %s", c.name, got.status, got.body)
		}
		answer := got.decode(t)
		header, claims := verified(t, r, answer["access_token"].(string))
		if len(header) != 2 || header["alg"] != "RS256" {
			t.Errorf("%s: header %v", c.name, header)
		}
		expires := float64(start.Unix()) + c.lifetime
		if answer["expiration"] != expires || answer["expires_in"] != c.lifetime || answer["token_type"] != "Bearer" ||
			answer["refresh_token"] != "not_supported" || answer["scope"] != claims["scope"] {
			t.Errorf("%s: answer %s", c.name, got.body)
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
		if claims["exp"] != expires || claims["iat"] != expires-c.lifetime {
			t.Errorf("%s: iat %v, exp %v", c.name, claims["iat"], claims["exp"])
		}
		for _, name := range append(c.absent, "aud") {
			if _, ok := claims[name]; ok {
				t.Errorf("%s: claim %s should be absent", c.name, name)
			}
		}
	}
}

func TestShortLifetimeIsEverybodys(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.stop()
	r.start(10 * time.Minute)
	bearer := r.token(serviceKey)
	got := r.grant(url.Values{"grant_type": {grantAuthz}, "access_token": {bearer}, "desired_iam_id": {"crn-" + instanceCRN}})
	if got.status != 200 || got.decode(t)["expires_in"] != 600.0 {
		t.Errorf("instance: %d %s", got.status, got.body)
	}
	r.clock.advance(10*time.Minute - time.Second)
	if !r.proves(bearer) {
		t.Error("refused in its last second")
	}
	r.clock.advance(time.Second)
	if r.proves(bearer) {
		t.Error("valid when it expired")
	}
}

func TestTokenErrors(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	mine := r.token(serviceKey)
	authz := func(token, desired string) url.Values {
		return url.Values{"grant_type": {grantAuthz}, "access_token": {token}, "desired_iam_id": {desired}}
	}
	asInstance := r.accessToken(authz(mine, "crn-"+instanceCRN))
	for _, c := range []struct {
		name    string
		form    url.Values
		status  int
		code    string
		details string
	}{
		{"unknown key", apiKeyForm("nobody's"), 400, "BXNIM0415E", ""},
		{"no key", url.Values{"grant_type": {grantAPIKey}}, 400, "BXNIM0109E", "apikey"},
		{"no grant", url.Values{"apikey": {userKey}}, 400, "BXNIM0109E", "grant_type"},
		{"unknown grant", url.Values{"grant_type": {"magic"}}, 400, "BXNIM0109E", "grant_type"},
		{"no refresh token", url.Values{"grant_type": {grantRefresh}}, 400, "BXNIM0109E", "refresh_token"},
		{"a refresh token", url.Values{"grant_type": {grantRefresh}, "refresh_token": {"not_supported"}}, 400, "BXNIM0407E", ""},
		{"no access token", authz("", "crn-"+instanceCRN), 400, "BXNIM0109E", "access_token"},
		{"an unreadable access token", authz("Bearer "+mine, "crn-"+instanceCRN), 400, "BXNIM0109E", "access_token"},
		{"a forged access token", authz(mine[:len(mine)-8]+"AAAAAAAA", "crn-"+instanceCRN), 400, "BXNIM0407E", ""},
		{"no desired id", authz(mine, ""), 400, "BXNIM0109E", "desired_iam_id"},
		{"a CRN without its realm", authz(mine, instanceCRN), 400, "BXNIM0109E", "desired_iam_id"},
		{"no CRN", authz(mine, "crn-"+serviceID), 400, "BXNIM0109E", "desired_iam_id"},
		{"a CRN without account", authz(mine, "crn-crn:v1:bluemix:public:vmware-solutions:us-south::guid::"), 400, "BXNIM0109E", "desired_iam_id"},
		{"a CRN without instance", authz(mine, "crn-crn:v1:bluemix:public:vmware-solutions:us-south:a/"+testAccount+":::"), 400, "BXNIM0109E", "desired_iam_id"},
		{"another service's instance", authz(mine, "crn-"+strings.Replace(instanceCRN, "vmware-solutions", "kms", 1)), 403, "BXNIM0060E", "HTTP 403 Forbidden"},
		{"a service ID of no service", authz(r.token(idKey), "crn-"+instanceCRN), 403, "BXNIM0060E", "HTTP 403 Forbidden"},
		{"a user", authz(r.token(userKey), "crn-"+instanceCRN), 403, "BXNIM0060E", "HTTP 403 Forbidden"},
		{"the instance itself", authz(asInstance, "crn-"+instanceCRN), 403, "BXNIM0060E", "HTTP 403 Forbidden"},
	} {
		got := r.grant(c.form, "Transaction-Id", "transaction-7")
		body := got.decode(t)
		details, _ := body["errorDetails"].(string)
		if got.status != c.status || body["errorCode"] != c.code || details != c.details || body["errorMessage"] == "" {
			t.Errorf("%s: %d %s", c.name, got.status, got.body)
		}
		context := body["context"].(map[string]any)
		for _, member := range []string{"requestId", "requestType", "startTime", "endTime", "elapsedTime", "locale"} {
			if _, ok := context[member].(string); !ok {
				t.Errorf("%s: context has no %s", c.name, member)
			}
		}
		if context["requestId"] != "transaction-7" || got.header.Get("Transaction-Id") != "transaction-7" {
			t.Errorf("%s: the transaction id is not echoed", c.name)
		}
		for _, secret := range []string{"nobody's", userKey, mine} {
			if strings.Contains(string(got.body), secret) {
				t.Errorf("%s: the answer shows a secret", c.name)
			}
		}
	}
	if got := r.call("GET", "/identity/token", ""); got.status != 405 || got.decode(t)["errorCode"] != "BXNIM0060E" {
		t.Errorf("GET: %d %s", got.status, got.body)
	}
	r.clock.advance(time.Hour)
	if got := r.grant(authz(mine, "crn-"+instanceCRN)); got.status != 400 || got.decode(t)["errorCode"] != "BXNIM0407E" {
		t.Errorf("an expired access token: %d %s", got.status, got.body)
	}
	chunked, err := http.NewRequest(http.MethodPost, r.url+"/identity/token", io.MultiReader(strings.NewReader(apiKeyForm(userKey).Encode())))
	if err != nil {
		t.Fatal(err)
	}
	chunked.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if got := r.send(chunked); got.status != 411 {
		t.Errorf("without Content-Length: %d %s", got.status, got.body)
	}
	if got := r.grant(url.Values{"grant_type": {grantAPIKey}, "apikey": {strings.Repeat("x", maxFormBytes)}}); got.status != 413 {
		t.Errorf("a large form: %d", got.status)
	}
	basic := apiKeyForm(userKey)
	if got := r.grant(basic, "Authorization", "Basic Yng6Yng="); got.status != 200 {
		t.Errorf("the public client: %d %s", got.status, got.body)
	}
	if got := r.grant(basic, "Authorization", "Basic YTpi"); got.status != 400 || got.decode(t)["errorCode"] != "BXNIM0139E" {
		t.Errorf("an unknown client: %d %s", got.status, got.body)
	}
}

// publishedKeys are the ids of the served keys.
func publishedKeys(t *testing.T, r *rig) []string {
	t.Helper()
	var kids []string
	for _, k := range r.call("GET", "/identity/keys", "").decode(t)["keys"].([]any) {
		key := k.(map[string]any)
		n, err := base64.RawURLEncoding.DecodeString(key["n"].(string))
		if _, use := key["use"]; use || err != nil || len(n) != 256 || key["kty"] != "RSA" || key["e"] != "AQAB" || key["alg"] != "RS256" {
			t.Errorf("signing key %v", key)
		}
		kid := key["kid"].(string)
		if _, err := time.Parse("200601021504", kid); err != nil {
			t.Error(err)
		}
		kids = append(kids, kid)
	}
	return kids
}

func TestSigningKeysRollOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := publishedKeys(t, r)
	if len(first) != 2 {
		t.Errorf("%d signing keys", len(first))
	}
	before := r.token(userKey)
	kid := func(token string) string {
		header, _ := verified(t, r, token)
		return header["kid"].(string)
	}
	if kid(before) != first[0] {
		t.Errorf("signed by %s, not the newest of %v", kid(before), first)
	}
	for range 2 { // within one minute, which a key id is about
		if err := r.s.RollSigningKeys(); err != nil {
			t.Fatal(err)
		}
	}
	second := publishedKeys(t, r)
	after := r.token(userKey)
	if len(second) != 4 || kid(after) != second[0] || kid(after) == kid(before) || !r.proves(before) || !r.proves(after) {
		t.Errorf("after the roll-over %v are published, %s signs", second, kid(after))
	}
	if err := r.s.RetireSigningKeys(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and after a restart
		if got := publishedKeys(t, r); len(got) != 1 || got[0] != second[0] {
			t.Errorf("retired: %v are published", got)
		}
		if r.proves(before) || !r.proves(after) {
			t.Error("retired: a token of an old key counts, or one of the new does not")
		}
		r.stop()
		r.start(time.Hour)
	}
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.call("GET", "/identity/.well-known/openid-configuration", "").decode(t)
	if d["issuer"] != testIssuer || d["jwks_uri"] != r.url+"/identity/keys" || d["token_endpoint"] != r.url+"/identity/token" {
		t.Errorf("discovery: %v", d)
	}
}
