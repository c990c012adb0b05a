// Package fault gives an error its kind once, where it is understood, and
// carries the only text that may reach a caller. One table per wire maps kinds:
// HTTP statuses in services/control, KMIP result reasons in libs/wire.
package fault

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Kind says what a failure means to the caller.
type Kind uint8

// The kinds. Gone, Denied and Corrupt are final: repeating changes nothing
// until somebody acts. Unavailable may be tried again.
const (
	Internal           Kind = iota // a mistake of ours; no detail is shown
	Malformed                      // the message breaks the protocol
	Invalid                        // a field's value is not allowed
	Missing                        // something the request must hold is absent
	Unauthenticated                // no, or no valid, identity
	Denied                         // the identity is known and may not do this
	NotFound                       // no such object for this tenant
	Exists                         // the name or identifier is taken
	Conflict                       // somebody else changed it first
	Illegal                        // the object's state forbids it
	Gone                           // the customer deleted the key material
	Unsupported                    // the operation is not built
	FeatureMissing                 // an option of the operation is not built
	FormatMissing                  // the key can't be given in that format
	CompressionMissing             // the key can't be given with that compression
	NamespaceMissing               // the server makes no application data for that namespace
	Sensitive                      // the bytes may not leave unwrapped
	NotExtractable                 // the bytes may not leave
	IndexOutOfBounds               // an attribute can't have that many instances
	TooLarge                       // the answer or request exceeds a limit
	Throttled                      // a limit of this caller; try again later
	Unavailable                    // a part we need does not answer now
	Corrupt                        // stored key material fails its check: an alarm
)

var kindNames = [...]string{
	"internal", "malformed", "invalid", "missing", "unauthenticated", "denied", "not_found", "exists",
	"conflict", "illegal", "gone", "unsupported", "feature_missing", "format_missing", "compression_missing",
	"namespace_missing", "sensitive", "not_extractable", "index_out_of_bounds", "too_large", "throttled", "unavailable", "corrupt",
}

// String returns the kind's name as it appears in logs and metrics.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Error is a failure with a kind. Public is a sentence for the caller and
// holds nothing secret and nothing of another tenant; Err is the cause for the
// log and may be nil.
type Error struct {
	Kind   Kind
	Public string
	Err    error
}

// New returns an Error without a cause.
func New(kind Kind, public string) *Error {
	return &Error{Kind: kind, Public: public}
}

// Newf is New with a format for the public sentence.
func Newf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Public: fmt.Sprintf(format, args...)}
}

// Wrap gives err a kind and a public sentence.
func Wrap(kind Kind, public string, err error) *Error {
	return &Error{Kind: kind, Public: public, Err: err}
}

// Error returns the public sentence and the cause, for logs.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Public
	}
	return e.Public + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is an *Error of the same kind without text, so
// that errors.Is(err, &Error{Kind: NotFound}) asks for the kind alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Public == "" && t.Err == nil && t.Kind == e.Kind
}

// KindOf returns the kind of the first Error in err's chain, or Internal.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// Public returns the sentence for the caller: that of the first Error in err's
// chain, or a fixed one that shows no detail.
func Public(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Kind != Internal && e.Public != "" {
		return e.Public
	}
	return "The request could not be completed because of an internal error."
}

// Shorten makes a name that the caller made up fit for a public sentence.
func Shorten(name string) string {
	const most = 64
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r == '`' || r == 0x7f {
			return '?'
		}
		return r
	}, name)
	if utf8.RuneCountInString(clean) <= most {
		return clean
	}
	return string([]rune(clean)[:most]) + "…"
}
