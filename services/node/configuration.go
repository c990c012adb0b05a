package node

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// The pauses between attempts to read the configuration.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// configuration is the cell's tenants as this node knows them.
type configuration struct {
	source   tenant.Source
	log      *slog.Logger
	metrics  *metrics
	replaced func()                          // called after each change
	current  atomic.Pointer[tenant.Snapshot] // nil until the first was read
	left     map[tenant.ID]string            // why tenants are quarantined; follow's alone
}

// follow keeps current up to date until ctx ends. While PostgreSQL is away the
// last snapshot stays in force.
func (c *configuration) follow(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		err := c.read(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, tenant.ErrTooOld), errors.Is(err, tenant.ErrGap):
			c.log.Warn("the configuration's history is another one: reading all of it again", "error", err)
			pause = firstPause
		default:
			c.log.Error("the configuration can't be read; the last one stays in force", "error", err, "again_in", pause.String())
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

// read takes a full snapshot and then every change, until one fails.
func (c *configuration) read(ctx context.Context) error {
	snapshot, quarantined, err := c.source.Snapshot(ctx)
	if err != nil {
		return err
	}
	c.replace(snapshot, quarantined)
	return c.source.Watch(ctx, snapshot.Revision(), func(d tenant.Delta) error {
		next, quarantined, err := c.current.Load().Apply(d)
		if err != nil {
			return err
		}
		c.replace(next, quarantined)
		for _, id := range d.Removed {
			c.metrics.forget(id)
		}
		return nil
	})
}

func (c *configuration) replace(s *tenant.Snapshot, quarantined []tenant.Quarantined) {
	c.current.Store(s)
	c.metrics.revision.Set(float64(s.Revision().Number))
	c.metrics.tenants.Set(float64(s.Len()))
	c.metrics.quarantined.Set(float64(len(quarantined)))
	left := make(map[tenant.ID]string, len(quarantined))
	for _, q := range quarantined {
		left[q.ID] = q.Reason
		if c.left[q.ID] != q.Reason {
			c.log.Error("a tenant is not served: its configuration can't be applied", "tenant", q.ID, "reason", q.Reason)
		}
	}
	c.left = left
	c.log.Info("configuration in force", "revision", s.Revision().Number, "tenants", s.Len())
	c.replaced()
}

// admit finds the tenant of an arrival in the current snapshot.
func (c *configuration) admit(a tenant.Arrival, now time.Time) (*tenant.Tenant, tenant.Client, error) {
	s := c.current.Load()
	if s == nil {
		return nil, tenant.Client{}, errNoConfiguration
	}
	return s.Admit(a, now)
}

var errNoConfiguration = errors.New("no configuration was read yet: PostgreSQL has not answered since this node started")

// causeOf names why admit failed, for logs and metrics.
func causeOf(err error) string {
	var r *tenant.Refusal
	switch {
	case errors.As(err, &r):
		return string(r.Cause)
	case errors.Is(err, errCrowded):
		return err.Error()
	}
	return "not_ready"
}
