// Package pasted reads what administrators paste into requests of the API: a
// client certificate, or vCenter's certificate signing request. It says what is
// wrong in sentences with a remedy; in which field of the request that lies is
// for the caller to add.
package pasted

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// Limits of what customers paste. crypto/tls refuses RSA keys above the upper
// bound.
const (
	maxPEM     = 16 << 10 // characters
	minRSABits = 2048
	maxRSABits = 8192
	minECBits  = 256
)

// otherWays answers vCenter's way "Root CA": whoever holds a certificate of that
// authority would be let in, and nothing would tell whom to remove.
const otherWays = "vCenter's way `Root CA` is not offered, as it would let in every certificate of that authority. " +
	"Use one of the other three: add the vCenter certificate, alone; have vCenter's new CSR signed by this instance; or have this instance issue a certificate with its private key."

// field is a field of a request that holds one PEM block.
type field struct {
	name  string
	what  string   // in sentences
	types []string // of the block; the first is the one to ask for
}

var (
	certificateField = field{"certificate", "certificate", []string{"CERTIFICATE"}}
	requestField     = field{"csr", "certificate signing request", []string{"CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"}}
)

// decode returns the content of the one block.
func (f field) decode(text string) ([]byte, error) {
	paste := "Paste the " + f.what + ", from -----BEGIN " + f.types[0] + "----- to -----END " + f.types[0] + "-----."
	switch {
	case strings.TrimSpace(text) == "":
		return nil, fault.Newf(fault.Missing, "Field `%s` is missing. "+paste, f.name)
	case len(text) > maxPEM:
		return nil, fault.Newf(fault.Invalid, "Field `%s` is longer than %d characters. "+paste, f.name, maxPEM)
	case strings.Contains(text, "PRIVATE KEY"):
		return nil, fault.Newf(fault.Invalid, "Field `%s` holds a private key. "+paste+
			" The key was not stored; as it has left vCenter, make a new one there.", f.name)
	}
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return nil, fault.Newf(fault.Invalid, "Field `%s` is not PEM. "+paste, f.name)
	case !slices.Contains(f.types, block.Type):
		return nil, fault.Newf(fault.Invalid, "Field `%s` holds a %s. "+paste, f.name, fault.Shorten(block.Type))
	case bytes.Contains(rest, []byte("-----BEGIN")):
		return nil, fault.Newf(fault.Invalid, "Field `%s` holds more than one PEM block. Paste the client's own %s alone, without a chain. "+otherWays, f.name, f.what)
	case len(bytes.TrimSpace(rest)) > 0, !strings.HasPrefix(strings.TrimSpace(text), "-----BEGIN "+block.Type+"-----"), len(block.Headers) > 0:
		return nil, fault.Newf(fault.Invalid, "Field `%s` holds text beside the PEM block. "+paste, f.name)
	}
	return block.Bytes, nil
}

// unreadable refuses a block whose content the parser does not know.
func (f field) unreadable(form string, cause error) error {
	return fault.Wrap(fault.Invalid, "Field `"+f.name+"` is not "+form+". Copy it again, whole.", cause)
}

// checkKey refuses public keys that are weak, or that nodes can't work with.
func (f field) checkKey(public any, algorithm x509.PublicKeyAlgorithm) error {
	const remedy = " Make a new one in vCenter."
	switch key := public.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fault.Newf(fault.Invalid, "The %s's RSA key has %d bits; %d to %d are allowed."+remedy, f.what, bits, minRSABits, maxRSABits)
		}
	case *ecdsa.PublicKey:
		if key.Params().BitSize < minECBits {
			return fault.Newf(fault.Invalid, "The %s's key is on curve %s; P-256, P-384 and P-521 are allowed."+remedy, f.what, key.Params().Name)
		}
	default:
		return fault.Newf(fault.Invalid, "The %s's key is %s; RSA and elliptic curve keys are allowed."+remedy, f.what, algorithm)
	}
	return nil
}

// ClientCertificate reads the one certificate of a PEM text and checks that a
// node can admit it. Only the leaf is pinned, so that its issuer and whether it
// calls itself an authority mean nothing: vCenter signs its own. An authority
// whose key usage leaves it nothing but signing, as that of vCenter's own
// authority does, can be no client's (RFC 5280, 4.2.1.3): it was meant to let in
// what it signs.
func ClientCertificate(text string, now time.Time) (*x509.Certificate, error) {
	f := certificateField
	der, err := f.decode(text)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, f.unreadable("an X.509 certificate", err)
	}
	const client = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement
	switch use := certificate.KeyUsage; {
	case !now.Before(certificate.NotAfter):
		return nil, fault.Newf(fault.Invalid, "The certificate expired at %s. Make a new certificate in vCenter.", certificate.NotAfter.UTC().Format(time.RFC3339))
	case certificate.IsCA && use&x509.KeyUsageCertSign != 0 && use&client == 0:
		return nil, fault.Newf(fault.Invalid, "The certificate is an authority's: its key usage allows to sign certificates and not to be a client. "+otherWays)
	}
	if err := f.checkKey(certificate.PublicKey, certificate.PublicKeyAlgorithm); err != nil {
		return nil, err
	}
	return certificate, nil
}

// SigningRequest reads the one certificate signing request (RFC 2986) of a PEM
// text and checks that its sender holds the key.
func SigningRequest(text string) (*x509.CertificateRequest, error) {
	f := requestField
	der, err := f.decode(text)
	if err != nil {
		return nil, err
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, f.unreadable("a certificate signing request in PKCS #10", err)
	}
	if err := f.checkKey(request.PublicKey, request.PublicKeyAlgorithm); err != nil {
		return nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return nil, f.unreadable("signed with its own key", err)
	}
	return request, nil
}
