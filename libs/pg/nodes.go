package pg

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// How long a node's last report counts.
const (
	// heardFor is how long a node counts as heard from; it reports every second.
	heardFor = 5 * time.Second
	// forgottenAfter is how long a silent node counts at all: it may serve
	// what it knew before, unseen.
	forgottenAfter = 72 * time.Hour
)

// Reports is what a node tells of itself. Its pool's role is kmip_node.
type Reports struct {
	pool    *Pool
	node    string
	process string
}

// Node is what the control plane knows of a node that may serve.
type Node struct {
	Name     string
	Revision int64 // in force when it reported last
	Heard    bool  // within the last seconds, and from this database's history
}

// NewReports returns the reports of this process under its node's name.
func NewReports(pool *Pool, node string) *Reports {
	return &Reports{pool: pool, node: node, process: uuid.NewString()}
}

// InForce reports the configuration that is in force on the node. It returns
// whether another process reports under the same name.
func (r *Reports) InForce(ctx context.Context, at tenant.Revision) (contested bool, err error) {
	return r.report(ctx, at, false)
}

// SignOff reports that the node ends: it no longer counts.
func (r *Reports) SignOff(ctx context.Context) error {
	_, err := r.report(ctx, tenant.Revision{}, true)
	return err
}

func (r *Reports) report(ctx context.Context, at tenant.Revision, leaving bool) (contested bool, err error) {
	err = r.pool.transact(ctx, pgx.TxOptions{}, func(q *queries.Queries) (err error) {
		contested, err = q.ReportNode(ctx, queries.ReportNodeParams{
			Node: r.node, Process: r.process, Revision: at.Number, RevisionID: at.ID, Leaving: leaving,
		})
		return err
	})
	return contested, err
}

// Nodes returns the nodes of the cell that may serve, by name: those that have
// not signed off and were heard from within three days.
func (s *Instances) Nodes(ctx context.Context) ([]Node, error) {
	var all []Node
	err := s.pool.transact(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(q *queries.Queries) error {
		rows, err := q.ListNodes(ctx, queries.ListNodesParams{
			HeardSeconds: heardFor.Seconds(), ForgottenSeconds: forgottenAfter.Seconds(),
		})
		for _, row := range rows {
			all = append(all, Node{Name: row.Name, Revision: row.Revision, Heard: row.Heard && row.Known})
		}
		return err
	})
	return all, err
}
