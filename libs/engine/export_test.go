package engine

import "github.com/kmip-for-vmware/kmip/libs/tenant"

// Waiting is how many Gets wait for calls to a key manager.
func (e *Engine) Waiting() (n int) {
	e.flights.mu.Lock()
	defer e.flights.mu.Unlock()
	for _, one := range e.flights.under {
		n += one.waiting
	}
	return n
}

// HeldBytes returns the key bytes that are held for a tenant, as they lie in memory.
func (e *Engine) HeldBytes(t tenant.ID) (all [][]byte) {
	e.held.mu.Lock()
	defer e.held.mu.Unlock()
	if w := e.held.tenants[t]; w != nil {
		for _, k := range w.keys {
			all = append(all, k.material.Reveal())
		}
	}
	return all
}
