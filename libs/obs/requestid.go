package obs

import (
	"context"
	"net/http"
	"regexp"

	"github.com/google/uuid"
)

// The headers that name a request (IBM Cloud API Handbook, tracing).
const (
	RequestIDHeader     = "X-Request-ID"
	CorrelationIDHeader = "X-Correlation-ID"
)

// maxID is the longest request id that is echoed, in bytes.
const maxID = 1024

var usableID = regexp.MustCompile(`^[A-Za-z0-9 ,_-]+$`)

type requestIDKey struct{}

// RequestID returns the id of the request that ctx belongs to, or "".
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// WithRequestID gives every request an id, the caller's if it is usable, and
// answers with it. The correlation id is ours alone: that of an untrusted
// client is ignored.
func WithRequestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		id := q.Header.Get(RequestIDHeader)
		if len(id) > maxID || !usableID.MatchString(id) {
			id = uuid.NewString()
		}
		w.Header().Set(RequestIDHeader, id)
		w.Header().Set(CorrelationIDHeader, uuid.NewString())
		next.ServeHTTP(w, q.WithContext(context.WithValue(q.Context(), requestIDKey{}, id)))
	})
}
