package engine

import (
	"context"
	"errors"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Rebuilding says how Rebuild goes about it.
type Rebuilding struct {
	DryRun bool // everything is tried, and no row is written
	// Progress is told how many of the objects without a row are done, one call
	// at a time.
	Progress func(done, total int)
}

// Rebuilt is what came of a Rebuild.
type Rebuilt struct {
	Recorded int          `json:"recorded"` // objects that had a row
	Written  int          `json:"written"`  // rows; in a dry run those that would be
	Foreign  int          `json:"foreign"`  // objects of other tenants
	Failed   []NotRebuilt `json:"failed"`
}

// NotRebuilt is an object that has no row still.
type NotRebuilt struct {
	Object kmip.ObjectID `json:"unique_identifier"`
	Reason string        `json:"reason"`
}

// Rebuild writes the rows of a tenant's objects that the ledger has lost and the
// key managers hold, marked as recovered. Each envelope has to open for this
// tenant and object. It may be stopped at any point and done again, while nodes
// serve and recover rows themselves. Its error is that of the ports or of ctx;
// what is wrong with one object is in Failed.
func Rebuild(ctx context.Context, t *tenant.Tenant, ledger Ledger, managers KeyManagers, how Rebuilding) (Rebuilt, error) {
	held, err := listStored(ctx, t, managers)
	if err != nil {
		return Rebuilt{}, err
	}
	recorded := make(map[kmip.ObjectID]bool)
	if err := eachRow(ctx, t.ID, ledger, func(r Row) error { recorded[r.Object.ID] = true; return nil }); err != nil {
		return Rebuilt{}, err
	}
	unknown := make(map[kmip.ObjectID]stored)
	for id, newest := range newestOf(held) {
		if !newest.Deleted && !recorded[id] {
			unknown[id] = newest
		}
	}
	b := rebuilding{tenant: t, ledger: ledger, how: how, done: Rebuilt{Recorded: len(recorded), Foreign: len(unknown), Failed: []NotRebuilt{}}}
	if err := withoutOthers(ctx, t.ID, ledger, unknown); err != nil {
		return Rebuilt{}, err
	}
	b.total = len(unknown)
	b.done.Foreign -= len(unknown)
	var g errgroup.Group
	g.SetLimit(abreast)
	for id, k := range unknown {
		if ctx.Err() != nil || b.gaveUp() {
			break
		}
		g.Go(func() error {
			ours, err := b.rebuild(ctx, k)
			b.note(id, ours, err)
			return nil
		})
	}
	_ = g.Wait() // what failed is noted
	if b.gaveUp() {
		return b.done, fault.New(fault.Unavailable, "The key manager or the database does not answer. Do it again later for the rest.")
	}
	return b.done, ctx.Err()
}

// stored is a standard key in one of a tenant's key managers.
type stored struct {
	keys KeyManager
	StoredKey
}

// rebuilding is a Rebuild under way.
type rebuilding struct {
	tenant *tenant.Tenant
	ledger Ledger
	how    Rebuilding
	total  int // objects without a row

	mu       sync.Mutex
	progress int
	away     int // objects in a row for which something did not answer
	done     Rebuilt
}

func (b *rebuilding) gaveUp() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.away >= givenUp
}

func (b *rebuilding) note(id kmip.ObjectID, ours bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err != nil:
		b.done.Failed = append(b.done.Failed, NotRebuilt{Object: id, Reason: fault.Public(err)})
	case ours:
		b.done.Written++
	default:
		b.done.Foreign++
	}
	if b.away++; !errors.Is(err, ErrUnavailable) {
		b.away = 0
	}
	b.progress++
	b.how.Progress(b.progress, b.total)
}

// newestOf returns the standard key of each object that was stored last, in the
// present key manager if it is there: a move leaves others behind. That one
// decides, also when it is deleted, so that no other brings a key back that the
// customer has revoked.
func newestOf(held []holding) map[kmip.ObjectID]stored {
	newest := make(map[kmip.ObjectID]stored)
	for _, h := range slices.Backward(held) {
		for _, k := range h.stored {
			newest[k.Object] = stored{h.keys, k}
		}
	}
	return newest
}

// rebuild writes the row of one object, unless its standard key is another
// tenant's.
func (b *rebuilding) rebuild(ctx context.Context, k stored) (ours bool, err error) {
	e, err := loadPatiently(ctx, k.keys, k.Object, k.Ref)
	switch {
	case errors.Is(err, ErrGone), err == nil && e.Tenant != b.tenant.ID:
		return false, nil
	case err != nil:
		return false, err
	}
	r := e.record(k.Ref)
	var material *secret.Bytes
	err = patiently(ctx, func() error {
		material, err = k.keys.Unwrap(ctx, e.Wrapped, Binding{Tenant: b.tenant.ID, Object: r.Object.ID})
		return err
	})
	if err != nil {
		return true, err
	}
	defer material.Wipe()
	if !matches(material, &r.Object) || r.Location.KeyManagerCRN != k.keys.Location().KeyManagerCRN {
		return true, errMismatch
	}
	if b.how.DryRun {
		return true, nil
	}
	_, recorded, err := restore(ctx, b.ledger, b.tenant, r, Record{})
	if err == nil && !recorded {
		err = fault.New(fault.Unavailable, "The database does not answer. Do it again later.")
	}
	return true, err
}
