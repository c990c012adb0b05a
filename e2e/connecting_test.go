package e2e

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// The two ways of "connecting a key management server", step by step as the
// manual numbers them. What an administrator does in the consoles of IBM Cloud
// and of this service is one REST call each; what happens in vCenter the player
// does. Step 1, service endpoints for the account, needs no call here.

// must calls the REST API and decodes what it answers with the wanted status.
func (i *instance) must(t *testing.T, status int, method, path string, body, into any) {
	t.Helper()
	a := i.api(t, method, path, body)
	if a.status != status {
		t.Fatalf("%s %s: status %d, want %d: %s", method, path, a.status, status, a.body)
	}
	if into != nil {
		a.decode(t, into)
	}
}

// cloudManager is a key manager as GET /v1/key_managers shows it.
type cloudManager struct {
	Type   string `json:"type"`
	CRN    string `json:"crn"`
	GUID   string `json:"guid"`
	Usable bool   `json:"usable"`
	Reason string `json:"reason"`
}

// retrieve finds a key manager among those that the administrator sees.
func (i *instance) retrieve(t *testing.T, guid string) cloudManager {
	t.Helper()
	var list struct {
		KeyManagers []cloudManager `json:"key_managers"`
	}
	i.must(t, http.StatusOK, http.MethodGet, "/v1/key_managers", nil, &list)
	at := slices.IndexFunc(list.KeyManagers, func(m cloudManager) bool { return m.GUID == guid })
	if at < 0 {
		t.Fatalf("the key manager %s is not among %+v", guid, list.KeyManagers)
	}
	return list.KeyManagers[at]
}

// choose wants the root key among those of a key manager, usable, and returns
// its key ring.
func (i *instance) choose(t *testing.T, m cloudManager) (ring string) {
	t.Helper()
	var list struct {
		RootKeys []struct {
			ID      string `json:"id"`
			KeyRing string `json:"key_ring"`
			Usable  bool   `json:"usable"`
		} `json:"root_keys"`
	}
	i.must(t, http.StatusOK, http.MethodGet, "/v1/key_managers/"+m.GUID+"/root_keys", nil, &list)
	for _, k := range list.RootKeys {
		if k.ID == i.rootKey && k.Usable {
			return k.KeyRing
		}
	}
	t.Fatalf("the root key %s is not among the usable ones of %+v", i.rootKey, list)
	return ""
}

// createInstance makes the KMIP for VMware instance.
func (i *instance) createInstance(t *testing.T) {
	t.Helper()
	var made struct {
		ID string `json:"id"`
	}
	i.must(t, http.StatusAccepted, http.MethodPost, "/v1/instances", map[string]any{"name": "connecting-" + uuid.NewString()[:8]}, &made)
	i.id = made.ID
}

// addProvider is the key provider in vCenter: as many servers as the instance
// has endpoints, whose certificates are compared with what the API says.
func (i *instance) addProvider(t *testing.T, endpoints int) *client.VCenter {
	t.Helper()
	var list struct {
		Endpoints []struct {
			HostName string   `json:"hostname"`
			Port     int      `json:"port"`
			SHA256   string   `json:"sha256_fingerprint"`
			Chain    []string `json:"certificate_chain"`
		} `json:"endpoints"`
	}
	i.must(t, http.StatusOK, http.MethodGet, "/v1/instances/"+i.id+"/endpoints", nil, &list)
	if len(list.Endpoints) != endpoints {
		t.Fatalf("%d endpoints, want %d", len(list.Endpoints), endpoints)
	}
	var servers []client.Config
	for _, e := range list.Endpoints {
		if endpoints == 1 {
			i.own = &ownEndpoint{e.HostName, e.Port}
		}
		server := kmipConfig(t, i.env["KMIP_HOST"]+":"+strconv.Itoa(e.Port), e.HostName, i.env["KMIP_CA"], nil)
		var shown []*x509.Certificate
		eventually(t, func(ctx context.Context) (err error) { // a port of its own opens in a moment
			shown, err = client.FetchCertificates(ctx, server)
			return err
		})
		leaf, _ := pem.Decode([]byte(e.Chain[0]))
		if got := fingerprint(shown[0].Raw); got != e.SHA256 || !slices.Equal(leaf.Bytes, shown[0].Raw) {
			t.Errorf("%s shows a certificate with fingerprint %s, the API says %s", e.HostName, got, e.SHA256)
		}
		servers = append(servers, server)
	}
	return &client.VCenter{Server: func(connection string) client.Config {
		server := client.Spread(servers[0], servers[1:]...)(connection)
		server.Certificate = i.certificate
		return server
	}}
}

// establishTrust gives vCenter its client certificate, registers it with the
// instance and lets the provider turn green.
func (i *instance) establishTrust(t *testing.T, vCenter *client.VCenter) {
	t.Helper()
	var certificate string
	i.certificate, certificate = newCertificate(t)
	// Before: the servers are trusted, but do not trust vCenter.
	err := vCenter.Trust(t.Context())
	var problem *client.Problem
	if !errors.As(err, &problem) || !strings.Contains(problem.Shows, "does not trust vCenter") {
		t.Errorf("before the certificate is allowed: %v", err)
	}
	i.must(t, http.StatusCreated, http.MethodPost, "/v1/instances/"+i.id+"/client_certificates",
		map[string]any{"name": "vcenter", "certificate": certificate}, nil)
	i.awaitAdmission(t, i.certificate)
	eventually(t, func(ctx context.Context) error { return vCenter.Trust(ctx) })
}

// encrypt encrypts a virtual machine, boots its host and looks for the keys in
// the key manager.
func (i *instance) encrypt(t *testing.T, vCenter *client.VCenter) {
	t.Helper()
	made, err := vCenter.EncryptFirstVM(t.Context(), client.ForVM(uuid.NewString(), "first"), client.ForHost(uuid.NewString(), "192.0.2.10"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := vCenter.HostBoot(t.Context(), made.VM.ID, made.Host.ID)
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range []client.Fetched{made.VM, made.Host} {
		if !again[n].Key.Equal(want.Key) {
			t.Errorf("key %s has other bytes after the boot", want.ID)
		}
		if stored := i.customer.find(t, engine.StandardKeyPrefix+string(want.ID)); len(stored) != 1 || !stored[0].Extractable {
			t.Errorf("key %s lies in the key manager as %+v, want one standard key", want.ID, stored)
		}
	}
}

// TestConnectingKeyProtect goes the way with Key Protect.
func TestConnectingKeyProtect(t *testing.T) {
	t.Parallel()
	c := sharedCell(t)
	env := c.env(t)
	i := &instance{cell: c, env: env, bearer: token(t, env["IAM_URL"], env["API_KEY"])}
	i.customer = keyProtect{env["KP_URL"], env["KP_INSTANCE_ID"], i.bearer}
	iam := func(method, path string, body any, status int, into any) {
		t.Helper()
		a := call(t, method, env["IAM_URL"]+path, map[string]string{"Authorization": "Bearer " + i.bearer}, body)
		if a.status != status {
			t.Fatalf("%s %s: status %d, %s", method, path, a.status, a.body)
		}
		a.decode(t, into)
	}

	// 2. The key manager instance is there. 3. A root key in it.
	i.rootKey = i.customer.createRootKey(t)

	// 4. A service ID that is Viewer and, as the manual once had it, Writer on
	// the instance, with an API key.
	var serviceID struct {
		IAMID  string `json:"iam_id"`
		APIKey struct {
			Value string `json:"apikey"`
		} `json:"apikey"`
	}
	iam(http.MethodPost, "/v1/serviceids/", map[string]any{
		"account_id": env["ACCOUNT_ID"], "name": "kmip", "apikey": map[string]any{"name": "kmip"},
	}, http.StatusCreated, &serviceID)
	grant := func(roles ...string) {
		t.Helper()
		var ids []any
		for _, role := range roles {
			ids = append(ids, map[string]any{"role_id": "crn:v1:bluemix:public:iam::::" + role})
		}
		attribute := func(name, value string) map[string]any { return map[string]any{"name": name, "value": value} }
		iam(http.MethodPost, "/v1/policies", map[string]any{
			"type":     "access",
			"subjects": []any{map[string]any{"attributes": []any{attribute("iam_id", serviceID.IAMID)}}},
			"roles":    ids,
			"resources": []any{map[string]any{"attributes": []any{
				attribute("accountId", env["ACCOUNT_ID"]), attribute("serviceName", "kms"), attribute("serviceInstance", env["KP_INSTANCE_ID"]),
			}}},
		}, http.StatusCreated, &struct{}{})
	}
	grant("role:Viewer", "serviceRole:Writer")

	// 5. The KMIP for VMware instance.
	i.createInstance(t)

	// 7. "Retrieve", choose the root key, configure. Destroy can't work yet.
	manager := i.retrieve(t, env["KP_INSTANCE_ID"])
	if !manager.Usable || manager.Type != "key_protect" || manager.CRN != keyProtectCRN(env) {
		t.Errorf("retrieved %+v", manager)
	}
	settings := map[string]any{
		"type": manager.Type, "instance_crn": manager.CRN, "key_ring": i.choose(t, manager), "root_key_id": i.rootKey, "api_key": serviceID.APIKey.Value,
	}
	type configured struct {
		DestroyPermitted *bool  `json:"destroy_permitted"`
		Message          string `json:"message"`
	}
	var first, second configured
	i.must(t, http.StatusOK, http.MethodPut, "/v1/instances/"+i.id+"/key_manager", settings, &first)
	if first.DestroyPermitted == nil || *first.DestroyPermitted || !strings.Contains(first.Message, "service role Manager") {
		t.Errorf("as Writer: %+v", first)
	}
	// A key ring that the root key is not in is a mistake that is named.
	ring := settings["key_ring"]
	settings["key_ring"] = "elsewhere"
	if a := i.api(t, http.MethodPut, "/v1/instances/"+i.id+"/key_manager", settings); a.status != http.StatusBadRequest ||
		!strings.Contains(string(a.body), "not in the key ring `elsewhere`") {
		t.Errorf("another key ring: status %d, %s", a.status, a.body)
	}
	settings["key_ring"] = ring
	// With Manager in place of Writer, as IBM's later pages have it, it can.
	grant("serviceRole:Manager")
	i.must(t, http.StatusOK, http.MethodPut, "/v1/instances/"+i.id+"/key_manager", settings, &second)
	if second.DestroyPermitted == nil || !*second.DestroyPermitted || second.Message != "" {
		t.Errorf("as Manager: %+v", second)
	}

	// 8. The key provider, with both shared endpoints. 9. and 10. vCenter's
	// certificate. Then a virtual machine is encrypted.
	vCenter := i.addProvider(t, 2)
	i.establishTrust(t, vCenter)
	i.encrypt(t, vCenter)
}

// TestConnectingHPCS goes the way with Hyper Protect Crypto Services.
func TestConnectingHPCS(t *testing.T) {
	t.Parallel()
	c := sharedCell(t)
	env := c.env(t)
	i := &instance{cell: c, env: env, bearer: token(t, env["IAM_URL"], env["API2_KEY"])}
	i.customer = keyProtect{env["HPCS_URL"], env["KP2_INSTANCE_ID"], i.bearer}

	// 2. The crypto instance is there and initialized. 3. A root key in it, in
	// the default key ring.
	i.rootKey = i.customer.createRootKey(t)

	// 5. The KMIP for VMware instance.
	i.createInstance(t)

	// 6. The service authorization from the one to the other.
	manager := i.retrieve(t, env["KP2_INSTANCE_ID"])
	if !manager.Usable || manager.Type != "hpcs" || manager.CRN != hpcsCRN(env) {
		t.Errorf("retrieved %+v", manager)
	}
	type authorization struct {
		Exists   bool   `json:"exists"`
		PolicyID string `json:"policy_id"`
	}
	path := "/v1/instances/" + i.id + "/service_authorization"
	var before, made, after authorization
	i.must(t, http.StatusOK, http.MethodGet, path+"?key_manager_crn="+manager.CRN, nil, &before)
	i.must(t, http.StatusCreated, http.MethodPost, path, map[string]any{"key_manager_crn": manager.CRN}, &made)
	if before.Exists || !made.Exists || made.PolicyID == "" {
		t.Errorf("the authorization before: %+v, and made: %+v", before, made)
	}
	if a := i.api(t, http.MethodPost, path, map[string]any{"key_manager_crn": manager.CRN}); a.status != http.StatusConflict {
		t.Errorf("made again: status %d, %s", a.status, a.body)
	}

	// 7. Configure with the root key.
	settings := map[string]any{"type": manager.Type, "instance_crn": manager.CRN, "key_ring": i.choose(t, manager), "root_key_id": i.rootKey}
	i.must(t, http.StatusOK, http.MethodPut, "/v1/instances/"+i.id+"/key_manager", settings, nil)

	// 8. The key provider, with the instance's own host name and port. 9. and
	// 10. vCenter's certificate. Then a virtual machine is encrypted.
	vCenter := i.addProvider(t, 1)
	i.establishTrust(t, vCenter)
	i.encrypt(t, vCenter)

	// The removal of the authorization is noticed.
	policy := env["IAM_POLICY_URL"] + "/v1/policies/" + made.PolicyID
	if a := call(t, http.MethodDelete, policy, map[string]string{"Authorization": "Bearer " + i.bearer}, nil); a.status != http.StatusNoContent {
		t.Fatalf("removing the authorization: status %d, %s", a.status, a.body)
	}
	i.must(t, http.StatusOK, http.MethodGet, path, nil, &after)
	if after.Exists || after.PolicyID != "" {
		t.Errorf("the authorization after its removal: %+v", after)
	}
}

// TestSupportEngineerIsNoCustomer: a role that VMware Solutions does not know
// opens nothing, in the engineer's own account or in a customer's.
func TestSupportEngineerIsNoCustomer(t *testing.T) {
	t.Parallel()
	env := sharedCell(t).env(t)
	engineer := map[string]string{"Authorization": "Bearer " + token(t, env["IAM_URL"], env["SUPPORT_API_KEY"])}
	for path, status := range map[string]int{
		"/v1/instances":                                       http.StatusForbidden,
		"/v1/key_managers":                                    http.StatusForbidden,
		"/v1/instances/" + env["INSTANCE_ID"]:                 http.StatusNotFound,
		"/v1/instances/" + env["INSTANCE2_ID"] + "/endpoints": http.StatusNotFound,
		"/v1/regions":                                         http.StatusOK,
	} {
		if a := call(t, http.MethodGet, env["API_URL"]+path, engineer, nil); a.status != status {
			t.Errorf("%s: status %d, want %d: %s", path, a.status, status, a.body)
		}
	}
}
