package keyprotect

import (
	"net/http"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// action is something that we ask of a key manager.
type action string

// The actions, in the words of a sentence about them.
const (
	wrapping   action = "wrap with the root key"
	unwrapping action = "unwrap with the root key"
	storing    action = "create a standard key"
	loading    action = "read a standard key"
	listing    action = "list keys"
	deleting   action = "delete a standard key"
)

// onRootKey tells whether an action is about the root key.
func (a action) onRootKey() bool { return a == wrapping || a == unwrapping }

// onStandardKey tells whether an action is about one existing standard key.
func (a action) onStandardKey() bool { return a == loading || a == deleting }

// judge gives a failure its kind (Key Protect API v2, errors). Only what is
// final is called so; whatever is not known may pass.
func judge(a action, f *failure) *fault.Error {
	as := func(kind fault.Kind, public string) *fault.Error { return fault.Wrap(kind, public, f) }
	switch {
	case f.status == http.StatusUnauthorized: // with a fresh token
		return as(fault.Denied, "The key manager does not permit us to "+string(a)+".")
	case f.status == http.StatusForbidden:
		return as(fault.Denied, "A rule of the key manager forbids us to "+string(a)+".")
	case a.onRootKey():
		switch f.status {
		case http.StatusNotFound, http.StatusGone:
			return as(fault.Denied, "The root key is deleted in the key manager.")
		case http.StatusConflict:
			return as(fault.Denied, "The root key is disabled, deleted or expired in the key manager.")
		case http.StatusUnprocessableEntity:
			return as(fault.Corrupt, "The stored key does not open with the root key.")
		}
		if f.code == "KEY_ROOT_REQ_ERR" {
			return as(fault.Denied, "The key that is named as the root key is a standard key.")
		}
	case a.onStandardKey() && (f.status == http.StatusNotFound || f.status == http.StatusGone):
		return fault.Wrap(errGone.Kind, errGone.Public, f)
	case a == storing && f.status == http.StatusNotFound:
		return as(fault.Denied, "The key ring does not exist in the key manager.")
	case f.status == http.StatusConflict:
		return as(fault.Denied, "A policy of the key manager forbids us to "+string(a)+".")
	}
	if f.status >= 400 && f.status < 500 && f.status != http.StatusTooManyRequests && f.status != http.StatusRequestTimeout {
		return as(fault.Internal, "The key manager did not understand us.")
	}
	return as(fault.Unavailable, "The key manager does not answer now.")
}
