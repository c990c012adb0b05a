package node

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// complainEvery is the pause between log lines about sealing keys that can't
// be read.
const complainEvery = time.Minute

// keyManagers reaches each tenant's key manager with the tenant's own API key,
// which the operator's sealing keys open, or without one as the tenant's own
// instance.
type keyManagers struct {
	file      string // of the sealing keys
	endpoints keyprotect.Endpoints
	tokens    func(apiKey *secret.Bytes) keyprotect.Tokens
	service   func(instanceCRN string) keyprotect.Tokens // nil: every tenant needs an API key
	log       *slog.Logger

	mu      sync.Mutex
	read    version // of the file when it was read last
	ring    *secret.Keyring
	factory *keyprotect.Factory
	stale   rate.Sometimes // bounds the log
}

// version tells a file's contents apart without reading them.
type version struct {
	changed time.Time
	size    int64
}

// open is an engine.KeyManagers. A rotated set of sealing keys is in force at
// the next call; one that can't be read leaves the last in force.
func (k *keyManagers) open(t *tenant.Tenant) (engine.KeyManager, error) {
	k.mu.Lock()
	if err := k.load(); err != nil {
		k.stale.Do(func() {
			k.log.Error("the sealing keys can't be read again; those read before stay in force", "error", err)
		})
	}
	factory := k.factory
	k.mu.Unlock()
	manager, err := factory.For(t)
	if fault.KindOf(err) == fault.Invalid {
		// The fault of a setting, not of the client's request.
		err = fault.Wrap(fault.Unavailable, fault.Public(err), err)
	}
	return manager, err
}

// keyring returns the operator's sealing keys as they are now, or as they could
// be read last.
func (k *keyManagers) keyring() (*secret.Keyring, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(); err != nil && k.ring == nil {
		return nil, err
	}
	return k.ring, nil
}

// load reads the sealing keys if the file has changed.
func (k *keyManagers) load() error {
	info, err := os.Stat(k.file)
	if err != nil {
		return err
	}
	now := version{info.ModTime(), info.Size()}
	if now == k.read {
		return nil
	}
	keyring, err := secret.ReadKeyring(k.file)
	if err != nil {
		return err
	}
	k.read, k.ring, k.factory = now, keyring, &keyprotect.Factory{Endpoints: k.endpoints, Keyring: keyring, Tokens: k.tokens, Service: k.service, Now: obs.Now}
	return nil
}

// counted makes every call to a tenant's key manager visible in m, and what
// came of it in u.
func counted(managers engine.KeyManagers, m *metrics, u *uses) engine.KeyManagers {
	return func(t *tenant.Tenant) (engine.KeyManager, error) {
		manager, err := managers(t)
		if err != nil {
			m.keyManager.WithLabelValues(string(t.ID), "open", resultOf(err)).Inc()
			return nil, err
		}
		return counter{manager, t.ID, m.keyManager, u}, nil
	}
}

// counter counts a key manager's calls by action and result.
type counter struct {
	engine.KeyManager
	tenant tenant.ID
	calls  *prometheus.CounterVec
	uses   *uses
}

func (c counter) count(action string, err error) {
	c.calls.WithLabelValues(string(c.tenant), action, resultOf(err)).Inc()
	c.uses.note(c.tenant, action, err)
}

// Wrap implements engine.KeyManager.
func (c counter) Wrap(ctx context.Context, kek *secret.Bytes, b engine.Binding) (engine.Wrapped, error) {
	w, err := c.KeyManager.Wrap(ctx, kek, b)
	c.count("wrap", err)
	return w, err
}

// Unwrap implements engine.KeyManager.
func (c counter) Unwrap(ctx context.Context, w engine.Wrapped, b engine.Binding) (*secret.Bytes, error) {
	kek, err := c.KeyManager.Unwrap(ctx, w, b)
	c.count("unwrap", err)
	return kek, err
}

// Store implements engine.KeyManager.
func (c counter) Store(ctx context.Context, id kmip.ObjectID, e engine.Envelope) (engine.KeyRef, error) {
	ref, err := c.KeyManager.Store(ctx, id, e)
	c.count("store", err)
	return ref, err
}

// Load implements engine.KeyManager.
func (c counter) Load(ctx context.Context, id kmip.ObjectID, ref engine.KeyRef) (engine.Envelope, error) {
	e, err := c.KeyManager.Load(ctx, id, ref)
	c.count("load", err)
	return e, err
}

// Find implements engine.KeyManager.
func (c counter) Find(ctx context.Context, id kmip.ObjectID) (engine.KeyRef, error) {
	ref, err := c.KeyManager.Find(ctx, id)
	c.count("find", err)
	return ref, err
}

// FindSince implements engine.KeyManager.
func (c counter) FindSince(ctx context.Context, id kmip.ObjectID, since time.Time) ([]engine.KeyRef, error) {
	refs, err := c.KeyManager.FindSince(ctx, id, since)
	c.count("find", err)
	return refs, err
}

// List implements engine.KeyManager.
func (c counter) List(ctx context.Context) ([]engine.StoredKey, error) {
	all, err := c.KeyManager.List(ctx)
	c.count("list", err)
	return all, err
}

// Delete implements engine.KeyManager.
func (c counter) Delete(ctx context.Context, ref engine.KeyRef) error {
	err := c.KeyManager.Delete(ctx, ref)
	c.count("delete", err)
	return err
}
