package engine

import (
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// The limits of what an engine remembers, of all tenants together, and of what
// it asks for tenants.
const (
	maxRows      = 50_000 // about 1 KiB each
	maxEnvelopes = 50_000 // about 2 KiB each
	maxMisses    = 50_000
	maxLimiters  = 10_000

	// missedFor is how long an identifier that neither ledger nor key manager
	// knows is answered without asking again.
	missedFor = 30 * time.Second
	// findRate is how often a tenant's key manager is asked in vain for objects
	// without rows, by the second.
	findRate  = 10
	findBurst = 100
	// awayFor is how long the ledger is not asked after it has not answered.
	awayFor = 2 * time.Second
)

// memory is what an engine has seen, for the time when the ledger is away and
// to ask the key manager less. It holds no key material: envelopes hold it
// wrapped. Safe for concurrent use.
type memory struct {
	rows      *otter.Cache[row, Record]
	envelopes *otter.Cache[subject, Envelope]
	misses    *otter.Cache[row, time.Time] // when it was missed
	finds     *otter.Cache[tenant.ID, *rate.Limiter]
}

// row names an object's row.
type row struct {
	tenant tenant.ID
	object kmip.ObjectID
}

func newMemory() *memory {
	return &memory{
		rows:      otter.Must(&otter.Options[row, Record]{MaximumSize: maxRows}),
		envelopes: otter.Must(&otter.Options[subject, Envelope]{MaximumSize: maxEnvelopes}),
		misses:    otter.Must(&otter.Options[row, time.Time]{MaximumSize: maxMisses}),
		finds:     otter.Must(&otter.Options[tenant.ID, *rate.Limiter]{MaximumSize: maxLimiters}),
	}
}

// mayFind reports whether a tenant may ask its key manager for another object
// without a row. Objects that are there cost nothing: hosts that boot together
// ask for many at once.
func (m *memory) mayFind(t tenant.ID, now time.Time) bool { return m.limiter(t).TokensAt(now) >= 1 }

// missed notes that neither ledger nor key manager knows an object.
func (m *memory) missed(r row, now time.Time) {
	m.limiter(r.tenant).AllowN(now, 1)
	m.misses.Set(r, now)
}

func (m *memory) limiter(t tenant.ID) *rate.Limiter {
	limiter, _ := m.finds.ComputeIfAbsent(t, func() (*rate.Limiter, bool) { return rate.NewLimiter(findRate, findBurst), false })
	return limiter
}
