package kms

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
)

func TestWrapAndUnwrap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	id := u.root()
	one, two := u.wrapped(id, "secret", ""), u.wrapped(id, "secret", "")
	if one == two {
		t.Error("two wraps of one plaintext give one ciphertext")
	}
	raw, err := base64.StdEncoding.DecodeString(one)
	if err != nil {
		t.Fatal(err)
	}
	var inside struct{ Ciphertext, IV, Version, Handle string }
	if err := jsonhttp.Decode(raw, &inside); err != nil {
		t.Fatal(err)
	}
	version := u.must(200, "GET", "/keys/"+id, "").resource(t)["keyVersion"].(map[string]any)["id"]
	iv, err := base64.StdEncoding.DecodeString(inside.IV)
	if err != nil || len(iv) != 12 || inside.Version != "4.0.0" || inside.Handle != version {
		t.Errorf("ciphertext holds %+v, key version is %v", inside, version)
	}
	got := u.unwrap(id, one, "")
	body := got.decode(t)
	if got.status != 200 || body["plaintext"] != b64("secret") || jsonOf(t, body["keyVersion"]) != `{"id":"`+version.(string)+`"}` || len(body) != 2 {
		t.Errorf("unwrap: %d %s", got.status, got.body)
	}

	made := u.must(200, "POST", "/keys/"+id+"/actions/wrap", "").decode(t)
	plaintext, err := base64.StdEncoding.DecodeString(made["plaintext"].(string))
	if err != nil || len(plaintext) != 32 {
		t.Errorf("generated plaintext of %d bytes", len(plaintext))
	}
	if r := u.unwrap(id, made["ciphertext"].(string), ""); r.decode(t)["plaintext"] != made["plaintext"] {
		t.Errorf("unwrap of a generated plaintext: %s", r.body)
	}
	// The older form of the path.
	if r := u.call("POST", "/keys/"+id+"?action=unwrap", `{"ciphertext":"`+one+`"}`); r.decode(t)["plaintext"] != b64("secret") {
		t.Errorf("unwrap by ?action=: %s", r.body)
	}
}

func TestAAD(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	id := u.root()
	variants := []string{``, `,"aad":[""]`, `,"aad":["",""]`, `,"aad":["ab"]`, `,"aad":["a","b"]`, `,"aad":["b","a"]`, `,"aad":["ab",""]`, `,"aad":["","ab"]`, `,"aad":["a","b",""]`}
	for _, with := range variants {
		ciphertext := u.wrapped(id, "x", with)
		for _, other := range variants {
			r := u.unwrap(id, ciphertext, other)
			want, code := 422, "UNPROCESSABLE_CIPHERTEXT_ERR"
			if other == with {
				want, code = 200, ""
			}
			if r.status != want || r.code(t) != code {
				t.Errorf("wrapped with %q, unwrapped with %q: %d %s", with, other, r.status, r.code(t))
			}
		}
	}
}

func TestUnwrapRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	id := u.root()
	good := u.wrapped(id, "x", "")
	raw, _ := base64.StdEncoding.DecodeString(good)
	flipped := bytes.Replace(raw, []byte(`"ciphertext":"`), []byte(`"ciphertext":"AAAA`), 1)
	long := strings.Repeat("a", 256)
	for _, c := range []struct {
		name, action, body, code string
		status                   int
	}{
		{"no body", "unwrap", "", "NO_BODY_ERR", 400},
		{"no body", "rewrap", "", "NO_BODY_ERR", 400},
		{"not JSON", "unwrap", "{", "BAD_BODY_ERR", 400},
		{"unknown member", "unwrap", `{"ciphertext":"` + good + `","x":1}`, "BAD_BODY_ERR", 400},
		{"two values", "unwrap", `{"ciphertext":"` + good + `"}{}`, "BAD_BODY_ERR", 400},
		{"no ciphertext", "unwrap", `{}`, "INVALID_FIELD_ERR", 400},
		{"not base64", "unwrap", `{"ciphertext":"*"}`, "INVALID_FIELD_ERR", 400},
		{"not ours", "unwrap", `{"ciphertext":"` + b64("abc") + `"}`, "UNPROCESSABLE_CIPHERTEXT_ERR", 422},
		{"corrupt", "unwrap", `{"ciphertext":"` + base64.StdEncoding.EncodeToString(flipped) + `"}`, "UNPROCESSABLE_CIPHERTEXT_ERR", 422},
		{"corrupt", "rewrap", `{"ciphertext":"` + base64.StdEncoding.EncodeToString(flipped) + `"}`, "UNPROCESSABLE_CIPHERTEXT_ERR", 422},
		{"plaintext with line end", "wrap", `{"plaintext":"YWJj\n"}`, "INVALID_FIELD_ERR", 400},
		{"URL-safe plaintext", "wrap", `{"plaintext":"_-8="}`, "INVALID_FIELD_ERR", 400},
		{"unpadded plaintext", "wrap", `{"plaintext":"YQ"}`, "INVALID_FIELD_ERR", 400},
		{"long aad", "wrap", `{"aad":["` + long + `"]}`, "INVALID_FIELD_ERR", 400},
		{"huge body", "wrap", `{"plaintext":"` + strings.Repeat("A", maxBodyBytes) + `"}`, "BAD_BODY_ERR", 400},
	} {
		if r := u.call("POST", "/keys/"+id+"/actions/"+c.action, c.body); r.status != c.status || r.code(t) != c.code {
			t.Errorf("%s %s: %d %s", c.action, c.name, r.status, r.code(t))
		}
	}
	standard := u.create(`"name":"std","extractable":true`)
	for _, action := range []string{"wrap", "rotate", "disable", "enable"} {
		if r := u.call("POST", "/keys/"+standard+"/actions/"+action, ""); r.status != 400 || r.code(t) != "KEY_ROOT_REQ_ERR" {
			t.Errorf("%s by a standard key: %d %s", action, r.status, r.code(t))
		}
	}
	if r := u.unwrap(u.root(), good, ""); r.code(t) != "UNPROCESSABLE_CIPHERTEXT_ERR" {
		t.Errorf("unwrap by another root key: %d %s", r.status, r.body)
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	id := u.root()
	newest := func() string {
		return u.must(200, "GET", "/keys/"+id+"/metadata", "").resource(t)["keyVersion"].(map[string]any)["id"].(string)
	}
	first := newest()
	old := u.wrapped(id, "secret", `,"aad":["a"]`)
	u.must(204, "POST", "/keys/"+id+"/actions/rotate", "")
	second := newest()
	if first == second {
		t.Fatal("the key version did not change")
	}
	body := u.unwrap(id, old, `,"aad":["a"]`).decode(t)
	if body["plaintext"] != b64("secret") || jsonOf(t, body["keyVersion"]) != `{"id":"`+first+`"}` ||
		jsonOf(t, body["rewrappedKeyVersion"]) != `{"id":"`+second+`"}` {
		t.Errorf("unwrap of an older version: %v", body)
	}
	again := u.unwrap(id, body["ciphertext"].(string), `,"aad":["a"]`).decode(t)
	if again["plaintext"] != b64("secret") || len(again) != 2 {
		t.Errorf("unwrap of the rewrapped ciphertext: %v", again)
	}
	re := u.must(200, "POST", "/keys/"+id+"/actions/rewrap", `{"ciphertext":"`+old+`","aad":["a"]}`).decode(t)
	if _, shown := re["plaintext"]; shown || jsonOf(t, re["rewrappedKeyVersion"]) != `{"id":"`+second+`"}` {
		t.Errorf("rewrap: %v", re)
	}
	if r := u.call("POST", "/keys/"+id+"/actions/rotate", ""); r.status != 409 || r.code(t) != "KEY_ROTATION_NOT_PERMITTED" {
		t.Errorf("second rotation at once: %d %s", r.status, r.body)
	}
	w.clock.advance(time.Hour)
	u.must(204, "POST", "/keys/"+id+"/actions/rotate", "{}")
	versions := u.must(200, "GET", "/keys/"+id+"/versions?totalCount=true&limit=2", "").decode(t)
	list := versions["resources"].([]any)
	if len(list) != 2 || list[1].(map[string]any)["id"] != second || versions["metadata"].(map[string]any)["totalCount"] != 3.0 {
		t.Errorf("versions: %v", versions)
	}

	if r := u.call("POST", "/keys/"+id+"/actions/rotate", `{"payload":"`+b64("0123456789abcdef")+`"}`); r.status != 400 {
		t.Errorf("payload for a generated key: %d %s", r.status, r.body)
	}
	payload := b64("0123456789abcdef0123456789abcdef")
	imported := u.create(`"name":"imported","extractable":false,"payload":"` + payload + `"`)
	twin := u.create(`"name":"twin","extractable":false,"payload":"` + payload + `"`)
	ciphertext := u.wrapped(imported, "s", "")
	if r := u.call("POST", "/keys/"+imported+"/actions/rotate", ""); r.code(t) != "KEY_PAYLOAD_REQ_ERR" {
		t.Errorf("imported key without payload: %d %s", r.status, r.body)
	}
	u.must(204, "POST", "/keys/"+imported+"/actions/rotate", `{"payload":"`+b64("fedcba9876543210")+`"}`)
	if r := u.unwrap(imported, ciphertext, ""); r.status != 200 {
		t.Errorf("imported key, older version: %d %s", r.status, r.body)
	}
	// Root keys with the same bytes open each other's ciphertexts.
	if r := u.unwrap(twin, ciphertext, ""); r.status != 200 {
		t.Errorf("twin: %d %s", r.status, r.body)
	}
}

func FuzzEncodeAAD(f *testing.F) {
	f.Add(`["a","b"]`, `["ab"]`)
	f.Add(`[]`, `[""]`)
	f.Add(`["\u0000\u0000\u0000\u0001a"]`, `["","a"]`)
	f.Fuzz(func(t *testing.T, x, y string) {
		var a, b []string
		if json.Unmarshal([]byte(x), &a) != nil || json.Unmarshal([]byte(y), &b) != nil {
			t.Skip()
		}
		ea, errA := encodeAAD(a)
		eb, errB := encodeAAD(b)
		if errA != nil || errB != nil {
			t.Skip()
		}
		same := len(a) == len(b)
		for i := range min(len(a), len(b)) {
			same = same && a[i] == b[i]
		}
		if bytes.Equal(ea, eb) != same {
			t.Errorf("%q and %q", a, b)
		}
	})
}
