package control_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/kmip-for-vmware/kmip/api"
)

func TestEveryCaseOf401(t *testing.T) {
	c := start(t)
	good := c.cloud.token(t, account, nil)
	for name, tc := range map[string]struct {
		header, sentence, challenge string
	}{
		"no header":       {"", "No access token", `Bearer realm="kmip-for-vmware"`},
		"another scheme":  {"Basic dXNlcjpwYXNz", "No access token", `Bearer realm="kmip-for-vmware"`},
		"scheme alone":    {"Bearer ", "No access token", `Bearer realm="kmip-for-vmware"`},
		"not a token":     {"Bearer x", "not one of IAM's", `error="invalid_token"`},
		"cut off":         {"Bearer " + good[:len(good)-8], "signature is not valid", `error="invalid_token"`},
		"another key":     {"Bearer " + sign(t, rsaKey(t, 2048), account, nil), "signature is not valid", `error="invalid_token"`},
		"another issuer":  {"Bearer " + c.cloud.token(t, account, jwt.MapClaims{"iss": "https://iam.test.cloud.ibm.com/identity"}), "issued by another IAM", `error_description="The access token was issued by another IAM`},
		"no issuer":       {"Bearer " + c.cloud.token(t, account, jwt.MapClaims{"iss": nil}), "", `error="invalid_token"`},
		"expired":         {"Bearer " + c.cloud.token(t, account, jwt.MapClaims{"exp": time.Now().Add(-time.Minute).Unix()}), "has expired", `error_description="The access token has expired`},
		"never expires":   {"Bearer " + c.cloud.token(t, account, jwt.MapClaims{"exp": nil}), "", `error="invalid_token"`},
		"no account":      {"Bearer " + c.cloud.token(t, account, jwt.MapClaims{"account": nil}), "not for an account", `error="invalid_token"`},
		"invalid account": {"Bearer " + c.cloud.token(t, account, jwt.MapClaims{"account": map[string]any{"valid": false, "bss": account}}), "not for an account", `error="invalid_token"`},
	} {
		t.Run(name, func(t *testing.T) {
			var header []string
			if tc.header != "" {
				header = []string{"Authorization", tc.header}
			}
			r := c.send(t, "GET", c.url+"/v1/instances", "", "", header...)
			refusal(t, r, http.StatusUnauthorized, api.ErrorCodeUnauthorized, "", tc.sentence)
			if got := r.header.Get("WWW-Authenticate"); !strings.Contains(got, tc.challenge) {
				t.Errorf("challenge %q, want %q", got, tc.challenge)
			}
		})
	}
	if r := c.call(t, "GET", "/v1/instances", ""); r.status != http.StatusOK {
		t.Errorf("the good token: %d %s", r.status, r.body)
	}
}

// Every route but the document asks for a token before it looks at anything
// else.
func TestEveryRouteNeedsAToken(t *testing.T) {
	c := start(t)
	for _, route := range documented(t, api.CustomerDocument) {
		method, path, _ := strings.Cut(route, " ")
		if path == "/openapi.yaml" {
			continue
		}
		r := c.send(t, method, c.url+strings.NewReplacer("{id}", "x", "{certificate_id}", "y").Replace(path)+"?x=1", "", `{"a":null}`)
		refusal(t, r, http.StatusUnauthorized, api.ErrorCodeUnauthorized, "", "No access token")
	}
}

// IAM's signing keys can't be read: that is not the caller's fault.
func TestIAMDown(t *testing.T) {
	c := start(t)
	c.cloud.stopIAM()
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"iss": issuer})
	token.Header["kid"] = "of-after-a-roll-over"
	text, err := token.SignedString(c.cloud.signer)
	if err != nil {
		t.Fatal(err)
	}
	r := c.send(t, "GET", c.url+"/v1/instances", text, "")
	refusal(t, r, http.StatusServiceUnavailable, api.ErrorCodeServiceUnavailable, "", "signing keys")
}

// Each route answers a foreign instance exactly as one that never was.
func TestForeignInstanceLooksUnknown(t *testing.T) {
	c := start(t)
	own := c.instance(t, "own")
	pem := certificate(t, rsaKey(t, 2048), time.Hour)
	added := read[api.ClientCertificate](t, c.call(t, "POST", own+"/client_certificates",
		object(map[string]any{"name": "vc", "certificate": pem})), http.StatusCreated)
	other := certificate(t, rsaKey(t, 2048), time.Hour)
	unknown := "/v1/instances/00000000-0000-4000-8000-000000000000"
	token := c.cloud.token(t, stranger, nil)
	patch := []string{"If-Match", "*", "Content-Type", "application/merge-patch+json"}
	for _, call := range []struct {
		method, path, body string
		header             []string
	}{
		{method: "GET"},
		{"PATCH", "", `{"name":"mine"}`, patch},
		{method: "POST", path: "/restore"},
		{method: "GET", path: "/endpoints"},
		{method: "GET", path: "/refusals"},
		{method: "GET", path: "/client_certificates"},
		{method: "POST", path: "/client_certificates", body: object(map[string]any{"name": "vc2", "certificate": other})},
		{method: "DELETE", path: "/client_certificates/" + added.ID},
		{method: "PUT", path: "/key_manager", body: keyManagerBody(map[string]any{"instance_crn": kmsCRN(stranger)})},
		{method: "DELETE"},
	} {
		t.Run(call.method+call.path, func(t *testing.T) {
			foreign := c.send(t, call.method, c.url+own+call.path, token, call.body, call.header...)
			missing := c.send(t, call.method, c.url+unknown+call.path, token, call.body, call.header...)
			for _, r := range []response{foreign, missing} {
				refusal(t, r, http.StatusNotFound, api.ErrorCodeNotFound, "", "Your account has no instance with this id")
			}
			trace := func(r response) string {
				return strings.ReplaceAll(r.body, r.header.Get("X-Correlation-ID"), "")
			}
			if trace(foreign) != trace(missing) {
				t.Errorf("foreign %s\nunknown %s", foreign.body, missing.body)
			}
		})
	}
	if n := c.cloud.asked(); n != 0 {
		t.Errorf("a foreign instance caused %d calls to a key manager", n)
	}
	list := read[api.InstanceCollection](t, c.send(t, "GET", c.url+"/v1/instances", token, ""), http.StatusOK)
	if len(list.Instances) != 0 {
		t.Errorf("the stranger's list shows %v", list.Instances)
	}
	if left := read[api.ClientCertificateCollection](t, c.call(t, "GET", own+"/client_certificates", ""), http.StatusOK); len(left.ClientCertificates) != 1 {
		t.Errorf("the owner has %d client certificates left", len(left.ClientCertificates))
	}
}
