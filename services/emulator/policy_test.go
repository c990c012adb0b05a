package emulator

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

// createPolicy makes a policy as the caller with the API key.
func (w *world) createPolicy(key, body string) string {
	w.t.Helper()
	r := w.send("POST", w.iam+"/v1/policies", w.token(key), body)
	if r.status != 201 {
		w.t.Fatalf("policy: %d %s", r.status, r.body)
	}
	return r.decode(w.t)["id"].(string)
}

// TestPoliciesReachKeyRings grants somebody of another account one key ring of an instance.
func TestPoliciesReachKeyRings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss, guest := w.user(managerKey, kmsInstance), w.user(otherKey, kmsInstance)
	boss.must(201, "POST", "/key_rings/ring-1", "")
	inRing, outside := boss.create(`"name":"in","extractable":false`, "X-Kms-Key-Ring", "ring-1"), boss.root()
	guest.must(401, "POST", "/keys/"+inRing+"/actions/wrap", "")
	w.createPolicy(managerKey, `{"type":"access",
		"subjects":[{"attributes":[{"name":"iam_id","value":"iam-ServiceId-00000000-0000-4000-8000-000000000005"}]}],
		"roles":[{"role_id":"crn:v1:bluemix:public:iam::::serviceRole:Reader"}],
		"resources":[{"attributes":[{"name":"accountId","value":"`+testAccount+`"},{"name":"serviceName","value":"kms"},
			{"name":"serviceInstance","value":"`+kmsInstance+`"},{"name":"keyRing","value":"ring-1"}]}]}`)
	guest.must(200, "POST", "/keys/"+inRing+"/actions/wrap", "")
	guest.must(401, "POST", "/keys/"+outside+"/actions/wrap", "")
	guest.must(401, "DELETE", "/keys/"+inRing, "")
	if n := len(guest.must(200, "GET", "/keys", "", "X-Kms-Key-Ring", "ring-1").resources(t)); n != 1 {
		t.Errorf("%d keys in the key ring", n)
	}
}

// TestInstanceActsWhileAuthorized is the whole way of a service that acts as its instance.
func TestInstanceActsWhileAuthorized(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const source = "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a99"
	form := url.Values{
		"grant_type":     {"urn:ibm:params:oauth:grant-type:iam-authz"},
		"access_token":   {w.token(vmwareKey)},
		"desired_iam_id": {"crn-crn:v1:bluemix:public:vmware-solutions:us-south:a/" + testAccount + ":" + source + "::"},
	}
	mint := func() user {
		r := w.postToken("/identity/token", form)
		if r.status != 200 {
			t.Fatalf("token: %d %s", r.status, r.body)
		}
		return user{w, w.hpcs, r.decode(t)["access_token"].(string), hpcsInstance}
	}
	acting := mint()
	acting.must(401, "GET", "/keys", "")
	policy := w.createPolicy(userKey, `{"type":"authorization",
		"subjects":[{"attributes":[{"name":"serviceName","value":"vmware-solutions"},{"name":"serviceInstance","value":"`+source+`"},
			{"name":"accountId","value":"`+testAccount+`"}]}],
		"roles":[{"role_id":"crn:v1:bluemix:public:hs-crypto::::serviceRole:VMwareKMIPManager"}],
		"resources":[{"attributes":[{"name":"accountId","value":"`+testAccount+`"},{"name":"serviceName","value":"hs-crypto"},
			{"name":"serviceInstance","value":"`+hpcsInstance+`"}]}]}`)
	root := acting.root()
	wrapped := acting.wrapped(root, "x", "")
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/keys", "", 200},
		{"HEAD", "/keys", "", 200},
		{"GET", "/keys/" + root, "", 200},
		{"GET", "/keys/" + root + "/metadata", "", 200},
		{"POST", "/keys/" + root + "/actions/unwrap", `{"ciphertext":"` + wrapped + `"}`, 200},
		{"POST", "/keys/" + root + "/actions/rotate", "", 401},
		{"POST", "/keys/" + root + "/actions/disable", "", 401},
		{"GET", "/keys/" + root + "/versions", "", 401},
		{"POST", "/key_rings/ring-1", "", 401},
		{"DELETE", "/keys/" + root, "", 204},
	} {
		acting.must(c.status, c.method, c.path, c.body)
	}
	kms := acting
	kms.base, kms.instance = w.kms, kmsInstance
	kms.must(401, "GET", "/keys", "")

	w.clock.advance(1796 * time.Second)
	acting.must(401, "GET", "/keys", "") // the token expired
	acting = mint()
	acting.must(200, "GET", "/keys", "")
	if r := w.send("DELETE", w.iam+"/v1/policies/"+policy, w.token(userKey), ""); r.status != 204 {
		t.Fatalf("delete: %d %s", r.status, r.body)
	}
	acting.must(401, "GET", "/keys", "")
	mint() // IAM still knows the service
	if calls := string(get(t, w.admin+"/emulator/v1/calls").body); !strings.Contains(calls, `"principal":"crn-crn:v1:bluemix:public:vmware-solutions:us-south:a/`+testAccount+":"+source) {
		t.Error("the calls do not name the instance")
	}
}

// TestHPCSInstancesAreKept deletes one whose crypto units are initialized, and one whose are not.
func TestHPCSInstancesAreKept(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		initialized bool
		status      int
	}{{true, 422}, {false, 202}} {
		w := newWorld(t)
		w.stop()
		seed := testSeed()
		seed.Instances[2].Initialized = &c.initialized
		w = startSeeded(t, w.dir, w.clock, seed)
		if r := w.send("DELETE", w.rc+"/v2/resource_instances/"+hpcsInstance, w.token(userKey), ""); r.status != c.status {
			t.Errorf("initialized %v: %d %s", c.initialized, r.status, r.body)
		}
		w.stop() // and is in use again after a start with the seed that names it
		w = startSeeded(t, w.dir, w.clock, seed)
		if r := w.send("GET", w.rc+"/v2/resource_instances/"+hpcsInstance, w.token(userKey), ""); r.status != 200 || r.decode(t)["state"] != "active" {
			t.Errorf("seeded again: %d %s", r.status, r.body)
		}
	}
}
