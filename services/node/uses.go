package node

import (
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// toldFor is how long a report of a tenant's use of its key manager stands for
// later uses that went the same way.
const toldFor = time.Minute

// uses notes whose key managers served this node, and whose denied it
// something, for the control plane: it need not check the former, and checks
// the latter soon.
type uses struct {
	mu      sync.Mutex
	tenants map[tenant.ID]*use
}

type use struct {
	denied, fresh bool // how the latest went; whether there was one since it was taken
	told          time.Time
	toldDenied    bool
}

// note takes down how a wrap or unwrap went, or that any call was denied.
func (u *uses) note(id tenant.ID, action string, err error) {
	denied := fault.KindOf(err) == fault.Denied
	if !denied && (err != nil || action != "wrap" && action != "unwrap") {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	seen := u.tenants[id]
	if seen == nil {
		seen = new(use)
		u.tenants[id] = seen
	}
	seen.denied, seen.fresh = denied, true
}

// take returns what is news at a time, and forgets tenants that are quiet.
func (u *uses) take(now time.Time) (served, denied []tenant.ID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, seen := range u.tenants {
		told := now.Sub(seen.told) < toldFor
		switch {
		case !seen.fresh && !told:
			delete(u.tenants, id)
			continue
		case !seen.fresh, told && seen.denied == seen.toldDenied:
			continue
		case seen.denied:
			denied = append(denied, id)
		default:
			served = append(served, id)
		}
		seen.fresh, seen.told, seen.toldDenied = false, now, seen.denied
	}
	return served, denied
}

// again makes what was taken news once more: it was not reported.
func (u *uses) again(taken ...tenant.ID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, id := range taken {
		if seen := u.tenants[id]; seen != nil {
			seen.fresh, seen.told = true, time.Time{}
		}
	}
}
