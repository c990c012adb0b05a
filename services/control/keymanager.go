package control

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/services/control/jobs"
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
	address    func(crn.CRN) (string, error)   // of a key manager instance, by the operator's table
	ring       func() (*secret.Keyring, error) // the operator's set as it is now
	authorized bool                            // service authorizations serve in place of API keys
	served     func(service, region string) bool
	open       func(*secret.Keyring, *tenant.Tenant) (engine.KeyManager, error)
}

// reach opens a tenant's key manager with the operator's set as it is now.
func (k keyManagers) reach(t *tenant.Tenant) (engine.KeyManager, error) {
	ring, err := k.ring()
	if err != nil {
		return nil, err
	}
	return k.open(ring, t)
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
	destroy, err := h.check(ctx, ring, instance, settings)
	if err != nil {
		return nil, err
	}
	var own *pg.Dedicated
	if settings.Type == tenant.HPCS {
		if own, err = h.dedicated.endpoint(instance.ID); err != nil {
			return nil, err
		}
	}
	changed, err := h.instances.SetKeyManager(ctx, instance.Account, instance.ID, settings, own, jobs.Conditions(settings, nil, destroy)...)
	if err != nil {
		return nil, orNoInstance(err)
	}
	model := keyManagerModel(settings)
	permitted := destroy == nil
	if model.DestroyPermitted = &permitted; !permitted {
		missing := fault.Public(destroy)
		model.Message = &missing
	}
	model, err = h.showMove(ctx, changed, model)
	return server.ReplaceInstanceKeyManager200JSONResponse(model), err
}

// check lets the key manager carry out every needed action once. A refusal is
// the fault of the settings, so it becomes Invalid with the key manager's
// sentence; that no answer came stays Unavailable. Who may do all but delete is
// accepted, as IBM's manual once asked for no more: then destroy says what that
// means.
func (h *handlers) check(ctx context.Context, ring *secret.Keyring, instance pg.Instance, settings tenant.KeyManager) (destroy, err error) {
	manager, err := h.manager.open(ring, &tenant.Tenant{
		ID: instance.ID, Account: instance.Account, Name: instance.Name, Shared: instance.Shared, KeyManager: &settings,
	})
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, checkDeadline)
	defer cancel()
	err = manager.Check(limited)
	switch kind := fault.KindOf(err); {
	case err == nil:
		return nil, nil
	case errors.Is(err, engine.ErrDestroyDenied):
		return err, nil
	case errors.Is(limited.Err(), context.DeadlineExceeded):
		return nil, fault.Wrap(fault.Unavailable, "The key manager did not answer in time. Nothing was changed; try again.", err)
	case kind == fault.Unavailable, kind == fault.Throttled, kind == fault.Internal:
		return nil, fault.Wrap(kind, fault.Public(err), err)
	}
	return nil, fault.Wrap(fault.Invalid, "The key manager refused these settings; nothing was changed. "+fault.Public(err), err)
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
	ring := defaultRing
	if body.KeyRing != nil {
		ring = *body.KeyRing
	}
	if !keyRingForm.MatchString(ring) {
		refuse("key_ring", fault.Invalid, "Field `key_ring` has to be a key ring's id: 2 to 100 letters, digits and hyphens. Leave it out for the ring `default`.")
	} else if body.Type == api.KeyManagerTypeHpcs && ring != defaultRing {
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

// checkInstanceCRN holds the CRN to the type of the request and to its instance.
func checkInstanceCRN(body api.KeyManagerPrototype, instance pg.Instance) error {
	const field = "instance_crn"
	if body.InstanceCRN == "" {
		return inField(field, fault.Missing, "Field `instance_crn` is missing."+copyCRN)
	}
	name, wrong := keyManagerCRN(body.InstanceCRN, instance)
	if wrong == "" && body.Type.Valid() && name.Service != kmsServices[body.Type] {
		wrong = fmt.Sprintf("is of service `%s`, but `type` is %s. Change one of the two.", name.Service, body.Type)
	}
	if wrong != "" {
		return inField(field, fault.Invalid, "Field `%s` %s", field, wrong)
	}
	return nil
}

const copyCRN = " Copy the CRN from the key manager instance's details."

// keyManagerCRN reads the CRN of a key manager that an instance may be
// connected to. If it is none, wrong says why, as what a sentence says of it.
func keyManagerCRN(text string, instance pg.Instance) (name crn.CRN, wrong string) {
	name, err := crn.Parse(text)
	switch {
	case len(text) > maxCRN:
		wrong = fmt.Sprintf("is longer than %d characters."+copyCRN, maxCRN)
	case err != nil:
		wrong = "is not a CRN." + copyCRN
	case name.ResourceType != "" || name.Resource != "":
		wrong = "names a part of an instance; it has to name the instance itself, ending in `::`." + copyCRN
	case !identifier.MatchString(name.Instance):
		wrong = "has no instance id: its eighth segment has to be a UUID in lower case." + copyCRN
	case name.Service != kmsServices[api.KeyManagerTypeKeyProtect] && name.Service != kmsServices[api.KeyManagerTypeHpcs]:
		wrong = fmt.Sprintf("is of service `%s`; it has to be of `kms` (Key Protect) or `hs-crypto` (Hyper Protect Crypto Services).", fault.Shorten(name.Service))
	case name.Account() != instance.Account:
		wrong = "is of another account. The key manager instance has to belong to the account of the KMIP instance."
	case name.Location != instance.Region:
		wrong = fmt.Sprintf("is in region `%s`, but this KMIP instance is in `%s`. Use a key manager instance in `%s`.", fault.Shorten(name.Location), instance.Region, instance.Region)
	case name.String() != text || name.Name != "bluemix" || name.Type != "public" && name.Type != "dedicated":
		wrong = "has to begin with crn:v1:bluemix:public." + copyCRN
	}
	return name, wrong
}
