package node

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// The node's limits in one place.
const (
	maxConnections = 10_000 // open at once, of all sources
	maxRequest     = 256 << 10

	// vCenter opens nine connections in 0.6 s when trust is missing and vSAN
	// hosts share a balancer's address; both stay below this.
	sourceRate  = 30 // new connections a second from one address
	sourceBurst = 60
	maxSources  = 10_000 // addresses remembered

	handshakeTimeout = 10 * time.Second
	idleTimeout      = 30 * time.Second // between requests
	frameTimeout     = 10 * time.Second // from a request's first byte to its last
	requestTimeout   = 30 * time.Second
	writeTimeout     = 10 * time.Second
	drainTimeout     = 10 * time.Second

	tenantRequests = 64  // of one tenant, carried out at once
	tenantQueue    = 256 // of one tenant, waiting for their turn
)

// sources limits how fast one address may open connections. Nobody is banned:
// the allowance comes back within two seconds.
type sources struct {
	mu   sync.Mutex
	seen map[netip.Addr]*rate.Limiter
}

// allow charges a source with one connection.
func (s *sources) allow(a netip.Addr, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.seen[a]
	if l == nil {
		if len(s.seen) >= maxSources {
			// Those whose allowance is whole again need no memory.
			for addr, l := range s.seen {
				if l.TokensAt(now) >= sourceBurst {
					delete(s.seen, addr)
				}
			}
			if len(s.seen) >= maxSources {
				return false
			}
		}
		l = rate.NewLimiter(sourceRate, sourceBurst)
		s.seen[a] = l
	}
	return l.AllowN(now, 1)
}

// turns lets each tenant carry out a bounded number of requests at once, so
// that one tenant's flood takes nothing from the others.
type turns struct {
	mu      sync.Mutex
	tenants map[tenant.ID]*turn
}

type turn struct {
	slots chan struct{} // one element for each request that is carried out
	users int           // requests that are carried out or wait
}

// take waits for a turn until done is closed. It returns nil without a turn:
// the tenant's queue is full, or the wait was too long. Call what it returns
// when the request is over.
func (t *turns) take(id tenant.ID, done <-chan struct{}) func() {
	t.mu.Lock()
	mine := t.tenants[id]
	if mine == nil {
		mine = &turn{slots: make(chan struct{}, tenantRequests)}
		t.tenants[id] = mine
	}
	if mine.users >= tenantRequests+tenantQueue {
		t.mu.Unlock()
		return nil
	}
	mine.users++
	t.mu.Unlock()

	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if mine.users--; mine.users == 0 {
			delete(t.tenants, id)
		}
	}
	finish := func() { <-mine.slots; leave() }
	select {
	case mine.slots <- struct{}{}:
		return finish
	default:
	}
	select {
	case mine.slots <- struct{}{}:
		return finish
	case <-done:
		leave()
		return nil
	}
}
