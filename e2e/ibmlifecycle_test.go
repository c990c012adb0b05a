package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	kp "github.com/IBM/keyprotect-go-client"
	"github.com/google/uuid"

	"github.com/IBM/platform-services-go-sdk/iampolicymanagementv1"
)

// at moves the emulator's clock to some time after its start and gives a client with a token of then.
func (c *cloud) at(t *testing.T, seed cloudSeed, after time.Duration) *kp.Client {
	t.Helper()
	c.turn(t, "clock", fmt.Sprintf(`{"offset_s":%d}`, int(after/time.Second)))
	return c.keys(t, seed, seed.admin)
}

// allowPurge gives the administrator the role that purges, which no other role includes.
func (c *cloud) allowPurge(t *testing.T, seed cloudSeed) {
	t.Helper()
	_, _, err := c.policies(t, seed.admin).CreatePolicy(&iampolicymanagementv1.CreatePolicyOptions{
		Type:     new("access"),
		Subjects: []iampolicymanagementv1.PolicySubject{{Attributes: []iampolicymanagementv1.SubjectAttribute{{Name: new("iam_id"), Value: &seed.adminID}}}},
		Roles:    []iampolicymanagementv1.PolicyRole{{RoleID: new("crn:v1:bluemix:public:kms::::serviceRole:KeyPurge")}},
		Resources: []iampolicymanagementv1.PolicyResource{{Attributes: []iampolicymanagementv1.ResourceAttribute{
			{Name: new("accountId"), Value: &seed.account}, {Name: new("serviceName"), Value: new("kms")}, {Name: new("serviceInstance"), Value: &seed.keys},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestIBMsClientTakesAKeyThroughItsLife moves the clock from one waiting time to the next.
func TestIBMsClientTakesAKeyThroughItsLife(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	seed := newCloudSeed()
	c := startCloud(t, seed)
	ctx := t.Context()
	api := c.at(t, seed, 0)
	expires := time.Now().Add(80 * day)
	root, err := api.CreateRootKey(ctx, "root", &expires)
	if err != nil {
		t.Fatal(err)
	}
	if root.KeyVersion == nil || root.State != int(kp.Active) || root.Imported || root.Extractable || root.Expiration.Unix() != expires.Unix() {
		t.Errorf("created: %+v", root)
	}
	first, err := api.Wrap(ctx, root.ID, plaintext, nil)
	if err != nil {
		t.Fatal(err)
	}
	conflict := func(err error, code, when string) {
		t.Helper()
		wantCode(t, err, http.StatusConflict, code, when)
	}

	// Rotated: once at once, then once an hour. What the first version wrapped opens, and comes back
	// wrapped by the newest.
	for i := range 2 {
		if err := c.at(t, seed, time.Duration(i)*time.Hour).Rotate(ctx, root.ID, ""); err != nil {
			t.Fatal(err)
		}
	}
	api = c.at(t, seed, time.Hour)
	conflict(api.Rotate(ctx, root.ID, ""), "KEY_ROTATION_NOT_PERMITTED", "a rotation within the hour")
	got, rewrapped, err := api.UnwrapV2(ctx, root.ID, first, nil)
	if err != nil || !bytes.Equal(got, plaintext) || len(rewrapped) == 0 {
		t.Errorf("unwrap after two rotations: %s, %d bytes, %v", got, len(rewrapped), err)
	}
	if got, again, err := api.UnwrapV2(ctx, root.ID, rewrapped, nil); err != nil || !bytes.Equal(got, plaintext) || len(again) > 0 {
		t.Errorf("unwrap of what was rewrapped: %s, %d bytes, %v", got, len(again), err)
	}
	versions, err := api.ListKeyVersions(ctx, root.ID, &kp.ListKeyVersionsOptions{TotalCount: new(true), Limit: new(uint32(2))})
	if err != nil || len(versions.KeyVersion) != 2 || *versions.Metadata.TotalCount != 3 || versions.KeyVersion[0].ID == root.KeyVersion.ID {
		t.Errorf("versions: %+v, %v", versions, err)
	}
	rotated, err := api.GetKeyMetadata(ctx, root.ID)
	if err != nil || rotated.KeyVersion.ID != versions.KeyVersion[0].ID || rotated.LastRotateDate == nil || rotated.CRN != root.CRN {
		t.Errorf("rotated: %+v, %v", rotated, err)
	}

	// Disabled: nothing but enabling it again, 30 seconds later.
	if err := api.DisableKey(ctx, root.ID); err != nil {
		t.Fatal(err)
	}
	_, err = api.Unwrap(ctx, root.ID, first, nil)
	conflict(err, "KEY_ACTION_INVALID_STATE_ERR", "unwrap under a disabled key")
	conflict(api.DisableKey(ctx, root.ID), "KEY_ACTION_INVALID_STATE_ERR", "disable a disabled key")
	conflict(api.EnableKey(ctx, root.ID), "REQ_TOO_EARLY_ERR", "enable at once")
	_, err = api.ListKeyVersions(ctx, root.ID, nil)
	conflict(err, "KEY_ACTION_INVALID_STATE_ERR", "versions of a disabled key")
	if versions, err := api.ListKeyVersions(ctx, root.ID, &kp.ListKeyVersionsOptions{AllKeyStates: new(true)}); err != nil || len(versions.KeyVersion) != 3 {
		t.Errorf("versions in any state: %+v, %v", versions, err)
	}
	api = c.at(t, seed, time.Hour+time.Minute)
	if err := api.EnableKey(ctx, root.ID); err != nil {
		t.Fatal(err)
	}
	conflict(api.EnableKey(ctx, root.ID), "KEY_ACTION_INVALID_STATE_ERR", "enable an active key")

	// Deleted and restored, 30 seconds later.
	if _, err := api.DeleteKey(ctx, root.ID, kp.ReturnMinimal); err != nil {
		t.Fatal(err)
	}
	_, err = api.RestoreKey(ctx, root.ID)
	conflict(err, "REQ_TOO_EARLY_ERR", "restore at once")
	api = c.at(t, seed, 2*time.Hour)
	if restored, err := api.RestoreKey(ctx, root.ID); err != nil || restored.State != int(kp.Active) || *restored.Deleted {
		t.Fatalf("restored: %+v, %v", restored, err)
	}
	if got, err := api.Unwrap(ctx, root.ID, first, nil); err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("unwrap after the restore: %s, %v", got, err)
	}

	// Expired: it opens, and wraps no more.
	api = c.at(t, seed, 81*day)
	if got, err := api.Unwrap(ctx, root.ID, first, nil); err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("unwrap by an expired key: %s, %v", got, err)
	}
	_, err = api.Wrap(ctx, root.ID, plaintext, nil)
	conflict(err, "KEY_ACTION_INVALID_STATE_ERR", "wrap by an expired key")
	if k, err := api.GetKey(ctx, root.ID); err != nil || k.State != int(kp.Deactivated) {
		t.Errorf("expired: %+v, %v", k, err)
	}

	// Deleted for good.
	c.allowPurge(t, seed)
	_, err = api.PurgeKey(ctx, root.ID, kp.ReturnMinimal)
	conflict(err, "KEY_ACTION_INVALID_STATE_ERR", "purge of a key that is not deleted")
	if _, err := api.DeleteKey(ctx, root.ID, kp.ReturnMinimal); err != nil {
		t.Fatal(err)
	}
	_, err = api.PurgeKey(ctx, root.ID, kp.ReturnMinimal)
	conflict(err, "REQ_TOO_EARLY_ERR", "purge within four hours")
	api = c.at(t, seed, 81*day+4*time.Hour)
	_, err = api.RestoreKey(ctx, root.ID)
	wantCode(t, err, http.StatusBadRequest, "KEY_EXPIRED_ERR", "restore of an expired key")
	if purged, err := api.PurgeKey(ctx, root.ID, kp.ReturnRepresentation); err != nil || purged.ID != root.ID {
		t.Errorf("purged: %+v, %v", purged, err)
	}
	_, err = api.GetKey(ctx, root.ID)
	wantCode(t, err, http.StatusNotFound, "KEY_NOT_FOUND_ERR", "a purged key")

	// Deleted and left alone: restored no more after 30 days, gone after 90.
	left, err := api.CreateStandardKey(ctx, "left alone", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.DeleteKey(ctx, left.ID, kp.ReturnMinimal); err != nil {
		t.Fatal(err)
	}
	_, err = c.at(t, seed, (81+31)*day).RestoreKey(ctx, left.ID)
	wantCode(t, err, http.StatusBadRequest, "KEY_RESTORE_EXPIRED", "restore after 31 days")
	_, err = c.at(t, seed, (81+91)*day).GetKey(ctx, left.ID)
	wantCode(t, err, http.StatusNotFound, "KEY_NOT_FOUND_ERR", "a key deleted 91 days ago")
}

// TestIBMsClientImportsRootKeys in the open and encrypted for an import token.
func TestIBMsClientImportsRootKeys(t *testing.T) {
	t.Parallel()
	seed := newCloudSeed()
	c := startCloud(t, seed)
	ctx := t.Context()
	api := c.keys(t, seed, seed.admin)
	material := string(plaintext)
	open, err := api.CreateImportedRootKey(ctx, "open", nil, material, "", "")
	if err != nil || !open.Imported {
		t.Fatalf("imported: %+v, %v", open, err)
	}
	if _, err := api.CreateImportToken(ctx, 300, 1); err != nil {
		t.Fatal(err)
	}
	transport, err := api.GetImportTokenTransportKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, err = api.GetImportTokenTransportKey(ctx)
	wantCode(t, err, http.StatusConflict, "IMPORT_TOKEN_EXPIRED_ERR", "a second retrieval")
	sealed, err := kp.EncryptKey(material, transport.Payload)
	if err != nil {
		t.Fatal(err)
	}
	nonce, iv, err := kp.EncryptNonce(material, transport.Nonce, "")
	if err != nil {
		t.Fatal(err)
	}
	secure, err := api.CreateImportedRootKey(ctx, "sealed", nil, sealed, nonce, iv)
	if err != nil {
		t.Fatal(err)
	}
	ciphertext, err := api.Wrap(ctx, open.ID, plaintext, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := api.Unwrap(ctx, secure.ID, ciphertext, nil); err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("the same bytes imported twice: %s, %v", got, err)
	}
	wantCode(t, api.Rotate(ctx, open.ID, ""), http.StatusBadRequest, "KEY_PAYLOAD_REQ_ERR", "rotation of an imported key without payload")
	if err := api.Rotate(ctx, open.ID, base64.StdEncoding.EncodeToString(make([]byte, 16))); err != nil {
		t.Error(err)
	}
	if got, err := api.Unwrap(ctx, open.ID, ciphertext, nil); err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("unwrap after the rotation: %s, %v", got, err)
	}
	generated, err := api.CreateRootKey(ctx, "generated", nil)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, api.Rotate(ctx, generated.ID, material), http.StatusBadRequest, "INVALID_FIELD_ERR", "rotation of a generated key with payload")
	if err := api.RotateV2(ctx, generated.ID, nil); err != nil {
		t.Error(err)
	}
}

// TestIBMsClientFindsKeys by aliases, key rings, states, filters and searches.
func TestIBMsClientFindsKeys(t *testing.T) {
	t.Parallel()
	seed := newCloudSeed()
	c := startCloud(t, seed)
	ctx := t.Context()
	api := c.keys(t, seed, seed.admin)
	var ids []string
	for i := range 3 {
		k, err := c.at(t, seed, time.Duration(i)*time.Minute).CreateKeyWithAliases(ctx, fmt.Sprintf("vmware_kmip_%d", i), nil, i > 0, []string{fmt.Sprintf("alias-%d", i)})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, k.ID)
	}
	if _, err := api.DeleteKey(ctx, ids[2], kp.ReturnMinimal); err != nil {
		t.Fatal(err)
	}
	start := time.Now().Add(30 * time.Second) // between the first key's creation and the second's
	search := func(text string, options ...kp.SearchOpts) *string {
		query, err := kp.GetKeySearchQuery(&text, options...)
		if err != nil {
			t.Fatal(err)
		}
		return query
	}
	filter := func(b *kp.FilterQueryBuilder) *string { return new(b.Build()) }
	newest := kp.GetKeySortStr(kp.WithCreationDateDesc())
	for _, q := range []struct {
		name    string
		options kp.ListKeysOptions
		want    string
	}{
		{"all", kp.ListKeysOptions{}, "10"},
		{"deleted", kp.ListKeysOptions{State: []kp.KeyState{kp.Destroyed}}, "2"},
		{"any state", kp.ListKeysOptions{State: []kp.KeyState{kp.Active, kp.Destroyed}}, "210"},
		{"root keys", kp.ListKeysOptions{Extractable: new(false)}, "0"},
		{"one page", kp.ListKeysOptions{Limit: new(uint32(1)), Offset: new(uint32(1))}, "0"},
		{"oldest first", kp.ListKeysOptions{Sort: kp.GetKeySortStr(kp.WithState(), kp.WithCreationDate())}, "01"},
		{"part of a name", kp.ListKeysOptions{Search: search("KMIP_1")}, "1"},
		{"a whole name", kp.ListKeysOptions{Search: search("vmware_kmip", kp.WithExactMatch())}, ""},
		{"an alias", kp.ListKeysOptions{Search: search("alias-0", kp.AddAliasScope(), kp.WithExactMatch())}, "0"},
		{"a name that is an alias", kp.ListKeysOptions{Search: search("alias-0", kp.AddKeyNameScope())}, ""},
		{"not that", kp.ListKeysOptions{Search: search("kmip_0", kp.ApplyNot())}, "1"},
		{"created later", kp.ListKeysOptions{Filter: filter(kp.GetFilterQueryBuilder().CreationDate().GreaterThan(start))}, "1"},
		{"created earlier", kp.ListKeysOptions{Filter: filter(kp.GetFilterQueryBuilder().CreationDate().LessThanOrEqual(start))}, "0"},
		{"never expiring", kp.ListKeysOptions{Filter: filter(kp.GetFilterQueryBuilder().ExpirationDate().None().Extractable(true))}, "1"},
		{"deleted, by filter", kp.ListKeysOptions{Filter: filter(kp.GetFilterQueryBuilder().State([]kp.KeyState{kp.Destroyed}))}, "2"},
	} {
		if q.options.Sort == nil {
			q.options.Sort = newest
		}
		list, err := api.ListKeys(ctx, &q.options)
		if err != nil {
			t.Errorf("%s: %v", q.name, err)
			continue
		}
		got := ""
		for _, k := range list.Keys {
			got += fmt.Sprint(slices.Index(ids, k.ID))
		}
		if got != q.want {
			t.Errorf("%s: keys %q, want %q", q.name, got, q.want)
		}
	}
	_, err := api.ListKeys(ctx, &kp.ListKeysOptions{State: []kp.KeyState{1}, Filter: filter(kp.GetFilterQueryBuilder().State([]kp.KeyState{1}))})
	wantCode(t, err, http.StatusBadRequest, "INVALID_QUERY_PARAM_ERR", "states twice")

	// Aliases stand for ids.
	if k, err := api.GetKeyMetadata(ctx, "alias-1"); err != nil || k.ID != ids[1] {
		t.Errorf("by alias: %+v, %v", k, err)
	}
	if a, err := api.CreateKeyAlias(ctx, "other", "alias-1"); err != nil || a.KeyID != ids[1] || a.Alias != "other" || a.CreatedBy != seed.adminID {
		t.Errorf("alias: %+v, %v", a, err)
	}
	_, err = api.CreateKeyAlias(ctx, "other", ids[0])
	wantCode(t, err, http.StatusConflict, "KEY_ALIAS_NOT_UNIQUE_ERR", "an alias of another key")
	if err := api.DeleteKeyAlias(ctx, "other", ids[1]); err != nil {
		t.Error(err)
	}

	// Key rings hide what is in others.
	if err := api.CreateKeyRing(ctx, "ring-1"); err != nil {
		t.Fatal(err)
	}
	if rings, err := api.GetKeyRings(ctx); err != nil || len(rings.KeyRings) != 2 || rings.KeyRings[1].CreatedBy != seed.adminID {
		t.Errorf("key rings: %+v, %v", rings, err)
	}
	if k, err := api.SetKeyRing(ctx, ids[0], "ring-1"); err != nil || k.KeyRingID != "ring-1" {
		t.Errorf("moved: %+v, %v", k, err)
	}
	inRing := keyClient(t, c.iam, c.kms, seed.admin, seed.keys, "ring-1")
	if list, err := inRing.GetKeys(ctx, 10, 0); err != nil || len(list.Keys) != 1 || list.Keys[0].ID != ids[0] {
		t.Errorf("keys of the ring: %+v, %v", list, err)
	}
	_, err = inRing.GetKey(ctx, ids[1])
	wantCode(t, err, http.StatusNotFound, "KEY_NOT_FOUND_ERR", "a key of another ring")
	_, err = keyClient(t, c.iam, c.kms, seed.admin, seed.keys, "ring-2").CreateRootKey(ctx, "lost", nil)
	wantCode(t, err, http.StatusNotFound, "KEY_RING_NOT_FOUND_ERR", "a key in a ring that is not there")
	wantCode(t, api.DeleteKeyRing(ctx, "ring-1"), http.StatusConflict, "KEY_RING_KEYS_NOT_DELETED_ERR", "delete a ring with a key")
	if _, err := api.DeleteKey(ctx, ids[0], kp.ReturnMinimal); err != nil {
		t.Fatal(err)
	}
	wantCode(t, api.DeleteKeyRing(ctx, "ring-1"), http.StatusConflict, "KEY_RING_NOT_EMPTY_ERR", "delete a ring with a deleted key")
	if err := api.DeleteKeyRing(ctx, "ring-1", kp.WithForce(true)); err != nil {
		t.Error(err)
	}
}

// TestIBMsClientSetsPolicies of keys and of the instance, and is held to them.
func TestIBMsClientSetsPolicies(t *testing.T) {
	t.Parallel()
	seed := newCloudSeed()
	c := startCloud(t, seed)
	ctx := t.Context()
	api := c.keys(t, seed, seed.admin)
	root, err := api.CreateRootKeyWithPolicyOverrides(ctx, "root", nil, nil, kp.Policy{Rotation: &kp.Rotation{Enabled: new(true), Interval: 3}, DualAuth: &kp.DualAuth{Enabled: new(true)}})
	if err != nil || root.Rotation == nil || root.Rotation.Interval != 3 || !*root.DualAuthDelete.Enabled {
		t.Fatalf("created: %+v, %v", root, err)
	}
	if p, err := api.SetRotationPolicy(ctx, root.ID, 6, true); err != nil || p.Rotation.Interval != 6 || p.CreatedBy != seed.adminID {
		t.Errorf("rotation: %+v, %v", p, err)
	}
	if p, err := api.DisableRotationPolicy(ctx, root.ID); err != nil || *p.Rotation.Enabled {
		t.Errorf("rotation disabled: %+v, %v", p, err)
	}
	if p, err := api.GetRotationPolicy(ctx, root.ID); err != nil || *p.Rotation.Enabled || p.Rotation.Interval != 6 {
		t.Errorf("rotation read: %+v, %v", p, err)
	}
	_, err = api.SetRotationPolicy(ctx, root.ID, 13)
	wantCode(t, err, http.StatusBadRequest, "INVALID_FIELD_ERR", "13 months")
	if list, err := api.SetPolicies(ctx, root.ID, true, 1, true, true); err != nil || len(list) != 2 {
		t.Errorf("both policies: %+v, %v", list, err)
	}
	_, err = api.CreateStandardKeyWithPolicyOverrides(ctx, "standard", nil, nil, kp.Policy{Rotation: &kp.Rotation{Interval: 3}})
	wantCode(t, err, http.StatusBadRequest, "KEY_ROOT_REQ_ERR", "rotation of a standard key")

	// Two people delete a key with dual authorization.
	_, err = api.DeleteKey(ctx, root.ID, kp.ReturnMinimal)
	wantCode(t, err, http.StatusConflict, "AUTHORIZATIONS_NOT_MET", "delete without authorization")
	writer := c.keys(t, seed, seed.writer)
	if err := writer.InitiateDualAuthDelete(ctx, root.ID); err != nil {
		t.Fatal(err)
	}
	if err := writer.CancelDualAuthDelete(ctx, root.ID); err != nil {
		t.Fatal(err)
	}
	if err := writer.InitiateDualAuthDelete(ctx, root.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := api.DeleteKey(ctx, root.ID, kp.ReturnMinimal); err != nil {
		t.Error(err)
	}

	// The instance's policies are for new keys.
	months := 2
	err = api.SetInstancePolicies(ctx, kp.MultiplePolicies{
		DualAuthDelete: &kp.BasicPolicyData{Enabled: true}, Metrics: &kp.BasicPolicyData{Enabled: true},
		AllowedNetwork:        &kp.AllowedNetworkPolicyData{Enabled: true, Network: "private-only"},
		AllowedIP:             &kp.AllowedIPPolicyData{Enabled: true, IPAddresses: &kp.IPAddresses{"10.0.0.0/8"}},
		KeyCreateImportAccess: &kp.KeyCreateImportAccessInstancePolicy{Enabled: true, Attributes: &kp.KeyCreateImportAccessInstancePolicyAttributes{ImportRootKey: new(false)}},
		Rotation:              &kp.RotationPolicyData{Enabled: true, IntervalMonth: &months},
	})
	if err != nil {
		t.Fatal(err)
	}
	if list, err := api.GetInstancePolicies(ctx); err != nil || len(list) != 6 {
		t.Errorf("the instance's policies: %+v, %v", list, err)
	}
	if p, err := api.GetRotationInstancePolicy(ctx); err != nil || *p.PolicyData.Attributes.IntervalMonth != months || p.CreatedBy != seed.adminID {
		t.Errorf("the instance's rotation policy: %+v, %v", p, err)
	}
	heir, err := api.CreateRootKey(ctx, "heir", nil)
	if err != nil || heir.Rotation == nil || heir.Rotation.Interval != months || !*heir.DualAuthDelete.Enabled {
		t.Errorf("a new key: %+v, %v", heir, err)
	}
	_, err = api.CreateImportedRootKey(ctx, "imported", nil, string(plaintext), "", "")
	wantCode(t, err, http.StatusConflict, "KEY_CREATE_IMPORT_ACCESS_ERR", "import of a root key")
	if err := api.SetDualAuthInstancePolicy(ctx, false); err != nil {
		t.Error(err)
	}
	if p, err := api.GetDualAuthInstancePolicy(ctx); err != nil || *p.PolicyData.Enabled {
		t.Errorf("dual authorization: %+v, %v", p, err)
	}
}

// TestIBMsClientSeesRegistrations, which only services make, for resources of their own.
func TestIBMsClientSeesRegistrations(t *testing.T) {
	t.Parallel()
	seed := newCloudSeed()
	c := startCloud(t, seed)
	ctx := t.Context()
	api := c.keys(t, seed, seed.admin)
	root, err := api.CreateRootKey(ctx, "root", nil)
	if err != nil {
		t.Fatal(err)
	}
	service := "crn:v1:bluemix:public:vmware-solutions:us-south:a/" + seed.account + ":" + uuid.NewString()
	_, _, err = c.policies(t, seed.admin).CreatePolicy(&iampolicymanagementv1.CreatePolicyOptions{
		Type: new("authorization"),
		Subjects: []iampolicymanagementv1.PolicySubject{{Attributes: []iampolicymanagementv1.SubjectAttribute{
			{Name: new("serviceName"), Value: new("vmware-solutions")}, {Name: new("accountId"), Value: &seed.account},
		}}},
		Roles: []iampolicymanagementv1.PolicyRole{{RoleID: new("crn:v1:bluemix:public:iam::::serviceRole:Reader")}},
		Resources: []iampolicymanagementv1.PolicyResource{{Attributes: []iampolicymanagementv1.ResourceAttribute{
			{Name: new("accountId"), Value: &seed.account}, {Name: new("serviceName"), Value: new("kms")}, {Name: new("serviceInstance"), Value: &seed.keys},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var minted struct {
		AccessToken string `json:"access_token"`
	}
	c.actAs(t, token(t, c.iam, seed.service), "crn-"+service+"::").decode(t, &minted)
	resource := service + ":cluster:1"
	register := "/keys/" + root.ID + "/registrations/" + url.PathEscape(resource)
	if a := (keyProtect{c.kms, seed.keys, minted.AccessToken}).call(t, http.MethodPost, register, nil); a.status != http.StatusCreated {
		t.Fatalf("register: status %d, %s", a.status, a.body)
	}
	if a := (keyProtect{c.kms, seed.keys, token(t, c.iam, seed.admin)}).call(t, http.MethodPost, register, nil); a.status != http.StatusForbidden || !strings.Contains(string(a.body), "SERVICE_ONLY_ERR") {
		t.Errorf("register as a user: status %d, %s", a.status, a.body)
	}
	for _, id := range []string{root.ID, ""} {
		if list, err := api.ListRegistrations(ctx, id, ""); err != nil || len(list.Registrations) != 1 || list.Registrations[0].ResourceCrn != resource {
			t.Errorf("registrations of %q: %+v, %v", id, list, err)
		}
	}
	if list, err := api.ListRegistrations(ctx, "", "crn:v1:*:cluster:2"); err != nil || len(list.Registrations) != 0 {
		t.Errorf("registrations of another resource: %+v, %v", list, err)
	}
	if err := api.SyncAssociatedResources(ctx, root.ID); err != nil {
		t.Error(err)
	}
	wantCode(t, api.SyncAssociatedResources(ctx, root.ID), http.StatusConflict, "REQ_TOO_EARLY_ERR", "sync again")
	_, err = api.DeleteKey(ctx, root.ID, kp.ReturnMinimal)
	wantCode(t, err, http.StatusConflict, "PROTECTED_RESOURCE_ERR", "delete")
	if _, err := api.DeleteKey(ctx, root.ID, kp.ReturnMinimal, kp.ForceOpt{Force: true}); err != nil {
		t.Error(err)
	}
}
