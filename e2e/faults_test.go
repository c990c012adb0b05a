package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// m is a JSON object.
type m = map[string]any

// rule turns a knob that is a list of rules to a single one.
func (c *cloud) rule(t *testing.T, knob string, rule m) {
	t.Helper()
	c.turn(t, knob, m{"rules": []m{rule}})
}

// heal clears a knob.
func (c *cloud) heal(t *testing.T, knob string) {
	t.Helper()
	if a := call(t, http.MethodDelete, c.admin+"/emulator/v1/"+knob, nil, nil); a.status >= 300 {
		t.Fatalf("clearing %s: status %d, %s", knob, a.status, a.body)
	}
}

// calls counts what a service was asked since the last time.
type calls struct {
	cloud *cloud
	since uint64
}

func (k *calls) count(t *testing.T, method, path string) int {
	t.Helper()
	var log struct {
		Calls []struct {
			Sequence     uint64
			Method, Path string
		} `json:"calls"`
	}
	call(t, http.MethodGet, fmt.Sprintf("%s/emulator/v1/calls?service=kms&since=%d", k.cloud.admin, k.since), nil, nil).decode(t, &log)
	n := 0
	for _, c := range log.Calls {
		k.since = c.Sequence
		if c.Method == method && c.Path == path {
			n++
		}
	}
	return n
}

// faulty is an emulator alone, with the adapter over it.
type faulty struct {
	*cloud
	seed     cloudSeed
	tokens   *iam.TokenSource
	customer keyProtect
	root     string
	adapter  *keyprotect.Client
}

func newFaulty(t *testing.T) *faulty {
	t.Helper()
	seed := newCloudSeed()
	f := &faulty{cloud: startCloud(t, seed), seed: seed}
	f.tokens = f.identity(t)
	f.customer = keyProtect{f.kms, seed.keys, token(t, f.iam, seed.admin)}
	f.root = f.customer.createRootKey(t)
	f.adapter = f.open(t, f.root)
	return f
}

// identity is the customer's, with no token yet.
func (f *faulty) identity(t *testing.T) *iam.TokenSource {
	t.Helper()
	tokens, err := iam.NewTokens(iam.Config{URL: f.iam})
	if err != nil {
		t.Fatal(err)
	}
	return tokens.ForAPIKey(secret.Of([]byte(f.seed.admin)))
}

// open returns a fresh adapter, whose breaker has seen nothing.
func (f *faulty) open(t *testing.T, root string) *keyprotect.Client {
	t.Helper()
	adapter, err := keyprotect.New(keyprotect.Config{
		BaseURL: f.kms, InstanceCRN: "crn:v1:bluemix:public:kms:us-south:a/" + f.seed.account + ":" + f.seed.keys + "::",
		RootKeyID: root, Tokens: f.tokens,
	})
	if err != nil {
		t.Fatal(err)
	}
	return adapter
}

// envelope wraps a fresh key for a fresh object.
func (f *faulty) envelope(t *testing.T) (kmip.ObjectID, engine.Envelope) {
	t.Helper()
	id := uuid.Must(uuid.NewV7()).String()
	e := engine.Envelope{
		Format: engine.EnvelopeFormat, Tenant: "11111111-2222-4333-8444-555555555555",
		Object: kmip.Object{ID: kmip.ObjectID(id), Type: kmip.SymmetricKey}, Location: f.adapter.Location(),
	}
	key := secret.Random(32)
	defer key.Wipe()
	var err error
	if e.Wrapped, err = f.adapter.Wrap(t.Context(), key, engine.Binding{Tenant: e.Tenant, Object: e.Object.ID}); err != nil {
		t.Fatal(err)
	}
	return e.Object.ID, e
}

// TestKeyManagerConformsUnderFaults runs the port's conformance suite while
// calls that may be repeated fail now and then, and all are slow.
func TestKeyManagerConformsUnderFaults(t *testing.T) {
	t.Parallel()
	f := newFaulty(t)
	f.rule(t, "latency", m{"service": "kms", "median_ms": 3, "p99_ms": 20})
	enginetest.KeyManager(t, func(t *testing.T) enginetest.KeyManagerUnderTest {
		root := f.customer.createRootKey(t)
		// One each: the adapter tries a call three times.
		f.turn(t, "errors", m{"rules": []m{
			{"service": "kms", "method": "GET", "times": 1, "status": 503},
			{"service": "kms", "method": "POST", "path": "/api/v2/keys/*/actions/*", "times": 1},
		}})
		f.turn(t, "throttling", m{"rules": []m{
			{"service": "kms", "method": "DELETE", "times": 1},
			{"service": "kms", "method": "POST", "path": "/api/v2/keys", "times": 1, "retry_after": 0},
		}})
		return enginetest.KeyManagerUnderTest{
			KeyManager:        f.open(t, root),
			DeleteRootKey:     func(t *testing.T) { f.settled(t); f.customer.delete(t, root) },
			DeleteStandardKey: func(t *testing.T, ref engine.KeyRef) { f.settled(t); f.customer.delete(t, string(ref)) },
		}
	})
}

// settled clears the faults, so that the customer's own calls are not struck.
func (f *faulty) settled(t *testing.T) {
	t.Helper()
	f.heal(t, "errors")
	f.heal(t, "throttling")
}

// TestWritesUnderFaults lets every write fail before it takes effect and after,
// in every way that the emulator knows: nothing is made twice, nothing that
// was answered is lost, and nothing is called deleted that is not.
func TestWritesUnderFaults(t *testing.T) {
	t.Parallel()
	f := newFaulty(t)
	create := m{"service": "kms", "method": "POST", "path": "/api/v2/keys"}
	remove := m{"service": "kms", "method": "DELETE", "path": "/api/v2/keys/*"}
	with := func(scope, more m) m {
		rule := m{}
		for _, part := range []m{scope, more} {
			for name, value := range part {
				rule[name] = value
			}
		}
		return rule
	}
	always, once := m{}, m{"times": 1}
	for _, fault := range []struct {
		name, knob string
		effect     m
		how        m    // how often
		done       bool // the write takes effect all the same
		told       bool // ... and its answer says so
	}{
		{"an error before", "errors", m{"status": 503}, once, false, false},
		{"errors before", "errors", m{"status": 500}, always, false, false},
		{"an outage", "outages", m{}, always, false, false},
		{"cut off before", "outages", m{}, once, false, false},
		{"a hang before", "hangs", m{}, once, false, false},
		{"429 with Retry-After", "throttling", m{"retry_after": 0}, once, true, true},
		{"429 without", "throttling", m{}, once, true, true},
		{"429 for ever", "throttling", m{}, always, false, false},
		{"an error after", "lost-answers", m{"status": 502}, once, true, true},
		{"errors after", "lost-answers", m{"status": 500}, always, true, true},
		{"cut off after", "lost-answers", m{}, once, true, true},
		{"a hang after", "hangs", m{"takes_effect": true}, once, true, true},
		{"slow", "latency", m{"median_ms": 30}, always, true, true},
	} {
		t.Run(fault.name, func(t *testing.T) {
			limited := func() (context.Context, context.CancelFunc) {
				if fault.knob == "hangs" { // the client's own patience is longer
					return context.WithTimeout(t.Context(), time.Second)
				}
				return context.WithCancel(t.Context())
			}
			adapter := f.open(t, f.root)
			id, e := f.envelope(t)
			made := &calls{cloud: f.cloud}
			made.count(t, "", "")
			f.rule(t, fault.knob, with(with(create, fault.effect), fault.how))
			ctx, cancel := limited()
			ref, err := adapter.Store(ctx, id, e)
			cancel()
			f.heal(t, fault.knob)
			posts := made.count(t, http.MethodPost, "/api/v2/keys")
			there := f.customer.find(t, engine.StandardKeyPrefix+string(id))
			switch {
			case len(there) > 1:
				t.Errorf("%d standard keys of one name after %d requests", len(there), posts)
			case fault.told && (err != nil || len(there) != 1 || string(ref) != there[0].ID):
				t.Errorf("Store: %q, %v with %+v there; want that key", ref, err, there)
			case !fault.told && !errors.Is(err, engine.ErrUnavailable):
				t.Errorf("Store: %q, %v; want unavailable", ref, err)
			case fault.done != (len(there) == 1):
				t.Errorf("%d standard keys, want %t", len(there), fault.done)
			}

			if ref == "" {
				if ref, err = adapter.Store(t.Context(), id, e); err != nil {
					t.Fatal(err)
				}
			}
			f.rule(t, fault.knob, with(with(remove, fault.effect), fault.how))
			ctx, cancel = limited()
			err = f.open(t, f.root).Delete(ctx, ref)
			cancel()
			f.heal(t, fault.knob)
			after := f.customer.find(t, engine.StandardKeyPrefix+string(id))
			if len(after) != 1 || err == nil && after[0].State != 5 {
				t.Errorf("Delete: %v, and the standard keys are %+v", err, after)
			}
			if err != nil && !errors.Is(err, engine.ErrUnavailable) {
				t.Errorf("Delete: %v, want unavailable", err)
			}
			// In the end it can be deleted, whatever happened before.
			if err := f.open(t, f.root).Delete(t.Context(), ref); err != nil {
				t.Errorf("Delete once more: %v", err)
			}
		})
	}
}

// TestIdentityUnderFaults moves what a token's worth hangs on: the key that
// signed it, the clock, the permission, IAM itself.
func TestIdentityUnderFaults(t *testing.T) {
	t.Parallel()
	f := newFaulty(t)
	works := func(when string) {
		t.Helper()
		id, e := f.envelope(t)
		ref, err := f.adapter.Store(t.Context(), id, e)
		if err != nil {
			t.Fatalf("%s: Store: %v", when, err)
		}
		if _, err := f.adapter.Load(t.Context(), id, ref); err != nil {
			t.Errorf("%s: Load: %v", when, err)
		}
	}
	// holding has an adapter with a token that worked.
	holding := func() {
		t.Helper()
		f.tokens = f.identity(t)
		f.adapter = f.open(t, f.root)
		works("at first")
	}
	holding()
	f.turn(t, "signing-keys", m{"retire_old": true})
	works("after the signing keys were changed and the old ones retired")
	f.customer.token = token(t, f.iam, f.seed.admin)
	holding()
	f.turn(t, "clock", m{"offset_s": 7200})
	works("after the emulator's clock went on by two hours, past the token's end")
	f.heal(t, "clock")
	holding()

	id, e := f.envelope(t)
	f.rule(t, "withdrawals", m{"service": "kms", "instance": f.seed.keys})
	for action, err := range map[string]error{
		"wrap": func() error {
			_, err := f.adapter.Wrap(t.Context(), secret.Random(32), engine.Binding{Tenant: e.Tenant, Object: id})
			return err
		}(),
		"store": func() error { _, err := f.adapter.Store(t.Context(), id, e); return err }(),
	} {
		if !errors.Is(err, engine.ErrDenied) {
			t.Errorf("%s without permission: %v, want denied", action, err)
		}
	}
	f.heal(t, "withdrawals")
	works("with the permission back")

	f.rule(t, "outages", m{"service": "iam"})
	works("with IAM away, while the token lasts")
	if _, err := f.identity(t).Token(t.Context()); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("a first token with IAM away: %v, want unavailable", err)
	}
	f.heal(t, "outages")

	// A decision takes its time: what a policy allowed is allowed a while longer.
	policies := func() (ids []string) {
		var list struct {
			Policies []struct {
				ID       string `json:"id"`
				Subjects json.RawMessage
			} `json:"policies"`
		}
		call(t, http.MethodGet, f.iam+"/v1/policies?type=access&account_id="+f.seed.account+"&iam_id="+f.seed.writerID,
			map[string]string{"Authorization": "Bearer " + f.customer.token}, nil).decode(t, &list)
		for _, p := range list.Policies {
			ids = append(ids, p.ID)
		}
		return ids
	}
	writer := keyProtect{f.kms, f.seed.keys, token(t, f.iam, f.seed.writer)}
	f.turn(t, "decisions", m{"delay_s": 600})
	granted := policies()
	if len(granted) == 0 {
		t.Fatal("the service ID has no access policy")
	}
	for _, id := range granted {
		a := call(t, http.MethodDelete, f.iam+"/v1/policies/"+id, map[string]string{"Authorization": "Bearer " + f.customer.token}, nil)
		if a.status != http.StatusNoContent {
			t.Errorf("deleting an access policy: status %d, %s", a.status, a.body)
		}
	}
	if a := writer.call(t, http.MethodGet, "/keys", nil); a.status != http.StatusOK {
		t.Errorf("before the decision: status %d, %s", a.status, a.body)
	}
	f.turn(t, "clock", m{"offset_s": 601})
	if a := writer.call(t, http.MethodGet, "/keys", nil); a.status != http.StatusUnauthorized {
		t.Errorf("after the decision: status %d", a.status)
	}
}
