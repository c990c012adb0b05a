package engine_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// compare returns the findings of a comparison as kind and identifier.
func (b *bench) compare(t *testing.T, who *tenant.Tenant, thorough bool) (engine.Comparison, []string) {
	t.Helper()
	c, err := engine.Compare(t.Context(), who, b.objects, b.keys.KeyManagers, thorough)
	if err != nil {
		t.Fatal(err)
	}
	found := []string{}
	for _, f := range c.Findings {
		found = append(found, fmt.Sprintf("%s %s", f.Kind, f.Object))
	}
	slices.Sort(found)
	return c, found
}

// change rewrites a row.
func (b *bench) change(t *testing.T, id kmip.ObjectID, f func(*engine.Record)) {
	t.Helper()
	r := b.row(t, id)
	f(&r)
	if err := b.objects.Replace(t.Context(), b.one.ID, r); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) row(t *testing.T, id kmip.ObjectID) engine.Record {
	t.Helper()
	r, err := b.objects.Get(t.Context(), b.one.ID, id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Two tenants share a key manager. Each disagreement is found once, by its
// identifier, and the other tenant's keys are nobody's finding.
func TestCompare(t *testing.T) {
	b := newBench()
	if _, err := b.Create(t.Context(), b.two, kmip.SymmetricKey, vSphere); err != nil {
		t.Fatal(err)
	}
	good, deleted, never, destroyed := b.create(t), b.create(t), b.create(t), b.create(t)
	first, second, twice, another, lost := b.create(t), b.create(t), b.create(t), b.create(t), b.create(t)
	others, dead, astray := b.create(t), b.create(t), b.create(t)
	if c, found := b.compare(t, b.one, true); len(found) > 0 || c.Rows != 12 || c.StandardKeys != 13 || c.Loaded != 12 || c.Wrong() != 0 {
		t.Fatalf("nothing is wrong: %+v", c)
	}
	if err := errors.Join(b.keys.Delete(t.Context(), b.row(t, deleted).KeyRef), b.Destroy(t.Context(), b.one, destroyed)); err != nil {
		t.Fatal(err)
	}
	b.change(t, never, func(r *engine.Record) { r.KeyRef = "never-was" })
	refs := []engine.KeyRef{b.row(t, first).KeyRef, b.row(t, second).KeyRef}
	b.change(t, first, func(r *engine.Record) { r.KeyRef = refs[1] })
	b.change(t, second, func(r *engine.Record) { r.KeyRef = refs[0] })
	envelope, err := b.keys.Load(t.Context(), twice, b.row(t, twice).KeyRef)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.keys.Store(t.Context(), twice, envelope); err != nil {
		t.Fatal(err)
	}
	b.change(t, another, func(r *engine.Record) { r.Object.Digest = []byte("another") })
	if envelope, err = b.keys.Load(t.Context(), others, b.row(t, others).KeyRef); err != nil {
		t.Fatal(err)
	}
	envelope.Tenant = b.two.ID
	b.keys.Put(t, b.row(t, others).KeyRef, envelope)
	b.change(t, astray, func(r *engine.Record) { r.Location.KeyManagerCRN = "another" })
	row := b.row(t, lost)
	b.objects.Forget(b.one.ID, lost)
	if err := b.keys.Delete(t.Context(), b.row(t, dead).KeyRef); err != nil {
		t.Fatal(err)
	}
	b.objects.Forget(b.one.ID, dead)

	c, found := b.compare(t, b.one, true)
	want := []string{
		"key_missing " + string(deleted), "key_missing " + string(never), "mismatched " + string(first), "mismatched " + string(second),
		"mismatched " + string(another), "mismatched " + string(others), "mismatched " + string(astray), "unrecorded " + string(lost), "duplicate " + string(twice),
		"duplicate " + string(never), // the one that its row should name
	}
	slices.Sort(want)
	if !slices.Equal(found, want) || c.Wrong() != 8 {
		t.Errorf("found %v\nwant %v", found, want)
	}
	if c.Loaded != 6 { // what the lists don't tell: good, never, twice, another, lost, others
		t.Errorf("%d envelopes were loaded", c.Loaded)
	}
	for _, f := range c.Findings {
		if f.Restorable != (f.Object == deleted) {
			t.Errorf("%+v", f)
		}
		if f.Object == lost && f.KeyRef != row.KeyRef {
			t.Errorf("%+v, want standard key %s", f, row.KeyRef)
		}
	}
	if _, found := b.compare(t, b.two, true); len(found) > 0 {
		t.Errorf("the other tenant's: %v", found)
	}
	if got := b.row(t, good).Version; got != 2 || b.keys.Stored() != 11 {
		t.Errorf("the comparison changed something: version %d, %d standard keys", got, b.keys.Stored())
	}
}

// A standard key that the list lacks is looked into before it counts as missing,
// and a row that has changed meanwhile is no finding.
func TestCompareSeesNoGhosts(t *testing.T) {
	b := newBench()
	hidden, moving := b.create(t), b.create(t)
	b.keys.Hide(b.row(t, hidden).KeyRef)
	b.change(t, moving, func(r *engine.Record) { r.KeyRef = "old" })
	b.objects.Fail = func(method string, _ bool) error {
		if method == "Get" { // to confirm what was found; the row has gone by then
			return engine.ErrNotFound
		}
		return nil
	}
	if _, found := b.compare(t, b.one, true); len(found) != 1 || !strings.HasPrefix(found[0], "duplicate") {
		t.Errorf("found %v", found)
	}
}

// A comparison looks into a sample, of what the list does not explain first; a
// thorough one looks into all.
func TestCompareSamples(t *testing.T) {
	b := newBench()
	const keys = 600
	for range keys {
		b.create(t)
	}
	if c, found := b.compare(t, b.one, false); c.Loaded != 200 || c.Unchecked != keys-200 || len(found) > 0 {
		t.Errorf("%+v", c)
	}
	if c, _ := b.compare(t, b.one, true); c.Loaded != keys || c.Unchecked != 0 {
		t.Errorf("thorough: %+v", c)
	}
	lost := b.objects.Newest(b.one.ID)
	b.objects.Forget(b.one.ID, lost)
	if _, found := b.compare(t, b.one, false); len(found) != 1 || found[0] != "unrecorded "+string(lost) {
		t.Errorf("a row is lost: %v", found)
	}
	standard, err := b.keys.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range standard {
		if err := b.keys.Delete(t.Context(), k.Ref); err != nil {
			t.Fatal(err)
		}
	}
	if c, found := b.compare(t, b.one, false); c.Counts[engine.KeyMissing] != keys-1 || len(found) != engine.MaxFindings {
		t.Errorf("all deleted: %v, %d shown", c.Counts, len(found))
	}
}

// A key manager that is busy is given time; one that stays away ends it.
func TestCompareIsPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		b.create(t)
		busy := 0
		b.keys.Fail = func(_ string, done bool) error {
			if done {
				return nil
			}
			if busy++; busy%4 != 0 {
				return engine.ErrUnavailable
			}
			return nil
		}
		if c, found := b.compare(t, b.one, true); c.Loaded != 1 || len(found) > 0 {
			t.Errorf("%+v", c)
		}
		b.keys.Fail = func(string, bool) error { return engine.ErrUnavailable }
		began := time.Now()
		if _, err := engine.Compare(t.Context(), b.one, b.objects, b.keys.KeyManagers, true); !errors.Is(err, engine.ErrUnavailable) || time.Since(began) != 63*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// rebuild writes lost rows and wants a result.
func (b *bench) rebuild(t *testing.T, who *tenant.Tenant, dry bool, want engine.Rebuilt) engine.Rebuilt {
	t.Helper()
	told := 0
	got, err := engine.Rebuild(t.Context(), who, b.objects, b.keys.KeyManagers, engine.Rebuilding{DryRun: dry, Progress: func(done, _ int) { told = done }})
	if err != nil {
		t.Fatal(err)
	}
	if got.Recorded != want.Recorded || got.Written != want.Written || got.Foreign != want.Foreign || len(got.Failed) != len(want.Failed) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if told > got.Written+got.Foreign+len(got.Failed) {
		t.Errorf("progress told %d", told)
	}
	return got
}

// Two tenants share a key manager and lose all rows. Each gets its own back, with
// their bytes; those deleted stay deleted, and a second time there is nothing to
// do.
func TestRebuild(t *testing.T) {
	b := newBench()
	named, plain, revoked, deleted := b.create(t), b.create(t), b.create(t), b.create(t)
	foreign, err := b.Create(t.Context(), b.two, kmip.SymmetricKey, vSphere)
	if err != nil {
		t.Fatal(err)
	}
	keys := make(map[kmip.ObjectID]*secret.Bytes)
	for _, id := range []kmip.ObjectID{named, plain, revoked} {
		key, err := b.Get(t.Context(), b.one, id, 0)
		if err != nil {
			t.Fatal(err)
		}
		keys[id] = key.Material
	}
	before := b.row(t, plain)
	if err := b.keys.Delete(t.Context(), b.row(t, deleted).KeyRef); err != nil {
		t.Fatal(err)
	}
	b.one.Withheld = []string{string(revoked)}
	b.objects.Lose()
	b.rebuild(t, b.one, true, engine.Rebuilt{Written: 3, Foreign: 1})
	if page, err := b.objects.ListRows(t.Context(), b.one.ID, 0); err != nil || len(page) > 0 {
		t.Fatalf("a dry run wrote %v, %v", page, err)
	}
	b.rebuild(t, b.one, false, engine.Rebuilt{Written: 3, Foreign: 1})
	b.rebuild(t, b.two, false, engine.Rebuilt{Written: 1, Foreign: 3})
	b.rebuild(t, b.one, false, engine.Rebuilt{Recorded: 3, Foreign: 1})

	after := b.row(t, plain)
	before.Object.State, before.Object.Served, before.Recovered, before.Version, before.PendingFor = kmip.Active, true, true, 1, 0
	if !reflect.DeepEqual(after, before) {
		t.Errorf("rebuilt\n%+v\nwant\n%+v", after, before)
	}
	if state := b.row(t, revoked).Object.State; state != kmip.Deactivated {
		t.Errorf("the revoked one is in state %d", state)
	}
	b.one.Withheld = nil
	for id, want := range keys {
		if got, err := b.Get(t.Context(), b.one, id, 0); err != nil || !got.Material.Equal(want) {
			t.Errorf("%s: %v", id, err)
		}
	}
	for _, id := range []kmip.ObjectID{deleted, foreign} {
		if _, err := b.objects.Get(t.Context(), b.one.ID, id); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("%s: %v", id, err)
		}
	}
	if _, err := b.Get(t.Context(), b.two, foreign, 0); err != nil {
		t.Error(err)
	}
}

// A key that was moved comes back from where it was moved to, also when the
// standard key before it is deleted, but not when the new one is; one that does not
// open, or whose bytes are others, gets no row.
func TestRebuildChooses(t *testing.T) {
	b := newBench()
	moved, revoked, damaged, swapped := b.create(t), b.create(t), b.create(t), b.create(t)
	to := elsewhere{b.keys}
	newRef, _, err := engine.Move(t.Context(), b.one.ID, b.row(t, moved), b.keys, to)
	if err != nil {
		t.Fatal(err)
	}
	revokedRef, _, err := engine.Move(t.Context(), b.one.ID, b.row(t, revoked), b.keys, to)
	if err := errors.Join(err, b.keys.Delete(t.Context(), b.row(t, moved).KeyRef), b.keys.Delete(t.Context(), revokedRef)); err != nil {
		t.Fatal(err)
	}
	for id, harm := range map[kmip.ObjectID]func(*engine.Envelope){
		damaged: func(e *engine.Envelope) { e.Wrapped.Ciphertext = "00" },
		swapped: func(e *engine.Envelope) { e.Object.Digest = []byte("another") },
	} {
		e, err := b.keys.Load(t.Context(), id, b.row(t, id).KeyRef)
		if err != nil {
			t.Fatal(err)
		}
		harm(&e)
		b.keys.Put(t, b.row(t, id).KeyRef, e)
	}
	b.objects.Lose()
	managers := func(*tenant.Tenant) (engine.KeyManager, error) { return to, nil }
	got, err := engine.Rebuild(t.Context(), b.one, b.objects, managers, engine.Rebuilding{Progress: func(int, int) {}})
	if err != nil || got.Written != 1 || len(got.Failed) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if r := b.row(t, moved); r.KeyRef != newRef || r.Location.RootKeyID != "another" {
		t.Errorf("%s at %+v, want %s", r.KeyRef, r.Location, newRef)
	}
	if _, err := b.objects.Get(t.Context(), b.one.ID, revoked); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("the one that was revoked has a row: %v", err)
	}
	for _, f := range got.Failed {
		if f.Object == moved || f.Reason == "" {
			t.Errorf("%+v", f)
		}
	}
}

// Each write fails before or after it took effect, and the next time completes
// it; a key manager that throttles costs time alone.
func TestRebuildFails(t *testing.T) {
	for _, after := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench()
			for range 5 {
				b.create(t)
			}
			b.objects.Lose()
			calls := 0
			b.keys.Fail = func(_ string, done bool) error {
				if calls++; !done && calls%3 == 0 {
					return engine.ErrUnavailable
				}
				return nil
			}
			writes := 0
			b.objects.Fail = func(method string, done bool) error {
				if method != "Create" || done != after {
					return nil
				}
				if writes++; writes%2 == 1 {
					return engine.ErrUnavailable
				}
				return nil
			}
			first := b.rebuild(t, b.one, false, engine.Rebuilt{Written: 2, Failed: make([]engine.NotRebuilt, 3)})
			b.objects.Fail = nil
			want := engine.Rebuilt{Recorded: 2, Written: 3}
			if after {
				want = engine.Rebuilt{Recorded: 5}
			}
			b.rebuild(t, b.one, false, want)
			if len(first.Failed) > 0 && first.Failed[0].Reason == "" {
				t.Errorf("%+v", first)
			}
			if c, found := b.compare(t, b.one, true); len(found) > 0 || c.Rows != 5 {
				t.Errorf("%+v", c)
			}
		})
	}
}

// A key manager that goes away ends it soon, and the next time goes on.
func TestRebuildGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		const keys = 100
		for range keys {
			b.create(t)
		}
		b.objects.Lose()
		b.keys.Fail = func(method string, _ bool) error {
			if method == "Unwrap" {
				return engine.ErrUnavailable
			}
			return nil
		}
		how := engine.Rebuilding{Progress: func(int, int) {}}
		got, err := engine.Rebuild(t.Context(), b.one, b.objects, b.keys.KeyManagers, how)
		if !errors.Is(err, engine.ErrUnavailable) || got.Written != 0 || len(got.Failed) > 20 {
			t.Errorf("%d written, %d failed, %v", got.Written, len(got.Failed), err)
		}
		b.keys.Fail = nil
		b.rebuild(t, b.one, false, engine.Rebuilt{Written: keys})
	})
}
