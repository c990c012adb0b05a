package dev

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"time"
)

// sharedNames are the cell's two shared host names (IBM Cloud, KMIP for
// VMware, endpoints in Dallas). Node 1 plays the first, node 2 the second.
var sharedNames = []string{
	"kmip-1.private.us-south.vmware-solutions.cloud.ibm.com",
	"kmip-2.private.us-south.vmware-solutions.cloud.ibm.com",
}

// The life of certificates: a server certificate is made again over the same
// key when less than renewBefore of it is left.
const (
	keyBits     = 2048
	caYears     = 10
	serverYears = 2
	renewBefore = 30 * 24 * time.Hour
)

// dedicatedDomain is where instances' own host names lie (IBM Cloud, HPCS, KMIP
// endpoints).
const dedicatedDomain = "kmip.private.us-south.hs-crypto.appdomain.cloud"

// serverFiles are the PEM files that the nodes serve and clients trust.
type serverFiles struct {
	ca    string // the cell's authority
	caKey string
	chain string // the shared certificate and the authority's
	key   string
}

// serverCertificates makes the cell's authority and the shared server
// certificate once, and the latter again when it is about to end.
func serverCertificates(f folder, now time.Time) (serverFiles, error) {
	files := serverFiles{
		ca:    f.path(certificates, "ca.pem"),
		caKey: f.path(certificates, "ca-key.pem"),
		chain: f.path(certificates, "shared.pem"),
		key:   f.path(certificates, "shared-key.pem"),
	}
	caKey, err := keyOnce(files.caKey)
	if err != nil {
		return files, err
	}
	ca, err := certificateOnce(files.ca, now, nil, func() ([]byte, error) {
		name := pkix.Name{CommonName: "KMIP for VMware, authority of a local cell"}
		template := &x509.Certificate{
			Subject: name, NotBefore: now.Add(-time.Minute), NotAfter: now.AddDate(caYears, 0, 0),
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		}
		return sign(template, template, caKey.Public(), caKey)
	})
	if err != nil {
		return files, err
	}
	key, err := keyOnce(files.key)
	if err != nil {
		return files, err
	}
	_, err = certificateOnce(files.chain, now, ca, func() ([]byte, error) {
		template := &x509.Certificate{
			Subject: pkix.Name{CommonName: sharedNames[0]}, NotBefore: now.Add(-time.Minute), NotAfter: now.AddDate(serverYears, 0, 0),
			DNSNames: append(append([]string(nil), sharedNames...), "localhost"), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
			KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
		}
		leaf, err := sign(template, ca, key.Public(), caKey)
		return append(leaf, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})...), err
	})
	return files, err
}

// sign returns a certificate in PEM.
func sign(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) ([]byte, error) {
	serial := make([]byte, 16)
	rand.Read(serial) // never fails (Go 1.24)
	serial[0] &= 0x7f // positive
	template.SerialNumber = new(big.Int).SetBytes(serial)
	template.SignatureAlgorithm = x509.SHA256WithRSA
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

// keyOnce returns the RSA key in a file, made on first use.
func keyOnce(path string) (*rsa.PrivateKey, error) {
	text, err := onlyOnce(path, func() ([]byte, error) {
		key, err := rsa.GenerateKey(rand.Reader, keyBits)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
	})
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(text); block != nil {
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if key, ok := parsed.(*rsa.PrivateKey); err == nil && ok {
			return key, nil
		}
	}
	return nil, fmt.Errorf("%s holds no RSA key in PEM: start afresh with `make clean`", path)
}

// certificateOnce returns the first certificate in a file, made by create if
// there is none, less than renewBefore of its life is left, or issuer has not
// signed it.
func certificateOnce(path string, now time.Time, issuer *x509.Certificate, create func() ([]byte, error)) (*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if c, err := firstCertificate(path, text); err == nil && now.Add(renewBefore).Before(c.NotAfter) &&
		(issuer == nil || c.CheckSignatureFrom(issuer) == nil) {
		return c, nil
	}
	if text, err = create(); err != nil {
		return nil, err
	}
	if err := writeFile(path, text, 0o644); err != nil {
		return nil, err
	}
	return firstCertificate(path, text)
}

func firstCertificate(path string, text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no certificate in PEM", path)
	}
	return x509.ParseCertificate(block.Bytes)
}
