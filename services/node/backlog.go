package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/kmip-for-vmware/kmip/libs/audit"
	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// backlog is events on their way to PostgreSQL. Each tenant has room for so
// many reads and so many changes: what finds none is counted, and a gap in the
// tenant's record.
type backlog struct {
	store    func(ctx context.Context, all []pg.KMIPEvents) error
	gap      func(t *tenant.Tenant) audit.Event
	log      *slog.Logger
	metrics  *metrics
	full     chan struct{} // has a value when there is a whole batch
	complain rate.Sometimes

	mu      sync.Mutex
	queue   []waiting
	streams map[stream]*pending // those with events that wait or were missed
}

// stream is whose events share a limit.
type stream struct {
	tenant  tenant.ID
	changes bool
}

type waiting struct {
	stream
	event audit.Event
}

type pending struct {
	tenant   *tenant.Tenant
	waiting  int
	missed   int64
	from, to time.Time // of those that were missed
}

// miss counts events that are left out.
func (p *pending) miss(n int64, from, to time.Time) {
	if p.missed == 0 || from.Before(p.from) {
		p.from = from
	}
	if p.missed == 0 || to.After(p.to) {
		p.to = to
	}
	p.missed += n
}

// add takes an event. It never waits.
func (b *backlog) add(t *tenant.Tenant, changes bool, e audit.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := stream{t.ID, changes}
	p := b.streams[s]
	if p == nil {
		p = new(pending)
		b.streams[s] = p
	}
	p.tenant = t
	if p.waiting >= streamEvents || len(b.queue) >= maxEvents {
		p.miss(1, time.Time(e.EventTime), time.Time(e.EventTime))
		b.metrics.eventsMissed.WithLabelValues(string(t.ID)).Inc()
		return
	}
	p.waiting++
	b.queue = append(b.queue, waiting{s, e})
	if len(b.queue) >= eventBatch {
		signal(b.full)
	}
}

// run stores what waits until ctx ends, and then what is left.
func (b *backlog) run(ctx context.Context) {
	tick := time.NewTicker(eventPause)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-b.full:
		case <-tick.C:
		case <-ctx.Done():
		}
		for b.flush(ctx) {
		}
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), eventTimeout)
	defer cancel()
	for b.flush(end) {
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) > 0 {
		b.log.Warn("events are in this log alone: the database did not take them before the end", "events", len(b.queue))
	}
}

// flush stores a batch and returns whether another one waits.
func (b *backlog) flush(ctx context.Context) bool {
	n, all, err := b.batch()
	if len(all) == 0 {
		return false
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, eventTimeout)
		defer cancel()
		err = b.store(ctx, all)
	}
	return b.settle(n, all, err)
}

// batch returns the first so many events, and all that was missed, by stream.
// What was missed is no longer counted here.
func (b *backlog) batch() (n int, all []pg.KMIPEvents, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n = min(len(b.queue), eventBatch)
	at := make(map[stream]int)
	of := func(s stream) *pg.KMIPEvents {
		i, known := at[s]
		if !known {
			i, at[s] = len(all), len(all)
			p := b.streams[s]
			text, e := json.Marshal(b.gap(p.tenant))
			err = errors.Join(err, e)
			all = append(all, pg.KMIPEvents{Instance: s.tenant, Changes: s.changes, Missed: p.missed, From: p.from, To: p.to, Gap: text})
			p.missed = 0
		}
		return &all[i]
	}
	for _, w := range b.queue[:n] {
		text, e := json.Marshal(w.event)
		err = errors.Join(err, e)
		events := of(w.stream)
		events.Events = append(events.Events, text)
	}
	for s, p := range b.streams {
		if p.missed > 0 {
			of(s)
		}
	}
	return n, all, err
}

// settle forgets a batch that was stored, or that can't be, and keeps one that
// is to be tried again. It returns whether another one waits and may be tried.
func (b *backlog) settle(n int, all []pg.KMIPEvents, err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		for _, of := range all {
			if of.Missed > 0 {
				b.streams[stream{of.Instance, of.Changes}].miss(of.Missed, of.From, of.To)
			}
		}
		if errors.Is(err, engine.ErrUnavailable) {
			return false
		}
		b.complain.Do(func() { b.log.Error("events are in this log alone: the database does not take them", "error", err) })
	}
	for _, w := range b.queue[:n] {
		p := b.streams[w.stream]
		p.waiting--
		if err != nil {
			p.miss(1, time.Time(w.event.EventTime), time.Time(w.event.EventTime))
			b.metrics.eventsMissed.WithLabelValues(string(w.tenant)).Inc()
		}
	}
	b.queue = slices.Delete(b.queue, 0, n)
	for s, p := range b.streams {
		if p.waiting == 0 && p.missed == 0 {
			delete(b.streams, s)
		}
	}
	return len(b.queue) > 0
}
