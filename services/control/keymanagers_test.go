package control_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/kmip-for-vmware/kmip/api"
)

// user returns a token of a user who is Administrator of the service, and what
// else is given.
func (c *cell) user(t *testing.T, iamID string, grants ...[]attributeSet) string {
	t.Helper()
	c.cloud.grant(iamID, "Administrator", attributes("accountId", account, "serviceName", "vmware-solutions"))
	for _, g := range grants {
		c.cloud.grant(iamID, "Reader", g)
	}
	return c.cloud.token(t, account, jwt.MapClaims{"iam_id": iamID})
}

func hpcsCRN(account string) string {
	return strings.Replace(kmsCRN(account), ":kms:", ":hs-crypto:", 1)
}

// TestListKeyManagers shows the account's key managers on several pages, each
// with why it can't be used.
func TestListKeyManagers(t *testing.T) {
	c := start(t)
	another := func(crn string, n int) string {
		return strings.Replace(crn, kmsInstance, fmt.Sprintf("1111111%d-0000-4333-8444-555555555555", n), 1)
	}
	c.cloud.addResource(kmsCRN(account), "a keys", "active")
	c.cloud.addResource(hpcsCRN(account), "b crypto", "active")
	c.cloud.addResource(another(hpcsCRN(account), 1), "c not mine to look at", "active")
	c.cloud.addResource(strings.Replace(another(kmsCRN(account), 2), "us-south", "eu-de", 1), "d elsewhere", "active")
	c.cloud.addResource(another(kmsCRN(account), 3), "gone", "removed")
	c.cloud.addResource(strings.Replace(another(kmsCRN(account), 4), ":kms:", ":cloud-object-storage:", 1), "a bucket", "active")
	c.cloud.addResource(another(kmsCRN(stranger), 5), "another's", "active")
	token := c.user(t, "IBMid-1", attributes("accountId", account, "serviceName", "kms"))
	list := func(query string) map[string]api.AvailableKeyManager {
		t.Helper()
		all := map[string]api.AvailableKeyManager{}
		for _, m := range read[api.AvailableKeyManagerCollection](t, c.send(t, "GET", c.url+"/v1/key_managers"+query, token, ""), http.StatusOK).KeyManagers {
			if m.Usable == (m.Reason != nil) {
				t.Errorf("%s: usable %v with reason %v", m.Name, m.Usable, m.Reason)
			}
			all[m.Name] = m
		}
		return all
	}
	all := list("")
	if len(all) != 4 {
		t.Fatalf("listed %+v", all)
	}
	if m := all["a keys"]; !m.Usable || m.Type != api.KeyManagerTypeKeyProtect || m.CRN != kmsCRN(account) || m.GUID != kmsInstance || m.Region != "us-south" {
		t.Errorf("%+v", m)
	}
	if m := all["b crypto"]; !m.Usable || m.Type != api.KeyManagerTypeHpcs {
		t.Errorf("%+v", m)
	}
	for name, sentence := range map[string]string{"c not mine to look at": "does not let you list its keys", "d elsewhere": "need a key manager there"} {
		if m := all[name]; m.Usable || !strings.Contains(*m.Reason, sentence) {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if only := list("?type=hpcs"); len(only) != 2 {
		t.Errorf("of type hpcs: %+v", only)
	}
	refusal(t, c.send(t, "GET", c.url+"/v1/key_managers?type=vault", token, ""), http.StatusBadRequest, api.ErrorCodeInvalidValue, "type", "key_protect or hpcs")

	// HPCS without a root key in the default key ring.
	c.cloud.setFault(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, envelope("key", map[string]any{"id": rootKey, "name": "r", "state": 1, "keyRingID": "other"}))
	})
	if m := list("")["b crypto"]; m.Usable || !strings.Contains(*m.Reason, "no active root key in the key ring `default`") {
		t.Errorf("%+v", m)
	}
	c.cloud.setFault(nil)

	// Without the resource controller; what it says of itself is not repeated.
	c.cloud.stopIAM()
	r := c.send(t, "GET", c.url+"/v1/key_managers", token, "")
	refusal(t, r, http.StatusServiceUnavailable, api.ErrorCodeServiceUnavailable, "", "The resource controller can't answer now: status 503")
}

// TestListRootKeys shows root keys with why one can't be used, to who may see
// them in the key manager.
func TestListRootKeys(t *testing.T) {
	c := start(t)
	c.cloud.addResource(kmsCRN(account), "keys", "active")
	path := c.url + "/v1/key_managers/" + kmsInstance + "/root_keys"
	reader := c.user(t, "IBMid-reader", attributes("accountId", account, "serviceName", "kms"))
	got := read[api.RootKeyCollection](t, c.send(t, "GET", path, reader, ""), http.StatusOK)
	var want []api.RootKey
	for _, id := range []string{rootKey, otherRootKey} {
		want = append(want, api.RootKey{ID: id, Name: "root", KeyRing: "default", State: api.RootKeyStateActive, Usable: true})
	}
	if !slices.Equal(got.RootKeys, want) {
		t.Errorf("%+v", got)
	}
	refusal(t, c.send(t, "GET", path, c.user(t, "IBMid-nobody"), ""), http.StatusForbidden, api.ErrorCodeForbidden, "", "service role Reader")
	for _, guid := range []string{"x", "00000000-0000-4000-8000-000000000000"} {
		refusal(t, c.send(t, "GET", c.url+"/v1/key_managers/"+guid+"/root_keys", reader, ""), http.StatusNotFound, api.ErrorCodeNotFound, "", "GET /v1/key_managers")
	}
	foreign := c.cloud.token(t, stranger, nil)
	refusal(t, c.send(t, "GET", path, foreign, ""), http.StatusNotFound, api.ErrorCodeNotFound, "", "GET /v1/key_managers")

	c.cloud.setFault(func(w http.ResponseWriter, _ *http.Request) {
		var all []any
		for n, state := range []int{0, 1, 2, 3} {
			all = append(all, map[string]any{"id": fmt.Sprintf("9999999%d-8888-4777-8666-555555555555", n), "name": "k", "keyRingID": "ring", "state": state})
		}
		answer(w, http.StatusOK, envelope("key", all...))
	})
	got = read[api.RootKeyCollection](t, c.send(t, "GET", path, reader, ""), http.StatusOK)
	states := []api.RootKeyState{api.RootKeyStatePreActive, api.RootKeyStateActive, api.RootKeyStateSuspended, api.RootKeyStateDeactivated}
	for n, k := range got.RootKeys {
		if k.State != states[n] || k.Usable != (k.State == api.RootKeyStateActive) || k.Usable != (k.Reason == nil) || k.KeyRing != "ring" {
			t.Errorf("%+v", k)
		}
	}
	if len(got.RootKeys) != len(states) {
		t.Errorf("%+v", got)
	}
	c.cloud.setFault(func(w http.ResponseWriter, _ *http.Request) { kmsError(w, http.StatusServiceUnavailable, "") })
	refusal(t, c.send(t, "GET", path, reader, ""), http.StatusServiceUnavailable, api.ErrorCodeServiceUnavailable, "", "")
}

// TestServiceAuthorization looks for the policy, creates it and connects HPCS
// under it.
func TestServiceAuthorization(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	id := strings.TrimPrefix(path, "/v1/instances/")
	query, body := "?key_manager_crn="+hpcsCRN(account), object(map[string]any{"key_manager_crn": hpcsCRN(account)})
	settings := keyManagerBody(map[string]any{"type": "hpcs", "instance_crn": hpcsCRN(account), "api_key": nil})

	before := read[api.ServiceAuthorization](t, c.call(t, "GET", path+"/service_authorization"+query, ""), http.StatusOK)
	want := `{"resources":[{"attributes":[{"name":"accountId","value":"` + account + `"},{"name":"serviceName","value":"hs-crypto"},{"name":"serviceInstance","value":"` + kmsInstance + `"}]}],` +
		`"roles":[{"role_id":"crn:v1:bluemix:public:iam::::role:Viewer"},{"role_id":"crn:v1:bluemix:public:hs-crypto::::serviceRole:VMwareKMIPManager"}],` +
		`"subjects":[{"attributes":[{"name":"accountId","value":"` + account + `"},{"name":"serviceName","value":"vmware-solutions"},{"name":"serviceInstance","value":"` + id + `"}]}],"type":"authorization"}`
	if r := c.call(t, "GET", path+"/service_authorization"+query, ""); before.Exists || before.PolicyID != nil || !strings.Contains(r.body, `"policy":`+want) {
		t.Errorf("%s\nwant %s", r.body, want)
	}
	refusal(t, c.call(t, "PUT", path+"/key_manager", settings), http.StatusBadRequest, api.ErrorCodeInvalidValue, "", "IAM service authorization: source service vmware-solutions, instance "+id)
	weak := c.user(t, "IBMid-weak")
	c.cloud.policies[len(c.cloud.policies)-1].Roles = []role{{roleCRN("Manager")}}
	refusal(t, c.send(t, "POST", c.url+path+"/service_authorization", weak, body), http.StatusForbidden, api.ErrorCodeForbidden, "", "takes the platform role Administrator on the key manager")

	r := c.call(t, "POST", path+"/service_authorization", body)
	made := read[api.ServiceAuthorization](t, r, http.StatusCreated)
	if !made.Exists || made.PolicyID == nil || r.header.Get("Location") != path+"/service_authorization" {
		t.Errorf("%s, Location %s", r.body, r.header.Get("Location"))
	}
	after := read[api.ServiceAuthorization](t, c.call(t, "GET", path+"/service_authorization"+query, ""), http.StatusOK)
	if !after.Exists || after.PolicyID == nil || *after.PolicyID != *made.PolicyID {
		t.Errorf("%+v", after)
	}
	refusal(t, c.call(t, "POST", path+"/service_authorization", body), http.StatusConflict, api.ErrorCodeAlreadyExists, "", "exists already")
	read[api.KeyManager](t, c.call(t, "PUT", path+"/key_manager", settings), http.StatusOK)
	// Connected, the key manager need not be named.
	if again := read[api.ServiceAuthorization](t, c.call(t, "GET", path+"/service_authorization", ""), http.StatusOK); !again.Exists {
		t.Errorf("%+v", again)
	}
	refusal(t, c.call(t, "POST", path+"/service_authorization", "{}"), http.StatusConflict, api.ErrorCodeAlreadyExists, "", "exists already")
	// Who may not read the policy sees none; IAM says that it exists.
	hidden := c.send(t, "GET", c.url+path+"/service_authorization", weak, "")
	if seen := read[api.ServiceAuthorization](t, hidden, http.StatusOK); seen.Exists {
		t.Errorf("%s", hidden.body)
	}
}

// TestServiceAuthorizationInTrouble: IAM fails before and after it made the
// policy, and somebody else makes it in between.
func TestServiceAuthorizationInTrouble(t *testing.T) {
	for trouble, made := range map[string]bool{"before": false, "after": true} {
		c := start(t)
		path, body := c.instance(t, "a")+"/service_authorization", object(map[string]any{"key_manager_crn": hpcsCRN(account)})
		c.cloud.setTrouble(trouble)
		refusal(t, c.call(t, "POST", path, body), http.StatusServiceUnavailable, api.ErrorCodeServiceUnavailable, "", "IAM policy management can't answer now")
		c.cloud.setTrouble("")
		seen := read[api.ServiceAuthorization](t, c.call(t, "GET", path+"?key_manager_crn="+hpcsCRN(account), ""), http.StatusOK)
		if seen.Exists != made {
			t.Errorf("failed %s: %+v", trouble, seen)
		}
		want := http.StatusCreated
		if made {
			want = http.StatusConflict
		}
		if again := c.call(t, "POST", path, body); again.status != want {
			t.Errorf("failed %s, then %d: %s", trouble, again.status, again.body)
		}
		c.cloud.setTrouble("late")
		refusal(t, c.call(t, "POST", path, body), http.StatusConflict, api.ErrorCodeAlreadyExists, "", "exists already")
	}
}

// TestServiceAuthorizationIsOfWhatItSays: other policies authorize nothing.
func TestServiceAuthorizationIsOfWhatItSays(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	id := strings.TrimPrefix(path, "/v1/instances/")
	subject := attributes("accountId", account, "serviceName", "vmware-solutions", "serviceInstance", id)
	resource := attributes("accountId", account, "serviceName", "hs-crypto", "serviceInstance", kmsInstance)
	both := []role{{roleCRN("Viewer")}, {"crn:v1:bluemix:public:hs-crypto::::serviceRole:VMwareKMIPManager"}}
	for name, tc := range map[string]struct {
		subjects, resources []attributeSet
		roles               []role
		exists              bool
	}{
		"exact":              {subject, resource, both, true},
		"all instances":      {attributes("accountId", account, "serviceName", "vmware-solutions"), attributes("accountId", account, "serviceName", "hs-crypto"), both, true},
		"another instance":   {attributes("accountId", account, "serviceName", "vmware-solutions", "serviceInstance", kmsInstance), resource, both, false},
		"another service":    {attributes("accountId", account, "serviceName", "cloud-object-storage"), resource, both, false},
		"another target":     {subject, attributes("accountId", account, "serviceName", "hs-crypto", "serviceInstance", id), both, false},
		"a key ring of it":   {subject, attributes("accountId", account, "serviceName", "hs-crypto", "keyRing", "a"), both, false},
		"Viewer alone":       {subject, resource, both[:1], false},
		"a group of sources": {attributes("accountId", account, "resourceGroupId", "g"), resource, both, false},
	} {
		c.cloud.mu.Lock()
		c.cloud.policies = []policy{{ID: "p", Type: "authorization", State: "active", Subjects: tc.subjects, Resources: tc.resources, Roles: tc.roles}}
		c.cloud.mu.Unlock()
		got := read[api.ServiceAuthorization](t, c.call(t, "GET", path+"/service_authorization?key_manager_crn="+hpcsCRN(account), ""), http.StatusOK)
		if got.Exists != tc.exists {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestServiceAuthorizationRefused(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	for name, tc := range map[string]struct{ crn, sentence string }{
		"none":           {"", "`key_manager_crn` is missing"},
		"not a CRN":      {"kms", "is not a CRN"},
		"Key Protect":    {kmsCRN(account), "which takes an API key"},
		"of another":     {hpcsCRN(stranger), "another account"},
		"in another one": {strings.Replace(hpcsCRN(account), "us-south", "eu-de", 1), "Use a key manager instance in `us-south`"},
	} {
		query, body := "", "{}"
		if tc.crn != "" {
			query, body = "?key_manager_crn="+tc.crn, object(map[string]any{"key_manager_crn": tc.crn})
		}
		t.Run(name, func(t *testing.T) {
			refusal(t, c.call(t, "GET", path+"/service_authorization"+query, ""), http.StatusBadRequest, api.ErrorCodeInvalidValue, "key_manager_crn", tc.sentence)
			refusal(t, c.call(t, "POST", path+"/service_authorization", body), http.StatusBadRequest, api.ErrorCodeInvalidValue, "key_manager_crn", tc.sentence)
		})
	}
	read[api.KeyManager](t, c.call(t, "PUT", path+"/key_manager", keyManagerBody(nil)), http.StatusOK)
	refusal(t, c.call(t, "GET", path+"/service_authorization", ""), http.StatusConflict, api.ErrorCodeInvalidState, "", "needs no service authorization")

	without := start(t, "KMIP_SERVICE_API_KEY_FILE", "")
	path = without.instance(t, "a")
	refusal(t, without.call(t, "GET", path+"/service_authorization", ""), http.StatusConflict, api.ErrorCodeInvalidState, "", "owns no IAM service")
}
