package engine_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// step is a transition of the state table (KMIP 1.4, 3.22).
type step struct{ from, to kmip.State }

// dates are the transitions that a date brings, when it passes or is set.
var dates = []step{{kmip.PreActive, kmip.Active}, {kmip.PreActive, kmip.Deactivated}, {kmip.Active, kmip.Deactivated}}

// move is an operation on an object, and the transitions that it may bring.
type move struct {
	do    func(w *walk, id kmip.ObjectID) error
	steps []step
}

var moves = map[string]move{
	"Activate": {func(w *walk, id kmip.ObjectID) error { return w.Activate(w.t.Context(), w.one, id) }, dates},
	"Revoke": {func(w *walk, id kmip.ObjectID) error {
		return w.Revoke(w.t.Context(), w.one, id, kmip.Revocation{Reason: 1}, time.Time{})
	}, []step{{kmip.Active, kmip.Deactivated}}},
	"Revoke, compromised": {func(w *walk, id kmip.ObjectID) error {
		return w.Revoke(w.t.Context(), w.one, id, kmip.Revocation{Reason: kmip.KeyCompromise}, w.moment())
	}, []step{
		{kmip.PreActive, kmip.Compromised},
		{kmip.Active, kmip.Compromised},
		{kmip.Deactivated, kmip.Compromised},
		{kmip.Destroyed, kmip.DestroyedCompromised},
	}},
	"Destroy": {func(w *walk, id kmip.ObjectID) error { return w.Destroy(w.t.Context(), w.one, id) }, []step{
		{kmip.PreActive, kmip.Destroyed}, {kmip.Deactivated, kmip.Destroyed}, {kmip.Compromised, kmip.DestroyedCompromised},
	}},
	"Add Attribute": {func(w *walk, id kmip.ObjectID) error {
		_, err := w.AddAttribute(w.t.Context(), w.one, id, w.attribute())
		return err
	}, dates},
	"Modify Attribute": {func(w *walk, id kmip.ObjectID) error {
		_, err := w.ModifyAttribute(w.t.Context(), w.one, id, w.attribute())
		return err
	}, dates},
	"Delete Attribute": {func(w *walk, id kmip.ObjectID) error {
		_, err := w.DeleteAttribute(w.t.Context(), w.one, id, w.attribute().Name, 0)
		return err
	}, nil},
	"Get": {func(w *walk, id kmip.ObjectID) error {
		key, err := w.Get(w.t.Context(), w.one, id, 0)
		if destroyed := w.states[id] >= kmip.Destroyed; (err != nil) != destroyed {
			w.t.Errorf("Get of one that is %s: %v", w.states[id], err)
		}
		key.Material.Wipe()
		return err
	}, nil},
	"Check": {func(w *walk, id kmip.ObjectID) error {
		_, err := w.Check(w.t.Context(), w.one, id, kmip.Use{Mask: 4})
		return err
	}, nil},
	"Re-key": {func(w *walk, id kmip.ObjectID) error {
		return w.add(w.Rekey(w.t.Context(), w.one, id, w.offset(), nil))
	}, nil},
	"time": {func(w *walk, _ kmip.ObjectID) error {
		w.now = w.now.Add(time.Duration(w.IntN(60)) * time.Minute)
		return nil
	}, dates},
}

// walk is a random sequence of operations on a few objects.
type walk struct {
	*bench
	*rand.Rand
	t      *testing.T
	states map[kmip.ObjectID]kmip.State
}

// moment is a time within two hours of now.
func (w *walk) moment() time.Time { return w.now.Add(time.Duration(w.IntN(240)-120) * time.Minute) }

func (w *walk) offset() *time.Duration {
	if w.IntN(2) == 0 {
		return nil
	}
	d := time.Duration(w.IntN(60)) * time.Minute
	return &d
}

func (w *walk) attribute() kmip.Attribute {
	switch n := w.IntN(6); n {
	case 0, 1, 2, 3:
		name := [...]string{kmip.AttributeActivationDate, kmip.AttributeProcessStartDate, kmip.AttributeProtectStopDate, kmip.AttributeDeactivationDate}[n]
		return kmip.Attribute{Name: name, Value: kmip.Time(w.moment())}
	case 4:
		return enginetest.Names(fmt.Sprint("name", w.IntN(3)))[0]
	default:
		return kmip.Attribute{Name: kmip.AttributeState, Value: kmip.Enum(kmip.Active)}
	}
}

func (w *walk) add(id kmip.ObjectID, err error) error {
	if err == nil {
		w.states[id] = w.state(id)
	}
	return err
}

func (w *walk) state(id kmip.ObjectID) kmip.State {
	w.t.Helper()
	a, err := w.Attributes(w.t.Context(), w.one, id, []string{kmip.AttributeState})
	if err != nil || len(a) != 1 {
		w.t.Fatalf("State: %+v, %v", a, err)
	}
	return kmip.State(a[0].Value.Number)
}

// TestNoWayOutOfTheStateTable walks at random through all operations: whatever
// they are, an object's state moves as the table has it, and only that of the
// object that an operation is about; and no two objects have the same name.
func TestNoWayOutOfTheStateTable(t *testing.T) {
	names := make([]string, 0, len(moves))
	for name := range moves {
		names = append(names, name)
	}
	slices.Sort(names)
	seen := make(map[step]bool)
	for seed := range uint64(300) {
		w := &walk{newBench(), rand.New(rand.NewPCG(seed, 5)), t, make(map[kmip.ObjectID]kmip.State)}
		if err := w.add(w.Create(t.Context(), w.one, kmip.SymmetricKey, vSphere)); err != nil {
			t.Fatal(err)
		}
		if err := w.add(w.Register(t.Context(), w.one, password, secret.Random(9), nil)); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			ids := make([]kmip.ObjectID, 0, len(w.states))
			for id := range w.states {
				ids = append(ids, id)
			}
			slices.Sort(ids)
			id, name := ids[w.IntN(len(ids))], names[w.IntN(len(names))]
			err := moves[name].do(w, id)
			if kind := fault.KindOf(err); err != nil && (kind == fault.Internal || kind == fault.Unavailable) {
				t.Fatalf("seed %d, %s: %v", seed, name, err)
			}
			for _, each := range ids {
				from, to := w.states[each], w.state(each)
				allowed := slices.Contains(moves[name].steps, step{from, to}) && (each == id || name == "time") && err == nil
				if from != to && !allowed {
					t.Fatalf("seed %d: %s moved an object from %s to %s (%v)", seed, name, from, to, err)
				}
				w.states[each] = to
				seen[step{from, to}] = true
			}
		}
		for i := range 3 {
			if got := w.named(t, w.one, fmt.Sprint("name", i)); len(got) > 1 {
				t.Fatalf("seed %d: %v have one name", seed, got)
			}
		}
	}
	for name, m := range moves {
		for _, s := range m.steps {
			if !seen[s] {
				t.Errorf("%s never moved an object from %s to %s: the walk is too short", name, s.from, s.to)
			}
		}
	}
}
