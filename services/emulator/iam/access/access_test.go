package access

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

const (
	viewer     = platformRole + "Viewer"
	reader     = serviceRole + "Reader"
	kmipOnHPCS = "crn:v1:bluemix:public:hs-crypto::::serviceRole:VMwareKMIPManager"
)

// with adds pairs to attributes.
func with(on Attributes, pairs ...string) Attributes {
	for i := 0; i < len(pairs); i += 2 {
		on[pairs[i]] = pairs[i+1]
	}
	return on
}

// crypto are the attributes of the hs-crypto instance and what pairs add.
func crypto(pairs ...string) Attributes {
	return with(OnInstance(testAccount, serviceHPCS, "us-south", cryptoGUID), pairs...)
}

// keys are the attributes of the kms instance and what pairs add.
func keys(pairs ...string) Attributes {
	return with(OnInstance(testAccount, serviceKMS, "us-south", keysGUID), pairs...)
}

func TestDecision(t *testing.T) {
	t.Parallel()
	onKeys := attributes("accountId", testAccount, "serviceName", "kms", "serviceInstance", keysGUID)
	source := attributes("serviceName", "vmware-solutions", "serviceInstance", sourceGUID, "accountId", testAccount)
	onCrypto := attributes("accountId", testAccount, "serviceName", "hs-crypto", "serviceInstance", cryptoGUID)
	somebody := attributes("iam_id", "IBMid-1")
	for _, c := range []struct {
		name   string
		policy string
		who    string
		action string
		on     Attributes
		want   bool
	}{
		{"the role has the action", body(typeAccess, somebody, onKeys, reader), "IBMid-1", "kms.secrets.wrap", keys(), true},
		{"the role lacks the action", body(typeAccess, somebody, onKeys, reader), "IBMid-1", "kms.secrets.create", keys(), false},
		{"a platform role", body(typeAccess, somebody, onKeys, viewer), "IBMid-1", "kms.secrets.list", keys(), false},
		{"somebody else", body(typeAccess, somebody, onKeys, reader), "IBMid-2", "kms.secrets.wrap", keys(), false},
		{"another instance", body(typeAccess, somebody, onKeys, reader), "IBMid-1", "kms.secrets.wrap", keys("serviceInstance", cryptoGUID), false},
		{"another account's instance", body(typeAccess, somebody, onKeys, reader), "IBMid-1", "kms.secrets.wrap", keys("accountId", otherAccount), false},
		{"all instances", body(typeAccess, somebody, attributes("accountId", testAccount, "serviceName", "kms"), reader), "IBMid-1", "kms.secrets.wrap", keys(), true},
		{"the service's spelling of a standard role", body(typeAccess, somebody, onKeys, definedRole("kms", "Reader")), "IBMid-1", "kms.secrets.wrap", keys(), true},
		{"a role of its own", body(typeAccess, somebody, onKeys, definedRole("kms", "KeyPurge")), "IBMid-1", "kms.secrets.purge", keys(), true},
		{
			"the key ring", body(typeAccess, somebody, attributes("accountId", testAccount, "serviceName", "kms", "keyRing", "ring-1"), reader),
			"IBMid-1", "kms.secrets.wrap", keys("keyRing", "ring-1"), true,
		},
		{
			"another key ring", body(typeAccess, somebody, attributes("accountId", testAccount, "serviceName", "kms", "keyRing", "ring-1"), reader),
			"IBMid-1", "kms.secrets.wrap", keys("keyRing", "default"), false,
		},
		{
			"no key ring named", body(typeAccess, somebody, attributes("accountId", testAccount, "serviceName", "kms", "keyRing", "ring-1"), reader),
			"IBMid-1", "kms.secrets.list", keys(), false,
		},
		{
			"the key", body(typeAccess, somebody, attributes("accountId", testAccount, "serviceName", "kms", "resourceType", "key", "resource", "k1"), reader),
			"IBMid-1", "kms.secrets.wrap", keys("keyRing", "default", "resourceType", "key", "resource", "k1"), true,
		},
		{
			"another key", body(typeAccess, somebody, attributes("accountId", testAccount, "serviceName", "kms", "resourceType", "key", "resource", "k1"), reader),
			"IBMid-1", "kms.secrets.wrap", keys("keyRing", "default", "resourceType", "key", "resource", "k2"), false,
		},
		{
			"a pattern", body(typeAccess, somebody, attributes("accountId", testAccount, "serviceName", "kms", "keyRing", "~ring-*"), reader),
			"IBMid-1", "kms.secrets.wrap", keys("keyRing", "ring-7"), true,
		},
		{"an instance", body(typeAuthorization, source, onCrypto, viewer, kmipOnHPCS), instance, "hs-crypto.secrets.create", crypto("keyRing", "default"), true},
		{"an instance, another key ring", body(typeAuthorization, source, onCrypto, kmipOnHPCS), instance, "hs-crypto.secrets.create", crypto("keyRing", "ring-1"), false},
		{"an instance, an action of managers", body(typeAuthorization, source, onCrypto, kmipOnHPCS), instance, "hs-crypto.secrets.rotate", crypto(), false},
		{"another instance of the service", body(typeAuthorization, source, onCrypto, kmipOnHPCS), strings.Replace(instance, "7a09", "7a08", 1), "hs-crypto.secrets.list", crypto(), false},
		{"the instance's guid in another account", body(typeAuthorization, source, onCrypto, kmipOnHPCS), strings.Replace(instance, testAccount, otherAccount, 1), "hs-crypto.secrets.list", crypto(), false},
		{"the instance's guid of another service", body(typeAuthorization, source, onCrypto, kmipOnHPCS), strings.Replace(instance, "vmware-solutions", "cloudant", 1), "hs-crypto.secrets.list", crypto(), false},
		{
			"every instance of a service in a region",
			body(typeAuthorization, attributes("serviceName", "vmware-solutions", "region", "us-south", "accountId", testAccount), onCrypto, kmipOnHPCS),
			instance, "hs-crypto.secrets.unwrap", crypto(), true,
		},
		{
			"another region",
			body(typeAuthorization, attributes("serviceName", "vmware-solutions", "region", "eu-de", "accountId", testAccount), onCrypto, kmipOnHPCS),
			instance, "hs-crypto.secrets.unwrap", crypto(), false,
		},
		{
			"a source in another account",
			body(typeAuthorization, attributes("serviceName", "vmware-solutions", "accountId", otherAccount), onCrypto, kmipOnHPCS),
			strings.Replace(instance, testAccount, otherAccount, 1), "hs-crypto.secrets.unwrap", crypto(), true,
		},
		{
			"a tag, which no resource has", body(typeAccess, somebody, strings.TrimSuffix(onKeys, "}")+`,"tags":[{"name":"project","value":"x"}]}`, reader),
			"IBMid-1", "kms.secrets.wrap", keys(), false,
		},
		{"an access group is not played", body(typeAccess, attributes("access_group_id", "IBMid-1"), onKeys, reader), "IBMid-1", "kms.secrets.wrap", keys(), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if r.s.May(c.who, c.action, c.on) {
				t.Fatal("permitted without the policy")
			}
			r.create(admin, c.policy)
			if got := r.s.May(c.who, c.action, c.on); got != c.want {
				t.Errorf("%s by %s: %v", c.action, c.who, got)
			}
		})
	}
}

func TestOnlyManagersGrant(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	somebody := attributes("iam_id", "IBMid-1")
	onOne := attributes("accountId", testAccount, "serviceName", "kms", "serviceInstance", keysGUID)
	onAll := attributes("accountId", testAccount, "serviceName", "kms")
	for _, c := range []struct {
		name, by, resource string
		status             int
	}{
		{"administrator of all", admin, onAll, 201},
		{"manager of one, for a ring of it", local, attributes("accountId", testAccount, "serviceName", "kms", "serviceInstance", keysGUID, "keyRing", "ring-1"), 201},
		{"manager of one, for it", local, onOne, 201},
		{"manager of one, for all", local, onAll, 403},
		{"manager of one, by a pattern", local, attributes("accountId", testAccount, "serviceName", "kms", "serviceInstance", "~*"), 403},
		{"another account", stranger, onOne, 403},
		{"who got Reader", "IBMid-1", onOne, 403},
		{"nobody", "", onOne, 401},
	} {
		got := r.call(c.by, "POST", "/v1/policies", body(typeAccess, somebody, c.resource, reader), "")
		if got.status != c.status || got.status == 403 && got.code() != "insufficent_permissions" { //nolint:misspell // IBM's spelling
			t.Errorf("%s: %d %v", c.name, got.status, got.body)
		}
	}
	// What one may not manage does not exist, but that one may read what one has been granted.
	id, etag := r.create(admin, body(typeAccess, attributes("iam_id", "IBMid-2"), onAll, reader))
	for _, who := range []string{local, stranger, "IBMid-2"} {
		for _, method := range []string{"GET", "DELETE", "PATCH"} {
			if who == "IBMid-2" && method == "GET" {
				r.must(200, who, method, "/v1/policies/"+id, "", "")
				continue
			}
			if got := r.call(who, method, "/v1/policies/"+id, `{"state":"deleted"}`, etag); got.status != 404 || got.code() != "policy_not_found" {
				t.Errorf("%s by %s: %d %v", method, who, got.status, got.body)
			}
		}
	}
	// Nobody takes a policy to where they may not grant.
	mine, etag := r.create(local, body(typeAccess, attributes("iam_id", "IBMid-3"), onOne, reader))
	if got := r.call(local, "PUT", "/v1/policies/"+mine, body(typeAccess, attributes("iam_id", "IBMid-3"), onAll, reader), etag); got.status != 403 {
		t.Errorf("widened: %d %v", got.status, got.body)
	}
	if r.s.May("IBMid-3", "kms.secrets.wrap", keys("serviceInstance", cryptoGUID)) {
		t.Error("the refused change counts")
	}
}

func TestPolicyBodiesAreChecked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	subject := attributes("iam_id", "IBMid-1")
	resource := attributes("accountId", testAccount, "serviceName", "kms")
	source := attributes("serviceName", "vmware-solutions", "accountId", testAccount)
	for name, c := range map[string]struct{ body, code string }{
		"no JSON":                   {`{`, "invalid_body"},
		"two values":                {`{}{}`, "invalid_body"},
		"unknown member":            {`{"typ":"access"}`, "invalid_body"},
		"empty":                     {`{}`, "invalid_body"},
		"unknown type":              {body("acces", subject, resource, reader), "invalid_body"},
		"no role":                   {body(typeAccess, subject, resource), "invalid_body"},
		"two resources":             {body(typeAccess, subject, resource+","+resource, reader), "invalid_body"},
		"no account":                {body(typeAccess, subject, attributes("serviceName", "kms"), reader), "invalid_body"},
		"only an account":           {body(typeAccess, subject, attributes("accountId", testAccount), reader), "invalid_body"},
		"access for a service":      {body(typeAccess, source, resource, reader), "invalid_body"},
		"authorization for a user":  {body(typeAuthorization, subject, resource, reader), "invalid_body"},
		"source without account":    {body(typeAuthorization, attributes("serviceName", "vmware-solutions"), resource, reader), "invalid_body"},
		"source without a service":  {body(typeAuthorization, attributes("accountId", testAccount), resource, reader), "invalid_body"},
		"unknown operator":          {strings.Replace(body(typeAccess, subject, resource, reader), `"kms"`, `"kms","operator":"equals"`, 1), "invalid_body"},
		"empty value":               {body(typeAccess, subject, attributes("accountId", testAccount, "serviceName", "kms", "keyRing", ""), reader), "invalid_body"},
		"long value":                {body(typeAccess, subject, attributes("accountId", testAccount, "serviceName", "kms", "keyRing", strings.Repeat("r", 1001)), reader), "invalid_body"},
		"a role of another service": {body(typeAccess, subject, resource, kmipOnHPCS), "role_not_found"},
		"an unknown role":           {body(typeAccess, subject, resource, serviceRole+"King"), "role_not_found"},
		"a locked service ID":       {body(typeAccess, attributes("iam_id", lockedID), resource, reader), "request_not_processed"},
		"a large body":              {strings.Repeat(" ", 300<<10), "invalid_body"},
	} {
		if got := r.call(admin, "POST", "/v1/policies", c.body, ""); got.status != 400 || got.code() != c.code {
			t.Errorf("%s: %d %v", name, got.status, got.body)
		}
	}
	r.create(admin, body(typeAccess, subject, attributes("accountId", testAccount, "serviceName", "kms", "keyRing", strings.Repeat("é", 1000)), reader))
}

func TestPolicyRevisions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	text := body(typeAccess, attributes("iam_id", "IBMid-1"), attributes("accountId", testAccount, "serviceName", "kms"), reader, viewer)
	id, etag := r.create(admin, text)
	path := "/v1/policies/" + id
	again := body(typeAccess, attributes("iam_id", "IBMid-1"), attributes("serviceName", "kms", "accountId", testAccount), viewer, definedRole("kms", "Reader"))
	if got := r.call(admin, "POST", "/v1/policies", again, ""); got.status != 409 || got.code() != "policy_conflict_error" {
		t.Errorf("the same in other words: %d %v", got.status, got.body)
	}
	for name, c := range map[string]struct {
		method, body, ifMatch, code string
		status                      int
	}{
		"PUT without If-Match":   {"PUT", text, "", "request_not_processed", 400},
		"PATCH without If-Match": {"PATCH", `{"state":"active"}`, "", "request_not_processed", 400},
		"stale PUT":              {"PUT", text, `"1-00"`, "policy_conflict_error", 409},
		"stale PATCH":            {"PATCH", `{"state":"active"}`, `"1-00"`, "policy_conflict_error", 409},
		"unknown state":          {"PATCH", `{"state":"gone"}`, etag, "invalid_body", 400},
		"another type":           {"PUT", body(typeAuthorization, attributes("serviceName", "x", "accountId", testAccount), attributes("accountId", testAccount, "serviceName", "kms"), reader), etag, "invalid_body", 400},
	} {
		if got := r.call(admin, c.method, path, c.body, c.ifMatch); got.status != c.status || got.code() != c.code {
			t.Errorf("%s: %d %v", name, got.status, got.body)
		}
	}
	if got := r.must(200, admin, "GET", path, "", ""); got.etag != etag {
		t.Errorf("refused changes moved the ETag from %s to %s", etag, got.etag)
	}
	r.clock.advance(time.Minute)
	next := r.must(200, admin, "PUT", path, text, etag)
	if next.etag == etag || next.body["last_modified_at"] != "2026-11-23T12:01:00.000Z" || next.body["created_at"] != "2026-11-23T12:00:00.000Z" {
		t.Errorf("replaced: %s %v", next.etag, next.body)
	}
	r.must(204, admin, "DELETE", path, "", "")
	if got := r.call(admin, "DELETE", path, "", ""); got.status != 404 {
		t.Errorf("deleted twice: %d", got.status)
	}
	gone := r.must(200, admin, "GET", path, "", "")
	if gone.body["state"] != stateDeleted || r.s.May("IBMid-1", "kms.secrets.wrap", keys()) {
		t.Errorf("deleted: %v", gone.body)
	}
	if got := r.call(admin, "PUT", path, text, gone.etag); got.status != 404 {
		t.Errorf("replacing a deleted policy: %d %v", got.status, got.body)
	}
	r.create(admin, text) // nothing in its way
	if got := r.call(admin, "PATCH", path, `{"state":"active"}`, gone.etag); got.status != 409 {
		t.Errorf("restoring beside its successor: %d %v", got.status, got.body)
	}
}

func TestPolicyList(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	resource := strings.TrimSuffix(attributes("accountId", testAccount, "serviceName", "kms", "keyRing", "a"), "}") + `,"tags":[{"name":"project","value":"x"}]}`
	tagged, _ := r.create(admin, body(typeAccess, attributes("access_group_id", "AccessGroupId-1"), resource, reader))
	var made []string
	for i := range 4 {
		r.clock.advance(time.Second)
		id, _ := r.create(admin, body(typeAccess, attributes("iam_id", fmt.Sprint("IBMid-", i)), attributes("accountId", testAccount, "serviceName", "kms"), reader))
		made = append(made, id)
	}
	list := func(query string) []string {
		t.Helper()
		ids := []string{}
		for _, p := range r.must(200, admin, "GET", "/v1/policies?account_id="+testAccount+query, "", "").body["policies"].([]any) {
			ids = append(ids, p.(map[string]any)["id"].(string))
		}
		return ids
	}
	for query, want := range map[string][]string{
		"&iam_id=IBMid-2":                             {made[2]},
		"&access_group_id=AccessGroupId-1":            {tagged},
		"&tag_name=project":                           {tagged},
		"&tag_name=project&tag_value=y":               {},
		"&type=authorization":                         {},
		"&service_type=platform_service":              {},
		"&state=deleted":                              {},
		"&sort=-created_at&limit=2":                   {made[3], made[2]},
		"&sort=created_at&iam_id=IBMid-1&type=access": {made[1]},
	} {
		if got := list(query); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	if own := r.must(200, "IBMid-1", "GET", "/v1/policies?account_id="+testAccount, "", "").body["policies"].([]any); len(own) != 1 ||
		own[0].(map[string]any)["id"] != made[1] {
		t.Errorf("who has been granted one reads %v", own)
	}
	if all := list("&sort=last_modified_at"); !slices.Equal(all[len(all)-4:], made) {
		t.Errorf("sorted: %v, want %v at the end", all, made)
	}

	// The pages are the list, forwards and backwards.
	var walked, back []string
	at := "/v1/policies?account_id=" + testAccount + "&sort=id&limit=3"
	var previous string
	for at != "" {
		page := r.must(200, admin, "GET", at, "", "").body
		for _, p := range page["policies"].([]any) {
			walked = append(walked, p.(map[string]any)["id"].(string))
		}
		at, previous = follow(t, page["next"]), follow(t, page["previous"])
	}
	if !slices.Equal(walked, list("&sort=id")) {
		t.Errorf("walked %v", walked)
	}
	for previous != "" {
		page := r.must(200, admin, "GET", previous, "", "").body
		back = append(back, page["policies"].([]any)[0].(map[string]any)["id"].(string))
		previous = follow(t, page["previous"])
	}
	if len(back) == 0 || back[len(back)-1] != walked[0] {
		t.Errorf("walked back to %v", back)
	}

	for query, code := range map[string]string{
		"":                                 "missing_required_query_parameter",
		"?account_id=x&sort=name":          "request_not_processed",
		"?account_id=x&state=gone":         "request_not_processed",
		"?account_id=x&type=x":             "request_not_processed",
		"?account_id=x&limit=0":            "request_not_processed",
		"?account_id=x&limit=101":          "request_not_processed",
		"?account_id=x&start=%21":          "request_not_processed",
		"?account_id=x&format=full":        "request_not_processed",
		"?account_id=x&service_type=other": "request_not_processed",
	} {
		if got := r.call(admin, "GET", "/v1/policies"+query, "", ""); got.status != 400 || got.code() != code {
			t.Errorf("%s: %d %v", query, got.status, got.body)
		}
	}
}

// follow is the path and query of a link, or empty.
func follow(t *testing.T, link any) string {
	t.Helper()
	if link == nil {
		return ""
	}
	u, err := url.Parse(link.(map[string]any)["href"].(string))
	if err != nil {
		t.Fatal(err)
	}
	return u.RequestURI()
}

func TestDecisionDelay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	may := func(want bool, when string) {
		t.Helper()
		if r.s.May("IBMid-1", "kms.secrets.wrap", keys()) != want {
			t.Errorf("%s: %v", when, !want)
		}
	}
	r.s.SetDecisionDelay(2 * time.Minute)
	id, _ := r.create(admin, body(typeAccess, attributes("iam_id", "IBMid-1"), attributes("accountId", testAccount, "serviceName", "kms"), reader))
	may(false, "just granted")
	r.clock.advance(2*time.Minute - time.Second)
	may(false, "granted a second less than the delay ago")
	r.clock.advance(time.Second)
	may(true, "granted the delay ago")
	r.must(204, admin, "DELETE", "/v1/policies/"+id, "", "")
	may(true, "just deleted")
	r.clock.advance(2 * time.Minute)
	may(false, "deleted the delay ago")

	r.s.SetDecisionDelay(0)
	gone := r.must(200, admin, "GET", "/v1/policies/"+id, "", "")
	r.must(200, admin, "PATCH", "/v1/policies/"+id, `{"state":"active"}`, gone.etag)
	may(true, "restored without delay")
}

func TestRolesOfServices(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	legacy := r.must(200, admin, "GET", "/acms/v1/roles?serviceName=kms&policyType=authorization", "", "").body
	names := []string{}
	for _, v := range legacy["supportedRoles"].([]any) {
		names = append(names, v.(map[string]any)["displayName"].(string))
	}
	if want := []string{"Reader", "Writer", "Manager", "Reader Plus", "Key Purge", "KMIP Adapter Manager"}; !slices.Equal(names, want) {
		t.Errorf("kms: %v", names)
	}
	platform := legacy["platformExtensions"].(map[string]any)["supportedRoles"].([]any)
	if len(platform) != 4 || platform[0].(map[string]any)["crn"] != viewer {
		t.Errorf("platform roles: %v", platform)
	}
	if !HasRole("vmware-solutions", "Support") || HasRole("kms", "Support") || HasRole("kms", "") || HasRole("vmware-solutions", "") {
		t.Error("only other services define roles of their own")
	}
}

// FuzzWildcardMatch compares with the regular expression that says the same.
func FuzzWildcardMatch(f *testing.F) {
	for _, s := range [][2]string{{"*", ""}, {"a*b", "ab"}, {"a?c", "abc"}, {"*a*b", "xaxbxab"}, {"**", "x"}, {"?", ""}, {"a*", "b"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(s) || len(pattern)+len(s) > 200 {
			return // JSON holds no other strings; an expression has a limit
		}
		expression := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(pattern))
		want := regexp.MustCompile(`(?s)^` + expression + `$`).MatchString(s)
		if got := wildcardMatch(pattern, s); got != want {
			t.Errorf("%q against %q: %v", pattern, s, got)
		}
	})
}

// FuzzParsePolicy holds what every accepted policy has.
func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(body(typeAccess, attributes("iam_id", "IBMid-1"), attributes("accountId", testAccount, "serviceName", "kms"), reader)))
	f.Add([]byte(body(typeAuthorization, attributes("serviceName", "x", "accountId", "y"), attributes("accountId", "z", "resourceGroupId", "~*"), viewer)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := parsePolicy(raw)
		if err != nil {
			return
		}
		if p.account() == "" || p.subjectKey() == "" && p.Subject.get("access_group_id") == "" || len(p.Roles) == 0 || !p.same(p) {
			t.Errorf("%q became %+v", raw, p)
		}
		for _, id := range p.Roles {
			if _, ok := findRole(p.Resource.get("serviceName"), id); !ok {
				t.Errorf("role %q of %q is unknown", id, raw)
			}
		}
	})
}
