package keyprotect

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/google/uuid"
)

// request is one call of the API.
type request struct {
	action string // in the words of a sentence: "wrap with the root key"
	about  subject
	method string
	path   string // below /api/v2, with query
	ring   string // key ring; empty: any
	body   []byte // wiped when the call ends
	safe   bool   // repeating it changes nothing
	limit  int    // of the answer, in bytes; 0: maxAnswer
}

// unknownOutcome tells whether a write may have taken effect although it
// failed with err.
func unknownOutcome(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.unknown()
}

// call makes a request and decodes the answer into into, unless that is nil.
// A refused token is renewed once; what is safe is tried again with full
// jitter. The error is a fault.Error around a *failure.
func (c *Client) call(ctx context.Context, r request, into any) error {
	content := &body{bytes: r.body}
	defer content.wipe()
	token, err := c.tokens.Token(ctx)
	if err != nil {
		return err
	}
	renewed := false
	for try := 1; ; try++ {
		f := c.exchange(ctx, r, content, token, into)
		if f == nil {
			return nil
		}
		if f.status == http.StatusUnauthorized && !renewed {
			renewed = true
			if token, err = c.tokens.Renew(ctx); err != nil {
				return err
			}
			continue
		}
		if !r.safe || !f.passing() || try >= tries || !pause(ctx, try, f.retryAfter) {
			return f.fault(r.about)
		}
	}
}

// pause waits before the next try; false when there is no time for one.
func pause(ctx context.Context, try int, after time.Duration) bool {
	wait := rand.N(firstPause << try) //nolint:gosec // jitter, not a secret
	if after > longestPause {
		return false
	}
	timer := time.NewTimer(max(wait, after))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// exchange makes one HTTP exchange.
func (c *Client) exchange(ctx context.Context, r request, content *body, token string, into any) *failure {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	f := &failure{action: r.action, correlation: uuid.NewString()}
	q, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, nil)
	if err != nil {
		f.err = errors.New("the address can't be used")
		return f
	}
	if r.body != nil {
		q.Body, q.ContentLength = content.reader(), int64(len(r.body))
		q.GetBody = func() (io.ReadCloser, error) { return content.reader(), nil }
		q.Header.Set("Content-Type", "application/json")
	}
	q.Header.Set("Authorization", "Bearer "+token)
	q.Header.Set("Bluemix-Instance", c.instance)
	q.Header.Set("Correlation-Id", f.correlation)
	q.Header.Set("Accept", "application/json")
	if r.ring != "" {
		q.Header.Set("X-Kms-Key-Ring", r.ring)
	}
	if r.method == http.MethodDelete {
		q.Header.Set("Prefer", "return=minimal")
	}
	f.sent = true
	answer, err := c.http.Do(q)
	if err != nil {
		f.err = broken(err)
		return f
	}
	defer answer.Body.Close()
	limit := r.limit
	if limit == 0 {
		limit = maxAnswer
	}
	text, err := readAll(answer.Body, limit)
	defer clear(text)
	switch {
	case err != nil:
		f.err = broken(err)
		return f
	case answer.StatusCode < 200 || answer.StatusCode > 299:
		return refusal(r.action, answer, text)
	case into == nil:
		return nil
	}
	if json.Unmarshal(text, into) != nil {
		f.err = errors.New("the answer is not the JSON that was expected") // json's error may quote it
		return f
	}
	return nil
}
