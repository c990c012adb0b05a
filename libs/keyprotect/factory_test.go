package keyprotect_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// TestFactoryKeepsTenantsApart builds clients for two tenants on one instance:
// each call goes out with its own tenant's identity.
func TestFactoryKeepsTenantsApart(t *testing.T) {
	var bearer string
	s := newStand(t, func(w http.ResponseWriter, r *http.Request) {
		bearer = r.Header.Get("Authorization")
		fmt.Fprint(w, `{"ciphertext":"c","keyVersion":{"id":"v"}}`)
	})
	keyring, err := secret.ParseKeyring(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	endpoints, err := keyprotect.ParseEndpoints("kms/us-south=" + s.URL)
	if err != nil {
		t.Fatal(err)
	}
	f := &keyprotect.Factory{
		Endpoints: endpoints, Keyring: keyring, HTTP: s.Client(),
		Tokens: func(apiKey *secret.Bytes) keyprotect.Tokens {
			made++
			return &tokens{token: "token-of-" + string(apiKey.Reveal())}
		},
	}
	seal := func(id tenant.ID, apiKey string) *tenant.Tenant {
		t.Helper()
		sealed, err := keyring.Seal(tenant.APIKeyPurpose, string(id), secret.Of([]byte(apiKey)))
		if err != nil {
			t.Fatal(err)
		}
		return &tenant.Tenant{ID: id, KeyManager: &tenant.KeyManager{
			Type: tenant.KeyProtect, InstanceCRN: instanceCRN, KeyRing: "default", RootKeyID: rootKey, SealedAPIKey: sealed,
		}}
	}
	wrap := func(tt *tenant.Tenant, want string) {
		t.Helper()
		m, err := f.For(tt)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Wrap(t.Context(), secret.Random(32), engine.Binding{Tenant: tt.ID, Object: "o"}); err != nil {
			t.Fatal(err)
		}
		if bearer != "Bearer token-of-"+want {
			t.Errorf("tenant %s called as %q, want %s", tt.ID, bearer, want)
		}
	}
	one, two := seal("one", "key-one"), seal("two", "key-two")
	wrap(one, "key-one")
	wrap(two, "key-two")
	wrap(one, "key-one")
	if made != 2 {
		t.Errorf("%d token sources for two tenants", made)
	}
	wrap(seal("one", "key-three"), "key-three") // a new credential takes over

	stolen := *two.KeyManager
	if _, err := f.For(&tenant.Tenant{ID: "three", KeyManager: &stolen}); err == nil {
		t.Error("another tenant's sealed credential opens")
	}
	if _, err := f.For(&tenant.Tenant{ID: "four"}); fault.KindOf(err) != fault.Denied {
		t.Errorf("without a key manager: %v", err)
	}
}

// TestFactoryWithoutAPIKey: each tenant calls as its own instance, and nobody
// where the operator owns no IAM service.
func TestFactoryWithoutAPIKey(t *testing.T) {
	var bearer string
	s := newStand(t, func(w http.ResponseWriter, r *http.Request) {
		bearer = r.Header.Get("Authorization")
		fmt.Fprint(w, `{"ciphertext":"c","keyVersion":{"id":"v"}}`)
	})
	endpoints, err := keyprotect.ParseEndpoints("hs-crypto/eu-de=" + s.URL)
	if err != nil {
		t.Fatal(err)
	}
	f := &keyprotect.Factory{
		Endpoints: endpoints, HTTP: s.Client(),
		Tokens:  func(*secret.Bytes) keyprotect.Tokens { t.Error("an API key is used"); return nil },
		Service: func(instanceCRN string) keyprotect.Tokens { return &tokens{token: "token-of-" + instanceCRN} },
	}
	hpcs := tenant.KeyManager{
		Type: tenant.HPCS, KeyRing: "default", RootKeyID: rootKey,
		InstanceCRN: "crn:v1:bluemix:public:hs-crypto:eu-de:a/0123456789abcdef0123456789abcdef:6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01::",
	}
	one := &tenant.Tenant{ID: "11111111-59b5-4f5e-9d4c-1f1c4d1f7a01", Account: "0123456789abcdef0123456789abcdef", KeyManager: &hpcs}
	two := &tenant.Tenant{ID: "22222222-59b5-4f5e-9d4c-1f1c4d1f7a01", Account: "fedcba98765432100123456789abcdef", KeyManager: &hpcs}
	for _, tt := range []*tenant.Tenant{one, two, one} {
		m, err := f.For(tt)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Wrap(t.Context(), secret.Random(32), engine.Binding{Tenant: tt.ID, Object: "o"}); err != nil {
			t.Fatal(err)
		}
		if want := "Bearer token-of-crn:v1:bluemix:public:vmware-solutions:eu-de:a/" + tt.Account + ":" + string(tt.ID) + "::"; bearer != want {
			t.Errorf("tenant %s called as %q, want %q", tt.ID, bearer, want)
		}
	}

	f.Service = nil
	if _, err := f.For(one); err != nil {
		t.Errorf("the client that exists: %v", err)
	}
	three := *one
	three.ID = "33333333-59b5-4f5e-9d4c-1f1c4d1f7a01"
	if _, err := f.For(&three); fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), "API key") {
		t.Errorf("without a service identity: %v", err)
	}
}

func TestEndpoints(t *testing.T) {
	const dedicated = "crn:v1:bluemix:public:kms:us-south:a/0123456789abcdef0123456789abcdef:9e8d7c6b-59b5-4f5e-9d4c-1f1c4d1f7a01::"
	e, err := keyprotect.ParseEndpoints(" kms/us-south=https://us-south.kms.cloud.ibm.com/ ,hs-crypto/eu-de=https://{guid}.api.eu-de.hs-crypto.appdomain.cloud," +
		dedicated + "=https://dedicated.example.com")
	if err != nil {
		t.Fatal(err)
	}
	own, err := crn.Parse(dedicated)
	if err != nil {
		t.Fatal(err)
	}
	key := own
	key.ResourceType, key.Resource = "key", "2b0d1a3c-1111-4222-8333-444455556666"
	other := own
	other.Instance = "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01"
	foreign := own
	foreign.Scope = "a/fedcba98765432100123456789abcdef"
	for _, c := range []crn.CRN{own, key} {
		if got, err := e.URL(c); err != nil || got != "https://dedicated.example.com" {
			t.Errorf("%v: %s, %v", c, got, err)
		}
	}
	for _, c := range []crn.CRN{other, foreign} {
		if got, err := e.URL(c); err != nil || got != "https://us-south.kms.cloud.ibm.com" {
			t.Errorf("%v: %s, %v", c, got, err)
		}
	}
	for want, c := range map[string]crn.CRN{
		"https://us-south.kms.cloud.ibm.com":                                               {Service: "kms", Location: "us-south", Instance: "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01"},
		"https://6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01.api.eu-de.hs-crypto.appdomain.cloud": {Service: "hs-crypto", Location: "eu-de", Instance: "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01"},
	} {
		if got, err := e.URL(c); err != nil || got != want {
			t.Errorf("%v: %s, %v", c, got, err)
		}
	}
	if got, err := e.URL(crn.CRN{Service: "kms", Location: "eu-de"}); err == nil {
		t.Errorf("a region that is not in the table has the address %s", got)
	}
	only, err := keyprotect.ParseEndpoints(dedicated + "=https://dedicated.example.com")
	if err != nil || !only.Serves("kms", "us-south") || only.Serves("kms", "eu-de") || only.Serves("hs-crypto", "us-south") ||
		!e.Serves("hs-crypto", "eu-de") || e.Serves("kms", "eu-de") {
		t.Errorf("services and regions: %v", err)
	}
	_, err = keyprotect.ParseEndpoints("kms/us-south=ftp://x,nonsense,kms/eu-de=https://h/path,kms/jp-tok=http://example.com,kms/us-east=https://a,kms/us-east=https://b," +
		dedicated + "=http://example.com," + dedicated + "key:k=https://h,crn:v1:bluemix:public:kms:us-south:a/x:::=https://h,crn:v1:kms/x=https://h")
	if err == nil || strings.Count(err.Error(), "key manager address") != 9 {
		t.Errorf("not every problem is named: %v", err)
	}
}
