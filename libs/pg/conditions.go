package pg

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// ConditionType is what a condition is about.
type ConditionType string

// The types of conditions that are stored.
const (
	KeyManagerReady      ConditionType = "key_manager_ready"     // the key manager does what reading and making keys needs
	DestroyPermitted     ConditionType = "destroy_permitted"     // it would delete standard keys
	ServiceAuthorization ConditionType = "service_authorization" // it lets the instance itself in
	KeysReconciled       ConditionType = "keys_reconciled"       // it holds the keys that the ledger names, and no others
)

// ConditionStatus tells whether a condition holds.
type ConditionStatus string

// The statuses of a condition.
const (
	True    ConditionStatus = "true"
	False   ConditionStatus = "false"
	Unknown ConditionStatus = "unknown" // could not be found out
)

// Condition is something about an instance that may change without anybody
// changing its settings.
type Condition struct {
	Type    ConditionType
	Status  ConditionStatus
	Reason  string    // a word: lower-case letters and underscores, at most 64
	Message string    // what it means and what to do, at most 1024 characters
	Since   time.Time // of this status and reason; not read by SetConditions
}

// Standing is what the conditions of an instance follow from.
type Standing struct {
	Stored []Condition // by type
	// FirstToEnd is the client certificate that ends first, with its name, end
	// and time of creation alone; nil without one.
	FirstToEnd *Certificate
	// ServerCertificates are those of the instance's own host names, in DER.
	ServerCertificates [][]byte
}

// Standings returns how instances of an account stand; those that the account
// does not have are left out.
func (s *Instances) Standings(ctx context.Context, account string, ids ...tenant.ID) (map[tenant.ID]*Standing, error) {
	all := make(map[tenant.ID]*Standing, len(ids))
	of := func(id string) *Standing {
		if all[tenant.ID(id)] == nil {
			all[tenant.ID(id)] = new(Standing)
		}
		return all[tenant.ID(id)]
	}
	err := s.in(ctx, account, func(q *queries.Queries) error {
		conditions, err := q.ListConditions(ctx, texts(ids))
		if err != nil {
			return err
		}
		for _, row := range conditions {
			x := of(row.InstanceID)
			x.Stored = append(x.Stored, Condition{
				Type: ConditionType(row.Type), Status: ConditionStatus(row.Status), Reason: row.Reason, Message: row.Message, Since: row.Since,
			})
		}
		clients, err := q.ListFirstToEnd(ctx, texts(ids))
		if err != nil {
			return err
		}
		for _, row := range clients {
			of(row.InstanceID).FirstToEnd = &Certificate{Name: row.Name, NotAfter: row.NotAfter, CreatedAt: row.CreatedAt}
		}
		servers, err := q.ListServerCertificates(ctx, texts(ids))
		for _, row := range servers {
			x := of(row.InstanceID)
			x.ServerCertificates = append(x.ServerCertificates, row.ServerCertificate)
		}
		return err
	})
	return all, err
}

// NeedsThoroughCheck tells whether the next check of an instance's key manager
// has to try all that the service needs, because something was wrong or nothing
// is known.
func (s *Instances) NeedsThoroughCheck(ctx context.Context, account string, id tenant.ID) (thorough bool, err error) {
	err = s.in(ctx, account, func(q *queries.Queries) error {
		thorough, err = q.GetCheck(ctx, string(id))
		return err
	})
	return thorough, err
}

// SetConditions records what a check of the key manager settings k has found,
// in place of all that was found before, unless the instance has other settings
// by now. A later check tries all unless all of the conditions are True. It
// takes no revision.
func (s *Instances) SetConditions(ctx context.Context, account string, id tenant.ID, k tenant.KeyManager, found []Condition) error {
	return s.change(ctx, account, id, func(q *queries.Queries) error {
		now, err := getInstance(ctx, q, account, id)
		if err != nil || now.KeyManager == nil || !now.KeyManager.Equal(k) {
			return err
		}
		return putConditions(ctx, q, id, found)
	})
}

func putConditions(ctx context.Context, q *queries.Queries, id tenant.ID, found []Condition) error {
	types, well := make([]string, 0, len(found)), true
	for _, c := range found {
		types, well = append(types, string(c.Type)), well && c.Status == True
		err := q.PutCondition(ctx, queries.PutConditionParams{
			InstanceID: string(id), Type: string(c.Type), Status: string(c.Status), Reason: c.Reason, Message: c.Message,
		})
		if err != nil {
			return err
		}
	}
	if err := q.DeleteOtherConditions(ctx, queries.DeleteOtherConditionsParams{InstanceID: string(id), Types: types}); err != nil {
		return err
	}
	return q.SetThorough(ctx, queries.SetThoroughParams{InstanceID: string(id), Thorough: !well})
}

// Used reports whose key managers have served this node since the last report,
// and whose have denied it something.
func (r *Reports) Used(ctx context.Context, served, denied []tenant.ID) error {
	return r.pool.transact(ctx, pgx.TxOptions{}, func(q *queries.Queries) error {
		return q.ReportUse(ctx, queries.ReportUseParams{Served: texts(served), Denied: texts(denied)})
	})
}

func texts(ids []tenant.ID) []string {
	all := make([]string, 0, len(ids))
	for _, id := range ids {
		all = append(all, string(id))
	}
	return all
}
