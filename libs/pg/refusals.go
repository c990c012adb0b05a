package pg

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// maxRefusals is how many refusals ListRefusals returns.
const maxRefusals = 200

// Refused is who was turned away for what: what refusals are counted by.
type Refused struct {
	Addressed tenant.ID // whose own name or port was used; empty: a shared endpoint
	Cause     tenant.Cause
	Source    netip.Addr // zero: beyond a cap, not told apart
}

// Seen is what the latest of those that are counted together has shown.
type Seen struct {
	ServerName string // SNI, valid UTF-8 without NUL; empty without
	Port       uint16 // as advertised
	Client     tenant.Fingerprint
	HasClient  bool
	Times      int64 // how many are counted
}

// Refusal is one row of the record: a minute, or a day without sources.
type Refusal struct {
	Refused
	Seen
	Node    string // the latest one's
	FirstAt time.Time
	LastAt  time.Time
}

// nobody stands for the shared endpoints, which are no instance's own.
const nobody = "00000000-0000-0000-0000-000000000000"

// CountRefused adds to the refusals on record. Those of an instance beyond 1,000
// rows a day are counted by cause alone; rows are kept for 30 days.
func (r *Reports) CountRefused(ctx context.Context, counted map[Refused]Seen) error {
	type row struct {
		Instance    string       `json:"instance"`
		Cause       tenant.Cause `json:"cause"`
		Source      *netip.Addr  `json:"source"`
		ServerName  string       `json:"server_name"`
		Port        uint16       `json:"port"`
		Fingerprint *string      `json:"fingerprint"`
		Times       int64        `json:"times"`
	}
	rows := make([]row, 0, len(counted))
	for who, seen := range counted {
		x := row{Instance: nobody, Cause: who.Cause, ServerName: seen.ServerName, Port: seen.Port, Times: seen.Times}
		if who.Addressed != "" {
			x.Instance = string(who.Addressed)
		}
		if who.Source.IsValid() {
			x.Source = &who.Source
		}
		if seen.HasClient {
			text := seen.Client.String()
			x.Fingerprint = &text
		}
		rows = append(rows, x)
	}
	text, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	return r.pool.transact(ctx, pgx.TxOptions{}, func(q *queries.Queries) error {
		return q.RecordRefusals(ctx, queries.RecordRefusalsParams{Node: r.node, Counted: text})
	})
}

// ListRefusals returns the newest refusals at an instance's own name or port,
// at most 200, or ErrNotFound. Those at shared endpoints are not among them:
// nothing there says whose they were.
func (s *Instances) ListRefusals(ctx context.Context, account string, id tenant.ID) ([]Refusal, error) {
	var all []Refusal
	err := s.in(ctx, account, func(q *queries.Queries) error {
		if _, err := getInstance(ctx, q, account, id); err != nil {
			return err
		}
		rows, err := q.ListRefusals(ctx, queries.ListRefusalsParams{InstanceID: string(id), Most: maxRefusals})
		for _, row := range rows {
			r := Refusal{
				Refused: Refused{Addressed: id, Cause: tenant.Cause(row.Cause)},
				Seen: Seen{
					ServerName: row.ServerName, Port: uint16(row.Port), //nolint:gosec // written from 16 bits
					HasClient: row.Fingerprint != nil, Times: row.Times,
				},
				Node: row.Node, FirstAt: row.FirstAt, LastAt: row.LastAt,
			}
			copy(r.Client[:], row.Fingerprint)
			if row.Source != "" {
				if r.Source, err = netip.ParseAddr(row.Source); err != nil {
					return err
				}
			}
			all = append(all, r)
		}
		return err
	})
	return all, err
}
