package iam

import (
	"strings"
	"testing"
	"time"
)

func TestAPIKeyDetails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bearer := "Bearer " + r.token(idKey)
	details := func() reply {
		return r.call("GET", "/v1/apikeys/details", "", "Authorization", bearer, "IAM-ApiKey", userKey)
	}
	got := details()
	body := got.decode(t)
	if got.status != 200 || body["iam_id"] != userID || body["account_id"] != testAccount || body["apikey"] != "" || body["created_at"] != "2026-11-23T12:00+0000" {
		t.Errorf("details: %d %s", got.status, got.body)
	}
	if got := r.call("GET", "/v1/apikeys/details", "", "Authorization", bearer, "IAM-ApiKey", "unknown"); got.status != 404 || got.decode(t)["status_code"] != "404" {
		t.Errorf("unknown key: %d %s", got.status, got.body)
	}
	if got := r.call("GET", "/v1/apikeys/details", "", "IAM-ApiKey", userKey); got.status != 401 {
		t.Errorf("no token: %d %s", got.status, got.body)
	}
	r.clock.advance(time.Minute)
	r.stop()
	r.start(time.Hour)
	if again := details(); string(again.body) != string(got.body) {
		t.Errorf("after a restart with the same seed %s, was %s", again.body, got.body)
	}
}

// TestWhoManagesWhom goes through callers and owners: a user of an account manages its service IDs and
// himself, a service ID itself, and nobody anything else.
func TestWhoManagesWhom(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, c := range []struct {
		caller, owner string
		status        int
	}{
		{userKey, userID, 201},
		{userKey, serviceID, 201},
		{idKey, serviceID, 201},
		{idKey, vmwareID, 403},
		{idKey, userID, 403},
		{otherKey, serviceID, 403},
		{otherKey, userID, 403},
		{userKey, "iam-ServiceId-unknown", 403},
	} {
		bearer := "Bearer " + r.token(c.caller)
		made := r.call("POST", "/v1/apikeys", `{"name":"new","iam_id":"`+c.owner+`"}`, "Authorization", bearer)
		if made.status != c.status {
			t.Errorf("%s for %s: %d %s", c.caller, c.owner, made.status, made.body)
		}
	}
	bearer := "Bearer " + r.token(userKey)
	id := r.call("GET", "/v1/apikeys", "", "Authorization", bearer).decode(t)["apikeys"].([]any)[0].(map[string]any)["id"].(string)
	for _, other := range []string{idKey, otherKey} {
		for _, request := range [][2]string{{"GET", ""}, {"DELETE", ""}, {"POST", "/disable"}, {"POST", "/lock"}} {
			if got := r.call(request[0], "/v1/apikeys/"+id+request[1], "", "Authorization", "Bearer "+r.token(other)); got.status != 404 {
				t.Errorf("%s%s by %s: %d", request[0], request[1], other, got.status)
			}
		}
	}
	if got := r.call("POST", "/v1/serviceids/", `{"name":"new","account_id":"`+testAccount+`"}`, "Authorization", "Bearer "+r.token(otherKey)); got.status != 403 {
		t.Errorf("a service ID in another account: %d %s", got.status, got.body)
	}
}

func TestAPIKeyRequestsAreChecked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bearer := "Bearer " + r.token(userKey)
	for name, c := range map[string]struct{ method, path, body string }{
		"no name":              {"POST", "/v1/apikeys", `{"iam_id":"` + userID + `"}`},
		"no owner":             {"POST", "/v1/apikeys", `{"name":"n"}`},
		"another account":      {"POST", "/v1/apikeys", `{"name":"n","iam_id":"` + userID + `","account_id":"` + otherAccount + `"}`},
		"a user's kept value":  {"POST", "/v1/apikeys", `{"name":"n","iam_id":"` + userID + `","store_value":true}`},
		"an unknown leak rule": {"POST", "/v1/apikeys", `{"name":"n","iam_id":"` + userID + `","action_when_leaked":"cry"}`},
		"no time":              {"POST", "/v1/apikeys", `{"name":"n","iam_id":"` + userID + `","expires_at":"tomorrow"}`},
		"unknown member":       {"POST", "/v1/apikeys", `{"nam":"n"}`},
		"page size":            {"GET", "/v1/apikeys?pagesize=101", ""},
		"page token":           {"GET", "/v1/apikeys?pagetoken=!", ""},
		"scope":                {"GET", "/v1/apikeys?scope=all", ""},
		"type":                 {"GET", "/v1/apikeys?type=all", ""},
		"sort":                 {"GET", "/v1/apikeys?sort=size", ""},
		"order":                {"GET", "/v1/apikeys?order=up", ""},
		"filter":               {"GET", "/v1/apikeys?filter=x", ""},
		"no account":           {"GET", "/v1/serviceids/", ""},
		"update unconditional": {"PUT", "/v1/serviceids/" + serviceID[4:], `{"name":"n"}`},
	} {
		got := r.call(c.method, c.path, c.body, "Authorization", bearer)
		if got.status != 400 || got.decode(t)["status_code"] != "400" {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
}

func TestExpiredAPIKey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bearer := "Bearer " + r.token(userKey)
	value := strings.Repeat("v", 32)
	made := r.call("POST", "/v1/apikeys", `{"name":"n","iam_id":"`+userID+`","apikey":"`+value+`","expires_at":"2026-11-23T12:05+0000"}`, "Authorization", bearer)
	if made.status != 201 {
		t.Fatalf("create: %d %s", made.status, made.body)
	}
	r.token(value)
	r.clock.advance(5 * time.Minute)
	if got := r.grant(apiKeyForm(value)); got.status != 400 || got.decode(t)["errorCode"] != "BXNIM0415E" {
		t.Errorf("expired: %d %s", got.status, got.body)
	}
}

// TestLockedServiceIDGetsNoAccess is a rule of policy management about what this package knows.
func TestLockedServiceIDGetsNoAccess(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bearer := "Bearer " + r.token(userKey)
	if got := r.call("POST", "/v1/serviceids/"+serviceID[4:]+"/lock", "", "Authorization", bearer); got.status != 200 || got.decode(t)["locked"] != true {
		t.Fatalf("lock: %d %s", got.status, got.body)
	}
	if got := r.call("DELETE", "/v1/serviceids/"+serviceID[4:], "", "Authorization", bearer); got.status != 409 {
		t.Errorf("deleting a locked service ID: %d %s", got.status, got.body)
	}
	for _, c := range []struct {
		subject string
		status  int
	}{{serviceID, 400}, {userID, 201}} {
		policy := `{"type":"access","subjects":[{"attributes":[{"name":"iam_id","value":"` + c.subject + `"}]}],
			"roles":[{"role_id":"crn:v1:bluemix:public:iam::::role:Viewer"}],
			"resources":[{"attributes":[{"name":"accountId","value":"` + testAccount + `"},{"name":"serviceName","value":"cloudant"}]}]}`
		if got := r.call("POST", "/v1/policies", policy, "Authorization", bearer); got.status != c.status {
			t.Errorf("access for %s: %d %s", c.subject, got.status, got.body)
		}
	}
}
