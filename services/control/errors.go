package control

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// answer is how HTTP tells a kind of failure.
type answer struct {
	status int
	code   api.ErrorCode
}

// answers is the one table from kinds to HTTP. Its length and order are those
// of the kinds of package fault.
var answers = [...]answer{
	fault.Internal:           {http.StatusInternalServerError, api.ErrorCodeInternalError},
	fault.Malformed:          {http.StatusBadRequest, api.ErrorCodeBadRequest},
	fault.Invalid:            {http.StatusBadRequest, api.ErrorCodeInvalidValue},
	fault.Missing:            {http.StatusBadRequest, api.ErrorCodeMissingValue},
	fault.Unauthenticated:    {http.StatusUnauthorized, api.ErrorCodeUnauthorized},
	fault.Denied:             {http.StatusForbidden, api.ErrorCodeForbidden},
	fault.NotFound:           {http.StatusNotFound, api.ErrorCodeNotFound},
	fault.Exists:             {http.StatusConflict, api.ErrorCodeAlreadyExists},
	fault.Conflict:           {http.StatusConflict, api.ErrorCodeConflict},
	fault.Illegal:            {http.StatusConflict, api.ErrorCodeInvalidState},
	fault.Gone:               {http.StatusGone, api.ErrorCodeGone},
	fault.Unsupported:        {http.StatusNotImplemented, api.ErrorCodeNotImplemented},
	fault.FeatureMissing:     {http.StatusNotImplemented, api.ErrorCodeNotImplemented},
	fault.FormatMissing:      {http.StatusNotImplemented, api.ErrorCodeNotImplemented},
	fault.CompressionMissing: {http.StatusNotImplemented, api.ErrorCodeNotImplemented},
	fault.NamespaceMissing:   {http.StatusNotImplemented, api.ErrorCodeNotImplemented},
	fault.Sensitive:          {http.StatusForbidden, api.ErrorCodeForbidden},
	fault.NotExtractable:     {http.StatusForbidden, api.ErrorCodeForbidden},
	fault.IndexOutOfBounds:   {http.StatusBadRequest, api.ErrorCodeInvalidValue},
	fault.TooLarge:           {http.StatusRequestEntityTooLarge, api.ErrorCodeTooLarge},
	fault.Throttled:          {http.StatusTooManyRequests, api.ErrorCodeTooManyRequests},
	fault.Unavailable:        {http.StatusServiceUnavailable, api.ErrorCodeServiceUnavailable},
	fault.Corrupt:            {http.StatusInternalServerError, api.ErrorCodeInternalError},
}

// moreInfo is the page that says what each code means.
const moreInfo = "https://github.com/kmip-for-vmware/kmip/blob/main/docs/api.md#errors"

// locatedError is a failure that lies in one named part of the request.
type locatedError struct {
	target api.ErrorTarget
	err    error
}

func (l *locatedError) Error() string { return l.err.Error() }
func (l *locatedError) Unwrap() error { return l.err }

// locate says that err lies in a field of the body, if there is an error.
func locate(field string, err error) error {
	if err == nil {
		return nil
	}
	return &locatedError{api.ErrorTarget{Type: api.ErrorTargetTypeField, Name: field}, err}
}

// inField says that a field of the body is wrong.
func inField(name string, kind fault.Kind, format string, args ...any) error {
	return locate(name, fault.Newf(kind, format, args...))
}

// inParameter says that a query parameter is wrong.
func inParameter(name, format string, args ...any) error {
	return &locatedError{api.ErrorTarget{Type: api.ErrorTargetTypeParameter, Name: name}, fault.Newf(fault.Invalid, format, args...)}
}

// inHeader says that a header is wrong.
func inHeader(name string, kind fault.Kind, format string, args ...any) error {
	return &locatedError{api.ErrorTarget{Type: api.ErrorTargetTypeHeader, Name: name}, fault.Newf(kind, format, args...)}
}

// httpError is a failure that only HTTP knows, so that it has no kind.
type httpError struct {
	answer
	target  *api.ErrorTarget
	message string
}

func (e *httpError) Error() string { return e.message }

// fail answers with the error container that err stands for: one entry per
// error if several were joined, with the status of the first. What the caller
// isn't told goes to the access log.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r.Context())
	x.failure = err
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // joined here, not wrapped below
		all = joined.Unwrap()
	}
	container := api.ErrorContainer{Trace: x.trace}
	for _, one := range all {
		status, entry := describe(one)
		if container.StatusCode == 0 {
			container.StatusCode = int32(status) //nolint:gosec // three digits
		}
		entry.MoreInfo = moreInfo
		container.Errors = append(container.Errors, entry)
	}
	if container.StatusCode == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", challenge(err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(container.StatusCode))
	if err := json.NewEncoder(w).Encode(container); err != nil {
		x.failure = errors.Join(x.failure, err)
	}
}

// describe returns the status and the entry for one error.
func describe(err error) (int, api.Error) {
	var only *httpError
	if errors.As(err, &only) {
		return only.status, api.Error{Code: only.code, Message: only.message, Target: only.target}
	}
	kind, message := fault.KindOf(err), fault.Public(err)
	if kind == fault.Internal && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		kind, message = fault.Unavailable, "The request ran out of time. Try again."
	}
	if int(kind) >= len(answers) {
		kind = fault.Internal
	}
	entry := api.Error{Code: answers[kind].code, Message: message}
	var where *locatedError
	if errors.As(err, &where) {
		entry.Target = &where.target
	}
	return answers[kind].status, entry
}
