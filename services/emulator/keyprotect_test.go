package emulator

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRoles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss := w.user(managerKey, kmsInstance)
	id := boss.root()
	sealed := `{"ciphertext":"` + boss.wrapped(id, "x", "") + `"}`
	roles := []string{readerKey, readerPlusKey, writerKey}
	for _, c := range []struct {
		method, path, body string
		allowed            []string // besides the manager
	}{
		{"POST", "/keys", newKeyBody(`"name":"new"`), []string{writerKey}},
		{"GET", "/keys/" + id, "", []string{readerPlusKey, writerKey}},
		{"GET", "/keys/" + id + "/metadata", "", roles},
		{"GET", "/keys/" + id + "/versions", "", roles},
		{"GET", "/keys", "", roles},
		{"HEAD", "/keys", "", roles},
		{"POST", "/keys/" + id + "/actions/wrap", "", roles},
		{"POST", "/keys/" + id + "/actions/unwrap", sealed, roles},
		{"POST", "/keys/" + id + "?action=unwrap", sealed, roles},
		{"POST", "/keys/" + id + "/actions/rewrap", sealed, roles},
		{"POST", "/keys/" + id + "/actions/rotate", "", []string{writerKey}},
		{"POST", "/keys/" + id + "/actions/disable", "", nil},
		{"POST", "/keys/" + id + "/actions/enable", "", nil},
		{"DELETE", "/keys/" + id, "", nil},
		{"POST", "/keys/" + id + "/restore", "", nil},
		{"POST", "/keys_with_policy_overrides", newKeyBody(`"name":"new"`), []string{writerKey}},
		{"PATCH", "/keys/" + id, `{"keyRingID":"default"}`, nil},
		{"DELETE", "/keys/" + id + "/purge", "", nil},
		{"POST", "/keys/" + id + "/actions/setKeyForDeletion", "", []string{writerKey}},
		{"POST", "/keys/" + id + "/actions/unsetKeyForDeletion", "", []string{writerKey}},
		{"POST", "/keys/" + id + "/actions/sync", "", []string{writerKey}},
		{"POST", "/keys/" + id + "/aliases/nick", "", []string{writerKey}},
		{"DELETE", "/keys/" + id + "/aliases/nick", "", nil},
		{"GET", "/keys/" + id + "/policies", "", nil},
		{"PUT", "/keys/" + id + "/policies", "", nil},
		{"GET", "/keys/" + id + "/registrations", "", roles},
		{"GET", "/keys/registrations", "", roles},
		{"GET", "/instance/policies", "", nil},
		{"PUT", "/instance/policies", "", nil},
		{"POST", "/import_token", "", []string{writerKey}},
		{"GET", "/import_token", "", []string{writerKey}},
		{"GET", "/key_rings", "", roles},
		{"POST", "/key_rings/ring-1", "", []string{writerKey}},
		{"DELETE", "/key_rings/ring-1", "", nil},
	} {
		if r := boss.call(c.method, c.path, c.body); (r.status == 401) != strings.HasSuffix(c.path, "/purge") {
			t.Errorf("%s %s by the manager: %d", c.method, c.path, r.status)
		}
		for _, who := range roles {
			r := w.user(who, kmsInstance).call(c.method, c.path, c.body)
			if ok := r.status != 401; ok != slices.Contains(c.allowed, who) || r.status == 404 {
				t.Errorf("%s %s by %s: %d", c.method, c.path, who, r.status)
			}
			if r.status == 401 && c.method != "HEAD" {
				if body := r.resource(t); body["reasons"] != nil || body["errorMsg"] == nil || len(body) != 1 {
					t.Errorf("401 is %s", r.body)
				}
			}
		}
	}
}

func TestInstancesAreApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mine := w.user(managerKey, kmsInstance)
	id := mine.root()
	crypto := user{w, w.hpcs, mine.token, hpcsInstance}
	hpcsKey := crypto.root()
	if crn := crypto.must(200, "GET", "/keys/"+hpcsKey, "").resource(t)["crn"].(string); !strings.HasPrefix(crn, "crn:v1:bluemix:public:hs-crypto:eu-de:a/") {
		t.Error(crn)
	}
	for _, c := range []struct {
		name   string
		u      user
		status int
	}{
		{"neighbour instance", user{w, w.kms, mine.token, kmsNeighbour}, 404},
		{"instance without a role", user{w, w.kms, w.token(readerKey), kmsNeighbour}, 401},
		{"instance of another account", user{w, w.kms, mine.token, kmsOfOther}, 401},
		{"caller of another account", user{w, w.kms, w.token(otherKey), kmsInstance}, 401},
		{"unknown instance", user{w, w.kms, mine.token, "6f1c0b5e-59b5-4f5e-9d4c-ffffffffffff"}, 401},
		{"kms instance on the HPCS address", user{w, w.hpcs, mine.token, kmsInstance}, 401},
		{"HPCS instance on the kms address", user{w, w.kms, mine.token, hpcsInstance}, 401},
	} {
		if r := c.u.call("GET", "/keys/"+id+"/metadata", ""); r.status != c.status {
			t.Errorf("%s: %d %s", c.name, r.status, r.body)
		}
	}
	if n := len((user{w, w.kms, mine.token, kmsNeighbour}).must(200, "GET", "/keys", "").resources(t)); n != 0 {
		t.Errorf("the neighbour lists %d keys", n)
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(managerKey, kmsInstance)
	for _, c := range []struct {
		name, header, value string
		status              int
		code                string
	}{
		{"no instance", "Bluemix-Instance", "", 400, ""},
		{"instance is no UUID", "Bluemix-Instance", "keys", 400, ""},
		{"no token", "Authorization", "", 401, ""},
		{"other scheme", "Authorization", "Basic YTpi", 401, ""},
		{"unparsable token", "Authorization", "Bearer nonsense", 400, "BEARER_SUB_EXTRACTION_ERR"},
		{"bad signature", "Authorization", "Bearer " + u.token[:len(u.token)-8] + "AAAAAAAA", 401, ""},
	} {
		r := u.call("GET", "/keys", "", c.header, c.value)
		if r.status != c.status || r.code(t) != c.code {
			t.Errorf("%s: %d %s", c.name, r.status, r.body)
		}
		if r.header.Get("Correlation-Id") == "" {
			t.Errorf("%s: no Correlation-Id", c.name)
		}
	}
	const id = "0b9f3c52-7f55-4f2f-8c3f-5f0f3ad0a001"
	if got := u.call("GET", "/keys", "", "Correlation-Id", id).header.Get("Correlation-Id"); got != id {
		t.Errorf("Correlation-Id %s", got)
	}
	w.clock.advance(time.Hour)
	if r := u.call("GET", "/keys", ""); r.status != 401 {
		t.Errorf("expired token: %d", r.status)
	}
}

// TestCryptoUnitsAreInitializedByTheSeed starts an emulator whose HPCS instance is as it was ordered,
// and then one whose seed says that somebody initialized it.
func TestCryptoUnitsAreInitializedByTheSeed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := user{w, w.hpcs, w.token(managerKey), hpcsInstance}
	id := u.root()
	w.stop()
	for _, c := range []struct {
		initialized bool
		status      int
	}{{false, 409}, {true, 200}} {
		seed := testSeed()
		seed.Instances[2].Initialized = &c.initialized
		again := startSeeded(t, w.dir, w.clock, seed)
		v := user{again, again.hpcs, u.token, hpcsInstance}
		v.must(c.status, "GET", "/keys/"+id, "")
		again.stop()
	}
	seed := testSeed()
	initialized := true
	seed.Instances[0].Initialized = &initialized
	if _, err := LoadSeed(writeSeed(t, seed)); err == nil || !strings.Contains(err.Error(), "instances[0].initialized: ") {
		t.Errorf("crypto units of a Key Protect instance: %v", err)
	}
}
