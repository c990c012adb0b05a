package engine

import (
	"context"
	"crypto/subtle"
	"errors"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Move stores the key of a row anew: unwrapped by from, wrapped by to. It
// returns where it is now; the standard key that from holds stays. The row is
// the caller's to change. With ErrUnavailable the key may have been stored;
// Moved tells.
func Move(ctx context.Context, t tenant.ID, r Record, from, to KeyManager) (KeyRef, Location, error) {
	binding := Binding{Tenant: t, Object: r.Object.ID}
	envelope, err := from.Load(ctx, r.Object.ID, r.KeyRef)
	if err != nil {
		return "", Location{}, err
	}
	kek, err := from.Unwrap(ctx, envelope.Wrapped, binding)
	if err != nil {
		return "", Location{}, err
	}
	defer kek.Wipe()
	if !matches(kek, &r.Object) {
		return "", Location{}, errMismatch
	}
	wrapped, err := to.Wrap(ctx, kek, binding)
	if err != nil {
		return "", Location{}, err
	}
	kek.Wipe()
	envelope.Location, envelope.Wrapped = to.Location(), wrapped
	envelope.Location.RootKeyVersion = wrapped.RootKeyVersion
	ref, err := to.Store(ctx, r.Object.ID, envelope)
	return ref, envelope.Location, err
}

// Moved returns where a Move of the row that began since a time has stored the
// key, though nobody took note, or ErrNotFound.
func Moved(ctx context.Context, t tenant.ID, r Record, to KeyManager, since time.Time) (KeyRef, Location, error) {
	refs, err := to.FindSince(ctx, r.Object.ID, since)
	if err != nil {
		return "", Location{}, err
	}
	want := to.Location()
	for _, ref := range refs {
		if ref == r.KeyRef {
			continue
		}
		e, err := to.Load(ctx, r.Object.ID, ref)
		switch {
		case errors.Is(err, ErrGone), errors.Is(err, ErrCorrupt):
			continue
		case err != nil:
			return "", Location{}, err
		}
		same := e.Tenant == t && subtle.ConstantTimeCompare(e.Object.Digest, r.Object.Digest) == 1
		if same && e.Location.KeyManagerCRN == want.KeyManagerCRN && e.Location.RootKeyID == want.RootKeyID {
			return ref, e.Location, nil
		}
	}
	return "", Location{}, fault.New(fault.NotFound, "The key was not stored anew.")
}
