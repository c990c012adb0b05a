package keyprotect

import (
	"context"
	"errors"
	"strings"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// probePrefix is what the unique identifiers of probes begin with.
const probePrefix = "check_"

// Check implements engine.KeyManager: a probe is wrapped, stored, listed,
// loaded, unwrapped and deleted. A role's name proves nothing.
func (c *Client) Check(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	id := kmip.ObjectID(probePrefix + uuid.NewString())
	binding := engine.Binding{Tenant: "check", Object: id}
	probe := secret.Random(32)
	defer probe.Wipe()

	wrapped, err := c.Wrap(ctx, probe, binding)
	if err != nil {
		return c.explain(err)
	}
	if err := c.rootKeyInRing(ctx); err != nil {
		return c.explain(err)
	}
	stored, ref, err := c.keptProbe(ctx)
	if err != nil {
		return c.explain(err)
	}
	if ref == "" {
		stored = id
		location := c.location
		location.RootKeyVersion = wrapped.RootKeyVersion
		ref, err = c.Store(ctx, id, engine.Envelope{
			Format: engine.EnvelopeFormat, Tenant: binding.Tenant, Object: kmip.Object{ID: id}, Location: location, Wrapped: wrapped,
		})
		if err != nil {
			return c.explain(err)
		}
	}
	deleted := false
	defer func() {
		if !deleted {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
			defer cancel()
			err = errors.Join(err, c.Delete(clean, ref))
		}
	}()
	if stored == id {
		// Without the list, what became of a lost create could never be told.
		name, since := standardKeyName(id), c.now()
		found, err := c.named(ctx, name, createdFrom(since))
		if err == nil && found == "" {
			_, err = c.lookUp(ctx, name, since, nil) // it may take a moment to appear
		}
		if err != nil {
			return c.explain(err)
		}
	}
	e, err := c.Load(ctx, stored, ref)
	if err != nil {
		return c.explain(err)
	}
	if stored == id && e.Wrapped != wrapped {
		return fault.New(fault.Corrupt, "The key manager gave back another payload than was stored.")
	}
	got, err := c.Unwrap(ctx, wrapped, binding)
	if err != nil {
		return c.explain(err)
	}
	defer got.Wipe()
	if !got.Equal(probe) {
		return fault.New(fault.Corrupt, "The key manager unwrapped other bytes than were wrapped.")
	}
	deleted = true
	if err := c.Delete(ctx, ref); err != nil {
		return c.explain(err)
	}
	return nil
}

// rootKeyInRing holds the root key to the key ring of the settings. Calls find
// it elsewhere, too, as it may be moved later; chosen so it is a mistake, and
// with HPCS it has to be in the default one.
func (c *Client) rootKeyInRing(ctx context.Context) error {
	found := false
	err := c.list(ctx, false, "extractable=false", func(k key) { found = found || k.ID == c.location.RootKeyID })
	if err == nil && !found {
		return fault.Newf(fault.Denied, "The root key is not in the key ring `%s`. Choose the key ring that it is in, or a root key of this one.", c.location.KeyRing)
	}
	return err
}

// keptProbe returns a probe that an earlier check could not delete, with its
// unique identifier, when this one can't either: else a standard key would be
// left, and paid for, at each check. Who may delete is told that a key does not
// exist; who may not is refused before.
func (c *Client) keptProbe(ctx context.Context) (id kmip.ObjectID, ref engine.KeyRef, err error) {
	if err := c.Delete(ctx, engine.KeyRef(uuid.NewString())); !errors.Is(err, engine.ErrDenied) {
		return "", "", nil // what else is wrong the check will meet
	}
	err = c.list(ctx, false, "extractable=true", func(k key) {
		if object, ours := strings.CutPrefix(k.Name, standardKeyName(probePrefix)); ours && ref == "" && k.State == stateActive {
			id, ref = kmip.ObjectID(probePrefix+object), engine.KeyRef(k.ID)
		}
	})
	return id, ref, err
}
