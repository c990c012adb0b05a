package pg

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// UnusedBeforeRemoval is how long a replaced certificate has to be unused; the
// function replaced_certificates has the same number.
const UnusedBeforeRemoval = 7 * 24 * time.Hour

// ErrReplaced says that another certificate replaces this one already. It is of kind
// fault.Illegal.
var ErrReplaced = fault.New(fault.Illegal, "This client certificate is being replaced already.")

var errCertificateNotFound = fault.New(fault.NotFound, "There is no such client certificate.")

// Certificate is a client certificate of an instance.
type Certificate struct {
	ID          string // UUID
	Name        string // unique in the instance
	DER         []byte
	Fingerprint tenant.Fingerprint // made of DER by the database
	NotBefore   time.Time
	NotAfter    time.Time
	CreatedAt   time.Time
	Revision    int64 // that added it

	// As nodes have reported, within about a minute.
	FirstUsedAt  time.Time // zero: never
	LastUsedAt   time.Time
	LastUsedFrom netip.Addr // zero: not known

	ReplacedBy string // id of the certificate that replaces it; empty: none
	// RemovableAt is when a replaced certificate may go unless it is used
	// before. Zero as long as its successor was never used: then the clients
	// do not have that one yet.
	RemovableAt time.Time
}

// AddCertificate adds a client certificate by its Name, DER and validity; the
// other fields are not read. It returns ErrNameTaken or ErrFingerprintTaken.
// A certificate that only a deleted instance holds moves to this one, at once
// within an account and after 30 days across accounts.
func (s *Instances) AddCertificate(ctx context.Context, account string, id tenant.ID, c Certificate) (Certificate, error) {
	return s.addCertificate(ctx, account, id, c, func(*queries.Queries, string) error { return nil })
}

// RotateCertificate is AddCertificate for one that replaces the certificate
// with an id, and whatever that one was to replace. Both are valid until
// RemoveReplaced takes the older one away. It also returns ErrReplaced.
func (s *Instances) RotateCertificate(ctx context.Context, account string, id tenant.ID, replaced string, c Certificate) (Certificate, error) {
	return s.addCertificate(ctx, account, id, c, func(q *queries.Queries, added string) error {
		before, err := getCertificate(ctx, q, id, replaced)
		if err != nil {
			return err
		}
		if before.ReplacedBy != "" {
			return ErrReplaced
		}
		return q.ReplaceCertificate(ctx, queries.ReplaceCertificateParams{InstanceID: string(id), ID: replaced, Successor: &added})
	})
}

// addCertificate adds one and does the rest in the same transaction.
func (s *Instances) addCertificate(ctx context.Context, account string, id tenant.ID, c Certificate, rest func(q *queries.Queries, added string) error) (Certificate, error) {
	var added Certificate
	err := s.change(ctx, account, id, func(q *queries.Queries) error {
		if err := q.ClaimFingerprint(ctx, c.DER); err != nil {
			return err
		}
		row, err := q.AddCertificate(ctx, queries.AddCertificateParams{
			InstanceID: string(id), Name: c.Name, Der: c.DER, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		})
		switch {
		case violates(err, "client_certificates_name"):
			return ErrNameTaken
		case violates(err, "client_certificates_fingerprint"):
			return ErrFingerprintTaken
		case err != nil:
			return err
		}
		if err := rest(q, row); err != nil {
			return err
		}
		if err := q.TakeRevision(ctx); err != nil {
			return err
		}
		added, err = getCertificate(ctx, q, id, row)
		return err
	})
	return added, err
}

// ListCertificates returns an instance's client certificates, the oldest
// first, or ErrNotFound.
func (s *Instances) ListCertificates(ctx context.Context, account string, id tenant.ID) ([]Certificate, error) {
	var all []Certificate
	err := s.in(ctx, account, func(q *queries.Queries) error {
		if _, err := getInstance(ctx, q, account, id); err != nil {
			return err
		}
		rows, err := q.ListCertificates(ctx, queries.ListCertificatesParams{InstanceID: string(id)})
		if err != nil {
			return err
		}
		all, err = certificatesOf(rows)
		return err
	})
	return all, err
}

// GetCertificate returns a client certificate of an instance, or ErrNotFound.
func (s *Instances) GetCertificate(ctx context.Context, account string, id tenant.ID, certificateID string) (Certificate, error) {
	var found Certificate
	err := s.in(ctx, account, func(q *queries.Queries) error {
		_, err := getInstance(ctx, q, account, id)
		if err != nil {
			return err
		}
		found, err = getCertificate(ctx, q, id, certificateID)
		return err
	})
	return found, err
}

// DeleteCertificate removes a client certificate, or returns ErrNotFound. Its
// fingerprint is free at once. What it was to replace stays.
func (s *Instances) DeleteCertificate(ctx context.Context, account string, id tenant.ID, certificateID string) error {
	if uuid.Validate(certificateID) != nil {
		return errCertificateNotFound
	}
	return s.change(ctx, account, id, func(q *queries.Queries) error {
		deleted, err := q.DeleteCertificate(ctx, queries.DeleteCertificateParams{InstanceID: string(id), ID: certificateID})
		if err == nil && deleted == 0 {
			return errCertificateNotFound
		}
		return err
	})
}

// RemoveReplaced removes an instance's replaced certificates that were unused
// for UnusedBeforeRemoval, by the database's clock, and returns them. It
// returns ErrNotFound or ErrRemoved.
func (s *Instances) RemoveReplaced(ctx context.Context, account string, id tenant.ID) ([]Certificate, error) {
	var removed []Certificate
	err := s.change(ctx, account, id, func(q *queries.Queries) error {
		rows, err := q.ListCertificates(ctx, queries.ListCertificatesParams{InstanceID: string(id)})
		if err != nil {
			return err
		}
		all, err := certificatesOf(rows)
		if err != nil {
			return err
		}
		for n, c := range all {
			if c.RemovableAt.IsZero() || rows[n].Now.Before(c.RemovableAt) {
				continue
			}
			if _, err := q.DeleteCertificate(ctx, queries.DeleteCertificateParams{InstanceID: string(id), ID: c.ID}); err != nil {
				return err
			}
			removed = append(removed, c)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return removed, nil
}

func getCertificate(ctx context.Context, q *queries.Queries, id tenant.ID, certificateID string) (Certificate, error) {
	if uuid.Validate(certificateID) != nil {
		return Certificate{}, errCertificateNotFound
	}
	rows, err := q.ListCertificates(ctx, queries.ListCertificatesParams{InstanceID: string(id), ID: &certificateID})
	if err != nil {
		return Certificate{}, err
	}
	if len(rows) == 0 {
		return Certificate{}, errCertificateNotFound
	}
	return certificateOf(rows[0])
}

func certificatesOf(rows []queries.ListCertificatesRow) ([]Certificate, error) {
	var all []Certificate
	for _, row := range rows {
		c, err := certificateOf(row)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func certificateOf(row queries.ListCertificatesRow) (Certificate, error) {
	c := Certificate{
		ID: row.ID, Name: row.Name, DER: row.Der, NotBefore: row.NotBefore, NotAfter: row.NotAfter, CreatedAt: row.CreatedAt, Revision: row.Revision,
	}
	copy(c.Fingerprint[:], row.Fingerprint)
	if row.LastUsedAt != nil {
		c.FirstUsedAt, c.LastUsedAt = *row.FirstUsedAt, *row.LastUsedAt
	}
	if row.LastUsedFrom != "" {
		var err error
		if c.LastUsedFrom, err = netip.ParseAddr(row.LastUsedFrom); err != nil {
			return c, err
		}
	}
	if row.ReplacedBy != nil {
		c.ReplacedBy = *row.ReplacedBy
		if row.SuccessorUsedAt != nil {
			idleSince := *row.ReplacedAt
			if c.LastUsedAt.After(idleSince) {
				idleSince = c.LastUsedAt
			}
			c.RemovableAt = idleSince.Add(UnusedBeforeRemoval)
		}
	}
	return c, nil
}

// CertificateUse is the latest use of a client certificate that a node has seen.
type CertificateUse struct {
	Certificate string     // id
	From        netip.Addr // zero: not known
	Ago         time.Duration
}

// RecordCertificateUses notes when certificates were used and from where. Those that were
// removed meanwhile are left out. It takes no revision.
func (r *Reports) RecordCertificateUses(ctx context.Context, uses []CertificateUse) error {
	type row struct {
		Certificate string      `json:"certificate"`
		Source      *netip.Addr `json:"source"`
		Seconds     float64     `json:"seconds"`
	}
	rows := make([]row, 0, len(uses))
	for _, u := range uses {
		x := row{Certificate: u.Certificate, Seconds: u.Ago.Seconds()}
		if u.From.IsValid() {
			x.Source = &u.From
		}
		rows = append(rows, x)
	}
	text, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	return r.pool.transact(ctx, pgx.TxOptions{}, func(q *queries.Queries) error {
		return q.RecordCertificateUse(ctx, text)
	})
}
