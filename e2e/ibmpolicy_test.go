package e2e

import (
	"errors"
	"net/http"
	"reflect"
	"slices"
	"testing"

	"github.com/IBM/go-sdk-core/v5/core"
	"github.com/IBM/platform-services-go-sdk/iampolicymanagementv1"
	"github.com/google/uuid"
)

// authenticator exchanges an API key with IBM's own code.
func (c *cloud) authenticator(apiKey string) core.Authenticator {
	return &core.IamAuthenticator{ApiKey: apiKey, URL: c.iam}
}

func (c *cloud) policies(t *testing.T, apiKey string) *iampolicymanagementv1.IamPolicyManagementV1 {
	t.Helper()
	api, err := iampolicymanagementv1.NewIamPolicyManagementV1(&iampolicymanagementv1.IamPolicyManagementV1Options{
		URL: c.iam, Authenticator: c.authenticator(apiKey),
	})
	if err != nil {
		t.Fatal(err)
	}
	return api
}

const (
	viewerRole = "crn:v1:bluemix:public:iam::::role:Viewer"
	kmipRole   = "crn:v1:bluemix:public:hs-crypto::::serviceRole:VMwareKMIPManager"
)

// authorization lets an instance of vmware-solutions use the customer's hs-crypto instance.
func (s cloudSeed) authorization(source string) *iampolicymanagementv1.CreatePolicyOptions {
	return &iampolicymanagementv1.CreatePolicyOptions{
		Type: new("authorization"), Description: new("KMIP for VMware to HPCS"),
		Subjects: []iampolicymanagementv1.PolicySubject{{Attributes: []iampolicymanagementv1.SubjectAttribute{
			{Name: new("serviceName"), Value: new("vmware-solutions")},
			{Name: new("serviceInstance"), Value: new(source)},
			{Name: new("accountId"), Value: new(s.account)},
		}}},
		Roles: []iampolicymanagementv1.PolicyRole{{RoleID: new(viewerRole)}, {RoleID: new(kmipRole)}},
		Resources: []iampolicymanagementv1.PolicyResource{{Attributes: []iampolicymanagementv1.ResourceAttribute{
			{Name: new("accountId"), Value: new(s.account), Operator: new("stringEquals")},
			{Name: new("serviceName"), Value: new("hs-crypto"), Operator: new("stringEquals")},
			{Name: new("serviceInstance"), Value: new(s.crypto), Operator: new("stringEquals")},
		}}},
	}
}

// wantProblem checks the status and, if it is not empty, the code of an SDK's error.
func wantProblem(t *testing.T, response *core.DetailedResponse, err error, status int, code, when string) {
	t.Helper()
	if err == nil || response == nil || response.StatusCode != status {
		t.Errorf("%s: %v, want status %d", when, err, status)
		return
	}
	var problem *core.HTTPProblem
	if !errors.As(err, &problem) {
		t.Errorf("%s: no HTTP problem: %v", when, err)
		return
	}
	if code != "" && codeOf(response) != code {
		t.Errorf("%s: code %q, want %q", when, codeOf(response), code)
	}
}

// codeOf is the first error's code in an answer.
func codeOf(response *core.DetailedResponse) string {
	document, _ := response.GetResultAsMap()
	list, _ := document["errors"].([]any)
	if len(list) == 0 {
		return ""
	}
	code, _ := list[0].(map[string]any)["code"].(string)
	return code
}

// TestIBMsPolicyClient takes an authorization through its whole life with IBM's own client, and
// watches what the instance that it is about may do.
func TestIBMsPolicyClient(t *testing.T) {
	t.Parallel()
	seed := newCloudSeed()
	c := startCloud(t, seed)
	api := c.policies(t, seed.admin)

	source := uuid.NewString()
	desired := "crn-crn:v1:bluemix:public:vmware-solutions:us-south:a/" + seed.account + ":" + source + "::"
	minted := c.actAs(t, token(t, c.iam, seed.service), desired)
	var got struct {
		AccessToken string `json:"access_token"`
	}
	if minted.decode(t, &got); minted.status != http.StatusOK {
		t.Fatalf("acting as the instance: status %d, %s", minted.status, minted.body)
	}
	keys := keyProtect{c.hpcs, seed.crypto, got.AccessToken}
	may := func(want bool, when string) {
		t.Helper()
		if a := keys.call(t, http.MethodGet, "/keys", nil); (a.status == http.StatusOK) != want || !want && a.status != http.StatusUnauthorized {
			t.Errorf("%s the list of keys: status %d, %s", when, a.status, a.body)
		}
	}
	may(false, "without a policy")

	created, response, err := api.CreatePolicy(seed.authorization(source))
	if err != nil {
		t.Fatal(err)
	}
	etag := response.Headers.Get("ETag")
	if response.StatusCode != http.StatusCreated || etag == "" || *created.State != "active" || *created.CreatedByID != seed.adminID ||
		created.CreatedAt == nil || *created.Href != c.iam+"/v1/policies/"+*created.ID {
		t.Errorf("created: status %d, ETag %q, %+v", response.StatusCode, etag, created)
	}
	if name := created.Roles[1].DisplayName; name == nil || *name != "VMware KMIP Manager" {
		t.Errorf("the role's display name is %v", created.Roles[1])
	}
	may(true, "with the policy")
	root := keys.createRootKey(t)
	keys.delete(t, root)
	if a := keys.call(t, http.MethodPost, "/keys/"+root+"/actions/disable", nil); a.status != http.StatusUnauthorized {
		t.Errorf("disable, which the role does not grant: status %d, %s", a.status, a.body)
	}

	_, response, err = api.CreatePolicy(seed.authorization(source))
	wantProblem(t, response, err, http.StatusConflict, "policy_conflict_error", "the same policy again")
	document, _ := response.GetResultAsMap()
	conflict := document["errors"].([]any)[0].(map[string]any)["details"].(map[string]any)["conflicts_with"].(map[string]any)
	if conflict["policy"] != *created.ID || conflict["etag"] == "" {
		t.Errorf("the conflict names %v, not the policy %s", conflict, *created.ID)
	}

	read, response, err := api.GetPolicy(api.NewGetPolicyOptions(*created.ID))
	if err != nil || !reflect.DeepEqual(read.Roles, created.Roles) || !reflect.DeepEqual(read.Subjects, created.Subjects) ||
		!reflect.DeepEqual(read.Resources, created.Resources) || response.Headers.Get("ETag") != etag {
		t.Errorf("read: ETag %s, %+v, %v", response.Headers.Get("ETag"), read, err)
	}

	// Replaced: only Viewer is left.
	replace := &iampolicymanagementv1.ReplacePolicyOptions{
		PolicyID: created.ID, IfMatch: new("1-stale"), Type: created.Type, Subjects: created.Subjects,
		Roles: []iampolicymanagementv1.PolicyRole{{RoleID: new(viewerRole)}}, Resources: created.Resources,
	}
	_, response, err = api.ReplacePolicy(replace)
	wantProblem(t, response, err, http.StatusConflict, "policy_conflict_error", "a stale ETag")
	replace.IfMatch = &etag
	replaced, response, err := api.ReplacePolicy(replace)
	if err != nil {
		t.Fatal(err)
	}
	if next := response.Headers.Get("ETag"); next == etag || next == "" || len(replaced.Roles) != 1 || replaced.Description != nil {
		t.Errorf("replaced: ETag %s, %+v", next, replaced)
	}
	may(false, "with Viewer alone")
	replace.IfMatch, replace.Roles = new(response.Headers.Get("ETag")), seed.authorization(source).Roles
	if _, _, err = api.ReplacePolicy(replace); err != nil {
		t.Fatal(err)
	}
	may(true, "with the role again")

	// Deleted: readable, out of the list, restorable.
	if response, err = api.DeletePolicy(api.NewDeletePolicyOptions(*created.ID)); err != nil || response.StatusCode != http.StatusNoContent {
		t.Fatalf("delete: %v", err)
	}
	may(false, "with a deleted policy")
	deleted, response, err := api.GetPolicy(api.NewGetPolicyOptions(*created.ID))
	if err != nil || *deleted.State != "deleted" {
		t.Errorf("deleted policy: %+v, %v", deleted, err)
	}
	c.kill(t)
	restored, _, err := api.UpdatePolicyState(&iampolicymanagementv1.UpdatePolicyStateOptions{
		PolicyID: created.ID, IfMatch: new(response.Headers.Get("ETag")), State: new("active"),
	})
	if err != nil || *restored.State != "active" {
		t.Fatalf("restored: %+v, %v", restored, err)
	}
	c.kill(t)
	may(true, "restored, after two kills,")

	_, response, err = api.GetPolicy(api.NewGetPolicyOptions(uuid.NewString()))
	wantProblem(t, response, err, http.StatusNotFound, "policy_not_found", "an unknown policy")
}

// TestIBMsPolicyClientListsWhatTheCallerManages covers the filters, pages, and what others see.
func TestIBMsPolicyClientListsWhatTheCallerManages(t *testing.T) {
	t.Parallel()
	seed := newCloudSeed()
	c := startCloud(t, seed)
	api := c.policies(t, seed.admin)
	want := map[string]bool{}
	for range 5 {
		p, _, err := api.CreatePolicy(seed.authorization(uuid.NewString()))
		if err != nil {
			t.Fatal(err)
		}
		want[*p.ID] = true
	}
	list := func(api *iampolicymanagementv1.IamPolicyManagementV1, change func(*iampolicymanagementv1.ListPoliciesOptions)) []iampolicymanagementv1.PolicyTemplateMetaData {
		t.Helper()
		options := api.NewListPoliciesOptions(seed.account)
		change(options)
		found, _, err := api.ListPolicies(options)
		if err != nil {
			t.Fatal(err)
		}
		return found.Policies
	}
	authorizations := list(api, func(o *iampolicymanagementv1.ListPoliciesOptions) {
		o.Type, o.Sort = new("authorization"), new("-created_at")
	})
	for i, p := range authorizations {
		if !want[*p.ID] || i > 0 && authorizations[i-1].CreatedAt.String() < p.CreatedAt.String() {
			t.Errorf("policy %d is %+v", i, p)
		}
	}
	if len(authorizations) != len(want) {
		t.Errorf("%d authorizations, want %d", len(authorizations), len(want))
	}
	if own := list(api, func(o *iampolicymanagementv1.ListPoliciesOptions) { o.IamID = &seed.adminID }); len(own) != 2 || *own[0].Type != "access" {
		t.Errorf("the administrator's own policies: %+v", own)
	}
	if deleted := list(api, func(o *iampolicymanagementv1.ListPoliciesOptions) { o.State = new("deleted") }); len(deleted) != 0 {
		t.Errorf("deleted policies: %+v", deleted)
	}
	for name, apiKey := range map[string]string{"a writer": seed.writer, "another account": seed.boss} {
		found := list(c.policies(t, apiKey), func(*iampolicymanagementv1.ListPoliciesOptions) {})
		if apiKey == seed.writer && len(found) == 1 && *found[0].Subjects[0].Attributes[0].Value == seed.writerID {
			found = found[1:] // what has been granted to oneself is shown
		}
		if found == nil || len(found) != 0 {
			t.Errorf("%s sees %+v, want an empty list", name, found)
		}
		_, response, err := c.policies(t, apiKey).CreatePolicy(seed.authorization(uuid.NewString()))
		wantProblem(t, response, err, http.StatusForbidden, iampolicymanagementv1.ErrorObjectCodeInsufficentPermissionsConst, name)
	}

	pager, err := api.NewPoliciesPager(&iampolicymanagementv1.ListPoliciesOptions{AccountID: &seed.account, Type: new("authorization"), Limit: new(int64(2))})
	if err != nil {
		t.Fatal(err)
	}
	all, err := pager.GetAll()
	if err != nil || len(all) != len(want) {
		t.Errorf("paged: %d, %v", len(all), err)
	}
	for _, p := range all {
		delete(want, *p.ID)
	}
	if len(want) != 0 {
		t.Errorf("pages left out %v", want)
	}
}

// TestIBMsPolicyClientReadsVersion2 reads with v2 what v1 wrote, and the roles that there are.
func TestIBMsPolicyClientReadsVersion2(t *testing.T) {
	t.Parallel()
	seed := newCloudSeed()
	c := startCloud(t, seed)
	api := c.policies(t, seed.admin)
	created, _, err := api.CreatePolicy(seed.authorization(uuid.NewString()))
	if err != nil {
		t.Fatal(err)
	}
	read, response, err := api.GetV2Policy(&iampolicymanagementv1.GetV2PolicyOptions{ID: created.ID, Format: new("display")})
	if err != nil || *read.State != "active" || response.Headers.Get("ETag") == "" {
		t.Fatalf("read: %+v, %v", read, err)
	}
	if a := read.Subject.Attributes[1]; *a.Key != "serviceInstance" || *a.Operator != "stringEquals" || a.Value == nil {
		t.Errorf("subject: %+v", a)
	}
	listed, _, err := api.ListV2Policies(&iampolicymanagementv1.ListV2PoliciesOptions{
		AccountID: &seed.account, Type: new("authorization"), ServiceName: new("hs-crypto"),
	})
	if err != nil || len(listed.Policies) != 1 || *listed.Policies[0].ID != *created.ID {
		t.Errorf("listed: %+v, %v", listed, err)
	}

	roles, _, err := api.ListRoles(&iampolicymanagementv1.ListRolesOptions{
		AccountID: &seed.account, ServiceName: new("hs-crypto"), SourceServiceName: new("vmware-solutions"), PolicyType: new("authorization"),
	})
	if err != nil {
		t.Fatal(err)
	}
	actions := map[string][]string{}
	for _, r := range append(roles.ServiceRoles, roles.SystemRoles...) {
		actions[*r.CRN] = r.Actions
	}
	if !slices.Contains(actions[kmipRole], "hs-crypto.secrets.wrap") || slices.Contains(actions[kmipRole], "hs-crypto.secrets.rotate") || actions[viewerRole] == nil {
		t.Errorf("roles: %v", actions)
	}

	// The decision point, which the SDK has no call for, knows the policy too.
	bearer := map[string]string{"Authorization": "Bearer " + token(t, c.iam, seed.service)}
	question := func(action, subject string) map[string]any {
		return map[string]any{
			"subject":  map[string]any{"attributes": map[string]string{"id": subject, "scope": "ibm openid"}},
			"resource": map[string]string{"crn": "crn:v1:bluemix:public:hs-crypto:us-south:a/" + seed.account + ":" + seed.crypto + "::"},
			"action":   action,
		}
	}
	instance := "crn-crn:v1:bluemix:public:vmware-solutions:us-south:a/" + seed.account + ":" + *created.Subjects[0].Attributes[1].Value + "::"
	var decided struct {
		Responses []struct {
			Status   string
			Decision struct{ Permitted bool } `json:"authorizationDecision"`
		}
	}
	call(t, http.MethodPost, c.iam+"/v2/authz", bearer, []any{
		question("hs-crypto.secrets.wrap", instance), question("hs-crypto.secrets.rotate", instance),
		question("hs-crypto.secrets.rotate", seed.adminID), question("hs-crypto.secrets.wrap", seed.writerID),
	}).decode(t, &decided)
	for i, want := range []bool{true, false, true, false} {
		if len(decided.Responses) != 4 || decided.Responses[i].Status != "200" || decided.Responses[i].Decision.Permitted != want {
			t.Fatalf("answer %d of %+v, want %v", i, decided, want)
		}
	}
}
