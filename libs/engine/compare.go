package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// The limits of comparing and rebuilding in one place.
const (
	// MaxFindings is how many findings of each kind a Comparison holds.
	MaxFindings = 100
	// sampled is how many envelopes a comparison loads that is not thorough:
	// each is a call to the key manager.
	sampled = 200
	// abreast is how many calls to a tenant's key manager are under way at once.
	abreast = 4
	// patience is the longest pause between two tries while a key manager is
	// busy or away; the first is a second, each is twice the one before.
	patience = 32 * time.Second
	// givenUp is after how many objects in a row that key manager or ledger did
	// not answer for Rebuild ends.
	givenUp = 2 * abreast
)

// Ledger is Objects for work on all of a tenant's rows. Every implementation
// passes enginetest.Ledgers.
type Ledger interface {
	Objects
	// ListRows returns a page of the tenant's rows, of every phase, in the order
	// in which they were made, after a place; 0 is before the first. It is empty
	// when there are no more.
	ListRows(ctx context.Context, t tenant.ID, after int64) ([]Row, error)
	// RecordedElsewhere returns those of the identifiers of which other tenants
	// have rows.
	RecordedElsewhere(ctx context.Context, t tenant.ID, ids []kmip.ObjectID) ([]kmip.ObjectID, error)
}

// Row is a record with its place in the order of rows.
type Row struct {
	Record
	Place int64
	// Overdue: it is pending or destroying for so long that a job finishes it.
	Overdue bool
}

// FindingKind tells how ledger and key manager disagree about an object.
type FindingKind string

// The kinds of findings.
const (
	KeyMissing FindingKind = "key_missing" // a live row's standard key is deleted, or was never there
	Mismatched FindingKind = "mismatched"  // a live row's standard key holds another key or none, or is in no key manager of the tenant
	Unrecorded FindingKind = "unrecorded"  // a standard key holds a key of the tenant, and has no row
	Duplicate  FindingKind = "duplicate"   // a standard key that no row names, beside the one of its object; a move leaves such
)

// FindingKinds are all kinds, the worst first.
var FindingKinds = []FindingKind{Mismatched, KeyMissing, Unrecorded, Duplicate}

// Finding is one object about which ledger and key manager disagree.
type Finding struct {
	Kind       FindingKind   `json:"kind"`
	Object     kmip.ObjectID `json:"unique_identifier"`
	KeyRef     KeyRef        `json:"standard_key"`
	Restorable bool          `json:"restorable,omitempty"` // the standard key is deleted; it can be restored for 30 days
}

// Comparison is what comparing a tenant's ledger with its key manager has found.
type Comparison struct {
	Rows         int                 `json:"rows"`          // live ones
	StandardKeys int                 `json:"standard_keys"` // not deleted, named after objects of whatever tenant
	Loaded       int                 `json:"loaded"`        // envelopes that were looked into
	Unchecked    int                 `json:"unchecked"`     // envelopes that a thorough comparison would look into besides
	Pending      int                 `json:"pending"`       // rows that a job has to finish
	Destroying   int                 `json:"destroying"`
	Counts       map[FindingKind]int `json:"counts"`
	Findings     []Finding           `json:"findings"` // up to MaxFindings of each kind
}

// Wrong is how many findings there are but duplicates, which harm nobody.
func (c Comparison) Wrong() int {
	n := 0
	for kind, count := range c.Counts {
		if kind != Duplicate {
			n += count
		}
	}
	return n
}

// Compare compares all of a tenant's rows with the lists of its key managers,
// and looks into envelopes: a sample, or all if thorough. It changes nothing.
// Errors are those of the ports; a key manager that is busy is given time.
func Compare(ctx context.Context, t *tenant.Tenant, ledger Ledger, managers KeyManagers, thorough bool) (Comparison, error) {
	// The list first: a key is stored after its row was written.
	held, err := listStored(ctx, t, managers)
	if err != nil {
		return Comparison{}, err
	}
	c := comparing{
		tenant: t.ID, ledger: ledger, places: make(map[string]place), live: make(map[kmip.ObjectID]bool), named: make(map[KeyRef]bool),
		found: Comparison{Counts: make(map[FindingKind]int), Findings: []Finding{}},
	}
	for _, h := range held {
		stored := make(map[KeyRef]StoredKey, len(h.stored))
		for _, k := range h.stored {
			if stored[k.Ref] = k; !k.Deleted {
				c.found.StandardKeys++
			}
		}
		c.places[h.keys.Location().KeyManagerCRN] = place{h.keys, stored}
	}
	if err := eachRow(ctx, t.ID, ledger, func(r Row) error { return c.row(ctx, r) }); err != nil {
		return Comparison{}, err
	}
	for _, h := range held {
		if err := c.strays(ctx, h); err != nil {
			return Comparison{}, err
		}
	}
	if !thorough {
		rand.Shuffle(len(c.checks), func(i, j int) { c.checks[i], c.checks[j] = c.checks[j], c.checks[i] }) //nolint:gosec // a sample, not a secret
		// What the list does not explain comes first.
		slices.SortStableFunc(c.checks, func(a, b check) int { return cmp.Compare(a.doubt, b.doubt) })
		c.found.Unchecked += max(0, len(c.checks)-sampled)
		c.checks = c.checks[:min(len(c.checks), sampled)]
	}
	c.found.Loaded = len(c.checks)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(abreast)
	for _, k := range c.checks {
		g.Go(func() error { return c.look(ctx, k) })
	}
	err = g.Wait()
	return c.found, err
}

// holding is one key manager of a tenant with the standard keys in it, the
// oldest first.
type holding struct {
	keys   KeyManager
	stored []StoredKey
}

// listStored lists what the key managers of a tenant hold, the present one's
// first.
func listStored(ctx context.Context, t *tenant.Tenant, managers KeyManagers) (all []holding, err error) {
	for _, there := range t.KeyManagers() {
		h := holding{}
		if h.keys, err = managers(there); err != nil {
			return nil, err
		}
		if err := patiently(ctx, func() (err error) { h.stored, err = h.keys.List(ctx); return err }); err != nil {
			return nil, err
		}
		all = append(all, h)
	}
	return all, nil
}

// doubt is why an envelope is looked into.
type doubt int

const (
	absent doubt = iota // the list lacks the standard key of a row
	stray               // no row names the standard key
	sound               // nothing is wrong so far
)

// check is an envelope to look into.
type check struct {
	doubt  doubt
	keys   KeyManager
	object kmip.ObjectID
	ref    KeyRef
	// version and digest are those of the row.
	version int64
	digest  []byte
}

// place is a key manager with its standard keys, those deleted included.
type place struct {
	keys   KeyManager
	stored map[KeyRef]StoredKey
}

// comparing is a Compare under way.
type comparing struct {
	tenant tenant.ID
	ledger Ledger
	places map[string]place       // by the key manager's CRN
	live   map[kmip.ObjectID]bool // of all objects that have a row, whether it is live
	named  map[KeyRef]bool        // by a row
	checks []check

	mu    sync.Mutex
	found Comparison
}

// row compares a row with the list.
func (c *comparing) row(ctx context.Context, r Row) error {
	c.live[r.Object.ID], c.named[r.KeyRef] = r.Phase == Live, true
	switch {
	case r.Overdue && r.Phase == Pending:
		c.found.Pending++
	case r.Overdue:
		c.found.Destroying++
	}
	if r.Phase != Live {
		return nil
	}
	c.found.Rows++
	at, known := c.places[r.Location.KeyManagerCRN]
	k := check{doubt: sound, keys: at.keys, object: r.Object.ID, ref: r.KeyRef, version: r.Version, digest: r.Object.Digest}
	switch stored, listed := at.stored[r.KeyRef]; {
	case !known:
		return c.wrong(ctx, Mismatched, k, false)
	case !listed:
		k.doubt = absent
	case stored.Object != r.Object.ID:
		return c.wrong(ctx, Mismatched, k, false)
	case stored.Deleted:
		return c.wrong(ctx, KeyMissing, k, true)
	}
	c.checks = append(c.checks, k)
	return nil
}

// strays finds standard keys that no row of the tenant names.
func (c *comparing) strays(ctx context.Context, h holding) error {
	unknown := make(map[kmip.ObjectID][]StoredKey)
	for _, k := range h.stored {
		switch live, recorded := c.live[k.Object]; {
		case k.Deleted, c.named[k.Ref]:
		case live:
			c.add(Finding{Kind: Duplicate, Object: k.Object, KeyRef: k.Ref})
		case !recorded:
			unknown[k.Object] = append(unknown[k.Object], k)
		}
	}
	if err := withoutOthers(ctx, c.tenant, c.ledger, unknown); err != nil {
		return err
	}
	for _, copies := range unknown {
		for _, k := range copies {
			c.checks = append(c.checks, check{doubt: stray, keys: h.keys, object: k.Object, ref: k.Ref})
		}
	}
	return nil
}

// look looks into an envelope.
func (c *comparing) look(ctx context.Context, k check) error {
	e, err := loadPatiently(ctx, k.keys, k.object, k.ref)
	final := errors.Is(err, ErrGone) || errors.Is(err, ErrCorrupt)
	switch {
	case err != nil && !final:
		return err
	case k.doubt == stray:
		if err == nil && e.Tenant == c.tenant {
			c.add(Finding{Kind: Unrecorded, Object: k.object, KeyRef: k.ref})
		}
		return nil
	case errors.Is(err, ErrGone):
		return c.wrong(ctx, KeyMissing, k, false)
	case err != nil, e.Tenant != c.tenant, !bytes.Equal(e.Object.Digest, k.digest):
		return c.wrong(ctx, Mismatched, k, false)
	}
	return nil
}

// wrong adds a finding about a row, unless the row has changed since it was read.
func (c *comparing) wrong(ctx context.Context, kind FindingKind, k check, restorable bool) error {
	switch r, err := c.ledger.Get(ctx, c.tenant, k.object); {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	case r.Version == k.version:
		c.add(Finding{Kind: kind, Object: k.object, KeyRef: k.ref, Restorable: restorable})
	}
	return nil
}

func (c *comparing) add(f Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.found.Counts[f.Kind]++; c.found.Counts[f.Kind] <= MaxFindings {
		c.found.Findings = append(c.found.Findings, f)
	}
}

// eachRow calls f with each row of a tenant.
func eachRow(ctx context.Context, t tenant.ID, ledger Ledger, f func(Row) error) error {
	for after := int64(0); ; {
		page, err := ledger.ListRows(ctx, t, after)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, r := range page {
			if err := f(r); err != nil {
				return err
			}
			after = r.Place
		}
	}
}

// withoutOthers removes the objects of which other tenants have rows: instances
// of a customer may share a key manager.
func withoutOthers[V any](ctx context.Context, t tenant.ID, ledger Ledger, unknown map[kmip.ObjectID]V) error {
	const page = 1000
	for some := range slices.Chunk(slices.Collect(maps.Keys(unknown)), page) {
		others, err := ledger.RecordedElsewhere(ctx, t, some)
		if err != nil {
			return err
		}
		for _, id := range others {
			delete(unknown, id)
		}
	}
	return nil
}

func loadPatiently(ctx context.Context, keys KeyManager, id kmip.ObjectID, ref KeyRef) (e Envelope, err error) {
	err = patiently(ctx, func() error { e, err = keys.Load(ctx, id, ref); return err })
	return e, err
}

// patiently repeats a call while the key manager is busy or away, for some time.
func patiently(ctx context.Context, call func() error) error {
	for pause := time.Second; ; pause *= 2 {
		err := call()
		if !errors.Is(err, ErrUnavailable) || pause > patience {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}
