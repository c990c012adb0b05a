package keyprotect

import (
	"context"
)

// KeyState is the state of a key (Key Protect, key states).
type KeyState string

// The states of keys that are not deleted.
const (
	PreActive   KeyState = "pre_active"
	Active      KeyState = "active"
	Suspended   KeyState = "suspended"   // disabled; nothing can be wrapped or unwrapped
	Deactivated KeyState = "deactivated" // expired; nothing can be wrapped
)

var keyStates = map[int]KeyState{stateActive: Active, stateSuspended: Suspended, stateDeactivated: Deactivated}

// RootKey is a root key as a list shows it.
type RootKey struct {
	ID      string // UUID
	Name    string
	KeyRing string
	State   KeyState
}

// RootKeys lists the root keys of a key manager instance that the owner of
// c.Tokens may see, in all key rings or in c.KeyRing if that is set, oldest
// first, without those that were deleted. c.RootKeyID is not read. Its errors
// are those of an engine.KeyManager.
func RootKeys(ctx context.Context, c Config) ([]RootKey, error) {
	anyRing := c.KeyRing == ""
	client, err := build(c)
	if err != nil {
		return nil, err
	}
	var all []RootKey
	err = client.list(ctx, anyRing, "extractable=false", func(k key) {
		if k.Extractable || k.Deleted || k.State == stateDestroyed {
			return
		}
		state, known := keyStates[k.State]
		if !known {
			state = PreActive
		}
		all = append(all, RootKey{ID: k.ID, Name: k.Name, KeyRing: k.KeyRing, State: state})
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}
