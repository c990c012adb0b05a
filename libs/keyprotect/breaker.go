package keyprotect

import (
	"context"
	"errors"

	"github.com/sony/gobreaker/v2"
)

// newBreaker returns the circuit breaker of one client, and so of one tenant's
// key manager instance: an outage costs its tenant no waiting and the other
// tenants no connections.
func newBreaker() *gobreaker.CircuitBreaker[answer] {
	return gobreaker.NewCircuitBreaker[answer](gobreaker.Settings{
		MaxRequests: 1, // the probe of the half-open state
		Timeout:     openTime,
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= openAfter },
		IsSuccessful: func(err error) bool {
			var f *failure
			return !errors.As(err, &f) || !f.down()
		},
		// Who went away says nothing about the key manager.
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) },
	})
}

// errThrottled says that the key manager wants to be left alone for longer than
// the call may take.
var errThrottled = errors.New("throttled for longer than the call may take")

// attempt is exchange behind the gate and the circuit breaker.
func (c *Client) attempt(ctx context.Context, r request, token, ring string) (answer, *failure) {
	leave, err := c.enter(ctx, r.change)
	if err != nil {
		return answer{}, &failure{action: r.action, held: true, err: err}
	}
	defer leave()
	a, err := c.breaker.Execute(func() (answer, error) {
		a, f := c.exchange(ctx, r, token, ring)
		if f != nil {
			return a, f
		}
		return a, nil
	})
	var f *failure
	if err == nil || errors.As(err, &f) {
		return a, f
	}
	return a, &failure{action: r.action, held: true, err: err}
}
