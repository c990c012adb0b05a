package signing

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// authorityKeyPurpose is the sealing purpose of the keys of instances' own
// authorities; the owner is the instance.
const authorityKeyPurpose = "client-authority-key" //nolint:gosec // a purpose, not a credential

const (
	clientYears    = 2
	authorityYears = 10
)

// KeyBits is the length of the RSA keys that are made here: 128 bits of
// strength, for use beyond 2030 (NIST SP 800-57 part 1, table 4).
const KeyBits = 3072

// ForClient makes a template, which gives the subject, that of a client's
// certificate.
func ForClient(template *x509.Certificate, now time.Time) {
	template.NotBefore, template.NotAfter = now.Add(-time.Minute), now.AddDate(clientYears, 0, 0)
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	template.BasicConstraintsValid = true
}

// NewAuthority makes an authority for the clients of one instance.
func NewAuthority(ring *secret.Keyring, instance tenant.ID, now time.Time) (pg.Authority, error) {
	key, err := rsa.GenerateKey(rand.Reader, KeyBits)
	if err != nil {
		return pg.Authority{}, err
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "KMIP clients of " + string(instance)}, // 52 characters; X.520 allows 64
		NotBefore: now.Add(-time.Minute), NotAfter: now.AddDate(authorityYears, 0, 0).UTC().Truncate(time.Second),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, MaxPathLenZero: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return pg.Authority{}, err
	}
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return pg.Authority{}, err
	}
	private := secret.Of(plain)
	defer private.Wipe()
	sealed, err := ring.Seal(authorityKeyPurpose, string(instance), private)
	return pg.Authority{Certificate: der, SealedKey: sealed, NotAfter: template.NotAfter}, err
}

// OpenAuthority returns the certificate and the key of an instance's authority.
func OpenAuthority(ring *secret.Keyring, instance tenant.ID, kept pg.Authority) (*x509.Certificate, crypto.Signer, error) {
	certificate, err := x509.ParseCertificate(kept.Certificate)
	if err != nil {
		return nil, nil, err
	}
	der, err := ring.Open(authorityKeyPurpose, string(instance), kept.SealedKey)
	if err != nil {
		return nil, nil, err
	}
	defer der.Wipe()
	key, err := x509.ParsePKCS8PrivateKey(der.Reveal())
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, nil, errors.New("the key of an instance's authority is not readable") // the parser's own words may quote it
	}
	return certificate, signer, nil
}
