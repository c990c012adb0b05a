package keyprotect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// request is one call of the API.
type request struct {
	what   action
	method string
	path   string // below /api/v2, with query
	ring   string // key ring; empty: any
	body   []byte
	safe   bool // repeating it changes nothing
	limit  int  // of the answer, in bytes; 0: maxAnswer
}

// failure is an answer other than success, as support needs it. It holds
// neither bodies nor tokens.
type failure struct {
	what        action
	status      int    // HTTP status; 0: no answer
	code        string // IBM's reason code, if the answer had one
	correlation string // Correlation-Id
	after       time.Duration
	err         error // why there is no answer
}

// Error returns what was asked and the answer.
func (f *failure) Error() string {
	if f.status == 0 {
		return fmt.Sprintf("%s: no answer (correlation id %s): %v", f.what, f.correlation, f.err)
	}
	return fmt.Sprintf("%s: status %d %s (correlation id %s)", f.what, f.status, f.code, f.correlation)
}

// Unwrap returns why there was no answer.
func (f *failure) Unwrap() error { return f.err }

// unknownOutcome tells whether a write may have taken effect although it
// failed with err.
func unknownOutcome(err error) bool {
	var f *failure
	return !errors.As(err, &f) || f.status == 0 && f.err != nil || f.status >= http.StatusInternalServerError
}

// call makes a request and decodes the answer into into, unless that is nil.
// A refused token is renewed once; what is safe is tried again with full
// jitter. The error is a fault.Error around a *failure.
func (c *Client) call(ctx context.Context, r request, into any) error {
	token, err := c.tokens.Token(ctx)
	if err != nil {
		return err
	}
	renewed := false
	for try := 1; ; try++ {
		f := c.exchange(ctx, r, token, into)
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
		judged := judge(r.what, f)
		if !r.safe || judged.Kind != fault.Unavailable || try >= tries || !pause(ctx, try, f.after) {
			return judged
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
func (c *Client) exchange(ctx context.Context, r request, token string, into any) *failure {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	f := &failure{what: r.what, correlation: uuid.NewString()}
	q, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, bytes.NewReader(r.body))
	if err != nil {
		f.err = err
		return f
	}
	q.Header.Set("Authorization", "Bearer "+token)
	q.Header.Set("Bluemix-Instance", c.instance)
	q.Header.Set("Correlation-Id", f.correlation)
	q.Header.Set("Accept", "application/json")
	if r.body != nil {
		q.Header.Set("Content-Type", "application/json")
	}
	if r.ring != "" {
		q.Header.Set("X-Kms-Key-Ring", r.ring)
	}
	if r.method == http.MethodDelete {
		q.Header.Set("Prefer", "return=minimal")
	}
	answer, err := c.http.Do(q)
	if err != nil {
		f.err = err
		return f
	}
	defer answer.Body.Close()
	limit := r.limit
	if limit == 0 {
		limit = maxAnswer
	}
	body, err := readAll(answer.Body, limit)
	defer clear(body)
	if err != nil {
		f.err = err
		return f
	}
	if answer.StatusCode >= 200 && answer.StatusCode < 300 {
		if into == nil {
			return nil
		}
		if err := json.Unmarshal(body, into); err != nil {
			f.err = errors.New("the answer is not the JSON that was expected") // err may quote it
			return f
		}
		return nil
	}
	f.status = answer.StatusCode
	f.code = reasonCode(body)
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && seconds > 0 {
		f.after = time.Duration(seconds) * time.Second
	}
	return f
}

// readAll reads a body of at most limit bytes. It leaves no copy of it behind
// in buffers that it outgrew.
func readAll(r io.Reader, limit int) ([]byte, error) {
	b := make([]byte, 0, 4096)
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil:
			return b, err
		case len(b) > limit:
			return b, fmt.Errorf("the answer is longer than %d bytes", limit)
		}
		if len(b) == cap(b) {
			grown := append(make([]byte, 0, 2*cap(b)), b...)
			clear(b)
			b = grown
		}
	}
}

// reasonCode returns the first reason's code of an error body, or "" (Key
// Protect API v2, errors; 401 never has one).
func reasonCode(body []byte) string {
	var e struct {
		Resources []struct {
			Reasons []struct {
				Code string `json:"code"`
			} `json:"reasons"`
		} `json:"resources"`
	}
	if json.Unmarshal(body, &e) != nil || len(e.Resources) == 0 || len(e.Resources[0].Reasons) == 0 {
		return ""
	}
	return e.Resources[0].Reasons[0].Code
}
