package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// script is a tenant.Source whose every call is a step of a test.
type script struct {
	snapshots []func() (*tenant.Snapshot, []tenant.Quarantined, error)
	watches   []func(apply func(tenant.Delta) error) error
}

func (s *script) Snapshot(ctx context.Context) (*tenant.Snapshot, []tenant.Quarantined, error) {
	if len(s.snapshots) == 0 {
		<-ctx.Done()
		return nil, nil, ctx.Err()
	}
	next := s.snapshots[0]
	s.snapshots = s.snapshots[1:]
	return next()
}

func (s *script) Watch(ctx context.Context, _ tenant.Revision, apply func(tenant.Delta) error) error {
	if len(s.watches) == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	next := s.watches[0]
	s.watches = s.watches[1:]
	return next(apply)
}

func at(number int64, tenants ...tenant.Tenant) func() (*tenant.Snapshot, []tenant.Quarantined, error) {
	return func() (*tenant.Snapshot, []tenant.Quarantined, error) {
		s, quarantined := tenant.NewSnapshot(tenant.Revision{Number: number}, tenants)
		return s, quarantined, nil
	}
}

func failing() (*tenant.Snapshot, []tenant.Quarantined, error) {
	return nil, nil, errors.New("the database does not answer")
}

// follow runs a configuration over a script until nothing more happens. It
// returns what was logged and the revisions that were in force.
func follow(t *testing.T, s *script) (metrics map[string]string, logged string, inForce []int64) {
	t.Helper()
	return followFrom(t, s, nil)
}

// followFrom is follow with a copy on the disk.
func followFrom(t *testing.T, s *script, disk *diskCopy) (metrics map[string]string, logged string, inForce []int64) {
	t.Helper()
	var log bytes.Buffer
	registry := obs.NewRegistry()
	c := &configuration{source: s, disk: disk, ageLimit: time.Hour, now: time.Now, log: slog.New(slog.NewTextHandler(&log, nil)), metrics: newMetrics(registry)}
	c.replaced = func() { inForce = append(inForce, c.current.Load().Revision().Number) }
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { c.follow(ctx); close(ended) }()
		<-time.After(time.Minute)
		stop()
		<-ended
	})
	return scrape(t, registry), log.String(), inForce
}

func wantRevisions(t *testing.T, got []int64, want ...int64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("revisions in force: %v, want %v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("revisions in force: %v, want %v", got, want)
		}
	}
}

func TestConfigurationWaitsForTheDatabase(t *testing.T) {
	metrics, _, revisions := follow(t, &script{snapshots: []func() (*tenant.Snapshot, []tenant.Quarantined, error){failing, failing, failing, at(7)}})
	wantRevisions(t, revisions, 7)
	if n := metrics["kmip_configuration_revision"]; n != "7" {
		t.Errorf("the metric says revision %q", n)
	}
}

// A node that starts serves what its disk holds only when the database fails or
// has not answered for a second: the copy may admit what was removed since.
func TestDatabaseGoesBeforeTheDisk(t *testing.T) {
	type answers = []func() (*tenant.Snapshot, []tenant.Quarantined, error)
	for name, c := range map[string]struct {
		database answers
		want     []int64
	}{
		"it answers": {answers{at(9)}, []int64{9}},
		"it fails":   {answers{failing, failing, at(9)}, []int64{3, 9}},
		"it hangs":   {nil, []int64{3}},
	} {
		t.Run(name, func(t *testing.T) {
			disk := newCopy(t)
			held, _ := tenant.NewSnapshot(tenant.Revision{Number: 3}, nil)
			if err := disk.replace(held, time.Now()); err != nil {
				t.Fatal(err)
			}
			_, _, revisions := followFrom(t, &script{snapshots: c.database}, disk)
			wantRevisions(t, revisions, c.want...)
		})
	}
}

func TestConfigurationStartsAgain(t *testing.T) {
	for name, watch := range map[string]func(apply func(tenant.Delta) error) error{
		"the history is another one": func(func(tenant.Delta) error) error { return tenant.ErrTooOld },
		"a change is missing": func(apply func(tenant.Delta) error) error {
			return apply(tenant.Delta{After: tenant.Revision{Number: 8}, To: tenant.Revision{Number: 9}})
		},
		"the feed breaks off": func(func(tenant.Delta) error) error { return errors.New("broken") },
	} {
		t.Run(name, func(t *testing.T) {
			_, _, revisions := follow(t, &script{
				snapshots: []func() (*tenant.Snapshot, []tenant.Quarantined, error){at(7), failing, at(3)},
				watches:   []func(func(tenant.Delta) error) error{watch},
			})
			wantRevisions(t, revisions, 7, 3)
		})
	}
}

// TestQuarantineIsToldOnce applies changes while a tenant is in conflict.
func TestQuarantineIsToldOnce(t *testing.T) {
	one, two := tenant.Tenant{ID: "one", Names: []string{"a"}}, tenant.Tenant{ID: "two", Names: []string{"a"}}
	step := func(n int64) tenant.Delta {
		return tenant.Delta{After: tenant.Revision{Number: n}, To: tenant.Revision{Number: n + 1}}
	}
	metrics, log, revisions := follow(t, &script{
		snapshots: []func() (*tenant.Snapshot, []tenant.Quarantined, error){at(1, one, two)},
		watches: []func(func(tenant.Delta) error) error{func(apply func(tenant.Delta) error) error {
			return errors.Join(apply(step(1)), apply(step(2)), tenant.ErrTooOld)
		}},
	})
	wantRevisions(t, revisions, 1, 2, 3)
	if n := strings.Count(log, "tenant=two"); n != 1 {
		t.Errorf("the quarantined tenant was logged %d times:\n%s", n, log)
	}
	if n := metrics["kmip_configuration_quarantined_tenants"]; n != "1" {
		t.Errorf("%q tenants are counted as quarantined", n)
	}
}

// TestGoneTenantHasNoMetrics deletes a tenant that was served.
func TestGoneTenantHasNoMetrics(t *testing.T) {
	s := &script{snapshots: []func() (*tenant.Snapshot, []tenant.Quarantined, error){at(1, tenant.Tenant{ID: "one"})}}
	registry := obs.NewRegistry()
	m := newMetrics(registry)
	c := &configuration{source: s, ageLimit: time.Hour, now: time.Now, log: slog.New(slog.DiscardHandler), metrics: m, replaced: func() {}}
	m.items.WithLabelValues("one", "Get", "success").Inc()
	m.keyManager.WithLabelValues("one", "load", "success").Inc()
	m.items.WithLabelValues("two", "Get", "success").Inc()
	s.watches = append(s.watches, func(apply func(tenant.Delta) error) error {
		return errors.Join(apply(tenant.Delta{After: tenant.Revision{Number: 1}, To: tenant.Revision{Number: 2}, Removed: []tenant.ID{"one"}}), tenant.ErrTooOld)
	})
	if err := c.read(t.Context(), false); !errors.Is(err, tenant.ErrTooOld) {
		t.Fatal(err)
	}
	for name := range scrape(t, registry) {
		if strings.Contains(name, `tenant="one"`) {
			t.Errorf("%s is left", name)
		}
	}
}
