package keyprotect_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
)

// TestCheckNamesActionAndRemedy refuses one action after the other; the probe
// that was stored is deleted again.
func TestCheckNamesActionAndRemedy(t *testing.T) {
	for refused, sentence := range map[string]string{
		"POST /api/v2/keys/" + rootKey + "/actions/wrap": "wrap with the root key",
		"POST /api/v2/keys":                                "create a standard key",
		"GET /api/v2/keys":                                 "list keys",
		"GET /api/v2/keys/" + reference:                    "read a standard key",
		"POST /api/v2/keys/" + rootKey + "/actions/unwrap": "unwrap with the root key",
		"DELETE /api/v2/keys/" + reference:                 "delete a standard key",
	} {
		var name, payload, plaintext any
		s := newStand(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.Method + " " + r.URL.Path {
			case refused:
				refusal(w, http.StatusUnauthorized, "")
			case "POST /api/v2/keys":
				var body struct{ Resources []map[string]any }
				_ = json.NewDecoder(r.Body).Decode(&body)
				name, payload = body.Resources[0]["name"], body.Resources[0]["payload"]
				fmt.Fprint(w, `{"resources":[{"id":"`+reference+`"}]}`)
			case "GET /api/v2/keys/" + reference:
				_ = json.NewEncoder(w).Encode(map[string]any{"resources": []any{map[string]any{"id": reference, "state": 1, "payload": payload}}})
			case "POST /api/v2/keys/" + rootKey + "/actions/wrap":
				var body map[string]any
				_ = json.NewDecoder(r.Body).Decode(&body)
				plaintext = body["plaintext"]
				fmt.Fprint(w, `{"ciphertext":"c","keyVersion":{"id":"v"}}`)
			case "GET /api/v2/keys":
				_ = json.NewEncoder(w).Encode(map[string]any{"resources": []any{map[string]any{"id": rootKey}, map[string]any{"id": reference, "name": name}}})
			default:
				_ = json.NewEncoder(w).Encode(map[string]any{"plaintext": plaintext})
			}
		})
		err := newClient(t, s, &tokens{}).Check(t.Context())
		if public := fault.Public(err); fault.KindOf(err) != fault.Denied || !strings.Contains(public, sentence) || !strings.Contains(public, "Manager") {
			t.Errorf("%s refused: %v says %q", refused, err, public)
		}
		if !strings.Contains(fault.Public(err), "the owner of the API key") {
			t.Errorf("the remedy is %q", fault.Public(err))
		}
		if stored := s.count("POST /api/v2/keys") - s.count("POST /api/v2/keys/"); stored > 0 && refused != "POST /api/v2/keys" && s.count("DELETE /api/v2/keys/"+reference) == 0 {
			t.Errorf("%s refused: the probe stays behind", refused)
		}
	}
}

// TestCheckNamesTheServiceAuthorization that a tenant without an API key lacks.
func TestCheckNamesTheServiceAuthorization(t *testing.T) {
	s := newStand(t, func(w http.ResponseWriter, _ *http.Request) { refusal(w, http.StatusUnauthorized, "") })
	for service, role := range map[string]string{"hs-crypto": "VMware KMIP Manager", "kms": "Manager"} {
		c, err := keyprotect.New(keyprotect.Config{
			BaseURL: s.URL, InstanceCRN: strings.Replace(instanceCRN, ":kms:", ":"+service+":", 1), RootKeyID: rootKey,
			Tokens: &tokens{}, Authorized: "11111111-59b5-4f5e-9d4c-1f1c4d1f7a01", HTTP: s.Client(),
		})
		if err != nil {
			t.Fatal(err)
		}
		err = c.Check(t.Context())
		if fault.KindOf(err) != fault.Denied {
			t.Errorf("%s: %v, want denied", service, err)
		}
		for _, part := range []string{
			"wrap with the root key", "service authorization", "source service vmware-solutions",
			"instance 11111111-59b5-4f5e-9d4c-1f1c4d1f7a01", "instance 6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01", "roles Viewer and " + role + ",",
		} {
			if public := fault.Public(err); !strings.Contains(public, part) {
				t.Errorf("%s: %q is not in %q", service, part, public)
			}
		}
	}
}

// vault plays Key Protect for a check: one root key, and standard keys that
// refuse can forbid to delete.
func vault(t *testing.T, refuse func(r *http.Request) bool) (*stand, func() []map[string]any) {
	t.Helper()
	var mu sync.Mutex
	var stored []map[string]any
	s := newStand(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		var body map[string]any
		_ = json.NewDecoder(r.Body).Decode(&body)
		id := strings.TrimPrefix(r.URL.Path, "/api/v2/keys/")
		at := slices.IndexFunc(stored, func(k map[string]any) bool { return k["id"] == id })
		switch {
		case refuse(r):
			refusal(w, http.StatusUnauthorized, "")
		case strings.HasSuffix(id, "/actions/wrap"):
			_ = json.NewEncoder(w).Encode(map[string]any{"ciphertext": body["plaintext"], "keyVersion": map[string]any{"id": "v"}})
		case strings.HasSuffix(id, "/actions/unwrap"):
			_ = json.NewEncoder(w).Encode(map[string]any{"plaintext": body["ciphertext"]})
		case r.Method == http.MethodPost:
			k := body["resources"].([]any)[0].(map[string]any)
			k["id"], k["state"] = uuid.NewString(), 1
			stored = append(stored, k)
			_ = json.NewEncoder(w).Encode(map[string]any{"resources": []any{map[string]any{"id": k["id"]}}})
		case r.Method == http.MethodGet && r.URL.Path == "/api/v2/keys" && r.URL.Query().Get("filter") == "extractable=false":
			all := []any{map[string]any{"id": rootKey, "keyRingID": "vmware"}}
			if r.Header.Get("X-Kms-Key-Ring") != "vmware" {
				all = all[:0]
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"resources": all})
		case r.Method == http.MethodGet && r.URL.Path == "/api/v2/keys":
			_ = json.NewEncoder(w).Encode(map[string]any{"resources": stored})
		case at < 0:
			refusal(w, http.StatusNotFound, "KEY_NOT_FOUND_ERR")
		case r.Method == http.MethodDelete:
			stored = slices.Delete(stored, at, at+1)
			w.WriteHeader(http.StatusNoContent)
		default:
			_ = json.NewEncoder(w).Encode(map[string]any{"resources": []any{stored[at]}})
		}
	})
	return s, func() []map[string]any {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(stored)
	}
}

// TestCheckWithoutDelete is of a service ID that is Writer: it may do all but
// delete. However often that is checked, one probe stays; with the right to
// delete, none more.
func TestCheckWithoutDelete(t *testing.T) {
	writer := true
	s, stored := vault(t, func(r *http.Request) bool { return writer && r.Method == http.MethodDelete })
	for range 3 {
		err := newClient(t, s, &tokens{}).Check(t.Context())
		if !errors.Is(err, engine.ErrDestroyDenied) || !errors.Is(err, engine.ErrDenied) {
			t.Fatalf("%v, want ErrDestroyDenied", err)
		}
		if text := fault.Public(err); !strings.Contains(text, "Keys can be made and read") || !strings.Contains(text, "service role Manager") {
			t.Errorf("says %q", text)
		}
		if left := stored(); len(left) != 1 || !strings.HasPrefix(left[0]["name"].(string), "vmware_kmip_check_") {
			t.Fatalf("left %v", left)
		}
	}
	writer = false
	for range 2 {
		if err := newClient(t, s, &tokens{}).Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if left := stored(); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// TestCheckWithAKeptProbeFindsOtherRefusals has a probe of an earlier check to read, and still finds
// that it may not do something else.
func TestCheckWithAKeptProbeFindsOtherRefusals(t *testing.T) {
	for action, refused := range map[string]func(r *http.Request) bool{
		"list keys":                func(r *http.Request) bool { return r.Method == http.MethodGet && r.URL.Path == "/api/v2/keys" },
		"read a standard key":      func(r *http.Request) bool { return r.Method == http.MethodGet && r.URL.Path != "/api/v2/keys" },
		"unwrap with the root key": func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/unwrap") },
	} {
		more := false
		s, _ := vault(t, func(r *http.Request) bool { return r.Method == http.MethodDelete || more && refused(r) })
		if err := newClient(t, s, &tokens{}).Check(t.Context()); !errors.Is(err, engine.ErrDestroyDenied) {
			t.Fatal(err)
		}
		more = true
		err := newClient(t, s, &tokens{}).Check(t.Context())
		if errors.Is(err, engine.ErrDestroyDenied) && action != "unwrap with the root key" || !strings.Contains(fault.Public(err), action) {
			t.Errorf("%s refused: %v says %q", action, err, fault.Public(err))
		}
	}
}

// TestCheckTellsFailuresOfTheNetworkApart by what has to be mended.
func TestCheckTellsFailuresOfTheNetworkApart(t *testing.T) {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	tlsServer := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(tlsServer.Close)
	tlsServer.Config.ErrorLog = log.New(io.Discard, "", 0)
	plain := newStand(t, func(http.ResponseWriter, *http.Request) {})
	for name, tc := range map[string]struct{ base, sentence string }{
		"no such name":      {"https://keys.invalid", "`keys.invalid` is not known. Enable the private endpoint"},
		"nobody listens":    {closed.URL, "can't be reached at `127.0.0.1:"},
		"not trusted":       {tlsServer.URL, "shows no certificate that is trusted"},
		"does not speak it": {strings.Replace(plain.URL, "http:", "https:", 1), "shows no certificate that is trusted"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := keyprotect.New(keyprotect.Config{
				BaseURL: tc.base, InstanceCRN: instanceCRN, RootKeyID: rootKey, Tokens: &tokens{}, HTTP: keyprotect.NewHTTPClient(nil),
			})
			if err != nil {
				t.Fatal(err)
			}
			err = c.WithoutPauses().Check(t.Context())
			if fault.KindOf(err) != fault.Unavailable || !strings.Contains(fault.Public(err), tc.sentence) {
				t.Errorf("%v says %q, want …%s…", err, fault.Public(err), tc.sentence)
			}
		})
	}
}

// TestCheckExplainsRulesOfTheInstance: a ring that is not there, a network that
// is not allowed.
func TestCheckExplainsRulesOfTheInstance(t *testing.T) {
	for code, tc := range map[string]struct {
		status   int
		sentence string
	}{
		"KEY_RING_NOT_FOUND_ERR":   {http.StatusNotFound, "no key ring `vmware`"},
		"CONFIG_RULE_CONFLICT_ERR": {http.StatusForbidden, "allowed network to public-and-private or private-only"},
	} {
		s, _ := vault(t, func(*http.Request) bool { return false })
		next := s.Config.Handler
		s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost && r.URL.Path == "/api/v2/keys" {
				refusal(w, tc.status, code)
				return
			}
			next.ServeHTTP(w, r)
		})
		err := newClient(t, s, &tokens{}).Check(t.Context())
		if fault.KindOf(err) != fault.Denied || !strings.Contains(fault.Public(err), tc.sentence) {
			t.Errorf("%s: %v says %q", code, err, fault.Public(err))
		}
	}
}

// TestRootKeys lists root keys in all rings with what can be done with them.
func TestRootKeys(t *testing.T) {
	const other, third, fourth = "3b0d1a3c-1111-4222-8333-444455556666", "4b0d1a3c-1111-4222-8333-444455556666", "5b0d1a3c-1111-4222-8333-444455556666"
	var ring, filter string
	s := newStand(t, func(w http.ResponseWriter, r *http.Request) {
		ring, filter = r.Header.Get("X-Kms-Key-Ring"), r.URL.Query().Get("filter")
		_ = json.NewEncoder(w).Encode(map[string]any{"resources": []any{
			map[string]any{"id": rootKey, "name": "root", "keyRingID": "default", "state": 1},
			map[string]any{"id": other, "name": "off", "keyRingID": "vmware", "state": 2},
			map[string]any{"id": third, "name": "gone", "keyRingID": "default", "state": 5, "deleted": true},
			map[string]any{"id": fourth, "name": "standard", "keyRingID": "default", "state": 1, "extractable": true},
		}})
	})
	config := keyprotect.Config{BaseURL: s.URL, InstanceCRN: instanceCRN, Tokens: &tokens{}, HTTP: s.Client()}
	got, err := keyprotect.RootKeys(t.Context(), config)
	want := []keyprotect.RootKey{{rootKey, "root", "default", keyprotect.Active}, {other, "off", "vmware", keyprotect.Suspended}}
	if err != nil || !slices.Equal(got, want) || ring != "" || filter != "extractable=false" {
		t.Errorf("%v, %v, asked for ring %q and %q", got, err, ring, filter)
	}
	config.KeyRing = "default"
	if _, err := keyprotect.RootKeys(t.Context(), config); err != nil || ring != "default" {
		t.Errorf("%v, asked for ring %q", err, ring)
	}
	refused := newStand(t, func(w http.ResponseWriter, _ *http.Request) { refusal(w, http.StatusUnauthorized, "") })
	config.BaseURL = refused.URL
	if _, err := keyprotect.RootKeys(t.Context(), config); !errors.Is(err, engine.ErrDenied) {
		t.Errorf("%v, want ErrDenied", err)
	}
}

// TestCheckWantsTheRootKeyInItsRing: wrapping works in any ring, and the check
// refuses another than was chosen.
func TestCheckWantsTheRootKeyInItsRing(t *testing.T) {
	s, stored := vault(t, func(*http.Request) bool { return false })
	c, err := keyprotect.New(keyprotect.Config{
		BaseURL: s.URL, InstanceCRN: instanceCRN, KeyRing: "default", RootKeyID: rootKey, Tokens: &tokens{}, HTTP: s.Client(),
	})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Check(t.Context())
	if !errors.Is(err, engine.ErrDenied) || !strings.Contains(fault.Public(err), "not in the key ring `default`") || len(stored()) != 0 {
		t.Errorf("%v says %q, and left %v", err, fault.Public(err), stored())
	}
}
