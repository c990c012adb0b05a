package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/IBM/go-sdk-core/v5/core"
	"github.com/IBM/platform-services-go-sdk/resourcecontrollerv2"
)

func (c *cloud) controllerOf(t *testing.T, apiKey string) *resourcecontrollerv2.ResourceControllerV2 {
	t.Helper()
	api, err := resourcecontrollerv2.NewResourceControllerV2(&resourcecontrollerv2.ResourceControllerV2Options{
		URL: c.controller, Authenticator: c.authenticator(apiKey),
	})
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// wantRefusal checks the status and the error_code of the resource controller's refusal.
func wantRefusal(t *testing.T, response *core.DetailedResponse, err error, status int, code, when string) map[string]any {
	t.Helper()
	if err == nil || response == nil || response.StatusCode != status {
		t.Errorf("%s: %v, want status %d", when, err, status)
		return nil
	}
	document, _ := response.GetResultAsMap()
	if document["error_code"] != code {
		t.Errorf("%s: %v, want the code %s", when, document, code)
	}
	return document
}

// TestIBMsResourceControllerClient takes an instance through its life with IBM's own client.
func TestIBMsResourceControllerClient(t *testing.T) {
	t.Parallel()
	seed := newCloudSeed()
	c := startCloud(t, seed)
	api := c.controllerOf(t, seed.admin)

	crn := "crn:v1:bluemix:public:hs-crypto:us-south:a/" + seed.account + ":" + seed.crypto + "::"
	for _, id := range []string{seed.crypto, crn} {
		in, _, err := api.GetResourceInstance(api.NewGetResourceInstanceOptions(id))
		if err != nil || *in.ID != crn || *in.CRN != crn || *in.GUID != seed.crypto || *in.State != "active" || *in.RegionID != "us-south" ||
			*in.LastOperation.State != "succeeded" || !strings.HasPrefix(*in.URL, "/v2/resource_instances/crn%3Av1") {
			t.Errorf("%s: %+v, %v", id, in, err)
		}
	}
	seeded, _, err := api.GetResourceInstance(api.NewGetResourceInstanceOptions(seed.keys))
	if err != nil {
		t.Fatal(err)
	}
	create := &resourcecontrollerv2.CreateResourceInstanceOptions{
		Name: new("second keys"), Target: new("eu-de"), ResourceGroup: seeded.ResourceGroupID, ResourcePlanID: seeded.ResourcePlanID,
		Parameters: map[string]any{"allowed_network": "private-only"},
	}
	made, response, err := api.CreateResourceInstance(create)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusCreated || *made.AccountID != seed.account || *made.SubType != "kms" || made.Parameters["allowed_network"] != "private-only" ||
		*made.CRN != "crn:v1:bluemix:public:kms:eu-de:a/"+seed.account+":"+*made.GUID+"::" || *made.CreatedBy != seed.adminID {
		t.Errorf("created: status %d, %+v", response.StatusCode, made)
	}
	_, response, err = c.controllerOf(t, seed.writer).CreateResourceInstance(create)
	wantRefusal(t, response, err, http.StatusForbidden, "RC-Forbidden", "created by a writer")
	_, response, err = c.controllerOf(t, seed.boss).CreateResourceInstance(create)
	wantRefusal(t, response, err, http.StatusForbidden, "RC-Forbidden", "created by another account")
	_, response, err = c.controllerOf(t, seed.boss).GetResourceInstance(api.NewGetResourceInstanceOptions(*made.GUID))
	wantRefusal(t, response, err, http.StatusNotFound, "RC-InstanceNotFound", "read by another account")

	// It works at once, and is in the list of its kind.
	keys := keyProtect{c.kms, *made.GUID, token(t, c.iam, seed.admin)}
	root := keys.createRootKey(t)
	pager, err := api.NewResourceInstancesPager(&resourcecontrollerv2.ListResourceInstancesOptions{SubType: new("kms"), Limit: new(int64(1))})
	if err != nil {
		t.Fatal(err)
	}
	all, err := pager.GetAll()
	if err != nil || len(all) != 2 {
		t.Errorf("listed: %d, %v", len(all), err)
	}
	named := func(name string) int {
		t.Helper()
		page, _, err := api.ListResourceInstances(&resourcecontrollerv2.ListResourceInstancesOptions{Name: &name})
		if err != nil {
			t.Fatal(err)
		}
		if page.NextURL != nil || *page.RowsCount != int64(len(page.Resources)) {
			t.Errorf("the list of %s: next_url %v, rows_count %d", name, page.NextURL, *page.RowsCount)
		}
		return len(page.Resources)
	}
	renamed, _, err := api.UpdateResourceInstance(&resourcecontrollerv2.UpdateResourceInstanceOptions{ID: made.GUID, Name: new("renamed")})
	if err != nil || *renamed.Name != "renamed" || *renamed.LastOperation.Type != "update" {
		t.Errorf("renamed: %+v, %v", renamed, err)
	}
	if named("second keys") != 0 || named("renamed") != 1 {
		t.Error("the list does not know the new name")
	}

	// A lock and keys keep it.
	if locked, _, err := api.LockResourceInstance(api.NewLockResourceInstanceOptions(*made.GUID)); err != nil || !*locked.Locked {
		t.Fatalf("lock: %v", err)
	}
	remove := api.NewDeleteResourceInstanceOptions(*made.GUID)
	response, err = api.DeleteResourceInstance(remove)
	wantRefusal(t, response, err, http.StatusUnprocessableEntity, "RC-InstanceLocked", "deleting a locked instance")
	if _, _, err := api.UnlockResourceInstance(api.NewUnlockResourceInstanceOptions(*made.GUID)); err != nil {
		t.Fatal(err)
	}
	response, err = api.DeleteResourceInstance(remove)
	document := wantRefusal(t, response, err, http.StatusUnprocessableEntity, "RC-ServiceBrokerErrorResponse", "deleting an instance with a key")
	if details, _ := document["details"].(string); !strings.Contains(details, "CONTAINS_ACTIVE_KEYS") || !strings.Contains(details, "1 active keys") {
		t.Errorf("details: %v", document)
	}
	response, err = api.DeleteResourceInstance(api.NewDeleteResourceInstanceOptions(seed.crypto))
	wantRefusal(t, response, err, http.StatusUnprocessableEntity, "RC-ServiceBrokerErrorResponse", "deleting an hs-crypto instance")
	keys.delete(t, root)
	if response, err = api.DeleteResourceInstance(remove); err != nil || response.StatusCode != http.StatusAccepted {
		t.Fatalf("delete: %v", err)
	}
	c.kill(t)
	if a := keys.call(t, http.MethodGet, "/keys", nil); a.status != http.StatusUnauthorized {
		t.Errorf("a deleted instance answers with status %d", a.status)
	}
	if gone, _, err := api.GetResourceInstance(api.NewGetResourceInstanceOptions(*made.GUID)); err != nil || *gone.State != "pending_reclamation" || gone.ScheduledReclaimAt == nil {
		t.Errorf("deleted: %+v, %v", gone, err)
	}
	if named("renamed") != 0 {
		t.Error("a deleted instance is listed")
	}
	page, _, err := api.ListResourceInstances(&resourcecontrollerv2.ListResourceInstancesOptions{State: new("pending_reclamation")})
	if err != nil || len(page.Resources) != 1 {
		t.Errorf("pending: %+v, %v", page, err)
	}
}
