package engine

import (
	"errors"
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// The limits of what is held within tenants' windows. Beyond them nothing more
// is held, so that no tenant takes anything from another.
const (
	maxHeld         = 250_000 // keys of all tenants together, about 500 bytes each
	maxHeldOfTenant = 5_000

	// graceWait is how long the key manager may take to answer before a key is
	// served within the outage grace: a host that boots waits no longer.
	graceWait = 3 * time.Second
)

// Window says by which of the tenant's windows a key was served; it is empty
// when the key manager has just been asked.
type Window string

// The windows.
const (
	Cache Window = "cache" // the key manager was not asked
	Grace Window = "grace" // the key manager was asked and could not be reached
)

// held are the KEKs that the tenants' windows allow this node to serve without
// the key manager: of each the time is known when it was asked and gave the key.
// They are wiped when the longer window has passed, without anybody asking.
// Safe for concurrent use.
type held struct {
	mu      sync.Mutex
	tenants map[tenant.ID]*windows
	keys    int
}

// windows holds one tenant's keys. When they are given up it is left behind, so
// that a call to the key manager that began before adds nothing.
type windows struct {
	longest    time.Duration
	keyManager tenant.KeyManager // that gave the keys, or a former one
	keys       map[subject]*heldKey
}

type heldKey struct {
	material *secret.Bytes
	asked    time.Time // when the calls began by which the key manager gave it
	end      *time.Timer
}

func newHeld() *held { return &held{tenants: make(map[tenant.ID]*windows)} }

// longest is how long the tenant's windows allow to hold a key.
func longest(t *tenant.Tenant) time.Duration { return max(t.Cache, t.OutageGrace) }

// of returns the windows to which a call that begins now may add, or nil if the
// tenant has none.
func (h *held) of(t *tenant.Tenant) *windows {
	if longest(t) <= 0 || t.KeyManager == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.tenants[t.ID]
	if w == nil {
		w = &windows{longest: longest(t), keyManager: *t.KeyManager, keys: make(map[subject]*heldKey)}
		h.tenants[t.ID] = w
	}
	return w
}

// add holds a copy of a key that the key manager gave.
func (h *held) add(w *windows, s subject, material *secret.Bytes, asked, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w == nil || h.tenants[s.tenant] != w {
		return
	}
	h.remove(w, s)
	left := w.longest - now.Sub(asked)
	if left <= 0 || h.keys >= maxHeld || len(w.keys) >= maxHeldOfTenant {
		return
	}
	k := &heldKey{material: material.Clone(), asked: asked}
	k.end = time.AfterFunc(left, func() { h.expire(w, s, k) })
	w.keys[s] = k
	h.keys++
}

// within returns a copy of a key if it was given no longer ago than a window
// allows, or nil. One that seems to come from the future is given up: the clock
// was set back, and its age is not known.
func (h *held) within(s subject, window time.Duration, now time.Time) *secret.Bytes {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.find(s, window, now)
	if k == nil {
		return nil
	}
	return k.material.Clone()
}

// has reports whether within would return a key.
func (h *held) has(s subject, window time.Duration, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.find(s, window, now) != nil
}

// find is within without the copy; h.mu is held.
func (h *held) find(s subject, window time.Duration, now time.Time) *heldKey {
	w := h.tenants[s.tenant]
	if w == nil || w.keys[s] == nil {
		return nil
	}
	k := w.keys[s]
	age := now.Sub(k.asked)
	if age < 0 {
		h.remove(w, s)
	}
	if age < 0 || age >= window {
		return nil
	}
	return k
}

// heed gives up what an answer of the key manager about an object forbids to
// serve: all of the tenant's keys if root key or permission are gone, the
// object's if its standard key is.
func (h *held) heed(s subject, err error) {
	switch {
	case errors.Is(err, ErrDenied):
		h.empty(s.tenant)
	case errors.Is(err, ErrGone), errors.Is(err, ErrCorrupt), errors.Is(err, ErrNotFound):
		h.drop(s)
	}
}

// drop gives up one key.
func (h *held) drop(s subject) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.tenants[s.tenant]; w != nil {
		h.remove(w, s)
	}
}

// empty gives up all keys of a tenant.
func (h *held) empty(t tenant.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leave(t)
}

// obey gives up what a new configuration no longer allows to hold.
func (h *held) obey(c *tenant.Snapshot, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, w := range h.tenants {
		t := c.Tenant(id)
		if t == nil || t.Suspended || t.KeyManager == nil || !t.KeyManager.Equal(w.keyManager) || longest(t) <= 0 {
			h.leave(id)
			continue
		}
		changed := w.longest != longest(t)
		w.longest = longest(t)
		for s, k := range w.keys {
			left := w.longest - now.Sub(k.asked)
			switch {
			case left <= 0, t.Withholds(string(s.object)):
				h.remove(w, s)
			case changed:
				k.end.Reset(left)
			}
		}
	}
}

// close gives up everything.
func (h *held) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.tenants {
		h.leave(id)
	}
}

// expire gives up a key whose window has passed, unless it was given anew.
func (h *held) expire(w *windows, s subject, k *heldKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.keys[s] == k {
		h.remove(w, s)
	}
}

// leave gives up a tenant's windows; h.mu is held.
func (h *held) leave(t tenant.ID) {
	w := h.tenants[t]
	if w == nil {
		return
	}
	for s := range w.keys {
		h.remove(w, s)
	}
	delete(h.tenants, t)
}

// remove wipes a key; h.mu is held.
func (h *held) remove(w *windows, s subject) {
	k := w.keys[s]
	if k == nil {
		return
	}
	k.end.Stop()
	k.material.Wipe()
	delete(w.keys, s)
	h.keys--
}
