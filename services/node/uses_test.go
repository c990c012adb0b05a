package node

import (
	"slices"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// A tenant's uses are news at first, when they go another way than before, and
// once a minute; what could not be reported is news again.
func TestUses(t *testing.T) {
	u := &uses{tenants: make(map[tenant.ID]*use)}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	take := func(when string, served, denied []tenant.ID) {
		t.Helper()
		s, d := u.take(now)
		slices.Sort(s)
		if !slices.Equal(s, served) || !slices.Equal(d, denied) {
			t.Errorf("%s: served %v, denied %v; want %v, %v", when, s, d, served, denied)
		}
	}
	u.note("a", "unwrap", nil)
	u.note("b", "wrap", nil)
	u.note("c", "unwrap", engine.ErrUnavailable)
	u.note("d", "load", nil)
	take("at first", []tenant.ID{"a", "b"}, nil)
	u.note("a", "unwrap", nil)
	take("right after", nil, nil)
	u.note("b", "load", engine.ErrDenied)
	take("denied", nil, []tenant.ID{"b"})
	u.again("b")
	take("denied, not reported", nil, []tenant.ID{"b"})
	u.note("b", "unwrap", nil)
	take("healed", []tenant.ID{"b"}, nil)
	now = now.Add(toldFor)
	take("a minute later", []tenant.ID{"a"}, nil)
	now = now.Add(toldFor)
	take("when all is quiet", nil, nil)
	if len(u.tenants) != 0 {
		t.Errorf("%d tenants are remembered", len(u.tenants))
	}
}
