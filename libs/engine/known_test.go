package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// away makes the ledger unavailable; it counts what it is asked.
func (b *bench) away() (asked *int) {
	asked = new(int)
	b.objects.Fail = func(string, bool) error { *asked++; return engine.ErrUnavailable }
	return asked
}

// another returns an engine over the same ledger and key manager that has seen
// nothing: another node, or one that was started again.
func (b *bench) another() *bench {
	other := *b
	other.Engine = engine.New(engine.Config{Objects: b.objects, KeyManagers: b.keys.KeyManagers, Now: func() time.Time { return b.now }})
	return &other
}

// TestReadingWithoutLedger has the ledger away for a node that has seen the
// key, and for one that has seen nothing.
func TestReadingWithoutLedger(t *testing.T) {
	b := newBench()
	id := b.create(t)
	if err := b.Activate(t.Context(), b.one, id); err != nil {
		t.Fatal(err)
	}
	want, err := b.Get(t.Context(), b.one, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	gone := b.create(t)
	standard, err := b.keys.Find(t.Context(), gone)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.keys.Delete(t.Context(), standard); err != nil {
		t.Fatal(err)
	}
	b.away()
	for name, node := range map[string]*bench{"warm": b, "fresh": b.another()} {
		got, err := node.Get(t.Context(), b.one, id, 0)
		if err != nil || !got.Material.Equal(want.Material) {
			t.Errorf("%s: Get: %v, or other bytes", name, err)
		}
		node.wantState(t, id, kmip.Active)
		for _, names := range [][]string{nil, {"x-Name"}, {kmip.AttributeState, "Last Change Date"}} {
			if _, err := node.Attributes(t.Context(), b.one, id, names); fault.KindOf(err) != fault.Unavailable {
				t.Errorf("%s: attributes %v: %v, want unavailable", name, names, err)
			}
		}
		if _, err := node.Attributes(t.Context(), b.one, id, []string{kmip.AttributeCryptographicLength, "Digest"}); err != nil {
			t.Errorf("%s: attributes that never change: %v", name, err)
		}
		for operation, err := range map[string]error{
			"Activate": node.Activate(t.Context(), b.one, id),
			"Destroy":  node.Destroy(t.Context(), b.one, id),
			"Create":   func() error { _, err := node.Create(t.Context(), b.one, kmip.SymmetricKey, vSphere); return err }(),
		} {
			if fault.KindOf(err) != fault.Unavailable {
				t.Errorf("%s: %s: %v, want unavailable", name, operation, err)
			}
		}
		for what, missing := range map[string]kmip.ObjectID{"deleted by the customer": gone, "never made": kmip.ObjectID(uuid.NewString())} {
			if _, err := node.Get(t.Context(), b.one, missing, 0); fault.KindOf(err) != fault.NotFound {
				t.Errorf("%s: Get of a key %s: %v, want not found", name, what, err)
			}
		}
		if _, err := node.Get(t.Context(), b.two, id, 0); fault.KindOf(err) != fault.NotFound {
			t.Errorf("%s: Get by the other tenant: %v, want not found", name, err)
		}
		for _, withholding := range []*tenant.Tenant{
			{ID: b.one.ID, Withheld: []string{string(id), "zzz"}}, {ID: b.one.ID, WithheldAll: true},
		} {
			if _, err := node.Get(t.Context(), withholding, id, 0); fault.KindOf(err) != fault.Denied {
				t.Errorf("%s: Get of a withheld object: %v, want denied", name, err)
			}
			if _, err := node.Attributes(t.Context(), withholding, id, []string{kmip.AttributeState}); fault.KindOf(err) != fault.Denied {
				t.Errorf("%s: State of a withheld object: %v, want denied", name, err)
			}
		}
	}
}

// TestLedgerThatHangs is waited for once, and then left alone for two seconds.
func TestLedgerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		id := b.create(t)
		hanging := &hangingLedger{Objects: b.objects}
		node := engine.New(engine.Config{Objects: hanging, KeyManagers: b.keys.KeyManagers, Now: time.Now})
		took := func() time.Duration {
			t.Helper()
			began := time.Now()
			key, err := node.Get(t.Context(), b.one, id, 0)
			if err != nil {
				t.Fatal(err)
			}
			key.Material.Wipe()
			return time.Since(began)
		}
		if d := took(); d != 500*time.Millisecond {
			t.Errorf("the first Get took %s", d)
		}
		if d := took(); d != 0 {
			t.Errorf("the second Get took %s", d)
		}
		<-time.After(2 * time.Second)
		if d := took(); d != 500*time.Millisecond || hanging.asked != 2 {
			t.Errorf("two seconds later a Get took %s, %d calls", d, hanging.asked)
		}
	})
}

// TestChangesFailFastWithoutLedger: a change waits for a ledger that hangs for
// two seconds, the next one not at all, and none leaves a standard key behind.
// The step that makes a key live has more time.
func TestChangesFailFastWithoutLedger(t *testing.T) {
	for name, change := range map[string]func(context.Context, *bench, *engine.Engine, kmip.ObjectID) error{
		"Create": func(ctx context.Context, b *bench, node *engine.Engine, _ kmip.ObjectID) error {
			_, err := node.Create(ctx, b.one, kmip.SymmetricKey, vSphere)
			return err
		},
		"Activate": func(ctx context.Context, b *bench, node *engine.Engine, id kmip.ObjectID) error {
			return node.Activate(ctx, b.one, id)
		},
		"Destroy": func(ctx context.Context, b *bench, node *engine.Engine, id kmip.ObjectID) error {
			return node.Destroy(ctx, b.one, id)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench()
				id := b.create(t)
				node := engine.New(engine.Config{Objects: &hangingLedger{Objects: b.objects}, KeyManagers: b.keys.KeyManagers, Now: time.Now})
				for _, want := range []time.Duration{2 * time.Second, 0} {
					began := time.Now()
					if err := change(t.Context(), b, node, id); fault.KindOf(err) != fault.Unavailable {
						t.Errorf("%v, want unavailable", err)
					}
					if took := time.Since(began); took != want {
						t.Errorf("took %s, want %s", took, want)
					}
				}
				if n := b.keys.Stored(); n != 1 {
					t.Errorf("%d standard keys, want the one from before", n)
				}
			})
		})
	}
}

// TestSlowSwapIsWaitedFor: once the standard key is stored, the ledger has the
// time that it takes.
func TestSlowSwapIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		node := engine.New(engine.Config{Objects: slowSwaps{b.objects}, KeyManagers: b.keys.KeyManagers, Now: time.Now})
		if _, err := node.Create(t.Context(), b.one, kmip.SymmetricKey, vSphere); err != nil {
			t.Error(err)
		}
	})
}

// slowSwaps takes eight seconds for each Replace, as far as its context allows.
type slowSwaps struct{ engine.Objects }

func (s slowSwaps) Replace(ctx context.Context, t tenant.ID, records ...engine.Record) error {
	select {
	case <-time.After(8 * time.Second):
		return s.Objects.Replace(ctx, t, records...)
	case <-ctx.Done():
		return fault.Wrap(fault.Unavailable, "The database does not answer.", ctx.Err())
	}
}

// hangingLedger answers neither a read nor the writing of a new row.
type hangingLedger struct {
	engine.Objects
	asked int
}

func (h *hangingLedger) Create(ctx context.Context, _ tenant.ID, _ engine.Record) error {
	<-ctx.Done()
	return fault.Wrap(fault.Unavailable, "The database does not answer.", ctx.Err())
}

func (h *hangingLedger) Get(ctx context.Context, _ tenant.ID, _ kmip.ObjectID) (engine.Record, error) {
	h.asked++
	<-ctx.Done()
	return engine.Record{}, fault.Wrap(fault.Unavailable, "The database does not answer.", ctx.Err())
}

// TestLostRowsComeBack has a ledger that lost everything: what the key manager
// holds is served, to its tenant alone, and on record again.
func TestLostRowsComeBack(t *testing.T) {
	b := newBench()
	id, described := b.create(t), b.create(t)
	want, err := b.Get(t.Context(), b.one, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	b.objects.Lose()
	if _, err := b.Get(t.Context(), b.two, id, 0); fault.KindOf(err) != fault.NotFound {
		t.Errorf("Get by the other tenant: %v, want not found", err)
	}
	got, err := b.another().Get(t.Context(), b.one, id, 0)
	if err != nil || !got.Material.Equal(want.Material) {
		t.Fatalf("Get: %v, or other bytes", err)
	}
	r, err := b.objects.Get(t.Context(), b.one.ID, id)
	if err != nil || !r.Recovered || r.Phase != engine.Live || r.Object.State != kmip.Active || r.KeyRef == "" {
		t.Errorf("the row: %+v, %v", r, err)
	}
	if _, err := b.objects.Get(t.Context(), b.two.ID, id); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("the other tenant's row: %v", err)
	}
	// A change finds the object as well.
	if _, err := b.AddAttribute(t.Context(), b.one, described, kmip.Attribute{Name: "x-Name", Value: kmip.Text("vm")}); err != nil {
		t.Errorf("Add Attribute to an object without a row: %v", err)
	}

	// One that was revoked before does not come back as Active.
	b.objects.Lose()
	b.one.Withheld = []string{string(id)}
	if _, err := b.another().Get(t.Context(), b.one, id, 0); err != nil {
		t.Fatal(err)
	}
	if r, err := b.objects.Get(t.Context(), b.one.ID, id); err != nil || r.Object.State != kmip.Deactivated {
		t.Errorf("the row of a revoked object: %+v, %v", r.Object, err)
	}
}

// TestRecoveryFails lets every step of it fail: the key is served whenever it
// can be proved to be the tenant's, and never wrongly.
func TestRecoveryFails(t *testing.T) {
	for _, c := range []struct {
		method string
		err    error
		want   fault.Kind // Internal: served
	}{
		{"Find", engine.ErrUnavailable, fault.Unavailable},
		{"Find", engine.ErrDenied, fault.Denied},
		{"Load", engine.ErrUnavailable, fault.Unavailable},
		{"Load", engine.ErrCorrupt, fault.Corrupt},
		{"Load", engine.ErrGone, fault.NotFound},
		{"Unwrap", engine.ErrDenied, fault.Denied},
		{"Unwrap", engine.ErrCorrupt, fault.Corrupt},
		{"Create", engine.ErrUnavailable, fault.Internal},
	} {
		b := newBench()
		id := b.create(t)
		b.objects.Lose()
		fail := func(method string, done bool) error {
			if method == c.method && !done {
				return c.err
			}
			return nil
		}
		b.objects.Fail, b.keys.Fail = fail, fail
		key, err := b.another().Get(t.Context(), b.one, id, 0)
		if c.want == fault.Internal {
			if err != nil || key.Material.Len() != 32 {
				t.Errorf("%s fails with %v: %v, want it served", c.method, c.err, err)
			}
			continue
		}
		if fault.KindOf(err) != c.want || key.Material.Len() != 0 {
			t.Errorf("%s fails with %v: %v, want %s", c.method, c.err, err, c.want)
		}
		b.objects.Fail = nil
		if _, err := b.objects.Get(t.Context(), b.one.ID, id); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("%s fails with %v: there is a row, %v", c.method, c.err, err)
		}
	}
}

// TestLostNames has the lost row's name taken by another object meanwhile.
func TestLostNames(t *testing.T) {
	b := newBench()
	named := append(enginetest.Names("db"), vSphere...)
	lost, err := b.Create(t.Context(), b.one, kmip.SymmetricKey, named)
	if err != nil {
		t.Fatal(err)
	}
	b.objects.Lose()
	next, err := b.Create(t.Context(), b.one, kmip.SymmetricKey, named)
	if err != nil {
		t.Fatal(err)
	}
	if key, err := b.Get(t.Context(), b.one, lost, 0); err != nil || key.Material.Len() != 32 {
		t.Fatal(err)
	}
	if r, err := b.objects.Get(t.Context(), b.one.ID, lost); err != nil || !r.Recovered || len(r.Object.Names()) != 0 {
		t.Errorf("the row: %+v, %v", r, err)
	}
	if got := b.named(t, b.one, "db"); len(got) != 1 || got[0] != next {
		t.Errorf("%v are named so, want %s", got, next)
	}
}

// TestPendingRowIsFinished reads a key whose Create died between the key
// manager and the ledger.
func TestPendingRowIsFinished(t *testing.T) {
	b := newBench()
	b.objects.Fail = func(method string, _ bool) error {
		if method == "Replace" {
			return engine.ErrUnavailable
		}
		return nil
	}
	if _, err := b.Create(t.Context(), b.one, kmip.SymmetricKey, vSphere); err == nil {
		t.Fatal("Create succeeded")
	}
	b.objects.Fail = nil
	id := b.objects.Newest(b.one.ID)
	key, err := b.Get(t.Context(), b.one, id, 0)
	if err != nil || key.Material.Len() != 32 {
		t.Fatal(err)
	}
	if r, err := b.objects.Get(t.Context(), b.one.ID, id); err != nil || r.Phase != engine.Live || !r.Recovered {
		t.Errorf("the row: %+v, %v", r, err)
	}
}

// TestUnknownIdentifiersAreBounded asks for many objects that never were: the
// key manager is asked once for each and only so often, the other tenant as
// before.
func TestUnknownIdentifiersAreBounded(t *testing.T) {
	b := newBench()
	asked := 0
	b.keys.Fail = func(method string, done bool) error {
		if method == "Find" && !done {
			asked++
		}
		return nil
	}
	ask := func(t *testing.T, who *tenant.Tenant, id kmip.ObjectID, want fault.Kind) {
		t.Helper()
		if _, err := b.Get(t.Context(), who, id, 0); fault.KindOf(err) != want {
			t.Errorf("%s: %v, want %s", id, err, want)
		}
	}
	const allowance = 100
	for n := range allowance {
		for range 3 {
			ask(t, b.one, kmip.ObjectID(fmt.Sprint("unknown-", n)), fault.NotFound)
		}
	}
	ask(t, b.one, "one too many", fault.Unavailable)
	ask(t, b.one, "unknown-1", fault.NotFound)
	ask(t, b.two, "unknown-1", fault.NotFound)
	b.now = b.now.Add(time.Second)
	ask(t, b.one, "a second later", fault.NotFound)
	if asked != allowance+2 {
		t.Errorf("the key manager was asked %d times, want %d", asked, allowance+2)
	}
}

// TestConcurrentGetsShareCalls boots a cluster: each host asks for the same
// key.
func TestConcurrentGetsShareCalls(t *testing.T) {
	b := newBench()
	id := b.create(t)
	first, err := b.Get(t.Context(), b.one, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	calls := map[string]int{}
	hold := make(chan struct{})
	node := engine.New(engine.Config{
		Objects: b.objects, Now: time.Now,
		KeyManagers: func(t *tenant.Tenant) (engine.KeyManager, error) {
			keys, err := b.keys.KeyManagers(t)
			return &heldKeys{KeyManager: keys, hold: hold, calls: calls, mu: &mu}, err
		},
	})
	const hosts = 64
	var all sync.WaitGroup
	for range hosts {
		all.Go(func() {
			got, err := node.Get(t.Context(), b.one, id, 0)
			if err != nil || !got.Material.Equal(first.Material) {
				t.Errorf("%v, or other bytes", err)
			}
			got.Material.Wipe()
		})
	}
	for deadline := time.After(10 * time.Second); node.Waiting() < hosts; {
		select {
		case <-deadline:
			t.Fatalf("%d of %d wait", node.Waiting(), hosts)
		default:
		}
	}
	close(hold)
	all.Wait()
	if calls["load"] != 1 || calls["unwrap"] != 1 {
		t.Errorf("%d hosts cost %v", hosts, calls)
	}
}

// heldKeys counts loads and unwraps, and answers when it is let.
type heldKeys struct {
	engine.KeyManager
	hold  chan struct{}
	mu    *sync.Mutex
	calls map[string]int
}

func (k *heldKeys) count(call string) {
	<-k.hold
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls[call]++
}

func (k *heldKeys) Load(ctx context.Context, id kmip.ObjectID, ref engine.KeyRef) (engine.Envelope, error) {
	k.count("load")
	return k.KeyManager.Load(ctx, id, ref)
}

func (k *heldKeys) Unwrap(ctx context.Context, w engine.Wrapped, b engine.Binding) (*secret.Bytes, error) {
	k.count("unwrap")
	return k.KeyManager.Unwrap(ctx, w, b)
}

// TestManyLostRows reads more objects without rows at once than a tenant may
// ask for in vain.
func TestManyLostRows(t *testing.T) {
	b := newBench()
	var ids []kmip.ObjectID
	for range 150 {
		ids = append(ids, b.create(t))
	}
	b.away()
	node := b.another()
	for _, id := range ids {
		if _, err := node.Get(t.Context(), b.one, id, 0); err != nil {
			t.Fatal(err)
		}
	}
}
