package keyprotect

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// subject is what a call is about: it decides what a refusal means.
type subject int

const (
	collection  subject = iota // all keys: list and create
	standardKey                // one object's standard key
	rootKey                    // the tenant's root key
)

// failure is how a call ended that brought no result. Its text is for the log:
// IBM's code and the correlation id, none of the texts that the other side
// sent.
type failure struct {
	action      string
	status      int    // 0: no answer
	code        string // of the first reason; "" when there is none
	own         bool   // the body is the key manager's error document
	correlation string
	held        bool // gate or circuit breaker let nothing through
	sent        bool // the request may have taken effect
	retryAfter  time.Duration
	err         error // without an answer
}

// Error implements error.
func (f *failure) Error() string {
	if f.held {
		return fmt.Sprintf("%s: not sent: %v", f.action, f.err)
	}
	if f.status == 0 {
		return fmt.Sprintf("%s: %v (correlation id %s)", f.action, f.err, f.correlation)
	}
	text := fmt.Sprintf("%s: status %d", f.action, f.status)
	if f.code != "" {
		text += " " + f.code
	}
	if f.err != nil {
		text += ": " + f.err.Error()
	}
	return text + " (correlation id " + f.correlation + ")"
}

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.err }

// passing reports whether the same call may succeed in a moment: no answer,
// 429, or 5xx but 501, as IBM's own clients have it, or a gateway's 408.
func (f *failure) passing() bool {
	return f.status == 0 && !f.held || f.status == http.StatusTooManyRequests || f.status == http.StatusRequestTimeout ||
		f.status >= 500 && f.status != http.StatusNotImplemented
}

// down reports whether the key manager is away, as far as this failure shows:
// no answer, 5xx, or another's answer. Who throttles us is there; so is who
// finds one key's metadata broken (500 INCOMPLETE_METADATA_ERR).
func (f *failure) down() bool {
	switch {
	case f.status == http.StatusTooManyRequests, f.code == "INCOMPLETE_METADATA_ERR":
		return false
	default:
		return !f.own || f.status >= 500
	}
}

// unknown reports whether the call may have taken effect. A 4xx leaves no
// change (IBM Cloud API handbook, status codes); 408 is a gateway's.
func (f *failure) unknown() bool {
	refused := f.status >= 400 && f.status < 500 && f.status != http.StatusRequestTimeout
	return f.sent && !refused
}

// An identifier from the key manager enters our texts only in this shape.
var identifier = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// refusal reads an answer that is not a success. The error document is
// described in Key Protect API v2, error handling; reasons may be absent.
func refusal(response *http.Response, content []byte, now time.Time) *failure {
	f := &failure{status: response.StatusCode, sent: true, retryAfter: retryAfter(response.Header, now)}
	var document struct {
		Resources []struct {
			ErrorMsg string `json:"errorMsg"`
			Reasons  []struct {
				Code string `json:"code"`
			} `json:"reasons"`
		} `json:"resources"`
	}
	if json.Unmarshal(content, &document) != nil || len(document.Resources) != 1 || document.Resources[0].ErrorMsg == "" {
		return f
	}
	f.own = true
	if reasons := document.Resources[0].Reasons; len(reasons) > 0 && identifier.MatchString(reasons[0].Code) {
		f.code = reasons[0].Code
	}
	return f
}

// retryAfter reads how long the other side asks us to wait, in either form of
// the header (RFC 9110, 10.2.3); 0 when it does not.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if s, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// What callers read.
const (
	publicUnavailable = "The key manager does not answer now. Try again later."
	publicNoAccess    = "The key manager does not let this service in. Check the roles that its service ID or service authorization has on the key manager, and the key manager's CRN."
	publicRootGone    = "The root key does not exist in the key manager. Restore it there, or choose another root key."
	publicRootOff     = "The root key is not active in the key manager. Enable it there."
	publicNotRoot     = "The key chosen as root key is a standard key. Choose a root key."
	publicGone        = "The standard key was deleted in the key manager."
	publicCorrupt     = "The stored key does not open: it was changed, or belongs to another object."
	publicMisuse      = "The key manager does not accept the request."
)

// fault gives a failure its kind, by design "Key manager's answers". Only the
// key manager's own error document makes an answer final: a 404 from whatever
// else answers at its address, during an outage for example, may pass.
func (f *failure) fault(about subject) error {
	kind, public := fault.Unavailable, publicUnavailable
	if f.code != "" {
		public = fmt.Sprintf("The key manager can't do this now: it answered %d %s.", f.status, f.code)
	}
	if !f.own {
		return fault.Wrap(kind, public, f)
	}
	switch f.status {
	case http.StatusUnauthorized: // of a call made again with a fresh token
		kind, public = fault.Denied, publicNoAccess
	case http.StatusNotFound, http.StatusGone:
		switch about {
		case rootKey:
			kind, public = fault.Denied, publicRootGone
		case standardKey:
			kind, public = fault.Gone, publicGone
		case collection: // no key was asked for
		}
	case http.StatusConflict:
		if about == rootKey && f.code == "KEY_ACTION_INVALID_STATE_ERR" {
			kind, public = fault.Denied, publicRootOff
		}
	case http.StatusUnprocessableEntity:
		kind, public = fault.Corrupt, publicCorrupt
	case http.StatusBadRequest:
		kind, public = fault.Internal, publicMisuse
		if about == rootKey && f.code == "KEY_ROOT_REQ_ERR" {
			kind, public = fault.Denied, publicNotRoot
		}
	}
	return fault.Wrap(kind, public, f)
}

var errNoTLS = errors.New("no TLS spoken")

// broken describes a failed exchange by those errors whose texts are ours or
// the operating system's: net/http's may quote what the other side sent, and
// that may be a key.
func broken(err error) error {
	var network *net.OpError
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &certificate):
		return certificate
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return errNoTLS
	case errors.As(err, &network): // before the next two, which a failed dial may be as well
		return network
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	case errors.Is(err, errTooLong):
		return errTooLong
	default:
		return errors.New("no HTTP answer")
	}
}
