package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// The engine's limits in one place.
const (
	// pendingFor is how long a Create may take before a job decides what
	// became of it.
	pendingFor = 2 * time.Minute
	// cleanUp bounds the removal of a standard key whose Create failed; it
	// runs even when the client has gone.
	cleanUp = 10 * time.Second
	// replaceTries bounds how often a change is repeated when another change
	// of the same object came first.
	replaceTries = 8
)

// Config is what an Engine is made of.
type Config struct {
	Objects     Objects
	KeyManagers KeyManagers
	Now         func() time.Time
}

// Engine carries out KMIP operations. Every call names the tenant; an object
// of another tenant is answered like one that does not exist. Errors carry a
// fault.Kind. Safe for concurrent use.
type Engine struct {
	objects     Objects
	keyManagers KeyManagers
	now         func() time.Time
	memory      *memory
	flights     flights
	held        *held
	marking     sync.Map // of row: those that are being marked as served
	// reading and changing: see ledgerPatience.
	reading, changing ledgerPatience
}

// New returns an Engine.
func New(c Config) *Engine {
	e := &Engine{objects: c.Objects, keyManagers: c.KeyManagers, now: c.Now, memory: newMemory(), held: newHeld()}
	e.reading.long, e.changing.long = ledgerTime, changeTime
	return e
}

// Key is a managed object with its bytes, to be given out in Format. The
// receiver wipes Material.
type Key struct {
	Object   kmip.Object
	Format   kmip.KeyFormat
	Material *secret.Bytes
	Window   Window
}

// errUnknown answers for unknown and foreign identifiers alike.
var errUnknown = fault.New(fault.NotFound, "No object with this unique identifier exists.")

// Get returns an object's bytes after asking the key manager for both its
// standard key and the root key, or within a window of the tenant's, and checking
// length and digest; format is the one asked for, or 0 (KMIP 1.4, 4.11). It does
// not need the ledger, but for a fresh member of an object group.
func (e *Engine) Get(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID, format kmip.KeyFormat) (Key, error) {
	r, err := e.known(ctx, t, id)
	if err != nil {
		return Key{}, err
	}
	if r.Phase != Live {
		return Key{}, errUnknown
	}
	if format, err = r.Object.GiveAs(format); err != nil {
		return Key{}, err
	}
	material, window, err := e.material(ctx, t, r)
	if err != nil {
		return Key{}, err
	}
	if err := e.serve(ctx, t, r); err != nil {
		material.Wipe()
		return Key{}, err
	}
	return Key{Object: r.Object, Format: format, Material: material, Window: window}, nil
}

// material returns an object's bytes, which match its row: those that are held
// while the cache window lasts; else those that the key manager gives; else, if
// it can't be reached, those that are held while the outage grace lasts.
func (e *Engine) material(ctx context.Context, t *tenant.Tenant, r Record) (*secret.Bytes, Window, error) {
	s := subject{t.ID, r.Object.ID, r.KeyRef}
	window, m := Cache, e.held.within(s, t.Cache, e.now())
	if m == nil {
		patience := flightTime
		if e.held.has(s, t.OutageGrace, e.now()) {
			patience = graceWait
		}
		o, err := e.open(ctx, t, r, patience)
		switch {
		case err == nil:
			window, m = "", o.material
		case errors.Is(err, ErrUnavailable):
			window, m = Grace, e.held.within(s, t.OutageGrace, e.now())
		}
		if m == nil {
			return nil, "", err
		}
	}
	if !matches(m, &r.Object) {
		m.Wipe()
		e.held.drop(s)
		return nil, "", errMismatch
	}
	return m, window, nil
}

// Obey gives up the key bytes that a new configuration no longer allows to hold.
func (e *Engine) Obey(c *tenant.Snapshot) { e.held.obey(c, e.now()) }

// Held is how many keys are held within the tenants' windows.
func (e *Engine) Held() int {
	e.held.mu.Lock()
	defer e.held.mu.Unlock()
	return e.held.keys
}

// Close gives up the key bytes that are held. The engine is used no more.
func (e *Engine) Close() { e.held.close() }

// serve notes that a client gets an object's bytes, unless they have become
// unreadable meanwhile. Without the ledger they are given out all the same, but
// not a group's: its fresh members are handed out, and two clients may not get
// one as fresh.
func (e *Engine) serve(ctx context.Context, t *tenant.Tenant, r Record) error {
	switch grouped := r.Object.Grouped(); {
	case r.Object.Served, e.away() && !grouped:
		return nil
	case e.away():
		return errNoLedger
	case grouped:
		return e.markServed(ctx, t, r.Object.ID)
	}
	// The mark is worth less than the key, and of hosts that boot together one
	// is enough to set it.
	one := row{t.ID, r.Object.ID}
	if _, busy := e.marking.LoadOrStore(one, nil); busy {
		return nil
	}
	defer e.marking.Delete(one)
	if err := e.markServed(ctx, t, r.Object.ID); errors.Is(err, errUnknown) {
		return err
	}
	return nil
}

// markServed waits for the ledger no longer than readers do.
func (e *Engine) markServed(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID) error {
	ctx, cancel := context.WithTimeout(ctx, ledgerTime)
	defer cancel()
	written, err := e.replace(ctx, t, id, func(r *Record) error {
		switch {
		case r.Phase != Live:
			return errUnknown
		case r.Object.Served:
			return errServed
		}
		r.Object.Serve(e.now())
		return nil
	})
	switch {
	case errors.Is(err, errServed):
		return nil
	case err == nil:
		e.memory.rows.Set(row{t.ID, id}, written)
	}
	return err
}

var errServed = errors.New("served already")

// Attributes returns the attributes with the given names, in that order, or
// all without names; names that are unknown or have no value are left out
// (KMIP 1.4, 4.12). While the ledger is away it tells the state and what never
// changes.
func (e *Engine) Attributes(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID, names []string) ([]kmip.Attribute, error) {
	row := e.record
	if tellable(names) {
		row = e.known
	}
	r, err := row(ctx, t, id)
	if err != nil {
		return nil, err
	}
	return r.Object.Attributes(names, e.now()), nil
}

// AddAttribute adds an instance of an attribute and returns it with its index
// (KMIP 1.4, 4.14). A Name that another object has is refused with Exists.
func (e *Engine) AddAttribute(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID, a kmip.Attribute) (added kmip.Attribute, err error) {
	err = e.change(ctx, t, id, func(o *kmip.Object, now time.Time) (err error) {
		added, err = o.AddAttribute(a, now)
		return err
	})
	return added, err
}

// ModifyAttribute gives the instance with a's index another value and returns
// it (KMIP 1.4, 4.15). A Name that another object has is refused with Exists.
func (e *Engine) ModifyAttribute(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID, a kmip.Attribute) (modified kmip.Attribute, err error) {
	err = e.change(ctx, t, id, func(o *kmip.Object, now time.Time) (err error) {
		modified, err = o.ModifyAttribute(a, now)
		return err
	})
	return modified, err
}

// DeleteAttribute removes an instance and returns it (KMIP 1.4, 4.16).
func (e *Engine) DeleteAttribute(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID, name string, index int32) (deleted kmip.Attribute, err error) {
	err = e.change(ctx, t, id, func(o *kmip.Object, now time.Time) (err error) {
		deleted, err = o.DeleteAttribute(name, index, now)
		return err
	})
	return deleted, err
}

// Check returns the part of a use that an object's attributes don't allow
// (KMIP 1.4, 4.10).
func (e *Engine) Check(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID, u kmip.Use) (denied kmip.Use, err error) {
	r, err := e.record(ctx, t, id)
	if err != nil {
		return kmip.Use{}, err
	}
	return r.Object.Check(u)
}

// Activate makes a Pre-Active object Active (KMIP 1.4, 4.19).
func (e *Engine) Activate(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID) error {
	return e.change(ctx, t, id, (*kmip.Object).Activate)
}

// Revoke deactivates an object, or marks it as compromised since occurred
// (KMIP 1.4, 4.20). Its bytes can still be read: vSphere needs old keys too.
func (e *Engine) Revoke(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID, why kmip.Revocation, occurred time.Time) error {
	return e.change(ctx, t, id, func(o *kmip.Object, now time.Time) error { return o.Revoke(why, occurred, now) })
}

// Locate returns the tenant's objects that the query asks for (KMIP 1.4, 4.9).
// It sets Now, and Maximum unless that asks for less than MaxLocated.
func (e *Engine) Locate(ctx context.Context, t *tenant.Tenant, q Query) (Located, error) {
	q.Now = e.now()
	if q.Maximum <= 0 || q.Maximum > MaxLocated {
		q.Maximum = MaxLocated
	}
	return e.objects.Locate(ctx, t.ID, q)
}

// Destroy deletes an object's standard key; its metadata stays readable
// (KMIP 1.4, 4.21). The key manager keeps the standard key restorable.
func (e *Engine) Destroy(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID) error {
	destroying, err := e.replace(ctx, t, id, func(r *Record) error {
		if r.Phase == Destroying {
			return nil // finish what an earlier Destroy began
		}
		r.Phase = Destroying
		return r.Object.Destroy(e.now())
	})
	if err != nil {
		return err
	}
	e.held.drop(subject{t.ID, id, destroying.KeyRef})
	keys, err := e.keysAt(t, destroying.Location)
	if err != nil {
		return err
	}
	if err := keys.Delete(ctx, destroying.KeyRef); err != nil {
		return err
	}
	_, err = e.replace(ctx, t, id, func(r *Record) error {
		r.Phase = Gone
		return nil
	})
	return err
}

// keysAt returns the key manager in which a key lies: while a tenant's keys are
// moved some lie in a former one. One that these settings don't lead to is
// known to other nodes already, and here in a moment.
func (e *Engine) keysAt(t *tenant.Tenant, l Location) (KeyManager, error) {
	keys, err := e.keyManagers(t.At(l.KeyManagerCRN, l.RootKeyID))
	if err == nil && keys.Location().KeyManagerCRN != l.KeyManagerCRN {
		return nil, fault.New(fault.Unavailable, "The key lies in a key manager that is not known here yet; try again.")
	}
	return keys, err
}

// record reads an object's row, which nothing stands in for. One that is
// missing, or pending and so never answered, is made again if the key manager
// has the object.
func (e *Engine) record(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID) (Record, error) {
	r, err := e.look(ctx, t.ID, id, &e.changing)
	if errors.Is(err, ErrNotFound) || err == nil && r.Phase == Pending {
		return e.recover(ctx, t, id, r)
	}
	return r, err
}

// change applies f to an object that can still change.
func (e *Engine) change(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID, f func(*kmip.Object, time.Time) error) error {
	_, err := e.replace(ctx, t, id, func(r *Record) error { return f(&r.Object, e.now()) })
	return err
}

// replace reads a row, lets f change it and writes it back, again when another
// change came between. It returns the row as written.
func (e *Engine) replace(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID, f func(*Record) error) (Record, error) {
	for try := 1; ; try++ {
		r, err := e.record(ctx, t, id)
		if err != nil {
			return Record{}, err
		}
		if err := f(&r); err != nil {
			return Record{}, err
		}
		err = e.objects.Replace(ctx, t.ID, r)
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, ErrConflict) || try == replaceTries {
			return Record{}, err
		}
	}
}
