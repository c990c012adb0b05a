package keyprotect

import (
	"net/http"
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// maxClients bounds the clients, and so tokens, that are kept.
const maxClients = 10_000

// Factory makes a Client for each tenant from the tenant's settings and keeps
// it as long as these are the same. No two tenants share one, nor an identity:
// a tenant calls as the owner of its own API key, or without one as its own
// instance under an IAM service authorization. Safe for concurrent use; the
// fields are set once.
type Factory struct {
	Endpoints Endpoints
	Keyring   *secret.Keyring
	// Tokens returns the tokens of an API key's owner, which it may keep a copy of.
	Tokens func(apiKey *secret.Bytes) Tokens
	// Service returns the tokens of a KMIP instance, by its CRN. Nil: the
	// operator owns no IAM service, and every tenant needs an API key.
	Service func(instanceCRN string) Tokens
	HTTP    *http.Client     // nil: a shared one
	Now     func() time.Time // nil: time.Now

	mu      sync.Mutex
	clients map[place]made
}

// place tells a tenant's key managers apart: it may have former ones.
type place struct {
	tenant              tenant.ID
	instanceCRN, rootID string
}

type made struct {
	settings tenant.KeyManager
	client   *Client
}

// For returns the client for a tenant's current settings.
func (f *Factory) For(t *tenant.Tenant) (engine.KeyManager, error) {
	if t.KeyManager == nil {
		return nil, fault.New(fault.Denied, "The instance has no key manager yet.")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	at := place{t.ID, t.KeyManager.InstanceCRN, t.KeyManager.RootKeyID}
	if m, ok := f.clients[at]; ok && m.settings.Equal(*t.KeyManager) {
		return m.client, nil
	}
	client, err := f.build(t)
	if err != nil {
		return nil, err
	}
	if f.clients == nil {
		f.clients = make(map[place]made)
	}
	if len(f.clients) >= maxClients {
		for other := range f.clients { // any: it will be made again
			delete(f.clients, other)
			break
		}
	}
	f.clients[at] = made{settings: *t.KeyManager, client: client}
	return client, nil
}

func (f *Factory) build(t *tenant.Tenant) (*Client, error) {
	name, err := crn.Parse(t.KeyManager.InstanceCRN)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "The key manager's CRN can't be read.", err)
	}
	address, err := f.Endpoints.URL(name)
	if err != nil {
		return nil, err
	}
	c := Config{
		BaseURL: address, InstanceCRN: t.KeyManager.InstanceCRN, KeyRing: t.KeyManager.KeyRing,
		RootKeyID: t.KeyManager.RootKeyID, HTTP: f.HTTP, Now: f.Now,
	}
	if len(t.KeyManager.SealedAPIKey) > 0 {
		apiKey, err := f.Keyring.Open(tenant.APIKeyPurpose, string(t.ID), t.KeyManager.SealedAPIKey)
		if err != nil {
			return nil, fault.Wrap(fault.Unavailable, "The key manager's API key can't be opened by this node.", err)
		}
		defer apiKey.Wipe()
		c.Tokens = f.Tokens(apiKey)
		return New(c)
	}
	if f.Service == nil {
		return nil, fault.New(fault.Invalid, "The key manager is reached with an API key here. Give the API key of a service ID.")
	}
	c.Authorized, c.Tokens = t.ID, f.Service(t.CRN(name.Location))
	return New(c)
}
