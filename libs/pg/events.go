package pg

import (
	"context"
	"math"

	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Event is a management call on an instance.
type Event struct {
	Number int64  // grows in the order in which events were recorded
	JSON   []byte // an audit.Event
}

// RecordEvent keeps an event, in JSON, for 30 days. One about an instance that
// the account does not have is not kept.
func (s *Instances) RecordEvent(ctx context.Context, account string, id tenant.ID, event []byte) error {
	return s.in(ctx, account, func(q *queries.Queries) error {
		return q.RecordEvent(ctx, queries.RecordEventParams{InstanceID: string(id), Event: event})
	})
}

// ListEvents returns an instance's events of the last 30 days, the newest
// first, at most so many, of those before a number; 0: all. It returns
// ErrNotFound.
func (s *Instances) ListEvents(ctx context.Context, account string, id tenant.ID, before int64, most int) ([]Event, error) {
	if before == 0 {
		before = math.MaxInt64
	}
	var all []Event
	err := s.in(ctx, account, func(q *queries.Queries) error {
		if _, err := getInstance(ctx, q, account, id); err != nil {
			return err
		}
		rows, err := q.ListEvents(ctx, queries.ListEventsParams{InstanceID: string(id), Before: before, Most: int32(most)}) //nolint:gosec // a page
		for _, row := range rows {
			all = append(all, Event{Number: row.ID, JSON: row.Event})
		}
		return err
	})
	return all, err
}
