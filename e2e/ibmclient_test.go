package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	kp "github.com/IBM/keyprotect-go-client"
	"github.com/google/uuid"
)

// keyClient is IBM's own client of Key Protect and HPCS, which holds none of our beliefs about the
// API. It asks for a token of its own.
func keyClient(t *testing.T, iam, base, apiKey, instance, ring string) *kp.Client {
	t.Helper()
	api, err := kp.New(kp.ClientConfig{
		BaseURL: base, APIKey: apiKey, TokenURL: iam + "/oidc/token", InstanceID: instance, KeyRing: ring, Verbose: kp.VerboseFailOnly,
	}, http.DefaultTransport)
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// keys is the client of an API key with the Key Protect instance of the seed.
func (c *cloud) keys(t *testing.T, seed cloudSeed, apiKey string) *kp.Client {
	t.Helper()
	return keyClient(t, c.iam, c.kms, apiKey, seed.keys, "")
}

// turn sets a knob of the emulator.
func (c *cloud) turn(t *testing.T, knob string, body any) {
	t.Helper()
	if a := call(t, http.MethodPut, c.admin+"/emulator/v1/"+knob, nil, body); a.status != http.StatusOK {
		t.Fatalf("knob %s: status %d, %s", knob, a.status, a.body)
	}
}

// wantCode checks the status and the first reason's code, or that there is no reason.
func wantCode(t *testing.T, err error, status int, code, when string) {
	t.Helper()
	var failure *kp.Error
	if !errors.As(err, &failure) || failure.StatusCode != status {
		t.Errorf("%s: %v, want status %d %s", when, err, status, code)
		return
	}
	got := ""
	if len(failure.Reasons) > 0 {
		got = failure.Reasons[0].Code
	}
	if got != code || failure.CorrelationID == "" || !strings.HasPrefix(failure.Message, http.StatusText(status)) {
		t.Errorf("%s: code %q, correlation id %q, message %q, want %s", when, got, failure.CorrelationID, failure.Message, code)
	}
}

var plaintext = []byte("MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=")

// TestIBMsKeyProtectClient makes the calls that the product makes, in Key Protect and in HPCS.
func TestIBMsKeyProtectClient(t *testing.T) {
	t.Parallel()
	seed := newCloudSeed()
	c := startCloud(t, seed)
	for service, api := range map[string]*kp.Client{
		"Key Protect":                c.keys(t, seed, seed.admin),
		"HPCS":                       keyClient(t, c.iam, c.hpcs, seed.admin, seed.crypto, ""),
		"HPCS, naming the key ring":  keyClient(t, c.iam, c.hpcs, seed.admin, seed.crypto, "default"),
		"Key Protect, with its ring": keyClient(t, c.iam, c.kms, seed.admin, seed.keys, "default"),
	} {
		t.Run(service, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			name := "ibm-" + uuid.NewString()
			root, err := api.CreateRootKey(ctx, name, nil)
			if err != nil {
				t.Fatal(err)
			}
			aad := []string{"one", "two"}
			wrapped, err := api.WrapV2(ctx, root.ID, plaintext, &aad)
			if err != nil {
				t.Fatal(err)
			}
			if wrapped.KeyVersion == nil || wrapped.KeyVersion.ID != root.KeyVersion.ID || wrapped.PlainText != "" {
				t.Errorf("wrap answers key version %+v, the key has %+v", wrapped.KeyVersion, root.KeyVersion)
			}
			ciphertext := []byte(wrapped.CipherText)
			if got, rewrapped, err := api.UnwrapV2(ctx, root.ID, ciphertext, &aad); err != nil || !bytes.Equal(got, plaintext) || len(rewrapped) > 0 {
				t.Errorf("unwrap gave %s and a rewrapped ciphertext of %d bytes, %v", got, len(rewrapped), err)
			}
			for _, other := range [][]string{{"two", "one"}, {"one"}, {"one", "two", ""}, nil} {
				_, err = api.Unwrap(ctx, root.ID, ciphertext, &other)
				wantCode(t, err, http.StatusUnprocessableEntity, "UNPROCESSABLE_CIPHERTEXT_ERR", "unwrap with other additional data")
			}
			if dek, err := api.WrapCreateDEKV2(ctx, root.ID, nil); err != nil || len(dek.PlainText) != 44 {
				t.Errorf("a data encryption key: %+v, %v", dek, err)
			} else if got, err := api.Unwrap(ctx, root.ID, []byte(dek.CipherText), nil); err != nil || string(got) != dek.PlainText {
				t.Errorf("the data encryption key unwrapped: %s, %v", got, err)
			}

			standard, err := api.CreateImportedStandardKey(ctx, name, nil, string(plaintext))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := api.GetKey(ctx, standard.ID); err != nil || got.Payload != string(plaintext) || !got.Imported || !got.Extractable ||
				got.State != int(kp.Active) || got.CRN != standard.CRN || got.KeyRingID != "default" || got.CreatedBy != seed.adminID || got.KeyVersion != nil {
				t.Errorf("the standard key read back: %+v, %v", got, err)
			}
			if got, err := api.GetKeyMetadata(ctx, standard.ID); err != nil || got.Payload != "" || got.Name != name {
				t.Errorf("the standard key's metadata: %+v, %v", got, err)
			}
			_, err = api.Wrap(ctx, standard.ID, plaintext, nil)
			wantCode(t, err, http.StatusBadRequest, "KEY_ROOT_REQ_ERR", "wrap under a standard key")

			listed := func() (found []kp.Key) {
				t.Helper()
				list, err := api.GetKeys(ctx, 5000, 0)
				if err != nil {
					t.Fatal(err)
				}
				for _, k := range list.Keys {
					if k.Name == name {
						found = append(found, k)
					}
				}
				if list.Metadata.NumberOfKeys != len(list.Keys) {
					t.Errorf("the list of %d keys says %d", len(list.Keys), list.Metadata.NumberOfKeys)
				}
				return found
			}
			if found := listed(); len(found) != 2 || found[0].Payload != "" || found[1].Payload != "" {
				t.Errorf("listed: %+v", found)
			}
			if deleted, err := api.DeleteKey(ctx, standard.ID, kp.ReturnMinimal); err != nil || deleted != nil {
				t.Errorf("deleted: %+v, %v", deleted, err)
			}
			if deleted, err := api.DeleteKey(ctx, root.ID, kp.ReturnRepresentation, kp.ForceOpt{Force: true}); err != nil ||
				deleted.State != int(kp.Destroyed) || !*deleted.Deleted || *deleted.DeletedBy != seed.adminID || *deleted.PurgeAllowed ||
				deleted.PurgeScheduledOn.Sub(*deleted.PurgeAllowedFrom) != 2156*time.Hour {
				t.Errorf("deleted: %+v, %v", deleted, err)
			}
			if found := listed(); len(found) != 0 {
				t.Errorf("listed after their deletion: %+v", found)
			}
			if got, err := api.GetKey(ctx, standard.ID); err != nil || got.State != int(kp.Destroyed) || got.Payload != "" {
				t.Errorf("the deleted standard key: %+v, %v", got, err)
			}
			_, err = api.Wrap(ctx, root.ID, plaintext, &aad)
			wantCode(t, err, http.StatusGone, "KEY_DELETED_ERR", "wrap under a deleted root key")
			_, err = api.Unwrap(ctx, root.ID, ciphertext, &aad)
			wantCode(t, err, http.StatusGone, "KEY_DELETED_ERR", "unwrap under a deleted root key")
			_, err = api.DeleteKey(ctx, root.ID, kp.ReturnMinimal)
			wantCode(t, err, http.StatusGone, "KEY_DELETED_ERR", "delete again")
			_, err = api.GetKey(ctx, uuid.NewString())
			wantCode(t, err, http.StatusNotFound, "KEY_NOT_FOUND_ERR", "a key that never was")
		})
	}
}

// TestIBMsClientIsRefused has no or too small roles, and bad requests.
func TestIBMsClientIsRefused(t *testing.T) {
	t.Parallel()
	seed := newCloudSeed()
	c := startCloud(t, seed)
	ctx := t.Context()
	admin, writer := c.keys(t, seed, seed.admin), c.keys(t, seed, seed.writer)
	root, err := admin.CreateRootKey(ctx, "root", nil)
	if err != nil {
		t.Fatal(err)
	}
	unauthorized := func(err error, when string) {
		t.Helper()
		wantCode(t, err, http.StatusUnauthorized, "", when)
	}
	if _, err := writer.CreateStandardKey(ctx, "by the writer", nil); err != nil {
		t.Error(err)
	}
	_, err = writer.DeleteKey(ctx, root.ID, kp.ReturnMinimal)
	unauthorized(err, "delete by a writer")
	unauthorized(writer.DisableKey(ctx, root.ID), "disable by a writer")
	_, err = admin.PurgeKey(ctx, root.ID, kp.ReturnMinimal)
	unauthorized(err, "purge by a manager")
	_, err = c.keys(t, seed, seed.boss).GetKeys(ctx, 10, 0)
	unauthorized(err, "list by another account")
	_, err = keyClient(t, c.iam, c.kms, seed.admin, uuid.NewString(), "").GetKeys(ctx, 10, 0)
	unauthorized(err, "an unknown instance")
	_, err = keyClient(t, c.iam, c.hpcs, seed.admin, seed.keys, "").GetKeys(ctx, 10, 0)
	unauthorized(err, "a Key Protect instance at HPCS")
	_, err = keyClient(t, c.iam, c.kms, seed.admin, "not-a-guid", "").GetKeys(ctx, 10, 0)
	wantCode(t, err, http.StatusBadRequest, "", "an instance that is no UUID")
	_, err = admin.GetKeys(kp.NewContextWithAuth(ctx, "Bearer nonsense"), 10, 0)
	wantCode(t, err, http.StatusBadRequest, "BEARER_SUB_EXTRACTION_ERR", "a bearer token that is none")

	_, err = admin.CreateStandardKey(ctx, "x", nil)
	wantCode(t, err, http.StatusBadRequest, "INVALID_FIELD_ERR", "a name of one character")
	_, err = admin.CreateImportedStandardKey(ctx, "large", nil, base64.StdEncoding.EncodeToString(make([]byte, 7501)))
	wantCode(t, err, http.StatusBadRequest, "INVALID_FIELD_ERR", "a payload of 7,501 bytes")
	_, err = admin.CreateImportedRootKey(ctx, "short", nil, base64.StdEncoding.EncodeToString(make([]byte, 31)), "", "")
	wantCode(t, err, http.StatusBadRequest, "INVALID_FIELD_ERR", "a root key of 31 bytes")
	_, err = admin.GetKeys(ctx, 5001, 0)
	wantCode(t, err, http.StatusBadRequest, "INVALID_QUERY_PARAM_ERR", "a page of 5,001 keys")
	_, err = admin.Unwrap(ctx, root.ID, []byte(base64.StdEncoding.EncodeToString([]byte("no ciphertext"))), nil)
	wantCode(t, err, http.StatusUnprocessableEntity, "UNPROCESSABLE_CIPHERTEXT_ERR", "a ciphertext that is none")
	_, err = admin.Unwrap(ctx, root.ID, []byte("*"), nil)
	wantCode(t, err, http.StatusBadRequest, "INVALID_FIELD_ERR", "a ciphertext that is not base64")
	wantCode(t, keyClient(t, c.iam, c.hpcs, seed.admin, seed.crypto, "").CreateKeyRing(ctx, "ring-1"), http.StatusForbidden, "FEATURE_RESTRICTED_ERR", "a key ring in HPCS")
}

// TestIBMsClientWithABadKey expects the token service's own answer.
func TestIBMsClientWithABadKey(t *testing.T) {
	t.Parallel()
	seed := newCloudSeed()
	c := startCloud(t, seed)
	_, err := c.keys(t, seed, "not-a-key").GetKeys(context.WithoutCancel(t.Context()), 10, 0)
	if err == nil || !strings.Contains(err.Error(), "BXNIM0415E") {
		t.Errorf("a bad API key: %v", err)
	}
}

// TestIBMsClientRepeatsWhatFailed: it tries again after 429 and 5xx, so that a create whose answer was
// lost makes a second key.
func TestIBMsClientRepeatsWhatFailed(t *testing.T) {
	t.Parallel()
	seed := newCloudSeed()
	c := startCloud(t, seed)
	api := c.keys(t, seed, seed.admin)
	c.turn(t, "throttling", `{"rules":[{"service":"kms","times":1,"retry_after":0}]}`)
	c.turn(t, "lost-answers", `{"rules":[{"service":"kms","method":"POST","path":"/api/v2/keys","times":1,"status":503}]}`)
	if _, err := api.CreateRootKey(t.Context(), "root", nil); err != nil {
		t.Fatal(err)
	}
	list, err := api.GetKeys(t.Context(), 10, 0)
	if err != nil || len(list.Keys) != 2 {
		t.Errorf("keys: %+v, %v", list, err)
	}
	var calls struct {
		Calls []struct {
			Method string
			Status int
		}
	}
	call(t, http.MethodGet, c.admin+"/emulator/v1/calls?service=kms&path=/api/v2/keys", nil, nil).decode(t, &calls)
	var statuses []int
	for _, made := range calls.Calls {
		statuses = append(statuses, made.Status)
	}
	if !slices.Equal(statuses, []int{429, 503, 201, 200}) {
		t.Errorf("answers: %v", statuses)
	}
}

// TestIBMsClientFindsEverythingAfterAKill: what was confirmed survives a power cut.
func TestIBMsClientFindsEverythingAfterAKill(t *testing.T) {
	t.Parallel()
	seed := newCloudSeed()
	c := startCloud(t, seed)
	ctx := t.Context()
	api := c.keys(t, seed, seed.admin)
	root, err := api.CreateKeyWithAliases(ctx, "root", nil, false, []string{"nick"})
	if err != nil {
		t.Fatal(err)
	}
	ciphertext, err := api.Wrap(ctx, root.ID, plaintext, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := api.Rotate(ctx, root.ID, ""); err != nil {
		t.Fatal(err)
	}
	c.kill(t)
	if got, rewrapped, err := api.UnwrapV2(ctx, "nick", ciphertext, nil); err != nil || !bytes.Equal(got, plaintext) || len(rewrapped) == 0 {
		t.Errorf("unwrap: %s, a rewrapped ciphertext of %d bytes, %v", got, len(rewrapped), err)
	}
	wantCode(t, api.Rotate(ctx, root.ID, ""), http.StatusConflict, "KEY_ROTATION_NOT_PERMITTED", "a second rotation within the hour, after the kill")
}

// TestKnobsOfTheCommandLine starts an emulator with its clock moved.
func TestKnobsOfTheCommandLine(t *testing.T) {
	t.Parallel()
	seed := newCloudSeed()
	c := startCloud(t, seed, "--clock", `{"offset_s":-86400}`, "--outages", `{"rules":[{"service":"hs-crypto"}]}`)
	var clock struct{ Now time.Time }
	if err := json.Unmarshal(call(t, http.MethodGet, c.admin+"/emulator/v1/clock", nil, nil).body, &clock); err != nil {
		t.Fatal(err)
	}
	if ago := time.Since(clock.Now); ago < 23*time.Hour || ago > 25*time.Hour {
		t.Errorf("the emulator's clock is %s behind", ago)
	}
	if response, err := http.Get(c.hpcs + "/api/v2/keys"); err == nil {
		response.Body.Close()
		t.Errorf("HPCS answers with status %d", response.StatusCode)
	}
}
