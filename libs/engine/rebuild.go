package engine

import (
	"context"
	"errors"
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
	unknown := make(map[kmip.ObjectID][]stored)
	for _, h := range held {
		for _, k := range h.stored {
			if !k.Deleted && !recorded[k.Object] {
				unknown[k.Object] = append(unknown[k.Object], stored{h.keys, k})
			}
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
	for id, copies := range unknown {
		if ctx.Err() != nil || b.gaveUp() {
			break
		}
		g.Go(func() error {
			ours, err := b.rebuild(ctx, copies)
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

// rebuild writes the row of one object, unless none of the standard keys of its
// name is the tenant's.
func (b *rebuilding) rebuild(ctx context.Context, copies []stored) (ours bool, err error) {
	r, wrapped, keys, err := b.choose(ctx, copies)
	if err != nil || keys == nil {
		return false, err
	}
	var material *secret.Bytes
	err = patiently(ctx, func() error {
		material, err = keys.Unwrap(ctx, wrapped, Binding{Tenant: b.tenant.ID, Object: r.Object.ID})
		return err
	})
	if err != nil {
		return true, err
	}
	defer material.Wipe()
	if !matches(material, &r.Object) || r.Location.KeyManagerCRN != keys.Location().KeyManagerCRN {
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

// choose returns the oldest of the tenant's standard keys of one name that is
// under the present root key, or else the oldest: a move leaves the key before
// it, and that customers delete it must not hide the one that serves. Without
// any, keys is nil.
func (b *rebuilding) choose(ctx context.Context, copies []stored) (r Record, w Wrapped, keys KeyManager, err error) {
	for _, k := range copies {
		e, err := loadPatiently(ctx, k.keys, k.Object, k.Ref)
		switch {
		case errors.Is(err, ErrGone), err == nil && e.Tenant != b.tenant.ID:
			continue
		case err != nil:
			return Record{}, Wrapped{}, nil, err
		}
		present := e.Location.RootKeyID == k.keys.Location().RootKeyID
		if keys == nil || present {
			r, w, keys = e.record(k.Ref), e.Wrapped, k.keys
		}
		if present {
			break
		}
	}
	return r, w, keys, nil
}
