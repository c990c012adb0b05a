package engine

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

const (
	// ledgerTime is how long a reader waits for the ledger before it goes on
	// with what is known without it.
	ledgerTime = 500 * time.Millisecond
	// changeTime is how long a change waits for each of its first steps in the
	// ledger: nothing is lost yet if it is given up. The last step, after which
	// the client is answered, may take as long as the ledger lets it.
	changeTime = 2 * time.Second
)

// ledgerPatience is how long the ledger is waited for, and until when it is not
// asked because it did not answer within that. Readers, who can go on without it,
// and changes have their own: a ledger that is slow is none that is away.
type ledgerPatience struct {
	long time.Duration
	// until has a monotonic reading, which keeps a clock that is set back from
	// making it long.
	until atomic.Pointer[time.Time]
}

func (p *ledgerPatience) over(now time.Time) bool {
	until := p.until.Load()
	return until != nil && now.Before(*until)
}

var (
	// errWithheld answers for what was revoked or destroyed, or may not leave, by a node that
	// can't look up which.
	errWithheld = fault.New(fault.Denied, "This object was revoked or destroyed, or may not be given out.")
	errNoLedger = fault.New(fault.Unavailable, "The records of keys can't be read or changed now; try again later.")
	errTooMany  = fault.New(fault.Unavailable, "Too many objects are asked for that are not on record; try again later.")
)

// known returns an object's row or, while the ledger is away, what stands in
// for it: what this node has seen or what the key manager holds, with the state
// Active unless the object is withheld. An object that the ledger does not
// know, but the key manager does, gets its row again.
func (e *Engine) known(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID) (Record, error) {
	r, err := e.look(ctx, t.ID, id, &e.reading)
	switch {
	case err == nil && r.Phase != Pending:
		e.memory.rows.Set(row{t.ID, id}, r)
		return r, nil
	case err == nil, errors.Is(err, ErrNotFound):
		return e.recover(ctx, t, id, r)
	case !errors.Is(err, ErrUnavailable):
		return Record{}, err
	case t.Withholds(string(id)):
		return Record{}, errWithheld
	}
	r, seen := e.memory.rows.GetIfPresent(row{t.ID, id})
	if !seen {
		if r, err = e.find(ctx, t, id); err != nil {
			return Record{}, err
		}
		e.memory.rows.Set(row{t.ID, id}, r)
	}
	if r.Phase == Live {
		r.Object.State = kmip.Active
	}
	return r, nil
}

// look reads a row, as askLedger does.
func (e *Engine) look(ctx context.Context, t tenant.ID, id kmip.ObjectID, p *ledgerPatience) (r Record, err error) {
	err = e.askLedger(ctx, p, func(ctx context.Context) error {
		r, err = e.objects.Get(ctx, t, id)
		return err
	})
	return r, err
}

// askLedger lets f call the ledger as long as p has it, but not while it has just not
// answered.
func (e *Engine) askLedger(ctx context.Context, p *ledgerPatience, f func(context.Context) error) error {
	if p.over(e.now()) {
		return errNoLedger
	}
	limited, cancel := context.WithTimeout(ctx, p.long)
	defer cancel()
	err := f(limited)
	if errors.Is(err, ErrUnavailable) && ctx.Err() == nil {
		until := e.now().Add(awayFor)
		p.until.Store(&until)
	}
	return err
}

// away reports whether the ledger has just not answered a reader.
func (e *Engine) away() bool { return e.reading.over(e.now()) }

// find returns a row made of what the key manager holds: its standard key and
// the envelope in it, which nothing but unwrapping proves to be the tenant's.
func (e *Engine) find(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID) (Record, error) {
	if at, missed := e.memory.misses.GetIfPresent(row{t.ID, id}); missed && e.now().Sub(at) < missedFor {
		return Record{}, errUnknown
	}
	if !e.memory.mayFind(t.ID, e.now()) {
		return Record{}, errTooMany
	}
	for _, there := range t.KeyManagers() {
		keys, err := e.keyManagers(there)
		if err != nil {
			return Record{}, err
		}
		ref, err := keys.Find(ctx, id)
		if err == nil {
			var envelope Envelope
			if envelope, err = keys.Load(ctx, id, ref); err == nil && envelope.Tenant == t.ID {
				e.memory.envelopes.Set(subject{t.ID, id, ref}, envelope)
				return envelope.record(ref), nil
			}
		}
		// Instances of a customer may share a key manager: another's is unknown.
		e.held.heed(subject{t.ID, id, ref}, err)
		if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrGone) {
			return Record{}, err
		}
	}
	e.memory.missed(row{t.ID, id}, e.now())
	return Record{}, errUnknown
}

// recover writes the row of an object again that the ledger lost, or has as
// pending: the envelope opens with the tenant's root key and for this object
// alone, so it is the tenant's. Attributes that were added later are lost, and so
// are names that another object has.
func (e *Engine) recover(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID, pending Record) (Record, error) {
	r, err := e.find(ctx, t, id)
	if err != nil {
		return Record{}, err
	}
	o, err := e.open(ctx, t, r, flightTime)
	if err != nil {
		return Record{}, err
	}
	defer o.material.Wipe()
	if !matches(o.material, &r.Object) {
		return Record{}, errMismatch
	}
	r, _, err = restore(ctx, e.objects, t, r, pending)
	return r, err // without the ledger it serves all the same
}

// restore writes the row of an object whose envelope has opened, in place of
// none or of a pending one, and returns the row that there is: somebody else may
// have been faster. Recorded is false if the ledger does not answer.
func restore(ctx context.Context, objects Objects, t *tenant.Tenant, r, pending Record) (row Record, recorded bool, err error) {
	r.Recovered = true
	if r.Object.State = kmip.Active; t.Withholds(string(r.Object.ID)) {
		r.Object.State = kmip.Deactivated
	}
	for {
		if pending.Version == 0 {
			err = objects.Create(ctx, t.ID, r)
			r.Version = 1
		} else {
			r.Version = pending.Version
			err = objects.Replace(ctx, t.ID, r)
			r.Version++
		}
		switch {
		case errors.Is(err, ErrUnavailable):
			return r, false, nil
		case !errors.Is(err, ErrExists) && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound):
			return r, err == nil, err
		}
		have, err := objects.Get(ctx, t.ID, r.Object.ID)
		lost := errors.Is(err, ErrNotFound) || err == nil && have.Phase == Pending
		if !lost || len(r.Object.Names()) == 0 {
			return have, err == nil, err
		}
		r.Object.DropNames() // another object has them by now
	}
}

// open loads an object's standard key and unwraps what it holds, once for all
// that ask at the same time. What it is given, or told, is in force for what is
// held within the tenant's windows. The key manager has patience to answer.
func (e *Engine) open(ctx context.Context, t *tenant.Tenant, r Record, patience time.Duration) (opened, error) {
	keys, err := e.keysAt(t, r.Location)
	if err != nil {
		return opened{}, err
	}
	s := subject{t.ID, r.Object.ID, r.KeyRef}
	binding := Binding{Tenant: t.ID, Object: r.Object.ID}
	return e.flights.join(ctx, s, func(ctx context.Context) (opened, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		asked, windows := e.now(), e.held.of(t)
		o, err := e.ask(ctx, keys, s, binding, windows != nil)
		if err != nil {
			e.held.heed(s, err)
			return opened{}, err
		}
		e.held.add(windows, s, o.material, asked, e.now())
		return o, nil
	})
}

// ask loads a standard key and unwraps what it holds; both have to succeed. A
// payload that was seen before is unwrapped while it is loaded again, and if the
// key may be held, what unwrapping says is waited for also when loading fails: it
// may be final.
func (e *Engine) ask(ctx context.Context, keys KeyManager, s subject, binding Binding, holdable bool) (opened, error) {
	seen, ok := e.memory.envelopes.GetIfPresent(s)
	if !ok {
		return e.loadAndUnwrap(ctx, keys, s, binding)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type unwrapped struct {
		material *secret.Bytes
		err      error
	}
	early := make(chan unwrapped, 1)
	go func() {
		material, err := keys.Unwrap(ctx, seen.Wrapped, binding)
		early <- unwrapped{material, err}
	}()
	envelope, err := keys.Load(ctx, s.object, s.ref)
	if err != nil {
		if !holdable || !errors.Is(err, ErrUnavailable) {
			cancel()
		}
		got := <-early
		got.material.Wipe()
		e.memory.envelopes.Invalidate(s)
		if errors.Is(got.err, ErrDenied) {
			err = got.err
		}
		return opened{}, err
	}
	got := <-early
	if envelope.Wrapped != seen.Wrapped { // a standard key's payload does not change
		got.material.Wipe()
		return e.loadAndUnwrap(ctx, keys, s, binding)
	}
	return opened{envelope, got.material}, got.err
}

func (e *Engine) loadAndUnwrap(ctx context.Context, keys KeyManager, s subject, b Binding) (opened, error) {
	envelope, err := keys.Load(ctx, s.object, s.ref)
	if err != nil {
		return opened{}, err
	}
	material, err := keys.Unwrap(ctx, envelope.Wrapped, b)
	if err != nil {
		return opened{}, err
	}
	e.memory.envelopes.Set(s, envelope)
	return opened{envelope, material}, nil
}

var errMismatch = fault.New(fault.Corrupt, "The stored key does not match its record.")

// matches compares key bytes with the length and digest on record.
func matches(material *secret.Bytes, o *kmip.Object) bool {
	digest := sha256.Sum256(material.Reveal())
	return material.Len()*8 == int(o.Length) && subtle.ConstantTimeCompare(digest[:], o.Digest) == 1
}

// lasting are the attributes that are what they were when the object was made,
// so that they can be told without the ledger; State is told besides.
var lasting = []string{
	kmip.AttributeState, "Unique Identifier", "Object Type", kmip.AttributeCryptographicAlgorithm, kmip.AttributeCryptographicLength,
	"Digest", "Initial Date",
}

// tellable reports whether attributes can be told without the ledger.
func tellable(names []string) bool {
	return len(names) > 0 && !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(lasting, name) })
}
