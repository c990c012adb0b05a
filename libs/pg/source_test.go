package pg

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// patience is how long a test waits for what should happen at once.
const patience = 10 * time.Second

// feed is a cell's database with a control plane and a source.
type feed struct {
	database  string
	instances *Instances
	source    *Source
}

func newFeed(t *testing.T) feed {
	t.Helper()
	database := pgtest.Database(t)
	return feed{database, NewInstances(openAs(t, database, "kmip_control")), NewSource(openAs(t, database, "kmip_node"))}
}

func (f feed) snapshot(t *testing.T) (*tenant.Snapshot, []tenant.Quarantined) {
	t.Helper()
	s, quarantined, err := f.source.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s, quarantined
}

// watch runs Watch until the test ends, or until it returns by itself.
func (f feed) watch(t *testing.T, after tenant.Revision) (deltas <-chan tenant.Delta, ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, done := make(chan tenant.Delta, 100), make(chan error, 1)
	go func() {
		done <- f.source.Watch(ctx, after, func(d tenant.Delta) error {
			if d.After != d.To { // else it only says that nothing is newer
				out <- d
			}
			return nil
		})
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		for range done { //nolint:revive // until it has ended
		}
	})
	return out, done
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func TestSnapshotHoldsEverything(t *testing.T) {
	f := newFeed(t)
	if s, _ := f.snapshot(t); s.Len() != 0 || s.Revision() != (tenant.Revision{}) {
		t.Errorf("a new cell has %d tenants at %+v", s.Len(), s.Revision())
	}
	i := newInstance(t, f.instances, account, "one")
	first, second := addCertificate(t, f.instances, i, newCertificate("a")), addCertificate(t, f.instances, i, newCertificate("b"))
	k := newKeyManager()
	if _, err := f.instances.SetKeyManager(t.Context(), account, i.ID, k, nil); err != nil {
		t.Fatal(err)
	}
	gone := newInstance(t, f.instances, account, "gone")
	if _, err := f.instances.Delete(t.Context(), account, gone.ID, nil); err != nil {
		t.Fatal(err)
	}
	run(t, superuser(t, f.database), "INSERT INTO endpoints VALUES ('b.example.com', $1, 6001), ('a.example.com', $1, NULL)", string(i.ID))

	s, quarantined := f.snapshot(t)
	if s.Len() != 1 || len(quarantined) != 0 || s.Revision().Number != 7 || uuid.Validate(s.Revision().ID) != nil {
		t.Errorf("%d tenants, %v, revision %+v", s.Len(), quarantined, s.Revision())
	}
	got := *s.Tenant(i.ID)
	for n := range got.Clients {
		got.Clients[n].NotAfter = got.Clients[n].NotAfter.UTC()
	}
	want := tenant.Tenant{
		ID: i.ID, Account: account, Name: "one", Shared: true,
		Names: []string{"a.example.com", "b.example.com"}, Ports: []uint16{6001},
		Clients: []tenant.Client{
			{ID: first.ID, Name: "a", Fingerprint: first.Fingerprint, NotAfter: first.NotAfter.UTC()},
			{ID: second.ID, Name: "b", Fingerprint: second.Fingerprint, NotAfter: second.NotAfter.UTC()},
		},
		KeyManager: &k,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// A document of another version quarantines its tenant and nobody else.
func TestUnreadableTenantIsQuarantined(t *testing.T) {
	f := newFeed(t)
	fine := newInstance(t, f.instances, account, "fine")
	at, _ := f.snapshot(t)
	newer := map[string]tenant.ID{}
	for _, name := range []string{"format", "field", "nested"} {
		newer[name] = newInstance(t, f.instances, account, name).ID
	}
	// What a later migration's function may return.
	run(t, superuser(t, f.database), `
		ALTER FUNCTION configuration_since(bigint) RENAME TO original;
		CREATE FUNCTION configuration_since(after bigint) RETURNS TABLE (instance_id uuid, deleted boolean, document jsonb)
		LANGUAGE sql SECURITY DEFINER AS $$
			SELECT instance_id, deleted, document || CASE document->>'name'
				WHEN 'format' THEN '{"format": 2}'
				WHEN 'field' THEN '{"window_seconds": 3}'
				WHEN 'nested' THEN '{"clients": [{"id": "x", "fingerprint": "AAAA"}]}'
				ELSE '{}' END::jsonb
			FROM original(after) $$`)
	s, quarantined := f.snapshot(t)
	if s.Len() != 1 || s.Tenant(fine.ID) == nil || len(quarantined) != 3 {
		t.Errorf("%d tenants served, quarantined %v", s.Len(), quarantined)
	}
	deltas, _ := f.watch(t, at.Revision())
	d := receive(t, deltas)
	if len(d.Unreadable) != 3 || len(d.Changed) != 0 || d.To != s.Revision() {
		t.Errorf("delta %+v", d)
	}
	for _, q := range d.Unreadable {
		if q.ID == newer["format"] && !strings.Contains(q.Reason, "format 2") {
			t.Errorf("the reason does not name the format: %s", q.Reason)
		}
	}
}

// Deltas lead from any earlier snapshot to the newest one.
func TestWatchLeadsToTheNewestState(t *testing.T) {
	for name, only := range map[string]func(*testing.T, feed){
		"by notification alone": func(_ *testing.T, f feed) { f.source.poll = time.Hour },
		"by polling alone": func(t *testing.T, f feed) {
			t.Helper()
			run(t, superuser(t, f.database), `CREATE OR REPLACE FUNCTION configuration_changed(changed uuid) RETURNS bigint
				LANGUAGE sql SECURITY DEFINER AS $$
				WITH taken AS (UPDATE cell SET revision = revision + 1, revision_id = gen_random_uuid() RETURNING *)
				INSERT INTO configuration_changes SELECT revision, revision_id, changed FROM taken RETURNING revision $$`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFeed(t)
			only(t, f)
			s, _ := f.snapshot(t)
			deltas, _ := f.watch(t, s.Revision())
			i := newInstance(t, f.instances, account, "one")
			follow := func(done func(*tenant.Snapshot) bool) {
				t.Helper()
				for !done(s) {
					d := receive(t, deltas)
					var err error
					if s, _, err = s.Apply(d); err != nil {
						t.Fatal(err)
					}
				}
			}
			follow(func(s *tenant.Snapshot) bool { return s.Tenant(i.ID) != nil })
			c := addCertificate(t, f.instances, i, newCertificate("vc"))
			follow(func(s *tenant.Snapshot) bool { return len(s.Tenant(i.ID).Clients) == 1 })
			if err := f.instances.DeleteCertificate(t.Context(), account, i.ID, c.ID); err != nil {
				t.Fatal(err)
			}
			follow(func(s *tenant.Snapshot) bool { return len(s.Tenant(i.ID).Clients) == 0 })
			if _, err := f.instances.Delete(t.Context(), account, i.ID, nil); err != nil {
				t.Fatal(err)
			}
			follow(func(s *tenant.Snapshot) bool { return s.Len() == 0 })
			if newest, _ := f.snapshot(t); s.Revision() != newest.Revision() {
				t.Errorf("arrived at %+v, the newest is %+v", s.Revision(), newest.Revision())
			}
		})
	}
}

// Concurrent changes take numbers without gap, and no watcher misses one.
func TestConcurrentChangesTakeRevisionsInCommitOrder(t *testing.T) {
	f := newFeed(t)
	s, _ := f.snapshot(t)
	deltas, _ := f.watch(t, s.Revision())
	const writers, each = 6, 5
	errs := make(chan error, writers)
	for w := range writers {
		go func() {
			var err error
			for n := range each {
				i := Instance{ID: tenant.ID(uuid.NewString()), Account: account, Name: string(rune('a'+w)) + string(rune('0'+n)), Status: Inactive, Shared: true}
				_, createErr := f.instances.Create(t.Context(), i)
				err = errors.Join(err, createErr)
			}
			errs <- err
		}()
	}
	for range writers {
		if err := receive(t, errs); err != nil {
			t.Error(err)
		}
	}
	for s.Revision().Number < writers*each {
		var err error
		if s, _, err = s.Apply(receive(t, deltas)); err != nil {
			t.Fatal(err)
		}
	}
	if s.Len() != writers*each {
		t.Errorf("the watcher knows %d tenants, want %d", s.Len(), writers*each)
	}
}

func TestWatchSurvivesLostConnections(t *testing.T) {
	f := newFeed(t)
	s, _ := f.snapshot(t)
	deltas, ended := f.watch(t, s.Revision())
	admin := superuser(t, f.database)
	for _, name := range []string{"one", "two", "three"} {
		cut(t, admin)
		newInstance(t, f.instances, account, name)
		if d := receive(t, deltas); len(d.Changed) != 1 || d.Changed[0].Name != name {
			t.Errorf("after a cut: %+v", d)
		}
	}
	select {
	case err := <-ended:
		t.Errorf("Watch returned: %v", err)
	default:
	}
}

// After a restore the database may have fewer revisions, or others under the
// same numbers.
func TestWatchNoticesARestoredDatabase(t *testing.T) {
	f := newFeed(t)
	i := newInstance(t, f.instances, account, "one")
	s, _ := f.snapshot(t)
	other := tenant.Revision{Number: s.Revision().Number, ID: uuid.NewString()}
	ahead := tenant.Revision{Number: s.Revision().Number + 5, ID: uuid.NewString()}
	for name, after := range map[string]tenant.Revision{"another id": other, "a number ahead": ahead} {
		t.Run(name, func(t *testing.T) {
			_, ended := f.watch(t, after)
			if err := receive(t, ended); !errors.Is(err, tenant.ErrTooOld) {
				t.Errorf("Watch: %v, want ErrTooOld", err)
			}
		})
	}
	t.Run("while watching", func(t *testing.T) {
		deltas, ended := f.watch(t, tenant.Revision{})
		if d := receive(t, deltas); d.To != s.Revision() || len(d.Changed) != 1 || d.Changed[0].ID != i.ID {
			t.Fatalf("from nothing: %+v", d)
		}
		run(t, superuser(t, f.database), `
			DELETE FROM configuration_changes; UPDATE cell SET revision = 0, revision_id = NULL;
			SELECT configuration_changed(gen_random_uuid())`)
		if err := receive(t, ended); !errors.Is(err, tenant.ErrTooOld) {
			t.Errorf("Watch: %v, want ErrTooOld", err)
		}
	})
}

func TestWatchEndsWithApplyAndContext(t *testing.T) {
	f := newFeed(t)
	newInstance(t, f.instances, account, "one")
	refused := errors.New("refused")
	if err := f.source.Watch(t.Context(), tenant.Revision{}, func(tenant.Delta) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("Watch: %v, want apply's error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := f.source.Watch(ctx, tenant.Revision{}, func(tenant.Delta) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Watch: %v, want context.Canceled", err)
	}
}
