package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

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
	away        atomic.Int64 // until when the ledger is not asked, in Unix nanoseconds
}

// New returns an Engine.
func New(c Config) *Engine {
	return &Engine{objects: c.Objects, keyManagers: c.KeyManagers, now: c.Now, memory: newMemory()}
}

// Key is a managed object with its bytes. The receiver wipes Material.
type Key struct {
	Object   kmip.Object
	Material *secret.Bytes
}

// errUnknown answers for unknown and foreign identifiers alike.
var errUnknown = fault.New(fault.NotFound, "No object with this unique identifier exists.")

// Create makes a key from the template's attributes and returns its unique
// identifier once the key is durable in the key manager and in the ledger
// (KMIP 1.4, 4.1).
func (e *Engine) Create(ctx context.Context, t *tenant.Tenant, typ kmip.ObjectType, template []kmip.Attribute) (kmip.ObjectID, error) {
	object, err := kmip.NewObject(typ, template, e.now())
	if err != nil {
		return "", err
	}
	keys, err := e.keyManagers(t)
	if err != nil {
		return "", err
	}
	// Version 7: the time in it lets a standard key be found by its age.
	id, err := uuid.NewV7()
	if err != nil {
		return "", err
	}
	object.ID = kmip.ObjectID(id.String())

	kek := secret.Random(int(object.Length) / 8)
	defer kek.Wipe()
	digest := sha256.Sum256(kek.Reveal())
	object.Digest = digest[:]

	wrapped, err := keys.Wrap(ctx, kek, Binding{Tenant: t.ID, Object: object.ID})
	if err != nil {
		return "", err
	}
	kek.Wipe()

	r := Record{Object: object, Phase: Pending, Location: keys.Location(), PendingFor: pendingFor}
	r.Location.RootKeyID, r.Location.RootKeyVersion = wrapped.RootKeyID, wrapped.RootKeyVersion
	if err := e.objects.Create(ctx, t.ID, r); err != nil {
		return "", err
	}
	r.Version = 1
	r.KeyRef, err = keys.Store(ctx, object.ID, Envelope{
		Format: EnvelopeFormat, Tenant: t.ID, Object: object, Location: r.Location, Wrapped: wrapped,
	})
	if err != nil {
		return "", err // the row stays pending: the standard key may exist
	}
	r.Phase = Live
	if err := e.objects.Replace(ctx, t.ID, r); err != nil {
		if errors.Is(err, ErrConflict) || errors.Is(err, ErrNotFound) {
			// The swap failed for certain and nobody knows the identifier.
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
			defer cancel()
			return "", fault.Wrap(fault.Unavailable, "The key could not be recorded; try again.", errors.Join(err, keys.Delete(clean, r.KeyRef)))
		}
		return "", err
	}
	return object.ID, nil
}

// Get returns a key's bytes after asking the key manager for both its standard
// key and the root key, and checking length and digest (KMIP 1.4, 4.11). It
// does not need the ledger.
func (e *Engine) Get(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID) (Key, error) {
	r, err := e.known(ctx, t, id)
	if err != nil {
		return Key{}, err
	}
	if r.Phase != Live {
		return Key{}, errUnknown
	}
	keys, err := e.keyManagers(t)
	if err != nil {
		return Key{}, err
	}
	o, err := e.open(ctx, keys, t, r)
	if err != nil {
		return Key{}, err
	}
	if !matches(o.material, &r.Object) {
		o.material.Wipe()
		return Key{}, errMismatch
	}
	return Key{Object: r.Object, Material: o.material}, nil
}

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
// (KMIP 1.4, 4.14).
func (e *Engine) AddAttribute(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID, a kmip.Attribute) (kmip.Attribute, error) {
	var added kmip.Attribute
	err := e.change(ctx, t, id, func(o *kmip.Object, now time.Time) (err error) {
		added, err = o.AddAttribute(a, now)
		return err
	})
	return added, err
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

// Locate returns the identifiers of the tenant's objects that have all the
// given attributes, newest first (KMIP 1.4, 4.9).
func (e *Engine) Locate(ctx context.Context, t *tenant.Tenant, attributes []kmip.Attribute, offset, maximum int) ([]kmip.ObjectID, error) {
	filter, err := kmip.NewFilter(attributes)
	if err != nil {
		return nil, err
	}
	if maximum <= 0 || maximum > MaxLocated {
		maximum = MaxLocated
	}
	return e.objects.Locate(ctx, t.ID, Query{Filter: filter, Now: e.now(), Offset: offset, Maximum: maximum})
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
	keys, err := e.keyManagers(t)
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

// record reads an object's row, which nothing stands in for. One that is missing, or pending
// and so never answered, is made again if the key manager has the object.
func (e *Engine) record(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID) (Record, error) {
	r, err := e.objects.Get(ctx, t.ID, id)
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
