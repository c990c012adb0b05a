package keyprotect

import (
	"errors"
	"net/http"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// Cause names in a word why a call failed, for those who show it to a customer.
type Cause string

// The causes.
const (
	APIKeyRefused   Cause = "api_key_refused"   // IAM gives no token for it
	NotPermitted    Cause = "not_permitted"     // the key manager does not let its bearer do this
	RootKeyGone     Cause = "root_key_gone"     // deleted, or never was
	RootKeyDisabled Cause = "root_key_disabled" // or in another state in which it does nothing
	NotARootKey     Cause = "not_a_root_key"
	WrongAnswer     Cause = "wrong_answer" // what was wrapped does not come back
	NoAnswer        Cause = "no_answer"    // may pass
)

// CauseOf returns the cause of an error that a Client or a Factory returned.
func CauseOf(err error) Cause {
	var f *failure
	answered := errors.As(err, &f)
	switch kind := fault.KindOf(err); {
	case kind == fault.Corrupt:
		return WrongAnswer
	case kind != fault.Denied:
		return NoAnswer
	case !answered:
		return APIKeyRefused
	}
	switch f.status {
	case http.StatusUnauthorized:
		return NotPermitted
	case http.StatusConflict:
		return RootKeyDisabled
	case http.StatusBadRequest:
		return NotARootKey
	default:
		return RootKeyGone
	}
}
