package client

import (
	"crypto/rsa"
	"crypto/tls"
	"regexp"
	"testing"
	"time"
)

// clientCertificate makes a certificate as vCenter does.
func clientCertificate(t testing.TB, now time.Time) *tls.Certificate {
	t.Helper()
	certPEM, keyPEM, err := NewCertificate(now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

func TestNewCertificateIsLikeVCenters(t *testing.T) {
	now := time.Date(2025, 4, 3, 9, 56, 40, 0, time.UTC)
	leaf := clientCertificate(t, now).Leaf
	if err := leaf.CheckSignatureFrom(leaf); err == nil {
		t.Error("the certificate may sign others")
	}
	if err := leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature); err != nil {
		t.Errorf("not self-signed: %v", err)
	}
	if key, isRSA := leaf.PublicKey.(*rsa.PublicKey); !isRSA || key.N.BitLen() != 2048 {
		t.Errorf("key is %T", leaf.PublicKey)
	}
	if !regexp.MustCompile(`^kmipClient\d+$`).MatchString(leaf.Subject.CommonName) {
		t.Errorf("common name is %q", leaf.Subject.CommonName)
	}
	if n := len(leaf.ExtKeyUsage) + len(leaf.UnknownExtKeyUsage); n != 0 {
		t.Errorf("%d extended key usages", n)
	}
	if n := len(leaf.DNSNames) + len(leaf.IPAddresses) + len(leaf.URIs) + len(leaf.EmailAddresses); n != 0 {
		t.Errorf("%d alternative names", n)
	}
	if !leaf.NotBefore.Equal(now) || leaf.NotAfter.Before(now.AddDate(1, 0, 0)) {
		t.Errorf("valid from %s to %s", leaf.NotBefore, leaf.NotAfter)
	}
}
