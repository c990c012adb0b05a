package e2e

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	kp "github.com/IBM/keyprotect-go-client"
	"github.com/google/uuid"
)

// TestIBMsKeyProtectClient drives the emulator with IBM's own client, which
// holds none of our beliefs about the API.
func TestIBMsKeyProtectClient(t *testing.T) {
	t.Parallel()
	env := sharedCell(t).env(t)
	api, err := kp.New(kp.ClientConfig{
		BaseURL: env["KP_URL"], APIKey: env["KP_SERVICE_API_KEY"], TokenURL: env["IAM_URL"] + "/oidc/token",
		InstanceID: env["KP_INSTANCE_ID"], Verbose: kp.VerboseFailOnly,
	}, http.DefaultTransport)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()

	name := "ibm-" + uuid.NewString()
	root, err := api.CreateRootKey(ctx, name, nil)
	if err != nil {
		t.Fatal(err)
	}
	aad := []string{"one", "two"}
	plain := []byte("MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=")
	ciphertext, err := api.Wrap(ctx, root.ID, plain, &aad)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := api.Unwrap(ctx, root.ID, ciphertext, &aad); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("unwrap gave other bytes, %v", err)
	}
	swapped := []string{"two", "one"}
	_, err = api.Unwrap(ctx, root.ID, ciphertext, &swapped)
	wantStatus(t, err, http.StatusUnprocessableEntity, "unwrap with other additional data")

	// A rotated root key opens what its older version wrapped.
	if err := api.Rotate(ctx, root.ID, ""); err != nil {
		t.Fatal(err)
	}
	if got, rewrapped, err := api.UnwrapV2(ctx, root.ID, ciphertext, &aad); err != nil || !bytes.Equal(got, plain) || len(rewrapped) == 0 {
		t.Errorf("unwrap after a rotation: rewrapped ciphertext of %d bytes, %v", len(rewrapped), err)
	}

	standard, err := api.CreateImportedStandardKey(ctx, name, nil, string(plain))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := api.GetKey(ctx, standard.ID); err != nil || got.Payload != string(plain) {
		t.Errorf("the standard key read back: %+v, %v", got, err)
	}
	listed := 0
	keys, err := api.GetKeys(ctx, 2000, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys.Keys {
		if k.Name == name {
			listed++
		}
		if k.Payload != "" {
			t.Errorf("the list shows the payload of %s", k.ID)
		}
	}
	if listed != 2 {
		t.Errorf("%d keys of that name are listed, want 2", listed)
	}

	if _, err := api.DeleteKey(ctx, root.ID, kp.ReturnMinimal); err != nil {
		t.Fatal(err)
	}
	_, err = api.Wrap(ctx, root.ID, plain, &aad)
	wantStatus(t, err, http.StatusGone, "wrap under a deleted root key")
}

// TestIBMsClientWithABadKey expects the token service's own answer.
func TestIBMsClientWithABadKey(t *testing.T) {
	t.Parallel()
	env := sharedCell(t).env(t)
	api, err := kp.New(kp.ClientConfig{
		BaseURL: env["KP_URL"], APIKey: "not-a-key", TokenURL: env["IAM_URL"] + "/identity/token", InstanceID: env["KP_INSTANCE_ID"],
	}, http.DefaultTransport)
	if err != nil {
		t.Fatal(err)
	}
	_, err = api.GetKeys(context.WithoutCancel(t.Context()), 10, 0)
	if err == nil || !strings.Contains(err.Error(), "BXNIM0415E") {
		t.Errorf("a bad API key: %v", err)
	}
}

func wantStatus(t *testing.T, err error, status int, when string) {
	t.Helper()
	var failure *kp.Error
	if !errors.As(err, &failure) || failure.StatusCode != status {
		t.Errorf("%s: %v, want status %d", when, err, status)
	}
}
