package keyprotect

import (
	"context"
	"sync/atomic"
	"time"
)

// Limits that tests measure against.
const (
	OpenAfter = openAfter
	OpenTime  = openTime
	TryTime   = tryTime
	AtOnce    = atOnce

	ThrottledTries = throttledTries
)

// WithoutPauses lets a client go on at once where it would wait: its clock goes
// on instead.
func (c *Client) WithoutPauses() *Client {
	var slept atomic.Int64
	now := c.now
	c.now = func() time.Time { return now().Add(time.Duration(slept.Load())) }
	c.sleep = func(ctx context.Context, d time.Duration) error { slept.Add(int64(d)); return ctx.Err() }
	return c
}
