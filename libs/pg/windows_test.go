package pg

import (
	"errors"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Windows become part of their own tenant's configuration, each with a revision,
// and another account can't open one.
func TestWindows(t *testing.T) {
	f := newFeed(t)
	mine, theirs := newInstance(t, f.instances, account, "mine"), newInstance(t, f.instances, stranger, "theirs")
	held := func() (mineNow, theirsNow *tenant.Tenant, revision int64) {
		t.Helper()
		s, quarantined := f.snapshot(t)
		if len(quarantined) != 0 {
			t.Fatalf("quarantined: %v", quarantined)
		}
		return s.Tenant(mine.ID), s.Tenant(theirs.ID), s.Revision().Number
	}
	_, _, before := held()
	for n, step := range []struct {
		to           Settings
		cache, grace time.Duration
	}{
		{Settings{Cache: new(time.Minute)}, time.Minute, 0},
		{Settings{OutageGrace: new(24 * time.Hour)}, time.Minute, 24 * time.Hour},
		{Settings{Name: new("other")}, time.Minute, 24 * time.Hour},
		{Settings{Cache: new(time.Duration(0)), OutageGrace: new(time.Second)}, 0, time.Second},
	} {
		changed, err := f.instances.Update(t.Context(), account, mine.ID, step.to, nil)
		if err != nil || changed.Cache != step.cache || changed.OutageGrace != step.grace {
			t.Fatal(changed, err)
		}
		got, other, revision := held()
		if got.Cache != step.cache || got.OutageGrace != step.grace || other.Cache+other.OutageGrace != 0 || revision != before+int64(n)+1 {
			t.Errorf("%+v, and the other tenant's %+v at revision %d, before %d", got, other, revision, before)
		}
	}
	if _, err := f.instances.Update(t.Context(), stranger, mine.ID, Settings{Cache: new(time.Minute)}, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("another account's change: %v", err)
	}
}
