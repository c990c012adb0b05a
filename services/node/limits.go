package node

import (
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// The node's limits in one place.
const (
	maxConnections    = 10_000 // open at once, of all sources and tenants
	tenantConnections = 1_000  // of one tenant
	maxRequest        = message.MaxFrame

	// Until a certificate is admitted, only the source is charged. vCenter
	// opens nine connections in 0.6 s when trust is missing, and vSAN hosts may
	// share one address; who is faster than this waits, and who would have to
	// wait too long is turned away.
	sourceRate  = 30 // new connections a second
	sourceBurst = 60
	sourceWait  = 3 * time.Second
	sourceDoor  = 128    // connections that are not admitted yet
	maxDoor     = 4_096  // the same, of all sources
	maxSources  = 10_000 // sources remembered

	handshakeTimeout = 10 * time.Second
	idleTimeout      = 30 * time.Second // between requests
	frameTimeout     = 10 * time.Second // from a request's first byte to its last
	requestTimeout   = 30 * time.Second
	writeTimeout     = 10 * time.Second
	lingerTimeout    = time.Second // for the client to read our last words
	drainTimeout     = 10 * time.Second

	defaultAgeLimit = 72 * time.Hour // of a configuration that can't be confirmed

	tenantRequests = 64  // of one tenant, carried out at once
	tenantQueue    = 256 // of one tenant, waiting for their turn
)

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
