package node

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// identity is a certificate that tests share: keys take time to make.
type identity struct {
	pair  tls.Certificate
	roots *x509.CertPool
	err   error
}

var (
	serverIdentity = sync.OnceValue(newServerIdentity)
	oneIdentity    = sync.OnceValue(newClientIdentity)
	twoIdentity    = sync.OnceValue(newClientIdentity)
)

// newServerIdentity makes a leaf that is its own root, valid also at the time
// where synctest begins.
func newServerIdentity() (i identity) {
	var key *rsa.PrivateKey
	if key, i.err = rsa.GenerateKey(rand.Reader, 2048); i.err != nil {
		return i
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true,
	}
	i.pair.PrivateKey = key
	var der []byte
	if der, i.err = x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key); i.err != nil {
		return i
	}
	i.pair.Certificate = [][]byte{der}
	if i.pair.Leaf, i.err = x509.ParseCertificate(der); i.err == nil {
		i.roots = x509.NewCertPool()
		i.roots.AddCert(i.pair.Leaf)
	}
	return i
}

func newClientIdentity() (i identity) {
	certPEM, keyPEM, err := client.NewCertificate(time.Now())
	if err != nil {
		return identity{err: err}
	}
	i.pair, i.err = tls.X509KeyPair(certPEM, keyPEM)
	return i
}

func (i identity) must(t *testing.T) *tls.Certificate {
	t.Helper()
	if i.err != nil {
		t.Fatal(i.err)
	}
	return &i.pair
}

// clientCertificate makes a certificate that no test has seen.
func clientCertificate(t *testing.T) *tls.Certificate {
	t.Helper()
	return newClientIdentity().must(t)
}
