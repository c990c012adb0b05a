package kms

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"
	"time"
)

// policies is a request with these resources.
func policies(resources ...string) string {
	return `{"metadata":{"collectionType":"application/vnd.ibm.kms.policy+json","collectionTotal":` + itoa(len(resources)) +
		`},"resources":[` + strings.Join(resources, ",") + `]}`
}

func TestKeyPolicies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	root, standard := "/keys/"+u.root(), "/keys/"+u.create(`"name":"std"`)
	if list := u.must(200, "GET", root+"/policies", "").resources(t); len(list) != 0 {
		t.Errorf("policies of a new key: %v", list)
	}
	set := u.must(200, "PUT", root+"/policies?policy=rotation", policies(`{"type":"application/vnd.ibm.kms.policy+json","rotation":{"enabled":true,"interval_month":3}}`)).resource(t)
	if jsonOf(t, set["rotation"]) != `{"enabled":true,"interval_month":3}` || set["createdBy"] != manager ||
		set["crn"] != "crn:v1:bluemix:public:kms:us-south:a/"+testAccount+":"+kmsInstance+":policy:"+set["id"].(string) {
		t.Errorf("rotation policy: %v", set)
	}
	w.clock.advance(time.Hour)
	// Without an interval the old one stays.
	again := u.must(200, "PUT", root+"/policies?policy=rotation", policies(`{"rotation":{"enabled":false}}`)).resource(t)
	if jsonOf(t, again["rotation"]) != `{"enabled":false,"interval_month":3}` || again["id"] != set["id"] ||
		again["creationDate"] != set["creationDate"] || again["lastUpdateDate"] != "2026-11-23T13:00:00Z" {
		t.Errorf("set again: %v", again)
	}
	u.must(200, "PUT", root+"/policies", policies(`{"rotation":{"interval_month":1}}`, `{"dualAuthDelete":{"enabled":true}}`))
	for query, want := range map[string]int{"": 2, "?policy=rotation": 1, "?policy=dualAuthDelete": 1} {
		if list := u.must(200, "GET", root+"/policies"+query, "").resources(t); len(list) != want {
			t.Errorf("%q: %v", query, list)
		}
	}
	if got := jsonOf(t, u.must(200, "GET", root, "").resource(t)["rotation"]); got != `{"enabled":true,"interval_month":1}` {
		t.Errorf("key shows rotation %s", got)
	}
	for _, c := range []struct{ name, path, body, code string }{
		{"standard key", standard + "/policies", policies(`{"rotation":{"interval_month":1}}`), "KEY_ROOT_REQ_ERR"},
		{"13 months", root + "/policies", policies(`{"rotation":{"interval_month":13}}`), "INVALID_FIELD_ERR"},
		{"-1 months", root + "/policies", policies(`{"rotation":{"interval_month":-1}}`), "INVALID_FIELD_ERR"},
		{"other type", root + "/policies?policy=rotation", policies(`{"dualAuthDelete":{"enabled":true}}`), "BODY_QUERY_PARAM_MISMATCH_ERR"},
		{"unknown type", root + "/policies?policy=metrics", policies(`{}`), "INVALID_QUERY_PARAM_ERR"},
		{"no resource", root + "/policies", policies(), "NUM_COLLECTION_RESOURCE_ERR"},
		{"wrong total", root + "/policies", strings.Replace(policies(`{}`), `l":1`, `l":2`, 1), "COLLECTION_TOTAL_MISMATCH_ERR"},
		{"twice", root + "/policies", policies(`{"rotation":{"interval_month":1}}`, `{"rotation":{"interval_month":2}}`), "BAD_BODY_ERR"},
		{"empty", root + "/policies", policies(`{}`), "BAD_BODY_ERR"},
		{"no body", root + "/policies", ``, "BAD_BODY_ERR"},
	} {
		u.call("PUT", c.path, c.body).refused(t, c.name, 400, c.code)
	}
	fresh := "/keys/" + u.root()
	u.call("PUT", fresh+"/policies", policies(`{"rotation":{"enabled":true}}`)).refused(t, "no interval", 400, "INVALID_FIELD_ERR")
	u.must(204, "DELETE", fresh, "")
	u.call("PUT", fresh+"/policies", policies(`{"rotation":{"interval_month":1}}`)).refused(t, "deleted key", 410, "KEY_DELETED_ERR")
}

func TestPolicyOverrides(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	const path = "/keys_with_policy_overrides"
	k := u.must(201, "POST", path, newKeyBody(`"name":"root","extractable":false,"rotation":{"enabled":true,"interval_month":2},"dualAuthDelete":{"enabled":true}`)).resource(t)
	if jsonOf(t, k["rotation"]) != `{"enabled":true,"interval_month":2}` || jsonOf(t, k["dualAuthDelete"]) != `{"enabled":true,"keySetForDeletion":false}` {
		t.Errorf("key: %v", k)
	}
	u.call("POST", path, newKeyBody(`"name":"std","rotation":{"interval_month":2}`)).refused(t, "rotation of a standard key", 400, "KEY_ROOT_REQ_ERR")
	u.call("POST", path, newKeyBody(`"name":"root","extractable":false,"rotation":{"interval_month":-1}`)).refused(t, "interval", 400, "INVALID_FIELD_ERR")
	u.call("POST", "/keys", newKeyBody(`"name":"root","extractable":false,"rotation":{"interval_month":2}`)).refused(t, "the plain path", 400, "BAD_BODY_ERR")
}

func TestInstancePolicies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	put := func(kind, data string) reply {
		return u.call("PUT", "/instance/policies?policy="+kind, policies(`{"policy_type":"`+kind+`","policy_data":`+data+`}`))
	}
	for _, c := range []struct{ kind, data string }{
		{"allowedNetwork", `{"enabled":true,"attributes":{"allowed_network":"private-only"}}`},
		{"allowedIP", `{"enabled":true,"attributes":{"allowed_ip":["10.0.0.0/8"]}}`},
		{"metrics", `{"enabled":true}`},
		{"dualAuthDelete", `{"enabled":true}`},
		{"rotation", `{"enabled":true,"attributes":{"interval_month":3}}`},
		{"keyCreateImportAccess", `{"enabled":true,"attributes":{"import_root_key":false,"create_standard_key":false}}`},
	} {
		if r := put(c.kind, c.data); r.status != 204 || len(r.body) != 0 {
			t.Errorf("%s: %d %s", c.kind, r.status, r.body)
		}
		p := u.must(200, "GET", "/instance/policies?policy="+c.kind, "").resource(t)
		if p["policy_type"] != c.kind || p["createdBy"] != manager || len(jsonOf(t, p["policy_data"])) != len(c.data) {
			t.Errorf("%s: %v", c.kind, p)
		}
	}
	if list := u.must(200, "GET", "/instance/policies", "").resources(t); len(list) != 6 {
		t.Errorf("%d policies", len(list))
	}
	// New keys inherit what was set, and are let in or not.
	k := u.must(200, "GET", "/keys/"+u.root(), "").resource(t)
	if jsonOf(t, k["rotation"]) != `{"enabled":true,"interval_month":3}` || jsonOf(t, k["dualAuthDelete"]) != `{"enabled":true,"keySetForDeletion":false}` {
		t.Errorf("a new root key: %v", k)
	}
	payload := b64("0123456789abcdef")
	for fields, allowed := range map[string]bool{
		`"extractable":true`: false, `"extractable":false`: true,
		`"extractable":true,"payload":"` + payload + `"`: true, `"extractable":false,"payload":"` + payload + `"`: false,
	} {
		r := u.call("POST", "/keys", newKeyBody(`"name":"key",`+fields))
		if allowed && r.status != 201 || !allowed && r.code(t) != "KEY_CREATE_IMPORT_ACCESS_ERR" {
			t.Errorf("%s: %d %s", fields, r.status, r.body)
		}
	}
	put("keyCreateImportAccess", `{"enabled":true,"attributes":{"enforce_token":true}}`)
	u.call("POST", "/keys", newKeyBody(`"name":"key","payload":"`+payload+`"`)).refused(t, "import without token", 409, "KEY_CREATE_IMPORT_ACCESS_ERR")
	put("keyCreateImportAccess", `{"enabled":false}`)
	u.create(`"name":"key","payload":"` + payload + `"`)
	for _, c := range []struct{ kind, data, code string }{
		{"colour", `{"enabled":true}`, "INVALID_QUERY_PARAM_ERR"},
		{"metrics", `{}`, "INVALID_FIELD_ERR"},
		{"metrics", `{"enabled":true,"attributes":{"interval_month":3}}`, "INVALID_FIELD_ERR"},
		{"rotation", `{"enabled":true}`, "INVALID_FIELD_ERR"},
		{"rotation", `{"enabled":true,"attributes":{"interval_month":0}}`, "INVALID_FIELD_ERR"},
		{"allowedNetwork", `{"enabled":true,"attributes":{"allowed_network":"moon"}}`, "INVALID_FIELD_ERR"},
		{"allowedIP", `{"enabled":true}`, "INVALID_FIELD_ERR"},
		{"allowedIP", `{"enabled":true,"attributes":{"allowed_ip":["10.0.0.0"]}}`, "INVALID_FIELD_ERR"},
	} {
		put(c.kind, c.data).refused(t, c.kind+c.data, 400, c.code)
	}
}

// TestSecureImport encrypts root key material for the import token, as IBM's documentation of it says.
func TestSecureImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	u.call("GET", "/import_token", "").refused(t, "no token", 409, "IMPORT_TOKEN_EXPIRED_ERR")
	u.call("POST", "/import_token", `{"maxAllowedRetrievals":501}`).refused(t, "501 retrievals", 400, "INVALID_FIELD_ERR")
	u.call("POST", "/import_token", `{"expiration":299}`).refused(t, "299 seconds", 400, "INVALID_FIELD_ERR")
	made := u.must(200, "POST", "/import_token", `{"maxAllowedRetrievals":1,"expiration":300}`).decode(t)
	if made["remainingRetrievals"] != 1.0 || made["expirationDate"] != "2026-11-23T12:05:00Z" {
		t.Errorf("token: %v", made)
	}
	got := u.must(200, "GET", "/import_token", "").decode(t)
	u.call("GET", "/import_token", "").refused(t, "second retrieval", 409, "IMPORT_TOKEN_EXPIRED_ERR")
	decoded := func(name string) []byte {
		raw, err := base64.StdEncoding.DecodeString(got[name].(string))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	block, _ := pem.Decode(decoded("payload"))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	root := []byte("0123456789abcdef0123456789abcdef")
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), root, nil)
	if err != nil {
		t.Fatal(err)
	}
	aesBlock, err := aes.NewCipher(root)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(aesBlock)
	if err != nil {
		t.Fatal(err)
	}
	iv := make([]byte, 12)
	rand.Read(iv)
	text := base64.StdEncoding.EncodeToString
	body := func(nonce []byte) string {
		return newKeyBody(`"name":"root","extractable":false,"payload":"` + text(sealed) + `","encryptionAlgorithm":"RSAES_OAEP_SHA_256",
			"encryptedNonce":"` + text(gcm.Seal(nil, iv, nonce, nil)) + `","iv":"` + text(iv) + `"`)
	}
	good := body(decoded("nonce"))
	id := u.must(201, "POST", "/keys", good).resource(t)["id"].(string)
	twin := u.create(`"name":"twin","extractable":false,"payload":"` + text(root) + `"`)
	if r := u.unwrap(twin, u.wrapped(id, "secret", ""), ""); r.status != 200 || r.decode(t)["plaintext"] != b64("secret") {
		t.Errorf("the material did not arrive: %d %s", r.status, r.body)
	}
	u.call("POST", "/keys", body([]byte("another text"))).refused(t, "another nonce", 400, "INCORRECT_NONCE_ERR")
	u.call("POST", "/keys", strings.Replace(good, `"iv"`, `"description"`, 1)).refused(t, "no IV", 400, "INCORRECT_NONCE_IV_ERR")
	u.call("POST", "/keys", strings.Replace(good, "SHA_256", "SHA_1", 1)).refused(t, "algorithm", 400, "INVALID_FIELD_ERR")
	u.call("POST", "/keys", strings.Replace(good, `"extractable":false`, `"extractable":true`, 1)).refused(t, "standard key", 400, "INVALID_FIELD_ERR")
	w.clock.advance(5 * time.Minute)
	u.call("POST", "/keys", good).refused(t, "expired token", 409, "IMPORT_TOKEN_EXPIRED_ERR")
}

func FuzzWildcard(f *testing.F) {
	f.Add("crn:v1:*:bucket:*", "crn:v1:x:bucket:b1")
	f.Add("a*a", "a")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if strings.Contains(pattern, "*") {
			// A pattern is about what is left when each * becomes nothing, and about what is longer there.
			if !wildcard(pattern, strings.ReplaceAll(pattern, "*", "")) || !wildcard(pattern, strings.ReplaceAll(pattern, "*", text)) {
				t.Errorf("%q", pattern)
			}
		} else if wildcard(pattern, text) != (pattern == text) {
			t.Errorf("%q, %q", pattern, text)
		}
	})
}
