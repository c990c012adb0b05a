package keyprotect

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Check implements engine.KeyManager: a probe is wrapped, stored, listed,
// loaded, unwrapped and deleted. A role's name proves nothing.
func (c *Client) Check(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	id := kmip.ObjectID("check_" + uuid.NewString())
	binding := engine.Binding{Tenant: "check", Object: id}
	probe := secret.Random(32)
	defer probe.Wipe()

	wrapped, err := c.Wrap(ctx, probe, binding)
	if err != nil {
		return c.explain(err)
	}
	location := c.location
	location.RootKeyVersion = wrapped.RootKeyVersion
	ref, err := c.Store(ctx, id, engine.Envelope{
		Format: engine.EnvelopeFormat, Tenant: binding.Tenant, Object: kmip.Object{ID: id}, Location: location, Wrapped: wrapped,
	})
	if err != nil {
		return c.explain(err)
	}
	deleted := false
	defer func() {
		if !deleted {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
			defer cancel()
			err = errors.Join(err, c.Delete(clean, ref))
		}
	}()
	// Without the list, what became of a lost create could never be told.
	name, since := standardKeyName(id), c.now()
	found, err := c.named(ctx, name, createdFrom(since))
	if err == nil && found == "" {
		_, err = c.lookUp(ctx, name, since, nil) // it may take a moment to appear
	}
	if err != nil {
		return c.explain(err)
	}
	e, err := c.Load(ctx, id, ref)
	if err != nil {
		return c.explain(err)
	}
	got, err := c.Unwrap(ctx, e.Wrapped, binding)
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

// allowed says what each action of the API lets us do, in a sentence.
var allowed = map[string]string{
	"wrap": "wrap with the root key", "unwrap": "unwrap with the root key", "create": "create a standard key",
	"read": "read a standard key", "list": "list keys", "delete": "delete a standard key",
}

// explain adds to a refusal what the customer can do about it.
func (c *Client) explain(err error) error {
	var f *failure
	if fault.KindOf(err) != fault.Denied || !errors.As(err, &f) || f.status != http.StatusUnauthorized {
		return err
	}
	remedy := "Give the owner of the API key the platform role Viewer and the service role Manager on the key manager instance"
	if c.authorized != "" {
		// VMware KMIP Manager is a role of HPCS (HPCS, managing user access).
		role := "VMware KMIP Manager"
		if c.instance.Service != "hs-crypto" {
			role = "Manager"
		}
		remedy = fmt.Sprintf("Create an IAM service authorization: source service %s, instance %s; target the key manager instance %s; roles Viewer and %s",
			tenant.ServiceName, c.authorized, c.instance.Instance, role)
	}
	return fault.Wrap(fault.Denied, fmt.Sprintf(
		"The key manager does not permit us to %s. %s, and check that root key and key ring belong to it.", allowed[f.action], remedy), err)
}
