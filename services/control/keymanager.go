package control

import (
	"context"
	"errors"
	"regexp"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

// kmsServices are the service names in CRNs of the key managers.
var kmsServices = map[api.KeyManagerType]string{
	api.KeyManagerTypeKeyProtect: "kms",
	api.KeyManagerTypeHpcs:       "hs-crypto",
}

var (
	keyRingForm = regexp.MustCompile(`^[A-Za-z0-9-]{2,100}$`)
	apiKeyForm  = regexp.MustCompile(`^[!-~]{16,256}$`)
)

// maxCRN is the longest accepted CRN in characters.
const maxCRN = 512

// keyManagers is what the control plane needs to try a customer's settings.
type keyManagers struct {
	ring       func() (*secret.Keyring, error) // the operator's set as it is now
	authorized bool                            // service authorizations serve in place of API keys
	served     func(service, region string) bool
	open       func(*secret.Keyring, *tenant.Tenant) (engine.KeyManager, error)
}

// ReplaceInstanceKeyManager tries the given settings and stores them if the key
// manager carries out every action that the service needs.
func (h *handlers) ReplaceInstanceKeyManager(ctx context.Context, request server.ReplaceInstanceKeyManagerRequestObject) (server.ReplaceInstanceKeyManagerResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	settings, err := h.keyManagerSettings(*request.Body, instance)
	if err != nil {
		return nil, err
	}
	ring, err := h.manager.ring()
	if err != nil {
		return nil, err
	}
	if request.Body.APIKey != nil {
		key := secret.Of([]byte(*request.Body.APIKey))
		defer key.Wipe()
		if settings.SealedAPIKey, err = ring.Seal(tenant.APIKeyPurpose, string(instance.ID), key); err != nil {
			return nil, err
		}
	}
	if err := h.check(ctx, ring, instance, settings); err != nil {
		return nil, err
	}
	var own *pg.Dedicated
	if settings.Type == tenant.HPCS {
		if own, err = h.dedicated.endpoint(instance.ID); err != nil {
			return nil, err
		}
	}
	if _, err := h.instances.SetKeyManager(ctx, instance.Account, instance.ID, settings, own); err != nil {
		return nil, orNoInstance(err)
	}
	return server.ReplaceInstanceKeyManager200JSONResponse(keyManagerModel(settings)), nil
}

// check lets the key manager carry out every needed action once. A refusal is
// the fault of the settings, so it becomes Invalid with the key manager's
// sentence; that no answer came stays Unavailable.
func (h *handlers) check(ctx context.Context, ring *secret.Keyring, instance pg.Instance, settings tenant.KeyManager) error {
	manager, err := h.manager.open(ring, &tenant.Tenant{
		ID: instance.ID, Account: instance.Account, Name: instance.Name, Shared: instance.Shared, KeyManager: &settings,
	})
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, checkDeadline)
	defer cancel()
	err = manager.Check(limited)
	switch kind := fault.KindOf(err); {
	case err == nil:
		return nil
	case errors.Is(limited.Err(), context.DeadlineExceeded):
		return fault.Wrap(fault.Unavailable, "The key manager did not answer in time. Nothing was changed; try again.", err)
	case kind == fault.Unavailable, kind == fault.Throttled, kind == fault.Internal:
		return fault.Wrap(kind, fault.Public(err), err)
	}
	return fault.Wrap(fault.Invalid, "The key manager refused these settings; nothing was changed. "+fault.Public(err), err)
}

func keyManagerModel(m tenant.KeyManager) api.KeyManager {
	model := api.KeyManager{
		Type: api.KeyManagerType(m.Type), InstanceCRN: m.InstanceCRN, KeyRing: m.KeyRing, RootKeyID: m.RootKeyID,
		Credential: api.KeyManagerCredentialAPIKey,
	}
	if len(m.SealedAPIKey) == 0 {
		model.Credential = api.KeyManagerCredentialServiceAuthorization
	}
	return model
}

// keyManagerSettings checks a request against the document and against the
// instance. The result has no API key yet.
func (h *handlers) keyManagerSettings(body api.KeyManagerPrototype, instance pg.Instance) (tenant.KeyManager, error) {
	var wrong []error
	refuse := func(field string, kind fault.Kind, sentence string) {
		wrong = append(wrong, inField(field, kind, "%s", sentence))
	}
	switch {
	case body.Type == "":
		refuse("type", fault.Missing, "Field `type` is missing. Set it to key_protect or hpcs.")
	case !body.Type.Valid():
		refuse("type", fault.Invalid, "Field `type` has to be key_protect or hpcs.")
	case body.Type == api.KeyManagerTypeHpcs && h.dedicated == nil:
		refuse("type", fault.Invalid, "Hyper Protect Crypto Services can't be used here: this cell has no dedicated endpoints. Set `type` to key_protect, or ask the operator.")
	}
	if err := checkInstanceCRN(body, instance); err != nil {
		wrong = append(wrong, err)
	}
	ring := "default"
	if body.KeyRing != nil {
		ring = *body.KeyRing
	}
	if !keyRingForm.MatchString(ring) {
		refuse("key_ring", fault.Invalid, "Field `key_ring` has to be a key ring's id: 2 to 100 letters, digits and hyphens. Leave it out for the ring `default`.")
	} else if body.Type == api.KeyManagerTypeHpcs && ring != "default" {
		refuse("key_ring", fault.Invalid, "Field `key_ring` has to be `default` with Hyper Protect Crypto Services. Choose a root key in that ring.")
	}
	switch {
	case body.RootKeyID == "":
		refuse("root_key_id", fault.Missing, "Field `root_key_id` is missing. Set it to the id of a root key in the key manager.")
	case !identifier.MatchString(body.RootKeyID):
		refuse("root_key_id", fault.Invalid, "Field `root_key_id` has to be a UUID in lower case: the root key's id, not its name or CRN.")
	}
	switch {
	case body.APIKey == nil && body.Type == api.KeyManagerTypeHpcs && h.manager.authorized:
		// The instance itself is let in, by a service authorization.
	case body.APIKey == nil:
		refuse("api_key", fault.Missing, "Field `api_key` is missing. Create an API key of a service ID that is Viewer and Manager on the key manager instance.")
	case !apiKeyForm.MatchString(*body.APIKey):
		refuse("api_key", fault.Invalid, "Field `api_key` has to be 16 to 256 printable characters without spaces. Copy the API key again, whole.")
	}
	if len(wrong) > 0 {
		return tenant.KeyManager{}, errors.Join(wrong...)
	}
	return tenant.KeyManager{
		Type: tenant.KeyManagerType(body.Type), InstanceCRN: body.InstanceCRN, KeyRing: ring, RootKeyID: body.RootKeyID,
	}, nil
}

// checkInstanceCRN holds the CRN to the type, account and region of the
// request's instance.
func checkInstanceCRN(body api.KeyManagerPrototype, instance pg.Instance) error {
	refuse := func(kind fault.Kind, format string, args ...any) error {
		return inField("instance_crn", kind, "Field `instance_crn` "+format, args...)
	}
	const remedy = " Copy the CRN from the key manager instance's details."
	if body.InstanceCRN == "" {
		return refuse(fault.Missing, "is missing."+remedy)
	}
	name, err := crn.Parse(body.InstanceCRN)
	switch {
	case len(body.InstanceCRN) > maxCRN:
		return refuse(fault.Invalid, "is longer than %d characters."+remedy, maxCRN)
	case err != nil:
		return refuse(fault.Invalid, "is not a CRN."+remedy)
	case name.ResourceType != "" || name.Resource != "":
		return refuse(fault.Invalid, "names a part of an instance; it has to name the instance itself, ending in `::`."+remedy)
	case !identifier.MatchString(name.Instance):
		return refuse(fault.Invalid, "has no instance id: its eighth segment has to be a UUID in lower case."+remedy)
	case name.Service != kmsServices[api.KeyManagerTypeKeyProtect] && name.Service != kmsServices[api.KeyManagerTypeHpcs]:
		return refuse(fault.Invalid, "is of service `%s`; it has to be of `kms` (Key Protect) or `hs-crypto` (Hyper Protect Crypto Services).", shorten(name.Service))
	case body.Type.Valid() && name.Service != kmsServices[body.Type]:
		return refuse(fault.Invalid, "is of service `%s`, but `type` is %s. Change one of the two.", name.Service, body.Type)
	case name.Account() != instance.Account:
		return refuse(fault.Invalid, "is of another account. The key manager instance has to belong to the account of the KMIP instance.")
	case name.Location != instance.Region:
		return refuse(fault.Invalid, "is in region `%s`, but this KMIP instance is in `%s`. Use a key manager instance in `%s`.", shorten(name.Location), instance.Region, instance.Region)
	case name.String() != body.InstanceCRN || name.Name != "bluemix" || name.Type != "public":
		return refuse(fault.Invalid, "has to begin with crn:v1:bluemix:public."+remedy)
	}
	return nil
}
