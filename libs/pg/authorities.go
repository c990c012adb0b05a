package pg

import (
	"context"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Authority signs certificates for the clients of one instance.
type Authority struct {
	Certificate []byte // in DER
	SealedKey   []byte // as the control plane sealed it
	NotAfter    time.Time
}

// ClientAuthority returns an instance's authority if it lasts until a time,
// else nil; or ErrNotFound.
func (s *Instances) ClientAuthority(ctx context.Context, account string, id tenant.ID, until time.Time) (*Authority, error) {
	var found *Authority
	err := s.in(ctx, account, func(q *queries.Queries) error {
		_, err := getInstance(ctx, q, account, id)
		if err != nil {
			return err
		}
		found, err = getAuthority(ctx, q, id, until)
		return err
	})
	return found, err
}

// KeepClientAuthority stores an authority for an instance unless it has one
// that lasts until a time, and returns the one that it has then. It returns
// ErrNotFound.
func (s *Instances) KeepClientAuthority(ctx context.Context, account string, id tenant.ID, a Authority, until time.Time) (*Authority, error) {
	var kept *Authority
	err := s.change(ctx, account, id, func(q *queries.Queries) error {
		err := q.PutAuthority(ctx, queries.PutAuthorityParams{
			InstanceID: string(id), Certificate: a.Certificate, SealedKey: a.SealedKey, NotAfter: a.NotAfter, Until: until,
		})
		if err != nil {
			return err
		}
		kept, err = getAuthority(ctx, q, id, until)
		return err
	})
	return kept, err
}

func getAuthority(ctx context.Context, q *queries.Queries, id tenant.ID, until time.Time) (*Authority, error) {
	rows, err := q.GetAuthority(ctx, queries.GetAuthorityParams{InstanceID: string(id), Until: until})
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return &Authority{Certificate: rows[0].Certificate, SealedKey: rows[0].SealedKey, NotAfter: rows[0].NotAfter}, nil
}
