package keyprotect

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// gate bounds the calls that one key manager instance has at a time from here,
// and holds all of them back while it asks for that. Who waits is let through
// in order; what changes something can't fill it, so that keys are read first.
type gate struct {
	all, changes chan struct{} // one element for each call under way

	mu    sync.Mutex
	until time.Time // no call before
}

func newGate() *gate {
	return &gate{all: make(chan struct{}, atOnce), changes: make(chan struct{}, changesAtOnce)}
}

// enter waits for a call's turn. Without an error call leave after it.
func (c *Client) enter(ctx context.Context, change bool) (leave func(), err error) {
	slots := []chan struct{}{c.gate.all}
	if change {
		slots = []chan struct{}{c.gate.changes, c.gate.all}
	}
	taken := 0
	leave = func() {
		for _, s := range slots[:taken] {
			<-s
		}
	}
	for _, s := range slots {
		select {
		case s <- struct{}{}:
			taken++
		case <-ctx.Done():
			leave()
			return nil, ctx.Err()
		}
	}
	for d := c.gate.wait(c.now()); d > 0; d = c.gate.wait(c.now()) {
		d += rand.N(firstPause) //nolint:gosec // jitter, not a secret
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
			err = errThrottled
		} else {
			err = c.sleep(ctx, d)
		}
		if err != nil {
			leave()
			return nil, err
		}
	}
	return leave, nil
}

// wait returns how long calls are still held back.
func (g *gate) wait(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.until.Sub(now)
}

// hold holds calls back until a time, or longer if they are already.
func (g *gate) hold(until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until.After(g.until) {
		g.until = until
	}
}
