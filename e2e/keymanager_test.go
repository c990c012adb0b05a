package e2e

import (
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// TestKeyManagerConforms runs the port's conformance suite over the adapter,
// HTTP, IAM tokens and the emulator.
func TestKeyManagerConforms(t *testing.T) {
	env := sharedCell(t).env(t)
	customer := keyProtect{env["KP_URL"], env["KP_INSTANCE_ID"], token(t, env["IAM_URL"], env["API_KEY"])}
	tokens, err := iam.NewTokens(iam.Config{URL: env["IAM_URL"]})
	if err != nil {
		t.Fatal(err)
	}
	apiKey := secret.Of([]byte(env["KP_SERVICE_API_KEY"]))
	enginetest.KeyManager(t, func(t *testing.T) enginetest.KeyManagerUnderTest {
		root := customer.createRootKey(t)
		adapter, err := keyprotect.New(keyprotect.Config{
			BaseURL: env["KP_URL"], InstanceCRN: keyProtectCRN(env), KeyRing: "default", RootKeyID: root,
			Tokens: tokens.ForAPIKey(apiKey),
		})
		if err != nil {
			t.Fatal(err)
		}
		return enginetest.KeyManagerUnderTest{
			KeyManager:        adapter,
			DeleteRootKey:     func(t *testing.T) { customer.delete(t, root) },
			DeleteStandardKey: func(t *testing.T, ref engine.KeyRef) { customer.delete(t, string(ref)) },
		}
	})
}
