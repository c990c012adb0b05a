// Package enginetest holds the conformance suites of the engine's ports, and
// stand-ins that pass them for tests of the layers above. Adapters run the
// suites against the real thing.
package enginetest

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
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
		first, second, third := add(one, "a", engine.Live), add(one, "b", engine.Live), add(one, "a", engine.Live)
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
			total           int
		}{
			{one, named(), 0, 10, []kmip.ObjectID{third, second, first}, 3},
			{one, named("a"), 0, 10, []kmip.ObjectID{third, first}, 2},
			{one, named("a"), 0, 1, []kmip.ObjectID{third}, 2},
			{one, named("a"), 1, 10, []kmip.ObjectID{first}, 2},
			{one, named("a"), 2, 10, nil, 2},
			{one, named("a", "b"), 0, 10, nil, 0},
			{two, named("a"), 0, 10, []kmip.ObjectID{foreign}, 1},
			{two, named("b"), 0, 10, nil, 0},
		} {
			for _, count := range []bool{false, true} {
				q := engine.Query{Filter: c.filter, Now: time.Now(), Offset: c.offset, Maximum: c.maximum, Count: count}
				got, err := objects.Locate(ctx, c.tenant, q)
				if err != nil || !slices.Equal(got.IDs, c.want) {
					t.Errorf("Locate %+v: %v, %v, want %v", q, got, err, c.want)
				}
				if count && got.Total != c.total || !count && got.Total != 0 {
					t.Errorf("Locate %+v counts %d, want %d when asked", q, got.Total, c.total)
				}
			}
		}
		oldest := engine.Query{Filter: named("a"), Now: time.Now(), Offset: 1, Maximum: 1, Oldest: true}
		if got, err := objects.Locate(ctx, one, oldest); err != nil || !slices.Equal(got.IDs, []kmip.ObjectID{third}) {
			t.Errorf("the second of the oldest: %v, %v, want %v", got, err, third)
		}
	})

	t.Run("a destroyed object is located by its state alone", func(t *testing.T) {
		ctx, objects := start(t)
		r := live(t, objects, one, "gone")
		r.Object.State, r.Phase = kmip.Destroyed, engine.Gone
		if err := objects.Replace(ctx, one, r); err != nil {
			t.Fatal(err)
		}
		byState, err := kmip.NewFilter([]kmip.Attribute{{Name: kmip.AttributeState, Value: kmip.Enum(kmip.Destroyed)}})
		if err != nil {
			t.Fatal(err)
		}
		for filter, want := range map[*kmip.Filter]int{new(kmip.Filter): 0, &byState: 1} {
			got, err := objects.Locate(ctx, one, engine.Query{Filter: *filter, Now: time.Now(), Maximum: 10})
			if err != nil || len(got.IDs) != want {
				t.Errorf("Locate %+v: %v, %v, want %d objects", *filter, got, err, want)
			}
		}
	})

	t.Run("a name is held once in a tenant, by live objects", func(t *testing.T) { names(t, open(t, one, two), one, two) })

	t.Run("several are replaced together or not at all", func(t *testing.T) {
		ctx, objects := start(t)
		old := live(t, objects, one, "name")
		next := NewRecord()
		create(t, objects, one, next)
		next.Version, next.Phase = 1, engine.Live
		stale := next
		stale.Version = 7
		next.Object.ClientAttributes, old.Object.ClientAttributes = old.Object.ClientAttributes, nil
		if err := objects.Replace(ctx, one, old, stale); !errors.Is(err, engine.ErrConflict) {
			t.Errorf("Replace with one old version: %v, want ErrConflict", err)
		}
		if got, err := objects.Get(ctx, one, old.Object.ID); err != nil || got.Version != old.Version {
			t.Errorf("the other row after the conflict: %+v, %v", got, err)
		}
		if err := objects.Replace(ctx, one, next, old); !errors.Is(err, engine.ErrExists) {
			t.Errorf("the name taken before it is given up: %v, want ErrExists", err)
		}
		if err := objects.Replace(ctx, one, old, next); err != nil {
			t.Fatal(err)
		}
		wantNamed(t, objects, one, "name", next.Object.ID)
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

// live adds a live object with names and returns its record.
func live(t *testing.T, objects engine.Objects, id tenant.ID, names ...string) engine.Record {
	t.Helper()
	r := NewRecord()
	create(t, objects, id, r)
	r.Version, r.Phase, r.Object.ClientAttributes = 1, engine.Live, Names(names...)
	if err := objects.Replace(t.Context(), id, r); err != nil {
		t.Fatal(err)
	}
	r.Version++
	return r
}

// Names returns Name attributes (KMIP 1.4, 3.2).
func Names(values ...string) (names []kmip.Attribute) {
	const tagNameValue, tagNameType = 0x420055, 0x420054
	for i, v := range values {
		names = append(names, kmip.Attribute{Name: kmip.AttributeName, Index: int32(i), Value: kmip.Struct(
			kmip.Field{Tag: tagNameValue, Value: kmip.Text(v)}, kmip.Field{Tag: tagNameType, Value: kmip.Enum(uint32(1))})})
	}
	return names
}

func wantNamed(t *testing.T, objects engine.Objects, id tenant.ID, name string, want ...kmip.ObjectID) {
	t.Helper()
	got, err := objects.Locate(t.Context(), id, engine.Query{Filter: kmip.NameFilter(name), Now: time.Now(), Maximum: 10})
	if err != nil || !slices.Equal(got.IDs, want) {
		t.Errorf("objects named %q: %v, %v, want %v", name, got.IDs, err, want)
	}
}

func names(t *testing.T, objects engine.Objects, one, two tenant.ID) {
	ctx := t.Context()
	holder := live(t, objects, one, "a", "b")
	foreign := live(t, objects, two, "a")
	wantNamed(t, objects, one, "a", holder.Object.ID)
	wantNamed(t, objects, two, "a", foreign.Object.ID)

	// A pending object holds nothing, and can't become live with a taken name.
	rival := NewRecord()
	rival.Object.ClientAttributes = Names("a")
	create(t, objects, one, rival)
	wantNamed(t, objects, one, "a", holder.Object.ID)
	rival.Version, rival.Phase = 1, engine.Live
	refused := func(when string) {
		t.Helper()
		if err := objects.Replace(ctx, one, rival); !errors.Is(err, engine.ErrExists) {
			t.Errorf("a taken name, %s: %v, want ErrExists", when, err)
		}
	}
	refused("as the object becomes live")
	made := NewRecord()
	made.Phase, made.Object.ClientAttributes = engine.Live, Names("b")
	if err := objects.Create(ctx, one, made); !errors.Is(err, engine.ErrExists) {
		t.Errorf("Create of a live object with a taken name: %v, want ErrExists", err)
	}

	// What the holder keeps stays its own, what it gives up is free.
	holder.Object.ClientAttributes = Names("a", "c")
	if err := objects.Replace(ctx, one, holder); err != nil {
		t.Fatal(err)
	}
	holder.Version++
	wantNamed(t, objects, one, "b")
	wantNamed(t, objects, one, "c", holder.Object.ID)
	refused("after its holder changed")
	rival.Object.ClientAttributes = Names("b")
	if err := objects.Replace(ctx, one, rival); err != nil {
		t.Errorf("a name that was given up: %v", err)
	}
	rival.Version++

	// A destroyed object holds nothing.
	holder.Object.State, holder.Phase = kmip.Destroyed, engine.Destroying
	if err := objects.Replace(ctx, one, holder); err != nil {
		t.Fatal(err)
	}
	rival.Object.ClientAttributes = Names("a", strings.Repeat("long", kmip.MaxTextValue/4))
	if err := objects.Replace(ctx, one, rival); err != nil {
		t.Errorf("the name of a destroyed object: %v", err)
	}
	wantNamed(t, objects, one, "a", rival.Object.ID)
	wantNamed(t, objects, two, "a", foreign.Object.ID)
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
		if _, have := l.rows[k]; have || taken(l.rows, k, r) {
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

// Forget forgets one row.
func (l *Ledger) Forget(t tenant.ID, id kmip.ObjectID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := ledgerKey{t, id}
	delete(l.rows, k)
	l.made = slices.DeleteFunc(l.made, func(made ledgerKey) bool { return made == k })
}

// taken reports whether one of r's names is held by another row.
func taken(rows map[ledgerKey]engine.Record, k ledgerKey, r engine.Record) bool {
	for other, have := range rows {
		if other.tenant != k.tenant || other.object == k.object {
			continue
		}
		for _, name := range have.HeldNames() {
			if slices.Contains(r.HeldNames(), name) {
				return true
			}
		}
	}
	return false
}

// Locate implements engine.Objects.
func (l *Ledger) Locate(ctx context.Context, t tenant.ID, q engine.Query) (found engine.Located, err error) {
	err = l.call(ctx, "Locate", func() error {
		var all []kmip.ObjectID
		for _, k := range slices.Backward(l.made) {
			if r := l.rows[k]; k.tenant == t && r.Phase != engine.Pending && q.Filter.Matches(&r.Object, q.Now) {
				all = append(all, k.object)
			}
		}
		found = q.Page(all)
		return nil
	})
	return found, err
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
func (l *Ledger) Replace(ctx context.Context, t tenant.ID, records ...engine.Record) error {
	return l.call(ctx, "Replace", func() error {
		rows := maps.Clone(l.rows)
		for _, r := range records {
			k := ledgerKey{t, r.Object.ID}
			have, ok := rows[k]
			switch {
			case !ok:
				return engine.ErrNotFound
			case have.Version != r.Version:
				return engine.ErrConflict
			case taken(rows, k, r):
				return engine.ErrExists
			}
			r.Version++
			rows[k] = r
		}
		l.rows = rows
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
