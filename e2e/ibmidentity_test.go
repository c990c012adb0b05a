package e2e

import (
	"errors"
	"net/http"
	"testing"

	"github.com/IBM/go-sdk-core/v5/core"
	"github.com/IBM/platform-services-go-sdk/iamidentityv1"
	"github.com/google/uuid"
)

func (c *cloud) identities(t *testing.T, apiKey string) *iamidentityv1.IamIdentityV1 {
	t.Helper()
	api, err := iamidentityv1.NewIamIdentityV1(&iamidentityv1.IamIdentityV1Options{URL: c.iam, Authenticator: c.authenticator(apiKey)})
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// login exchanges an API key with IBM's authenticator; the status is IAM's.
func (c *cloud) login(apiKey string) (token string, status int, err error) {
	authenticator := &core.IamAuthenticator{ApiKey: apiKey, URL: c.iam}
	answer, err := authenticator.RequestToken()
	if err != nil {
		var failure *core.AuthenticationError
		if !errors.As(err, &failure) || failure.Response == nil {
			return "", 0, err
		}
		return "", failure.Response.StatusCode, err
	}
	return answer.AccessToken, http.StatusOK, nil
}

// TestIBMsIdentityClient takes a service ID and its API keys through their life with IBM's own client.
func TestIBMsIdentityClient(t *testing.T) {
	t.Parallel()
	seed := newCloudSeed()
	c := startCloud(t, seed)
	api := c.identities(t, seed.admin)

	bound := "crn:v1:bluemix:public:kms:us-south:a/" + seed.account + ":" + seed.keys + "::"
	made, response, err := api.CreateServiceID(&iamidentityv1.CreateServiceIDOptions{
		AccountID: &seed.account, Name: new("kmip"), UniqueInstanceCrns: []string{bound},
		Apikey: &iamidentityv1.APIKeyInsideCreateServiceIDRequest{Name: new("first"), StoreValue: new(true)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusCreated || *made.IamID != "iam-"+*made.ID || made.CreatedAt == nil || *made.Locked ||
		*made.CRN != "crn:v1:bluemix:public:iam-identity::a/"+seed.account+"::serviceid:"+*made.ID || len(*made.Apikey.Apikey) < 32 {
		t.Errorf("created: status %d, %+v", response.StatusCode, made)
	}
	value := *made.Apikey.Apikey
	bearer, status, err := c.login(value)
	if err != nil {
		t.Fatalf("the new key gets status %d, %v", status, err)
	}
	if got, _ := claims(t, bearer)["unique_instance_crns"].([]any); len(got) != 1 || got[0] != bound {
		t.Errorf("unique_instance_crns is %v", got)
	}
	if updated, _, err := api.UpdateServiceID(&iamidentityv1.UpdateServiceIDOptions{
		ID: made.ID, IfMatch: made.EntityTag, UniqueInstanceCrns: []string{bound, bound + "x"}, Description: new("d"),
	}); err != nil || *updated.Description != "d" || *updated.EntityTag == *made.EntityTag {
		t.Errorf("updated: %+v, %v", updated, err)
	}
	if bearer, _, err = c.login(value); err != nil {
		t.Fatal(err)
	}
	if got, _ := claims(t, bearer)["unique_instance_crns"].([]any); len(got) != 2 {
		t.Errorf("after the update unique_instance_crns is %v", got)
	}
	_, response, err = api.UpdateServiceID(&iamidentityv1.UpdateServiceIDOptions{ID: made.ID, IfMatch: made.EntityTag, Name: new("x")})
	wantProblem(t, response, err, http.StatusConflict, "conflict", "a stale entity tag")

	details, _, err := api.GetAPIKeysDetails(&iamidentityv1.GetAPIKeysDetailsOptions{IamAPIKey: &value})
	if err != nil || *details.ID != *made.Apikey.ID || *details.AccountID != seed.account || *details.Apikey != "" || details.CreatedAt == nil {
		t.Errorf("details: %+v, %v", details, err)
	}
	if kept, _, err := api.GetAPIKey(api.NewGetAPIKeyOptions(*made.Apikey.ID)); err != nil || *kept.Apikey != value {
		t.Errorf("the kept value does not come back: %v", err)
	}

	// A second key, of a chosen value that nobody else may have.
	chosen := uuid.NewString() + "-chosen"
	second, _, err := api.CreateAPIKey(&iamidentityv1.CreateAPIKeyOptions{Name: new("second"), IamID: made.IamID, Apikey: &chosen, ExpiresAt: new("2099-12-31T23:59+0000")})
	if err != nil || *second.Apikey != chosen || *second.ExpiresAt != "2099-12-31T23:59+0000" {
		t.Fatalf("second key: %+v, %v", second, err)
	}
	_, response, err = api.CreateAPIKey(&iamidentityv1.CreateAPIKeyOptions{Name: new("third"), IamID: made.IamID, Apikey: &chosen})
	wantProblem(t, response, err, http.StatusConflict, "conflict", "the same value again")
	_, response, err = api.CreateAPIKey(&iamidentityv1.CreateAPIKeyOptions{Name: new("short"), IamID: made.IamID, Apikey: new("short")})
	wantProblem(t, response, err, http.StatusBadRequest, "bad_request", "a short value")
	var all []iamidentityv1.APIKey
	for options := (&iamidentityv1.ListAPIKeysOptions{IamID: made.IamID, Pagesize: new(int64(1)), Sort: new("name")}); ; {
		page, _, err := api.ListAPIKeys(options)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page.Apikeys...)
		if page.Next == nil {
			break
		}
		if options.Pagetoken, err = core.GetQueryParam(page.Next, "pagetoken"); err != nil {
			t.Fatal(err)
		}
	}
	if len(all) != 2 || *all[0].Name != "first" || *all[1].Name != "second" || *all[0].Apikey != "" {
		t.Errorf("listed: %+v", all)
	}

	// Locked keys do not change, disabled ones get no token.
	if _, err := api.LockAPIKey(api.NewLockAPIKeyOptions(*second.ID)); err != nil {
		t.Fatal(err)
	}
	response, err = api.DeleteAPIKey(api.NewDeleteAPIKeyOptions(*second.ID))
	wantProblem(t, response, err, http.StatusConflict, "conflict", "deleting a locked key")
	if _, err := api.UnlockAPIKey(api.NewUnlockAPIKeyOptions(*second.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := api.DisableAPIKey(api.NewDisableAPIKeyOptions(*second.ID)); err != nil {
		t.Fatal(err)
	}
	if _, status, _ := c.login(chosen); status != http.StatusBadRequest {
		t.Errorf("a disabled key gets status %d", status)
	}
	c.kill(t)
	if _, err := api.EnableAPIKey(api.NewEnableAPIKeyOptions(*second.ID)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.login(chosen); err != nil {
		t.Errorf("an enabled key: %v", err)
	}
	if _, err := api.DeleteAPIKey(api.NewDeleteAPIKeyOptions(*second.ID)); err != nil {
		t.Fatal(err)
	}
	if _, status, _ := c.login(chosen); status != http.StatusBadRequest {
		t.Errorf("a deleted key gets status %d", status)
	}

	// What others see of it: nothing.
	for name, apiKey := range map[string]string{"another account": seed.boss, "a service ID": seed.writer} {
		_, response, err := c.identities(t, apiKey).GetServiceID(api.NewGetServiceIDOptions(*made.ID))
		wantProblem(t, response, err, http.StatusNotFound, "not_found", name)
		_, response, err = c.identities(t, apiKey).CreateAPIKey(&iamidentityv1.CreateAPIKeyOptions{Name: new("x"), IamID: made.IamID})
		wantProblem(t, response, err, http.StatusForbidden, "forbidden", name)
	}
	listed, _, err := api.ListServiceIds(&iamidentityv1.ListServiceIdsOptions{AccountID: &seed.account, Name: new("kmip")})
	if err != nil || len(listed.Serviceids) != 1 || *listed.Serviceids[0].ID != *made.ID {
		t.Errorf("service IDs: %+v, %v", listed, err)
	}
	if _, err := api.DeleteServiceID(api.NewDeleteServiceIDOptions(*made.ID)); err != nil {
		t.Fatal(err)
	}
	if _, status, _ := c.login(value); status != http.StatusBadRequest {
		t.Errorf("a key of a deleted service ID gets status %d", status)
	}
	_, response, err = api.GetServiceID(api.NewGetServiceIDOptions(*made.ID))
	wantProblem(t, response, err, http.StatusNotFound, "not_found", "a deleted service ID")
}
