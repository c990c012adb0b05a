package node

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// The pauses between attempts to read the configuration.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second

	// diskAfter is how long a node that starts waits for PostgreSQL before it
	// serves what its disk holds, which may admit what was removed meanwhile.
	diskAfter = time.Second
)

// configuration is the cell's tenants as this node knows them.
type configuration struct {
	source   tenant.Source
	disk     *diskCopy     // nil: a node that starts while PostgreSQL is away knows nothing
	ageLimit time.Duration // so long the last snapshot serves while PostgreSQL is away
	now      func() time.Time
	log      *slog.Logger
	metrics  *metrics
	replaced func()                          // called after each change
	current  atomic.Pointer[tenant.Snapshot] // nil until the first was read
	// confirmed is when current was last known to be the newest; its monotonic
	// reading keeps a clock that jumps from making it old.
	confirmed atomic.Pointer[time.Time]
	left      map[tenant.ID]string // why tenants are quarantined; follow's alone
	complain  rate.Sometimes       // bounds the log
}

// follow keeps current up to date until ctx ends, beginning with what the disk
// holds unless PostgreSQL answers. While that is away the last snapshot stays in
// force.
func (c *configuration) follow(ctx context.Context) {
	pause := firstPause
	for first := c.disk != nil; ctx.Err() == nil; first = false {
		err := c.read(ctx, first)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, tenant.ErrTooOld), errors.Is(err, tenant.ErrGap):
			c.log.Warn("the configuration's history is another one: reading all of it again", "error", err)
			pause = firstPause
		default:
			c.log.Error("the configuration can't be read; the last one stays in force", "error", err, "again_in", pause.String())
		}
		if first && c.current.Load() == nil {
			c.readDisk()
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

// readDisk puts the copy on the disk in force. Whatever is wrong with it, it is
// as if there were none.
func (c *configuration) readDisk() {
	snapshot, quarantined, confirmed, err := c.disk.read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		c.log.Error("the copy of the configuration on the disk can't be used", "error", err)
		return
	}
	c.confirmed.Store(&confirmed)
	c.current.Store(snapshot)
	c.log.Info("configuration read from the disk", "confirmed", confirmed)
	c.tell(snapshot, quarantined)
}

// read takes a full snapshot, within diskAfter if the disk can stand in for it,
// and then every change, until one fails.
func (c *configuration) read(ctx context.Context, standIn bool) error {
	asking, cancel := ctx, func() {}
	if standIn {
		asking, cancel = context.WithTimeout(ctx, diskAfter)
	}
	snapshot, quarantined, err := c.source.Snapshot(asking)
	cancel()
	if err != nil {
		return err
	}
	c.confirm()
	c.current.Store(snapshot)
	c.keep(func(now time.Time) error { return c.disk.replace(snapshot, now) })
	c.tell(snapshot, quarantined)
	return c.source.Watch(ctx, snapshot.Revision(), func(d tenant.Delta) error {
		c.confirm()
		if d.After == d.To {
			c.keep(func(now time.Time) error { return c.disk.add(d, c.current.Load(), now) })
			return nil
		}
		next, quarantined, err := c.current.Load().Apply(d)
		if err != nil {
			return err
		}
		c.current.Store(next)
		c.keep(func(now time.Time) error { return c.disk.add(d, next, now) })
		c.tell(next, quarantined)
		for _, id := range d.Removed {
			c.metrics.forget(id)
		}
		return nil
	})
}

// confirm notes that the database has just been heard.
func (c *configuration) confirm() {
	now := c.now()
	c.confirmed.Store(&now)
}

// keep writes to the disk what is in force for requests already, before anybody
// is told so: a node that starts again never goes back behind what it told.
func (c *configuration) keep(write func(now time.Time) error) {
	if c.disk == nil {
		return
	}
	if err := write(c.now()); err != nil {
		c.metrics.copyFailed.Inc()
		c.complain.Do(func() {
			c.log.Error("the copy of the configuration can't be written and is removed: started again while PostgreSQL is away, this node would serve nobody", "error", err)
		})
	}
}

// age is how long ago the configuration was known to be the newest.
func (c *configuration) age() time.Duration {
	confirmed := c.confirmed.Load()
	if confirmed == nil {
		return 0
	}
	return max(0, c.now().Sub(*confirmed))
}

// tell tells logs, metrics and the server what is in force now.
func (c *configuration) tell(s *tenant.Snapshot, quarantined []tenant.Quarantined) {
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
	if err := c.usable(); err != nil {
		return nil, tenant.Client{}, err
	}
	return c.current.Load().Admit(a, now)
}

// usable says why nobody can be admitted, or nil.
func (c *configuration) usable() error {
	switch {
	case c.current.Load() == nil:
		return errNoConfiguration
	case c.age() > c.ageLimit:
		return errOldConfiguration
	}
	return nil
}

var (
	errNoConfiguration  = errors.New("no configuration was read yet: PostgreSQL has not answered since this node started")
	errOldConfiguration = errors.New("the configuration is older than KMIP_CONFIGURATION_AGE_LIMIT allows: PostgreSQL has not answered for that long")
)

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
