package client

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

const (
	clientKeyBits   = 2048
	clientKeyLasts  = 10 // years
	clientSerialLen = 8  // bytes
)

// NewCertificate makes a client certificate as vCenter makes its own for a key
// provider: self-signed, RSA-2048 with SHA-256, common name "kmipClient" and a
// time stamp, no subject alternative name and no extended key usage. It is
// valid from now for ten years. Both results are PEM; the key is PKCS#8.
func NewCertificate(now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := rsa.GenerateKey(rand.Reader, clientKeyBits)
	if err != nil {
		return nil, nil, fmt.Errorf("client key: %w", err)
	}
	serial := make([]byte, clientSerialLen)
	rand.Read(serial) // never fails (Go 1.24)
	serial[0] &= 0x7f // a serial number is positive
	serial[0] |= 0x40 // and here always of the same length
	name := pkix.Name{CommonName: "kmipClient" + now.UTC().Format("20060102150405")}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: name, Issuer: name,
		NotBefore: now, NotAfter: now.AddDate(clientKeyLasts, 0, 0),
		SignatureAlgorithm: x509.SHA256WithRSA,
		KeyUsage:           x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("client certificate: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("client key: %w", err)
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	return certPEM, keyPEM, nil
}
