package control_test

import (
	"encoding/base64"
	"encoding/hex"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/api"
)

func kmsCRN(account string) string {
	return "crn:v1:bluemix:public:kms:us-south:a/" + account + ":" + kmsInstance + "::"
}

// keyManagerBody is a good body with some fields replaced; nil removes one.
func keyManagerBody(changes map[string]any) string {
	body := map[string]any{
		"type": "key_protect", "instance_crn": kmsCRN(account), "key_ring": "default", "root_key_id": rootKey, "api_key": canaryAPIKey,
	}
	maps.Copy(body, changes)
	maps.DeleteFunc(body, func(_ string, v any) bool { return v == nil })
	return object(body)
}

func TestConnectKeyManager(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	want := api.KeyManager{Type: api.KeyManagerTypeKeyProtect, InstanceCRN: kmsCRN(account), KeyRing: "default", RootKeyID: rootKey, Credential: api.KeyManagerCredentialAPIKey}
	got := read[api.KeyManager](t, c.call(t, "PUT", path+"/key_manager", keyManagerBody(map[string]any{"key_ring": nil})), http.StatusOK)
	if got.DestroyPermitted == nil || !*got.DestroyPermitted || got.Message != nil {
		t.Errorf("got %+v", got)
	}
	if got.DestroyPermitted = nil; got != want {
		t.Errorf("got %+v", got)
	}
	instance := read[api.Instance](t, c.call(t, "GET", path, ""), http.StatusOK)
	if instance.Status != api.InstanceStatusInstalled || instance.KeyManager == nil || *instance.KeyManager != want {
		t.Errorf("instance %+v", instance)
	}
	if c.cloud.asked() < 5 || len(c.cloud.left()) != 0 {
		t.Errorf("the check made %d calls and left %v", c.cloud.asked(), c.cloud.left())
	}
	// The same again, and as HPCS.
	read[api.KeyManager](t, c.call(t, "PUT", path+"/key_manager", keyManagerBody(nil)), http.StatusOK)
	hpcs := strings.Replace(kmsCRN(account), ":kms:", ":hs-crypto:", 1)
	read[api.KeyManager](t, c.call(t, "PUT", path+"/key_manager", keyManagerBody(map[string]any{"type": "hpcs", "instance_crn": hpcs})), http.StatusOK)
	if instance := read[api.Instance](t, c.call(t, "GET", path, ""), http.StatusOK); instance.KeyManager.Type != api.KeyManagerTypeHpcs {
		t.Errorf("instance %+v", instance)
	}
}

func TestKeyManagerSettingsRefused(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	crn := func(old, replacement string) string { return strings.Replace(kmsCRN(account), old, replacement, 1) }
	for name, tc := range map[string]struct {
		changes          map[string]any
		code             api.ErrorCode
		target, sentence string
	}{
		"no type":        {map[string]any{"type": nil}, api.ErrorCodeMissingValue, "type", "key_protect or hpcs"},
		"another type":   {map[string]any{"type": "vault"}, api.ErrorCodeInvalidValue, "type", "key_protect or hpcs"},
		"no CRN":         {map[string]any{"instance_crn": nil}, api.ErrorCodeMissingValue, "instance_crn", "is missing"},
		"not a CRN":      {map[string]any{"instance_crn": "kms"}, api.ErrorCodeInvalidValue, "instance_crn", "is not a CRN"},
		"endless CRN":    {map[string]any{"instance_crn": kmsCRN(account) + strings.Repeat("a", 512)}, api.ErrorCodeInvalidValue, "instance_crn", "longer than 512"},
		"CRN of a key":   {map[string]any{"instance_crn": strings.TrimSuffix(kmsCRN(account), "::") + ":key:" + rootKey}, api.ErrorCodeInvalidValue, "instance_crn", "part of an instance"},
		"CRN without id": {map[string]any{"instance_crn": crn(kmsInstance, "")}, api.ErrorCodeInvalidValue, "instance_crn", "no instance id"},
		"upper-case id":  {map[string]any{"instance_crn": crn(kmsInstance, "AAAAAAAA-2222-4333-8444-555555555555")}, api.ErrorCodeInvalidValue, "instance_crn", "no instance id"},
		"other service":  {map[string]any{"instance_crn": crn(":kms:", ":cloud-object-storage:")}, api.ErrorCodeInvalidValue, "instance_crn", "of service `cloud-object-storage`"},
		"type differs":   {map[string]any{"type": "hpcs"}, api.ErrorCodeInvalidValue, "instance_crn", "of service `kms`, but `type` is hpcs"},
		"other account":  {map[string]any{"instance_crn": kmsCRN(stranger)}, api.ErrorCodeInvalidValue, "instance_crn", "another account"},
		"other region":   {map[string]any{"instance_crn": crn("us-south", "eu-de")}, api.ErrorCodeInvalidValue, "instance_crn", "Use a key manager instance in `us-south`"},
		"other cloud":    {map[string]any{"instance_crn": crn("bluemix", "staging")}, api.ErrorCodeInvalidValue, "instance_crn", "crn:v1:bluemix:public"},
		"bad ring":       {map[string]any{"key_ring": "a/b"}, api.ErrorCodeInvalidValue, "key_ring", "ring's id"},
		"empty ring":     {map[string]any{"key_ring": ""}, api.ErrorCodeInvalidValue, "key_ring", "ring's id"},
		"no root key":    {map[string]any{"root_key_id": nil}, api.ErrorCodeMissingValue, "root_key_id", "is missing"},
		"root key name":  {map[string]any{"root_key_id": "my-root-key"}, api.ErrorCodeInvalidValue, "root_key_id", "not its name"},
		"no API key":     {map[string]any{"api_key": nil}, api.ErrorCodeMissingValue, "api_key", "is missing"},
		"cut API key":    {map[string]any{"api_key": canaryAPIKey[:10]}, api.ErrorCodeInvalidValue, "api_key", "printable characters"},
		"spaced API key": {map[string]any{"api_key": canaryAPIKey + "\n"}, api.ErrorCodeInvalidValue, "api_key", "printable characters"},
		"API key number": {map[string]any{"api_key": 12345678901234567}, api.ErrorCodeInvalidValue, "api_key", "has to be a string"},
		"API key null":   {map[string]any{"api_key": map[string]any(nil)}, api.ErrorCodeInvalidValue, "api_key", "is null"},
	} {
		t.Run(name, func(t *testing.T) {
			refusal(t, c.call(t, "PUT", path+"/key_manager", keyManagerBody(tc.changes)), http.StatusBadRequest, tc.code, tc.target, tc.sentence)
		})
	}
	all := read[api.ErrorContainer](t, c.call(t, "PUT", path+"/key_manager", `{"key_ring":"!"}`), http.StatusBadRequest)
	if len(all.Errors) != 5 {
		t.Errorf("want every problem at once: %+v", all.Errors)
	}
	if c.cloud.asked() != 0 {
		t.Error("settings that can't be right reached the key manager")
	}
	c.isInactive(t, path)
}

// isInactive checks that nothing was stored.
func (c *cell) isInactive(t *testing.T, path string) {
	t.Helper()
	i := read[api.Instance](t, c.call(t, "GET", path, ""), http.StatusOK)
	if i.Status != api.InstanceStatusInactive || i.KeyManager != nil {
		t.Errorf("refused settings were stored: %+v", i)
	}
}

// What the key manager refuses is refused here, before anything is stored.
func TestKeyManagerRefuses(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	refused := func(changes map[string]any) {
		t.Helper()
		r := c.call(t, "PUT", path+"/key_manager", keyManagerBody(changes))
		refusal(t, r, http.StatusBadRequest, api.ErrorCodeInvalidValue, "", "The key manager refused these settings; nothing was changed. ")
		c.isInactive(t, path)
	}
	refused(map[string]any{"api_key": "another-key-that-IAM-does-not-know"})
	refused(map[string]any{"root_key_id": "12121212-8888-4777-8666-555555555555"})
	refused(map[string]any{"instance_crn": strings.Replace(kmsCRN(account), kmsInstance, "22222222-2222-4333-8444-555555555555", 1)})
	c.cloud.setFault(func(w http.ResponseWriter, _ *http.Request) {
		kmsError(w, http.StatusConflict, "KEY_ACTION_INVALID_STATE_ERR")
	})
	refused(nil)

	c.cloud.setFault(func(w http.ResponseWriter, _ *http.Request) { kmsError(w, http.StatusServiceUnavailable, "") })
	refusal(t, c.call(t, "PUT", path+"/key_manager", keyManagerBody(nil)), http.StatusServiceUnavailable, api.ErrorCodeServiceUnavailable, "", "")
	c.isInactive(t, path)

	c.cloud.setFault(nil)
	read[api.KeyManager](t, c.call(t, "PUT", path+"/key_manager", keyManagerBody(nil)), http.StatusOK)
}

// A customer's API key is in no answer, no log line and, readable, nowhere in
// the database, whatever happened to it.
func TestAPIKeyStaysSecret(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	for _, body := range []string{
		keyManagerBody(map[string]any{"type": "vault"}),
		keyManagerBody(map[string]any{"root_key_id": "12121212-8888-4777-8666-555555555555"}),
		keyManagerBody(map[string]any{"extra": canaryAPIKey}),
		`{"api_key":"` + canaryAPIKey + `","api_key":"` + canaryAPIKey + `"}`,
		`{"api_key":"` + canaryAPIKey + `"`,
		`{"api_key":"` + canaryAPIKey + `"} x`,
		`{"type":{"a":"` + canaryAPIKey + `"}}`,
		`["` + canaryAPIKey + `"]`,
	} {
		if r := c.call(t, "PUT", path+"/key_manager", body); r.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", body, r.status, r.body)
		}
	}
	c.cloud.setFault(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusBadGateway, map[string]any{"echo": canaryAPIKey, "token": kmsToken})
	})
	if r := c.call(t, "PUT", path+"/key_manager", keyManagerBody(nil)); r.status != http.StatusServiceUnavailable {
		t.Errorf("%d %s", r.status, r.body)
	}
	c.cloud.setFault(nil)
	read[api.KeyManager](t, c.call(t, "PUT", path+"/key_manager", keyManagerBody(nil)), http.StatusOK)
	c.call(t, "GET", path, "")
	c.call(t, "GET", "/v1/instances?api_key="+canaryAPIKey, "")
	dump := c.dump(t)
	if !strings.Contains(dump, rootKey) {
		t.Fatalf("the dump misses what was stored:\n%s", dump)
	}
	metrics := c.send(t, "GET", c.admin+"/metrics", "", "").body
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	for _, canary := range []string{canaryAPIKey, kmsToken} {
		for form, text := range map[string]string{
			"raw": canary, "hex": hex.EncodeToString([]byte(canary)),
			"base64": base64.RawStdEncoding.EncodeToString([]byte(canary)[:len(canary)/3*3]),
		} {
			for where, all := range map[string]string{"answers": c.seen.String(), "log": c.log.String(), "database": dump, "metrics": metrics} {
				if strings.Contains(all, text) {
					t.Errorf("%s of %.9s… in %s", form, canary, where)
				}
			}
		}
	}
}

// dump returns every row of the database as text.
func (c *cell) dump(t *testing.T) string {
	t.Helper()
	db, err := pgx.Connect(t.Context(), c.database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	rows, err := db.Query(t.Context(), `SELECT format('SELECT r::text FROM %I r', tablename) FROM pg_tables WHERE schemaname = 'public'`)
	if err != nil {
		t.Fatal(err)
	}
	queries, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, query := range queries {
		rows, err := db.Query(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(strings.Join(lines, "\n") + "\n")
	}
	return all.String()
}

// A service ID that is Writer, as IBM's manual once asked for, can make and read
// keys: the instance is connected, and the answer says what is missing.
func TestWriterIsAcceptedWithAWarning(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	c.cloud.setWriter(true)
	for range 2 {
		got := read[api.KeyManager](t, c.call(t, "PUT", path+"/key_manager", keyManagerBody(nil)), http.StatusOK)
		if got.DestroyPermitted == nil || *got.DestroyPermitted || got.Message == nil ||
			!strings.Contains(*got.Message, "Destroy can't remove them") || !strings.Contains(*got.Message, "service role Manager") {
			t.Fatalf("got %+v", got)
		}
		if left := c.cloud.left(); len(left) != 1 {
			t.Errorf("left %v, want one probe", left)
		}
	}
	if instance := read[api.Instance](t, c.call(t, "GET", path, ""), http.StatusOK); instance.Status != api.InstanceStatusInstalled {
		t.Errorf("instance %+v", instance)
	}
	c.cloud.setWriter(false)
	got := read[api.KeyManager](t, c.call(t, "PUT", path+"/key_manager", keyManagerBody(nil)), http.StatusOK)
	if got.DestroyPermitted == nil || !*got.DestroyPermitted || got.Message != nil {
		t.Errorf("as Manager: %+v", got)
	}
}

// Nobody is at the key manager's address: the message names what to enable.
func TestKeyManagerIsNotReached(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	c.cloud.keyProtect.Close()
	refusal(t, c.call(t, "PUT", path+"/key_manager", keyManagerBody(nil)), http.StatusServiceUnavailable, api.ErrorCodeServiceUnavailable,
		"", "Enable service endpoints in the account and the private endpoint of the key manager instance")
	c.isInactive(t, path)
}

// The operator's table gives one Key Protect Dedicated instance an address of
// its own.
func TestKeyProtectDedicated(t *testing.T) {
	elsewhere := newIBMCloud(t)
	crn := strings.Replace(kmsCRN(account), ":public:", ":dedicated:", 1)
	c := start(t, "KMIP_KEY_MANAGER_ENDPOINTS", crn+"="+elsewhere.keyProtect.URL)
	c.cloud.addResource(crn, "dedicated", "active")
	list := read[api.AvailableKeyManagerCollection](t, c.call(t, "GET", "/v1/key_managers", ""), http.StatusOK)
	if len(list.KeyManagers) != 1 || list.KeyManagers[0].Type != api.KeyManagerTypeKeyProtect || !list.KeyManagers[0].Usable {
		t.Errorf("listed %+v", list)
	}
	read[api.KeyManager](t, c.call(t, "PUT", c.instance(t, "a")+"/key_manager", keyManagerBody(map[string]any{"instance_crn": crn})), http.StatusOK)
	if c.cloud.asked() != 0 || elsewhere.asked() == 0 {
		t.Errorf("the region's Key Protect was asked %d times, the instance's own %d", c.cloud.asked(), elsewhere.asked())
	}
}
