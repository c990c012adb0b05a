package keyprotect_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

const (
	instanceCRN = "crn:v1:bluemix:public:kms:us-south:a/0123456789abcdef0123456789abcdef:6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01::"
	rootKey     = "2b0d1a3c-1111-4222-8333-444455556666"
	reference   = "7c3e5a90-1111-4222-8333-444455556666" // id of a standard key
)

// canary is the KEK of the tests: no error may show it in any form.
var canary = []byte("canary-kek-0123456789-abcdefghij")

// stand plays Key Protect: it answers each request by a function.
type stand struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string // method and path
}

func newStand(t *testing.T, answer http.HandlerFunc) *stand {
	t.Helper()
	s := &stand{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Method+" "+r.URL.Path)
		s.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// count returns how many requests began so.
func (s *stand) count(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

// tokens plays a token source.
type tokens struct {
	token, renewed string
	renewError     error
	renewals       int
}

func (s *tokens) Token(context.Context) (string, error) { return s.token, nil }

func (s *tokens) Renew(context.Context) (string, error) {
	s.renewals++
	return s.renewed, s.renewError
}

func newClient(t *testing.T, s *stand, source keyprotect.Tokens) *keyprotect.Client {
	t.Helper()
	c, err := keyprotect.New(keyprotect.Config{
		BaseURL: s.URL, InstanceCRN: instanceCRN, KeyRing: "vmware", RootKeyID: rootKey, Tokens: source, HTTP: s.Client(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c.WithoutPauses()
}

// refusal writes an error as Key Protect does.
func refusal(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	reasons := ""
	if code != "" {
		reasons = fmt.Sprintf(`,"reasons":[{"code":%q,"message":"m","status":%d}]`, code, status)
	}
	fmt.Fprintf(w, `{"metadata":{"collectionType":"application/vnd.ibm.kms.error+json","collectionTotal":1},"resources":[{"errorMsg":"E"%s}]}`, reasons)
}

var binding = engine.Binding{Tenant: "tenant", Object: "object"}

// operations are all calls of the port, on a KEK, envelope and reference.
var operations = map[string]func(ctx context.Context, c *keyprotect.Client) error{
	"wrap": func(ctx context.Context, c *keyprotect.Client) error {
		_, err := c.Wrap(ctx, secret.Of(append([]byte(nil), canary...)), binding)
		return err
	},
	"unwrap": func(ctx context.Context, c *keyprotect.Client) error {
		_, err := c.Unwrap(ctx, engine.Wrapped{Ciphertext: "c", RootKeyID: rootKey}, binding)
		return err
	},
	"store": func(ctx context.Context, c *keyprotect.Client) error {
		_, err := c.Store(ctx, newID(), engine.Envelope{Format: 1})
		return err
	},
	"load": func(ctx context.Context, c *keyprotect.Client) error {
		_, err := c.Load(ctx, "object", reference)
		return err
	},
	"delete": func(ctx context.Context, c *keyprotect.Client) error { return c.Delete(ctx, reference) },
}

func newID() kmip.ObjectID { return kmip.ObjectID(uuid.Must(uuid.NewV7()).String()) }

const noError = fault.Kind(255)

func TestAnswersGetTheirKind(t *testing.T) {
	for _, c := range []struct {
		operation string
		status    int
		code      string
		want      fault.Kind
	}{
		{"wrap", 404, "KEY_NOT_FOUND_ERR", fault.Denied},
		{"wrap", 409, "KEY_ACTION_INVALID_STATE_ERR", fault.Denied},
		{"wrap", 410, "KEY_DELETED_ERR", fault.Denied},
		{"wrap", 400, "KEY_ROOT_REQ_ERR", fault.Denied},
		{"wrap", 400, "BAD_BODY_ERR", fault.Internal},
		{"wrap", 401, "", fault.Denied},
		{"wrap", 403, "CONFIG_RULE_CONFLICT_ERR", fault.Unavailable},
		{"wrap", 429, "", fault.Unavailable},
		{"wrap", 500, "", fault.Unavailable},
		{"wrap", 503, "", fault.Unavailable},
		{"wrap", 302, "", fault.Unavailable},
		{"unwrap", 404, "KEY_NOT_FOUND_ERR", fault.Denied},
		{"unwrap", 409, "KEY_ACTION_INVALID_STATE_ERR", fault.Denied},
		{"unwrap", 410, "KEY_DELETED_ERR", fault.Denied},
		{"unwrap", 422, "UNPROCESSABLE_CIPHERTEXT_ERR", fault.Corrupt},
		{"unwrap", 401, "", fault.Denied},
		{"unwrap", 408, "", fault.Unavailable},
		{"unwrap", 504, "", fault.Unavailable},
		{"load", 404, "KEY_NOT_FOUND_ERR", fault.Gone},
		{"load", 410, "KEY_DELETED_ERR", fault.Gone},
		{"load", 401, "", fault.Denied},
		{"load", 429, "", fault.Unavailable},
		{"load", 502, "", fault.Unavailable},
		{"store", 404, "KEY_RING_NOT_FOUND_ERR", fault.Unavailable},
		{"store", 409, "KEY_CREATE_IMPORT_ACCESS_ERR", fault.Unavailable},
		{"store", 401, "", fault.Denied},
		{"store", 429, "", fault.Unavailable},
		{"store", 500, "", fault.Unavailable},
		{"delete", 404, "KEY_NOT_FOUND_ERR", noError},
		{"delete", 410, "KEY_DELETED_ERR", noError},
		{"delete", 409, "PROTECTED_RESOURCE_ERR", fault.Unavailable},
		{"delete", 500, "", fault.Unavailable},
	} {
		s := newStand(t, func(w http.ResponseWriter, _ *http.Request) { refusal(w, c.status, c.code) })
		err := operations[c.operation](t.Context(), newClient(t, s, &tokens{token: "first-token", renewed: "second-token"}))
		got := noError
		if err != nil {
			got = fault.KindOf(err)
			showsNothing(t, err)
			if c.code != "" && !strings.Contains(err.Error(), c.code) {
				t.Errorf("%s: IBM's code is not in %v", c.operation, err)
			}
		}
		if got != c.want {
			t.Errorf("%s answered %d %s: %v, want %s", c.operation, c.status, c.code, err, c.want)
		}
	}
}

// TestOnlyTheKeyManagerItselfIsFinal answers as a gateway does whose key
// manager is away.
func TestOnlyTheKeyManagerItselfIsFinal(t *testing.T) {
	for _, status := range []int{401, 404, 409, 410, 422} {
		s := newStand(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>no such service</html>", status) })
		for name, operation := range operations {
			if err := operation(t.Context(), newClient(t, s, &tokens{})); fault.KindOf(err) != fault.Unavailable {
				t.Errorf("%s answered %d by somebody else: %v", name, status, err)
			}
		}
	}
}

// TestEveryErrorIsFoundByIBMsSupport: the log has the correlation id of the
// exchange, and IBM's code where there is one.
func TestEveryErrorIsFoundByIBMsSupport(t *testing.T) {
	ok := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }
	}
	for name, c := range map[string]struct {
		operation string
		answer    http.HandlerFunc
		code      string
	}{
		"refused":   {"wrap", func(w http.ResponseWriter, _ *http.Request) { refusal(w, 409, "KEY_ACTION_INVALID_STATE_ERR") }, "KEY_ACTION_INVALID_STATE_ERR"},
		"throttled": {"load", func(w http.ResponseWriter, _ *http.Request) { refusal(w, 429, "") }, "429"},
		"echoed by something with an id of its own": {"wrap", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Correlation-Id", "gateway-7")
			refusal(w, 503, "")
		}, "gateway-7"},
		"a stranger's answer": {"unwrap", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusNotFound) }, "404"},
		"connection lost": {"load", func(w http.ResponseWriter, _ *http.Request) {
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				conn.Close()
			}
		}, "no HTTP answer"},
		"too long":                         {"load", ok(strings.Repeat("a", 1<<20)), "longer"},
		"wrap answers no JSON":             {"wrap", ok("<html>"), "documented"},
		"unwrap answers nothing":           {"unwrap", ok("{}"), "documented"},
		"another key is read":              {"load", ok(`{"resources":[{"id":"x"}]}`), "documented"},
		"deleted":                          {"load", ok(`{"resources":[{"id":"` + reference + `","state":5}]}`), "state 5"},
		"disabled":                         {"load", ok(`{"resources":[{"id":"` + reference + `","state":2}]}`), "state 2"},
		"payload of somebody else":         {"load", ok(`{"resources":[{"id":"` + reference + `","state":1,"payload":"e30="}]}`), "format 0"},
		"create and list answer nonsense":  {"store", ok("<html>"), "documented"},
		"delete refused with unknown code": {"delete", func(w http.ResponseWriter, _ *http.Request) { refusal(w, 409, "PREV_KEY_DEL_ERR") }, "PREV_KEY_DEL_ERR"},
	} {
		var mu sync.Mutex
		var id string // of the last exchange
		s := newStand(t, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			id = r.Header.Get("Correlation-Id")
			mu.Unlock()
			c.answer(w, r)
		})
		err := operations[c.operation](t.Context(), newClient(t, s, &tokens{}))
		mu.Lock()
		if err == nil || !strings.Contains(err.Error(), c.code) || !strings.Contains(err.Error(), id) && !strings.Contains(err.Error(), "gateway-7") {
			t.Errorf("%s: %v, want %s and correlation id %s", name, err, c.code, id)
		}
		mu.Unlock()
	}
}

func showsNothing(t *testing.T, err error) {
	t.Helper()
	for _, form := range []string{string(canary), hex.EncodeToString(canary), base64.StdEncoding.EncodeToString(canary), "first-token", "second-token"} {
		if strings.Contains(err.Error(), form) || strings.Contains(fault.Public(err), form) {
			t.Errorf("an error shows %q: %v", form, err)
		}
	}
}

func TestNoAnswerIsUnavailable(t *testing.T) {
	hang := make(chan struct{})
	s := newStand(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	defer close(hang)
	refused := newStand(t, nil)
	refused.Close()
	for name, operation := range operations {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if name != "store" { // it looks the name up with a deadline of its own
			if err := operation(ctx, newClient(t, s, &tokens{})); fault.KindOf(err) != fault.Unavailable {
				t.Errorf("%s without an answer: %v", name, err)
			}
		}
		if err := operation(t.Context(), newClient(t, refused, &tokens{})); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%s without a server: %v", name, err)
		}
		cancel()
	}
}

// TestRefusedToken: denied only if a token fetched after the refusal is
// refused as well; without a fresh token nothing is known.
func TestRefusedToken(t *testing.T) {
	s := newStand(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer good" {
			refusal(w, http.StatusUnauthorized, "")
			return
		}
		fmt.Fprint(w, `{"ciphertext":"c","keyVersion":{"id":"v"}}`)
	})
	for name, c := range map[string]struct {
		source *tokens
		want   fault.Kind
	}{
		"fresh token works":   {&tokens{token: "stale", renewed: "good"}, noError},
		"fresh token refused": {&tokens{token: "stale", renewed: "bad"}, fault.Denied},
		"no fresh token":      {&tokens{token: "stale", renewError: engine.ErrUnavailable}, fault.Unavailable},
		"identity refused":    {&tokens{token: "stale", renewError: engine.ErrDenied}, fault.Denied},
	} {
		err := operations["wrap"](t.Context(), newClient(t, s, c.source))
		got := noError
		if err != nil {
			got = fault.KindOf(err)
		}
		if got != c.want || c.source.renewals != 1 {
			t.Errorf("%s: %v after %d renewals, want %d", name, err, c.source.renewals, c.want)
		}
	}
}

func TestSafeCallsAreRepeated(t *testing.T) {
	for name, c := range map[string]struct {
		operation string
		failures  int
		after     string
		want      fault.Kind
		calls     int
	}{
		"one failure":         {"wrap", 1, "", noError, 2},
		"failures throughout": {"wrap", 99, "", fault.Unavailable, keyprotect.ThrottledTries},
		"a short Retry-After": {"wrap", 1, "1", noError, 2},
		"a long Retry-After":  {"wrap", 1, "60", fault.Unavailable, 1},
		"an endless one":      {"wrap", 1, "2147483647", fault.Unavailable, 1},
		"a date that is past": {"wrap", 1, "Sun, 06 Nov 1994 08:49:37 GMT", noError, 2},
		"a date far away":     {"wrap", 1, "Fri, 06 Nov 2994 08:49:37 GMT", fault.Unavailable, 1},
		"a throttled create":  {"store", 1, "", noError, 2},
		"creates throttled":   {"store", 99, "", fault.Unavailable, keyprotect.ThrottledTries},
	} {
		left := c.failures
		s := newStand(t, func(w http.ResponseWriter, _ *http.Request) {
			if left--; left >= 0 {
				w.Header().Set("Retry-After", c.after)
				refusal(w, http.StatusTooManyRequests, "")
				return
			}
			fmt.Fprint(w, `{"ciphertext":"c","keyVersion":{"id":"v"},"resources":[{"id":"`+reference+`"}]}`)
		})
		err := operations[c.operation](t.Context(), newClient(t, s, &tokens{}))
		got := noError
		if err != nil {
			got = fault.KindOf(err)
		}
		if got != c.want || s.count("POST") != c.calls {
			t.Errorf("%s: %v after %d calls, want kind %d after %d", name, err, s.count("POST"), c.want, c.calls)
		}
	}
}

func TestRequestsAsKeyProtectWantsThem(t *testing.T) {
	var header http.Header
	var body []byte
	s := newStand(t, func(w http.ResponseWriter, r *http.Request) {
		header = r.Header
		body, _ = io.ReadAll(r.Body)
		fmt.Fprintf(w, `{"ciphertext":"c","plaintext":%q,"keyVersion":{"id":"v7"},"resources":[{"id":"`+reference+`"}]}`, base64.StdEncoding.EncodeToString(canary))
	})
	c := newClient(t, s, &tokens{token: "t"})
	w, err := c.Wrap(t.Context(), secret.Of(append([]byte(nil), canary...)), binding)
	if err != nil || w != (engine.Wrapped{Ciphertext: "c", RootKeyID: rootKey, RootKeyVersion: "v7"}) {
		t.Errorf("%+v, %v", w, err)
	}
	want := fmt.Sprintf(`{"plaintext":%q,"aad":["kmip-for-vmware/1","tenant","object"]}`, base64.StdEncoding.EncodeToString(canary))
	if string(body) != want {
		t.Errorf("wrap sends %s", body)
	}
	if header.Get("Bluemix-Instance") != "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01" || header.Get("Authorization") != "Bearer t" || uuid.Validate(header.Get("Correlation-Id")) != nil {
		t.Errorf("headers %v", header)
	}
	kek, err := c.Unwrap(t.Context(), w, binding)
	if err != nil || string(kek.Reveal()) != string(canary) {
		t.Errorf("unwrap: %v", err)
	}
	if _, err := c.Store(t.Context(), newID(), engine.Envelope{Format: 1}); err != nil || header.Get("X-Kms-Key-Ring") != "vmware" {
		t.Errorf("store: %v, ring %q", err, header.Get("X-Kms-Key-Ring"))
	}
}

// TestMovedToAnotherRing: gone only if it is nowhere.
func TestMovedToAnotherRing(t *testing.T) {
	id := newID()
	envelope, err := engine.Envelope{Format: 1, Object: kmip.Object{ID: id}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	s := newStand(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Kms-Key-Ring") != "" {
			refusal(w, http.StatusNotFound, "KEY_NOT_FOUND_ERR")
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"resources": []any{map[string]any{"id": reference, "state": 1, "payload": envelope}}})
	})
	if _, err := newClient(t, s, &tokens{}).Load(t.Context(), id, reference); err != nil {
		t.Error(err)
	}
}

func TestDeletedStandardKeyIsGone(t *testing.T) {
	s := newStand(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"resources":[{"id":"`+reference+`","state":5,"deleted":true}]}`)
	})
	if _, err := newClient(t, s, &tokens{}).Load(t.Context(), "id", reference); !errors.Is(err, engine.ErrGone) {
		t.Errorf("%v, want ErrGone", err)
	}
}

func TestHugeAnswerIsCutOff(t *testing.T) {
	s := newStand(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"ciphertext":"`+strings.Repeat("a", 1<<20)+`"}`)
	})
	if err := operations["wrap"](t.Context(), newClient(t, s, &tokens{})); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("%v, want Unavailable", err)
	}
}
