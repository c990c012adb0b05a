package node

import (
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
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

	handshakeTimeout = 20 * time.Second // of thousands that connect at once the last wait for the others' signatures
	idleTimeout      = 30 * time.Second // between requests
	frameTimeout     = 10 * time.Second // from a request's first byte to its last
	requestTimeout   = 30 * time.Second
	writeTimeout     = 10 * time.Second
	lingerTimeout    = time.Second // for the client to read our last words
	drainTimeout     = 10 * time.Second

	defaultAgeLimit = 72 * time.Hour // of a configuration that can't be confirmed

	// Hosts that boot read, and nothing is retried as surely as a Create: reads
	// and changes of a tenant wait in lines of their own.
	tenantReads         = 64  // of one tenant, carried out at once
	tenantReadsQueued   = 256 // of one tenant, waiting for their turn
	tenantChanges       = 16  // a quarter: each makes two or three calls of the key manager
	tenantChangesQueued = 64
	// nodeChanges bounds the changes of all tenants that are carried out at
	// once: 32 tenants may have as many as they can. Beyond it they are turned
	// away, so that reads have the ledger's connections and the processor.
	nodeChanges = 32 * tenantChanges

	// Events on their way to PostgreSQL.
	maxEvents    = 10_000 // that wait, of all tenants
	streamEvents = 1_000  // the same, of one tenant's reads, and of its changes
	eventBatch   = 500    // stored at once
	eventPause   = time.Second
	eventTimeout = 5 * time.Second // of one batch, and of all that is left at the end
)

// What requests are answered that are not carried out.
var (
	errReadsQueued   = fault.Newf(fault.Throttled, "More than %d requests of this instance wait; try again later.", tenantReadsQueued)
	errChangesQueued = fault.Newf(fault.Throttled, "More than %d changes of this instance wait; try again later, or make fewer at once.", tenantChangesQueued)
	errNodeChanges   = fault.New(fault.Throttled, "This server makes no more changes at once; try again in a few seconds. Keys can be read.")
	errNoTurn        = fault.New(fault.Throttled, "The request waited too long for its turn; try again later, or send fewer at once.")
)

// turns lets each tenant carry out a bounded number of requests at once, in the
// order in which they came, so that one tenant's flood takes nothing from the
// others, and no flood of changes anything from reads.
type turns struct {
	mu      sync.Mutex
	lines   map[line]*turn
	changes int // carried out, of all tenants
}

// line is where a tenant's requests wait: reads, or changes.
type line struct {
	tenant  tenant.ID
	changes bool
}

type turn struct {
	slots chan struct{} // one element for each request that is carried out; who waits for room gets it in order
	users int           // requests that are carried out or wait
}

// take waits for a turn until done is closed. Without an error call what it
// returns when the request is over.
func (t *turns) take(l line, done <-chan struct{}) (finish func(), err error) {
	atOnce, queued, full := tenantReads, tenantReadsQueued, errReadsQueued
	if l.changes {
		atOnce, queued, full = tenantChanges, tenantChangesQueued, errChangesQueued
	}
	t.mu.Lock()
	mine := t.lines[l]
	if mine == nil {
		mine = &turn{slots: make(chan struct{}, atOnce)}
		t.lines[l] = mine
	}
	if mine.users >= atOnce+queued {
		t.mu.Unlock()
		return nil, full
	}
	mine.users++
	t.mu.Unlock()

	select {
	case mine.slots <- struct{}{}:
	default:
		select {
		case mine.slots <- struct{}{}:
		case <-done:
			t.leave(l, mine)
			return nil, errNoTurn
		}
	}
	if l.changes && !t.admitChange() {
		<-mine.slots
		t.leave(l, mine)
		return nil, errNodeChanges
	}
	return func() {
		if l.changes {
			t.endChange()
		}
		<-mine.slots
		t.leave(l, mine)
	}, nil
}

// admitChange counts a change that is carried out, unless there are too many.
func (t *turns) admitChange() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changes >= nodeChanges {
		return false
	}
	t.changes++
	return true
}

func (t *turns) endChange() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changes--
}

func (t *turns) leave(l line, mine *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if mine.users--; mine.users == 0 {
		delete(t.lines, l)
	}
}
