package keyprotect

import (
	"context"
	"time"
)

// Limits that tests measure against.
const (
	OpenAfter = openAfter
	OpenTime  = openTime
	TryTime   = tryTime
)

// WithoutPauses lets a client go on at once where it would wait.
func (c *Client) WithoutPauses() *Client {
	c.sleep = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	return c
}
