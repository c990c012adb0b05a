package kms

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

// refused checks an error answer's status and code.
func (r reply) refused(t *testing.T, what string, status int, code string) {
	t.Helper()
	if r.status != status || r.code(t) != code {
		t.Errorf("%s: %d %s, want %d %s", what, r.status, r.body, status, code)
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	id := u.create(`"name":"root","extractable":false,"aliases":["nick"]`)
	path := "/keys/" + id
	u.call("DELETE", path+"/purge", "").refused(t, "purge of an active key", 409, "KEY_ACTION_INVALID_STATE_ERR")
	u.must(204, "DELETE", path, "")
	w.clock.advance(purgeFrom - time.Second)
	u.call("DELETE", path+"/purge", "").refused(t, "purge before four hours", 409, "REQ_TOO_EARLY_ERR")
	w.clock.advance(time.Second)
	if k := u.must(200, "DELETE", path+"/purge", "", "Prefer", "return=representation").resource(t); k["id"] != id || k["state"] != 5.0 {
		t.Errorf("purge answers %v", k)
	}
	for _, gone := range []string{path, "/keys/nick"} {
		u.call("GET", gone, "").refused(t, "purged key", 404, "KEY_NOT_FOUND_ERR")
	}
	u.call("POST", path+"/restore", "").refused(t, "restore of a purged key", 404, "KEY_NOT_FOUND_ERR")
	second := u.create(`"name":"another","aliases":["nick"]`)
	u.must(204, "DELETE", "/keys/"+second, "", "Prefer", "return=minimal")

	// What nobody purges the service does, and its alias is free again.
	u.call("POST", "/keys", newKeyBody(`"name":"third","aliases":["nick"]`)).refused(t, "alias of a deleted key", 409, "KEY_ALIAS_NOT_UNIQUE_ERR")
	w.clock.advance(purgeAfter)
	if third := u.create(`"name":"third","aliases":["nick"]`); u.must(200, "GET", "/keys/nick", "").resource(t)["id"] != third {
		t.Error("the alias still is the purged key's")
	}
}

func TestDualAuthorization(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := w.user(manager, kmsInstance), w.user(colleague, kmsInstance)
	path := "/keys/" + one.root()
	set, unset := path+"/actions/setKeyForDeletion", path+"/actions/unsetKeyForDeletion"
	one.call("POST", set, "").refused(t, "without policy", 409, "NOT_DUAL_AUTH_ERR")
	one.must(200, "PUT", path+"/policies?policy=dualAuthDelete", policies(`{"dualAuthDelete":{"enabled":true}}`))
	dual := func() string { return jsonOf(t, one.must(200, "GET", path, "").resource(t)["dualAuthDelete"]) }
	if got := dual(); got != `{"enabled":true,"keySetForDeletion":false}` {
		t.Error(got)
	}
	two.call("DELETE", path, "").refused(t, "without authorization", 409, "AUTHORIZATIONS_NOT_MET")
	one.must(204, "POST", set, "")
	if got := dual(); got != `{"authExpiration":"2026-11-30T12:00:00Z","enabled":true,"keySetForDeletion":true}` {
		t.Error(got)
	}
	one.call("DELETE", path, "").refused(t, "by who authorized it", 409, "AUTHORIZATIONS_NOT_MET")
	one.must(204, "POST", unset, "")
	two.call("DELETE", path, "").refused(t, "after the authorization was taken back", 409, "AUTHORIZATIONS_NOT_MET")
	one.must(204, "POST", "/keys/"+path[len("/keys/"):]+"?action=setKeyForDeletion", "")
	w.clock.advance(deletionIntent)
	two.call("DELETE", path, "").refused(t, "after the authorization expired", 409, "AUTHORIZATIONS_NOT_MET")
	one.must(204, "POST", set, "")
	two.must(204, "DELETE", path, "")
}

func TestMoveBetweenKeyRings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	u.must(201, "POST", "/key_rings/ring-1", "")
	id := u.root()
	path := "/keys/" + id
	if k := u.must(200, "PATCH", path, `{"KeyRingID":"ring-1"}`).resource(t); k["keyRingID"] != "ring-1" {
		t.Errorf("PATCH answers %v", k)
	}
	u.call("GET", path, "", "X-Kms-Key-Ring", "default").refused(t, "in its old ring", 404, "KEY_NOT_FOUND_ERR")
	u.must(200, "GET", path, "", "X-Kms-Key-Ring", "ring-1")
	u.call("PATCH", path, `{"keyRingID":"ring-2"}`).refused(t, "to an unknown ring", 404, "KEY_RING_NOT_FOUND_ERR")
	u.call("PATCH", path, `{"name":"other"}`).refused(t, "another field", 400, "BAD_BODY_ERR")

	u.call("DELETE", "/key_rings/ring-1", "").refused(t, "ring with a key", 409, "KEY_RING_KEYS_NOT_DELETED_ERR")
	u.call("DELETE", "/key_rings/ring-1?force=true", "").refused(t, "ring with a key, by force", 409, "KEY_RING_KEYS_NOT_DELETED_ERR")
	u.must(204, "DELETE", path, "")
	u.call("DELETE", "/key_rings/ring-1", "").refused(t, "ring with a deleted key", 409, "KEY_RING_NOT_EMPTY_ERR")
	u.must(204, "DELETE", "/key_rings/ring-1?force=true", "")
	if ring := u.must(200, "GET", path, "").resource(t)["keyRingID"]; ring != "default" {
		t.Errorf("the deleted key is in ring %v", ring)
	}
	u.call("DELETE", "/key_rings/ring-1", "").refused(t, "unknown ring", 404, "KEY_RING_NOT_FOUND_ERR")
	u.must(400, "DELETE", "/key_rings/default", "")
}

func TestAliases(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	id := u.create(`"name":"std","aliases":["a1"]`)
	other := u.create(`"name":"other"`)
	at := "/keys/" + id + "/aliases/"
	want := `{"alias":"a2","createdBy":"` + manager + `","creationDate":"2026-11-23T12:00:00Z","keyId":"` + id + `"}`
	if got := jsonOf(t, u.must(201, "POST", at+"a2", "").resource(t)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, a := range []string{"a3", "a4", "A4"} {
		u.must(201, "POST", "/keys/a1/aliases/"+a, "")
	}
	u.call("POST", at+"a6", "").refused(t, "sixth alias", 400, "INVALID_FIELD_ERR")
	for alias, code := range map[string]string{
		"a2": "KEY_ALIAS_NOT_UNIQUE_ERR", "wrap": "INVALID_FIELD_ERR", "x": "INVALID_FIELD_ERR", "a.b": "INVALID_FIELD_ERR",
		"6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01": "INVALID_FIELD_ERR",
	} {
		if r := u.call("POST", "/keys/"+other+"/aliases/"+alias, ""); r.code(t) != code {
			t.Errorf("alias %s: %d %s", alias, r.status, r.body)
		}
	}
	u.must(204, "DELETE", at+"a2", "")
	u.call("DELETE", at+"a2", "").refused(t, "alias that is gone", 404, "KEY_ALIAS_NOT_FOUND_ERR")
	u.call("GET", "/keys/a2", "").refused(t, "key by an alias that is gone", 404, "KEY_NOT_FOUND_ERR")
	u.must(201, "POST", "/keys/"+other+"/aliases/a2", "")
	if got := jsonOf(t, u.must(200, "GET", "/keys/"+id, "").resource(t)["aliases"]); got != `["a1","a3","a4","A4"]` {
		t.Error(got)
	}
}

func TestSync(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	path := "/keys/" + u.root() + "/actions/sync"
	u.must(204, "POST", path, "")
	u.call("POST", path, "").refused(t, "again at once", 409, "REQ_TOO_EARLY_ERR")
	w.clock.advance(syncPause)
	u.must(204, "POST", path, "")
	u.call("POST", "/keys/"+u.create(`"name":"std"`)+"/actions/sync", "").refused(t, "standard key", 400, "KEY_ROOT_REQ_ERR")
}

func TestRegistrations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u, cos := w.user(manager, kmsInstance), w.user(storage, kmsInstance)
	id := u.root()
	bucket := func(n int) string {
		return strings.TrimPrefix(strings.TrimSuffix(storage, "::"), "crn-") + fmt.Sprintf(":bucket:b%d", n)
	}
	at := func(key, crn string) string { return "/keys/" + key + "/registrations/" + url.PathEscape(crn) }
	input := func(fields string) string {
		return `{"metadata":{"collectionType":"application/vnd.ibm.kms.registration_input+json","collectionTotal":1},"resources":[{` + fields + `}]}`
	}
	u.call("POST", at(id, bucket(1)), "").refused(t, "by a user", 403, "SERVICE_ONLY_ERR")
	cos.call("POST", at(id, "crn:v1:bluemix:public:kms:us-south:a/1:2:key:3"), "").refused(t, "foreign resource", 403, "RESOURCE_OWNER_ERR")
	cos.call("POST", at(id, "bucket"), "").refused(t, "no CRN", 400, "INVALID_FIELD_ERR")
	cos.call("POST", at(u.create(`"name":"std"`), bucket(1)), "").refused(t, "standard key", 422, "KEY_ROOT_REQ_REG_ERR")
	cos.call("POST", at(id, bucket(1)), input(`"keyVersionId":"`+kmsInstance+`"`)).refused(t, "unknown version", 422, "KEY_VERSION_INVALID")
	disabled := u.root()
	u.must(204, "POST", "/keys/"+disabled+"/actions/disable", "")
	cos.call("POST", at(disabled, bucket(1)), "").refused(t, "disabled key", 422, "KEY_INVALID_STATE_ERR")

	r := cos.must(201, "POST", at(id, bucket(1)), "").resource(t)
	if r["keyId"] != id || r["resourceCrn"] != bucket(1) || r["createdBy"] != storage || r["preventKeyDeletion"] != false {
		t.Errorf("registration %v", r)
	}
	cos.must(201, "POST", at(id, bucket(2)), input(`"preventKeyDeletion":true,"description":"retention"`))
	for query, want := range map[string]int{
		"/keys/registrations": 2, "/keys/" + id + "/registrations": 2, "/keys/" + disabled + "/registrations": 0,
		"/keys/registrations?preventKeyDeletion=true":                                             1,
		"/keys/registrations?urlEncodedResourceCRNQuery=" + url.QueryEscape(bucket(1)):            1,
		"/keys/registrations?urlEncodedResourceCRNQuery=" + url.QueryEscape("crn:v1:*:bucket:*"):  2,
		"/keys/registrations?urlEncodedResourceCRNQuery=" + url.QueryEscape("crn:v1:*:bucket:x*"): 0,
		"/keys/registrations?limit=1&offset=1":                                                    1,
	} {
		if got := u.must(200, "GET", query, "").resources(t); len(got) != want {
			t.Errorf("%s: %v", query, got)
		}
	}
	u.call("DELETE", "/keys/"+id, "").refused(t, "delete", 409, "PROTECTED_RESOURCE_ERR")
	u.call("DELETE", "/keys/"+id+"?force=true", "").refused(t, "delete by force", 409, "PREV_KEY_DEL_ERR")
	cos.must(204, "DELETE", at(id, bucket(2)), "")
	cos.must(404, "DELETE", at(id, bucket(2)), "")
	u.call("DELETE", "/keys/"+id, "").refused(t, "delete", 409, "PROTECTED_RESOURCE_ERR")
	u.must(204, "DELETE", "/keys/"+id+"?force=true", "")
	w.clock.advance(purgeFrom)
	u.must(204, "DELETE", "/keys/"+id+"/purge", "")
	if left := u.must(200, "GET", "/keys/registrations", "").resources(t); len(left) != 0 {
		t.Errorf("after the purge: %v", left)
	}
}

func TestHPCS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := user{w, w.hpcs, manager, hpcsInstance}
	u.call("POST", "/key_rings/ring-1", "").refused(t, "second key ring", 403, "FEATURE_RESTRICTED_ERR")
	u.must(201, "POST", "/keys", newKeyBody(`"name":"root","extractable":false`), "X-Kms-Key-Ring", "default")
	if rings := u.must(200, "GET", "/key_rings", "").resources(t); len(rings) != 1 || rings[0]["id"] != "default" {
		t.Errorf("key rings: %v", rings)
	}
	raw := user{w, w.hpcs, manager, hpcsNew}
	for _, path := range []string{"/keys", "/key_rings", "/instance/policies"} {
		r := raw.call("GET", path, "")
		if r.refused(t, path, 409, ""); !strings.Contains(string(r.body), "not initialized") {
			t.Errorf("%s: %s", path, r.body)
		}
	}
}

// TestDecisionsNameRingAndKey checks what is asked of IAM, and what a caller sees who may use one key
// ring alone.
func TestDecisionsNameRingAndKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	u.must(201, "POST", "/key_rings/ring-1", "")
	hidden := u.root()
	seen := u.create(`"name":"seen","extractable":false,"aliases":["nick"]`, "X-Kms-Key-Ring", "ring-1")
	var asked Access
	w.may = func(q Access) bool {
		asked = q
		return q.KeyRing == "ring-1"
	}
	u.must(200, "GET", "/keys/nick", "")
	if asked.Action != "secrets.read" || asked.KeyRing != "ring-1" || asked.Key != seen || asked.Caller != manager || asked.Instance.GUID != kmsInstance {
		t.Errorf("asked %+v", asked)
	}
	for _, path := range []string{"/keys/" + hidden, "/keys/" + kmsInstance, "/key_rings"} {
		u.must(401, "GET", path, "")
	}
	u.must(404, "GET", "/keys/"+kmsInstance, "", "X-Kms-Key-Ring", "ring-1")
	if list := u.must(200, "GET", "/keys", "").resources(t); len(list) != 1 || list[0]["id"] != seen {
		t.Errorf("list: %v", list)
	}
	if total := u.must(200, "HEAD", "/keys", "").header.Get("Key-Total"); total != "1" {
		t.Errorf("Key-Total %s", total)
	}
	u.must(401, "GET", "/keys", "", "X-Kms-Key-Ring", "default")
	u.must(401, "POST", "/keys", newKeyBody(`"name":"new"`))
	u.must(201, "POST", "/keys", newKeyBody(`"name":"new"`), "X-Kms-Key-Ring", "ring-1")
	w.may = func(q Access) bool { return q.Key == seen }
	u.must(200, "GET", "/keys/"+seen, "")
	u.must(401, "GET", "/keys", "") // access to keys alone does not list
}
