package pg

import (
	"context"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// AddCertificate adds a client certificate by its Name, DER and validity; the
// other fields are not read. It returns ErrNameTaken or ErrFingerprintTaken.
// A certificate that only a deleted instance holds moves to this one, at once
// within an account and after 30 days across accounts.
func (s *Instances) AddCertificate(ctx context.Context, account string, id tenant.ID, c Certificate) (Certificate, error) {
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
		}
		if err != nil {
			return err
		}
		if err := q.TakeRevision(ctx); err != nil {
			return err
		}
		row, err = q.GetCertificate(ctx, queries.GetCertificateParams{InstanceID: string(id), ID: row.ID})
		added = certificateOf(row)
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
		rows, err := q.ListCertificates(ctx, string(id))
		for _, row := range rows {
			all = append(all, certificateOf(row))
		}
		return err
	})
	return all, err
}

// DeleteCertificate removes a client certificate, or returns ErrNotFound. Its
// fingerprint is free at once.
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

func certificateOf(row queries.ClientCertificate) Certificate {
	c := Certificate{
		ID: row.ID, Name: row.Name, DER: row.Der, NotBefore: row.NotBefore, NotAfter: row.NotAfter, CreatedAt: row.CreatedAt, Revision: row.Revision,
	}
	copy(c.Fingerprint[:], row.Fingerprint)
	return c
}
