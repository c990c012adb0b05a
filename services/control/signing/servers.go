// Package signing signs certificates: those of servers with the authority of
// the cell, and those of clients with an authority of each instance's own.
package signing

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"time"
)

// serverYears is the life of a server certificate. vCenter trusts the one that
// it was shown, so a short life would cost administrators a click.
const serverYears = 2

// Servers signs certificates for host names over the key that all nodes hold.
type Servers struct {
	Authority *x509.Certificate
	Signer    crypto.Signer    // the authority's
	Nodes     crypto.PublicKey // the shared server certificate's
	Now       func() time.Time
}

// Certificate signs a leaf for a host name and returns it in DER.
func (s *Servers) Certificate(hostName string) (der []byte, notAfter time.Time, err error) {
	serial := make([]byte, 16)
	rand.Read(serial) // never fails
	serial[0] &= 0x7f // positive
	const longest = 64
	common := hostName // X.520: at most 64 characters; clients read the alternative name
	if len(common) > longest {
		common, _, _ = strings.Cut(common, ".")
	}
	now := s.Now()
	notAfter = now.AddDate(serverYears, 0, 0).Truncate(time.Second)
	der, err = x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: common}, DNSNames: []string{hostName},
		NotBefore: now.Add(-time.Minute), NotAfter: notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}, s.Authority, s.Nodes, s.Signer)
	return der, notAfter, err
}
