// Package enginetest holds the conformance suites of the engine's ports, and
// stand-ins that pass them for tests of the layers above. Adapters run the
// suites against the real thing.
package enginetest

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// NewRecord returns a pending record with a fresh identifier.
func NewRecord() engine.Record {
	now := time.Date(2026, 11, 1, 8, 30, 0, 0, time.UTC)
	return engine.Record{
		Object: kmip.Object{
			ID: kmip.ObjectID(uuid.Must(uuid.NewV7()).String()), Type: kmip.SymmetricKey,
			Algorithm: kmip.AES, Length: 256, UsageMask: kmip.Encrypt | kmip.Decrypt, State: kmip.PreActive,
			InitialDate: now, LastChangeDate: now, Digest: []byte{1, 2, 3},
			ClientAttributes: []kmip.Attribute{{Name: "x-Name", Value: kmip.Text("Zürich 😀 \x01")}},
		},
		Phase: engine.Pending,
		Location: engine.Location{
			KeyManagerCRN: "crn:v1:bluemix:public:kms:us-south:a/acc:inst::", KeyRing: "default",
			RootKeyID: "root", RootKeyVersion: "1",
		},
		PendingFor: time.Minute,
	}
}

// NewTenantID returns a fresh tenant id.
func NewTenantID() tenant.ID { return tenant.ID(uuid.NewString()) }

// Objects checks an implementation of engine.Objects. Open returns an empty
// ledger in which one and two exist as tenants.
func Objects(t *testing.T, open func(t *testing.T, one, two tenant.ID) engine.Objects) {
	one, two := NewTenantID(), NewTenantID()
	start := func(t *testing.T) (context.Context, engine.Objects) {
		t.Helper()
		return t.Context(), open(t, one, two)
	}

	t.Run("what is created is read back", func(t *testing.T) {
		ctx, objects := start(t)
		r := NewRecord()
		create(t, objects, one, r)
		got, err := objects.Get(ctx, one, r.Object.ID)
		if err != nil {
			t.Fatal(err)
		}
		r.Version, r.PendingFor, got.PendingFor = 1, 0, 0
		if !reflect.DeepEqual(got, r) {
			t.Errorf("read back\n%+v\nwant\n%+v", got, r)
		}
	})

	t.Run("an identifier exists once in a tenant", func(t *testing.T) {
		ctx, objects := start(t)
		r := NewRecord()
		create(t, objects, one, r)
		if err := objects.Create(ctx, one, r); !errors.Is(err, engine.ErrExists) {
			t.Errorf("second Create: %v, want ErrExists", err)
		}
	})

	t.Run("tenants do not see each other", func(t *testing.T) {
		ctx, objects := start(t)
		r := NewRecord()
		create(t, objects, one, r)
		if _, err := objects.Get(ctx, two, r.Object.ID); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("Get by the other tenant: %v, want ErrNotFound", err)
		}
		r.Version, r.Phase = 1, engine.Live
		if err := objects.Replace(ctx, two, r); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("Replace by the other tenant: %v, want ErrNotFound", err)
		}
		// The same identifier, imported by both, is two objects.
		create(t, objects, two, r)
		got, err := objects.Get(ctx, one, r.Object.ID)
		if err != nil || got.Phase != engine.Pending {
			t.Errorf("first tenant's row after the other's Create: %+v, %v", got, err)
		}
	})

	t.Run("replace takes the stored version alone", func(t *testing.T) {
		ctx, objects := start(t)
		r := NewRecord()
		create(t, objects, one, r)
		r.Version, r.Phase, r.KeyRef, r.Object.State, r.Recovered = 1, engine.Live, "ref", kmip.Active, true
		if err := objects.Replace(ctx, one, r); err != nil {
			t.Fatal(err)
		}
		if err := objects.Replace(ctx, one, r); !errors.Is(err, engine.ErrConflict) {
			t.Errorf("Replace with an old version: %v, want ErrConflict", err)
		}
		got, err := objects.Get(ctx, one, r.Object.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got.Version != 2 || got.Phase != engine.Live || got.KeyRef != "ref" || got.Object.State != kmip.Active || !got.Recovered {
			t.Errorf("after Replace: %+v", got)
		}
	})

	t.Run("without a row", func(t *testing.T) {
		ctx, objects := start(t)
		r := NewRecord()
		if _, err := objects.Get(ctx, one, r.Object.ID); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("Get: %v, want ErrNotFound", err)
		}
		r.Version = 1
		if err := objects.Replace(ctx, one, r); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("Replace: %v, want ErrNotFound", err)
		}
	})

	t.Run("of concurrent replaces one wins", func(t *testing.T) {
		ctx, objects := start(t)
		r := NewRecord()
		create(t, objects, one, r)
		r.Version = 1
		const writers = 8
		results := make(chan error, writers)
		for range writers {
			go func() { results <- objects.Replace(ctx, one, r) }()
		}
		won := 0
		for range writers {
			switch err := <-results; {
			case err == nil:
				won++
			case !errors.Is(err, engine.ErrConflict):
				t.Errorf("Replace: %v, want ErrConflict", err)
			}
		}
		if won != 1 {
			t.Errorf("%d of %d writers won, want 1", won, writers)
		}
	})

	t.Run("locate finds the tenant's own, newest first", func(t *testing.T) {
		ctx, objects := start(t)
		add := func(id tenant.ID, name string, phase engine.Phase) kmip.ObjectID {
			r := NewRecord()
			r.Object.ClientAttributes = []kmip.Attribute{{Name: "x-Name", Value: kmip.Text(name)}}
			create(t, objects, id, r)
			r.Version, r.Phase = 1, phase
			if err := objects.Replace(ctx, id, r); phase != engine.Pending && err != nil {
				t.Fatal(err)
			}
			return r.Object.ID
		}
		first, second, third := add(one, "a", engine.Live), add(one, "b", engine.Live), add(one, "a", engine.Gone)
		add(one, "a", engine.Pending)
		foreign := add(two, "a", engine.Live)
		named := func(names ...string) kmip.Filter {
			var attributes []kmip.Attribute
			for _, n := range names {
				attributes = append(attributes, kmip.Attribute{Name: "x-Name", Value: kmip.Text(n)})
			}
			f, err := kmip.NewFilter(attributes)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		for _, c := range []struct {
			tenant          tenant.ID
			filter          kmip.Filter
			offset, maximum int
			want            []kmip.ObjectID
		}{
			{one, named(), 0, 10, []kmip.ObjectID{third, second, first}},
			{one, named("a"), 0, 10, []kmip.ObjectID{third, first}},
			{one, named("a"), 0, 1, []kmip.ObjectID{third}},
			{one, named("a"), 1, 10, []kmip.ObjectID{first}},
			{one, named("a"), 2, 10, nil},
			{one, named("a", "b"), 0, 10, nil},
			{two, named("a"), 0, 10, []kmip.ObjectID{foreign}},
			{two, named("b"), 0, 10, nil},
		} {
			got, err := objects.Locate(ctx, c.tenant, engine.Query{Filter: c.filter, Now: time.Now(), Offset: c.offset, Maximum: c.maximum})
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("Locate %+v: %v, %v, want %v", c.filter, got, err, c.want)
			}
		}
	})

	t.Run("an ended context is unavailable", func(t *testing.T) {
		ctx, objects := start(t)
		r := NewRecord()
		create(t, objects, one, r)
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := objects.Get(ended, one, r.Object.ID); !errors.Is(err, engine.ErrUnavailable) {
			t.Errorf("Get: %v, want ErrUnavailable", err)
		}
	})
}

func create(t *testing.T, objects engine.Objects, id tenant.ID, r engine.Record) {
	t.Helper()
	if err := objects.Create(t.Context(), id, r); err != nil {
		t.Fatal(err)
	}
}

// Ledger is an engine.Objects in memory for tests of other parts.
type Ledger struct {
	mu   sync.Mutex
	rows map[ledgerKey]engine.Record
	made []ledgerKey // in the order of Create
	// Fail, when set, decides each call's error: before it takes effect, and
	// (done true) after. It is called with the name of the method.
	Fail func(method string, done bool) error
}

type ledgerKey struct {
	tenant tenant.ID
	object kmip.ObjectID
}

// NewObjects returns an empty Ledger.
func NewObjects() *Ledger { return &Ledger{rows: make(map[ledgerKey]engine.Record)} }

// Create implements engine.Objects.
func (l *Ledger) Create(ctx context.Context, t tenant.ID, r engine.Record) error {
	return l.call(ctx, "Create", func() error {
		k := ledgerKey{t, r.Object.ID}
		if _, have := l.rows[k]; have {
			return engine.ErrExists
		}
		r.Version = 1
		l.rows[k] = r
		l.made = append(l.made, k)
		return nil
	})
}

// Newest returns the identifier of the tenant's row that was made last.
func (l *Ledger) Newest(t tenant.ID) kmip.ObjectID {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range slices.Backward(l.made) {
		if k.tenant == t {
			return k.object
		}
	}
	return ""
}

// Lose forgets every row, as a database that was restored to an older state.
func (l *Ledger) Lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.rows)
	l.made = nil
}

// Locate implements engine.Objects.
func (l *Ledger) Locate(ctx context.Context, t tenant.ID, q engine.Query) (ids []kmip.ObjectID, err error) {
	err = l.call(ctx, "Locate", func() error {
		for _, k := range slices.Backward(l.made) {
			r := l.rows[k]
			if k.tenant != t || r.Phase == engine.Pending || !q.Filter.Matches(&r.Object, q.Now) {
				continue
			}
			if q.Offset--; q.Offset < 0 && len(ids) < q.Maximum {
				ids = append(ids, k.object)
			}
		}
		return nil
	})
	return ids, err
}

// Get implements engine.Objects.
func (l *Ledger) Get(ctx context.Context, t tenant.ID, id kmip.ObjectID) (r engine.Record, err error) {
	err = l.call(ctx, "Get", func() error {
		var have bool
		if r, have = l.rows[ledgerKey{t, id}]; !have {
			return engine.ErrNotFound
		}
		return nil
	})
	return r, err
}

// Replace implements engine.Objects.
func (l *Ledger) Replace(ctx context.Context, t tenant.ID, r engine.Record) error {
	return l.call(ctx, "Replace", func() error {
		k := ledgerKey{t, r.Object.ID}
		have, ok := l.rows[k]
		switch {
		case !ok:
			return engine.ErrNotFound
		case have.Version != r.Version:
			return engine.ErrConflict
		}
		r.Version++
		l.rows[k] = r
		return nil
	})
}

func (l *Ledger) call(ctx context.Context, method string, f func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return fault.Wrap(fault.Unavailable, "The ledger does not answer.", err)
	}
	if l.Fail != nil {
		if err := l.Fail(method, false); err != nil {
			return err
		}
	}
	if err := f(); err != nil {
		return err
	}
	if l.Fail != nil {
		return l.Fail(method, true)
	}
	return nil
}
