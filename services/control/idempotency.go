package control

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
)

const idempotencyKey = "Idempotency-Key"

var keyForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// once is pg.Instances.Once.
type once func(ctx context.Context, account, key string, request []byte, do func(context.Context) ([]byte, error)) ([]byte, error)

// serve answers a creation that has a key: by next, in one transaction with
// the record of its answer, or as it was answered before.
func (o once) serve(w http.ResponseWriter, r *http.Request, key string, body []byte, next http.Handler) {
	request := sha256.Sum256(fmt.Appendf(nil, "%s %s\n%s", r.Method, r.URL.Path, body))
	var held heldAnswer
	kept, err := o(r.Context(), exchangeOf(r.Context()).caller.Account, key, request[:], func(ctx context.Context) ([]byte, error) {
		held = heldAnswer{Head: http.Header{}}
		next.ServeHTTP(&held, r.WithContext(ctx))
		if held.Status >= http.StatusMultipleChoices {
			return nil, errRefused
		}
		return json.Marshal(held)
	})
	if err == nil {
		err = json.Unmarshal(kept, &held)
	}
	if err != nil && !errors.Is(err, errRefused) {
		fail(w, r, err)
		return
	}
	maps.Copy(w.Header(), held.Head)
	w.WriteHeader(held.Status)
	_, _ = w.Write(held.Body) // an error means that the caller left
}

// errRefused undoes a creation that was refused; the answer is held.
var errRefused = errors.New("refused")

// heldAnswer is an answer that is not sent yet, and as it is kept.
type heldAnswer struct {
	Status int
	Head   http.Header
	Body   []byte
}

// Header implements http.ResponseWriter.
func (h *heldAnswer) Header() http.Header { return h.Head }

// WriteHeader implements http.ResponseWriter.
func (h *heldAnswer) WriteHeader(status int) { h.Status = status }

// Write implements http.ResponseWriter.
func (h *heldAnswer) Write(data []byte) (int, error) {
	if h.Status == 0 {
		h.Status = http.StatusOK
	}
	h.Body = append(h.Body, data...)
	return len(data), nil
}
