package pg

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Event is a call on an instance, a KMIP request, or a gap among those.
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

// KMIPEvents are events of one instance, and how many of those before them are
// on no other record than the node's own.
type KMIPEvents struct {
	Instance tenant.ID
	Changes  bool      // they are of requests that change something, or else of those that do not
	Events   [][]byte  // each an audit.Event in JSON; the oldest first
	Missed   int64     // that came before and can't be given
	From, To time.Time // of these
	// Gap is the audit.Event, in JSON, that stands for all that are not kept.
	// The node, how many they are, from when to when become its responseData.
	Gap []byte
}

// RecordKMIPEvents keeps events for 30 days: of an instance's reads and of its
// changes 100,000 a day each, while those beyond are counted in one entry for
// each node and day. Events whose outcome is unknown may be kept twice.
func (r *Reports) RecordKMIPEvents(ctx context.Context, all []KMIPEvents) error {
	type row struct {
		Instance tenant.ID         `json:"instance"`
		Changes  bool              `json:"changes"`
		Events   []json.RawMessage `json:"events"`
		Missed   int64             `json:"missed"`
		From     *time.Time        `json:"missed_from"`
		To       *time.Time        `json:"missed_to"`
		Gap      json.RawMessage   `json:"gap"`
	}
	rows := make([]row, len(all))
	for i, e := range all {
		rows[i] = row{Instance: e.Instance, Changes: e.Changes, Events: make([]json.RawMessage, len(e.Events)), Missed: e.Missed, Gap: e.Gap}
		for n, event := range e.Events {
			rows[i].Events[n] = event
		}
		if e.Missed > 0 {
			rows[i].From, rows[i].To = &e.From, &e.To
		}
	}
	text, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	text = bytes.ReplaceAll(text, []byte(`\u0000`), []byte(`\ufffd`)) // jsonb has no NUL
	return r.pool.transact(ctx, pgx.TxOptions{}, func(q *queries.Queries) error {
		return q.RecordKMIPEvents(ctx, queries.RecordKMIPEventsParams{Node: r.node, Recorded: text})
	})
}
