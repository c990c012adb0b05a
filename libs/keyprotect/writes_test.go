package keyprotect_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
)

// ways are how a write can fail when the key manager has got the request.
var ways = map[string]http.HandlerFunc{
	"500":             func(w http.ResponseWriter, _ *http.Request) { refusal(w, http.StatusInternalServerError, "") },
	"a gateway's 504": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusGatewayTimeout) },
	"a gateway's 408": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusRequestTimeout) },
	"lost connection": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	"half an answer": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, `{"resources":[`)
		panic(http.ErrAbortHandler)
	},
	"no answer": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
}

// store plays a key manager that holds standard keys. Its first failing writes
// fail in one way, before or after they took effect.
type store struct {
	mu      sync.Mutex
	keys    []map[string]any
	writes  int
	failing int
	after   bool
	fail    http.HandlerFunc
}

func (s *store) serve(w http.ResponseWriter, r *http.Request) {
	var body struct{ Resources []map[string]any }
	_ = json.NewDecoder(r.Body).Decode(&body)
	s.mu.Lock()
	fails := r.Method != http.MethodGet && s.writes < s.failing
	if r.Method != http.MethodGet {
		s.writes++
	}
	answer := func(http.ResponseWriter) {}
	if !fails || s.after {
		answer = s.apply(r, body.Resources)
	}
	s.mu.Unlock()
	if fails {
		s.fail(w, r)
		return
	}
	answer(w)
}

// apply carries out a request and returns its answer.
func (s *store) apply(r *http.Request, resources []map[string]any) func(http.ResponseWriter) {
	id := strings.TrimPrefix(r.URL.Path, "/api/v2/keys/")
	switch r.Method {
	case http.MethodPost:
		k := map[string]any{"id": fmt.Sprintf("7c3e5a90-1111-4222-8333-%012d", len(s.keys)), "name": resources[0]["name"], "state": 1}
		s.keys = append(s.keys, k)
		return func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(map[string]any{"resources": []any{k}}) }
	case http.MethodDelete:
		for _, k := range s.keys {
			if k["id"] == id && k["state"] == 1 {
				k["state"] = 5
				return func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) }
			}
		}
		return func(w http.ResponseWriter) { refusal(w, http.StatusGone, "KEY_DELETED_ERR") }
	default:
		all := slices.Clone(s.keys)
		return func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(map[string]any{"resources": all}) }
	}
}

// everyFailure runs f in a synctest bubble for each way of failing, before and
// after the write took effect, once and throughout.
func everyFailure(t *testing.T, f func(t *testing.T, s *store, c *keyprotect.Client)) {
	for way, fail := range ways {
		for _, after := range []bool{false, true} {
			for _, failing := range []int{1, 1000} {
				t.Run(fmt.Sprintf("%s, effect %v, %d times", way, after, failing), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := &store{after: after, failing: failing, fail: fail}
						c, _ := bubbleClient(t, s.serve)
						f(t, s, c)
					})
				})
			}
		}
	}
}

// TestStoreNeverCreatesTwice: there is one key when Store returns its id, at
// most one when it fails, and no second request.
func TestStoreNeverCreatesTwice(t *testing.T) {
	everyFailure(t, func(t *testing.T, s *store, c *keyprotect.Client) {
		ref, err := c.Store(t.Context(), newID(), engine.Envelope{Format: 1})
		switch {
		case s.after && (err != nil || len(s.keys) != 1 || string(ref) != s.keys[0]["id"]):
			t.Errorf("%q, %v with %d keys", ref, err, len(s.keys))
		case !s.after && (fault.KindOf(err) != fault.Unavailable || len(s.keys) != 0):
			t.Errorf("%q, %v with %d keys, want unavailable", ref, err, len(s.keys))
		}
		if s.writes != 1 {
			t.Errorf("%d requests", s.writes)
		}
	})
}

// TestDeleteIsRepeated until it is known to have been carried out.
func TestDeleteIsRepeated(t *testing.T) {
	everyFailure(t, func(t *testing.T, s *store, c *keyprotect.Client) {
		s.keys = []map[string]any{{"id": reference, "state": 1}}
		err := c.Delete(t.Context(), reference)
		deleted := s.keys[0]["state"] == 5
		switch {
		case s.failing == 1 && (err != nil || !deleted):
			t.Errorf("%v, deleted: %v", err, deleted)
		case s.failing > 1 && (fault.KindOf(err) != fault.Unavailable || deleted != s.after):
			t.Errorf("%v, deleted: %v", err, deleted)
		}
	})
}
