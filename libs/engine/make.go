package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// errNameTaken answers the making of an object; to add such a name to one that
// exists is Exists (KMIP 1.4, 11.1 and 11.12).
var errNameTaken = fault.New(fault.Invalid, "Another object has this name.")

// Create makes a key from the template's attributes and returns its unique
// identifier once the key is durable in the key manager and in the ledger
// (KMIP 1.4, 4.1).
func (e *Engine) Create(ctx context.Context, t *tenant.Tenant, typ kmip.ObjectType, template []kmip.Attribute) (kmip.ObjectID, error) {
	object, err := kmip.NewObject(typ, template, e.now())
	if err != nil {
		return "", err
	}
	return e.keep(ctx, t, object, randomKey(object), e.admit)
}

// Register keeps an object that the client brings, as Create does, and wipes
// its bytes (KMIP 1.4, 4.3).
func (e *Engine) Register(ctx context.Context, t *tenant.Tenant, brought kmip.Registration, material *secret.Bytes, template []kmip.Attribute) (kmip.ObjectID, error) {
	defer material.Wipe()
	object, err := kmip.NewRegistered(brought, material.Len(), template, e.now())
	if err != nil {
		return "", err
	}
	if !fits(material.Len()) {
		return "", errTooLarge // wrapped it would be larger still
	}
	return e.keep(ctx, t, object, material, e.admit)
}

// Rekey makes a key that replaces another, whose names it takes, and returns
// its unique identifier (KMIP 1.4, 4.4). See kmip.Object.Replacement for
// offset and template.
func (e *Engine) Rekey(ctx context.Context, t *tenant.Tenant, id kmip.ObjectID, offset *time.Duration, template []kmip.Attribute) (kmip.ObjectID, error) {
	old, err := e.record(ctx, t, id)
	if err != nil {
		return "", err
	}
	object, err := old.Object.Replacement(offset, template, e.now())
	if err != nil {
		return "", err
	}
	return e.keep(ctx, t, object, randomKey(object), func(ctx context.Context, t *tenant.Tenant, r Record) error {
		for try := 1; ; try++ {
			// The standard key is stored: this is not given up early.
			old, err := e.objects.Get(ctx, t.ID, id)
			if err != nil {
				return err
			}
			next := r
			if err := old.Object.HandOver(&next.Object, e.now()); err != nil {
				return err
			}
			// The old one first: it gives up the names.
			if err = e.objects.Replace(ctx, t.ID, old, next); !errors.Is(err, ErrConflict) || try == replaceTries {
				return err
			}
		}
	})
}

// admit makes a new object's row live.
func (e *Engine) admit(ctx context.Context, t *tenant.Tenant, r Record) error {
	return e.objects.Replace(ctx, t.ID, r)
}

func randomKey(o kmip.Object) *secret.Bytes { return secret.Random(int(o.Length) / 8) }

// keep stores a new object and its bytes, which it wipes: the ledger's row,
// pending; the standard key; then swap makes the row live.
func (e *Engine) keep(ctx context.Context, t *tenant.Tenant, object kmip.Object, material *secret.Bytes, swap func(context.Context, *tenant.Tenant, Record) error) (kmip.ObjectID, error) {
	defer material.Wipe()
	if e.changing.over(e.now()) {
		return "", errNoLedger // before the key manager is asked in vain
	}
	if err := e.namesFree(ctx, t, object); err != nil {
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
	digest := sha256.Sum256(material.Reveal())
	object.Digest = digest[:]

	wrapped, err := keys.Wrap(ctx, material, Binding{Tenant: t.ID, Object: object.ID})
	if err != nil {
		e.held.heed(subject{tenant: t.ID}, err)
		return "", err
	}
	material.Wipe()

	r := Record{Object: object, Phase: Pending, Location: keys.Location(), PendingFor: pendingFor}
	r.Location.RootKeyID, r.Location.RootKeyVersion = wrapped.RootKeyID, wrapped.RootKeyVersion
	envelope := Envelope{Format: EnvelopeFormat, Tenant: t.ID, Object: object, Location: r.Location, Wrapped: wrapped}
	if _, err := envelope.Encode(); err != nil {
		return "", err // too large: nothing was written yet
	}
	// A row that was written all the same stays pending without a standard key,
	// and a job removes it.
	if err := e.askLedger(ctx, &e.changing, func(ctx context.Context) error { return e.objects.Create(ctx, t.ID, r) }); err != nil {
		return "", err
	}
	r.Version = 1
	if r.KeyRef, err = keys.Store(ctx, object.ID, envelope); err != nil {
		e.held.heed(subject{tenant: t.ID}, err)
		return "", err // the row stays pending: the standard key may exist
	}
	r.Phase = Live
	if err := swap(ctx, t, r); err != nil {
		return "", e.undo(ctx, keys, r.KeyRef, err)
	}
	return object.ID, nil
}

// undo deletes the standard key of an object whose row did not become live, if
// that is certain: nobody knows the identifier. It returns what to answer.
func (e *Engine) undo(ctx context.Context, keys KeyManager, ref KeyRef, err error) error {
	answer := fault.Wrap(fault.KindOf(err), fault.Public(err), err)
	switch answer.Kind {
	case fault.Internal, fault.Unavailable:
		return err // the row may be live: the job decides
	case fault.Conflict, fault.NotFound:
		answer.Kind, answer.Public = fault.Unavailable, "The key could not be recorded; try again."
	case fault.Exists:
		answer.Kind, answer.Public = errNameTaken.Kind, errNameTaken.Public
	default: // the key to replace can't be
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	answer.Err = errors.Join(err, keys.Delete(clean, ref))
	return answer
}

// namesFree refuses names that are taken before a standard key is made for
// nothing. The ledger's swap decides.
func (e *Engine) namesFree(ctx context.Context, t *tenant.Tenant, object kmip.Object) error {
	for _, name := range object.Names() {
		var found Located
		err := e.askLedger(ctx, &e.changing, func(ctx context.Context) (err error) {
			found, err = e.objects.Locate(ctx, t.ID, Query{Filter: kmip.NameFilter(name), Now: e.now(), Maximum: 1})
			return err
		})
		switch {
		case err != nil:
			return err
		case len(found.IDs) > 0:
			return errNameTaken
		}
	}
	return nil
}
