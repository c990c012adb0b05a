package control

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/api"
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

// pasted is a field of a request that holds one PEM block.
type pasted struct {
	field string
	what  string   // in sentences
	types []string // of the block; the first is the one to ask for
}

var (
	pastedCertificate = pasted{"certificate", "certificate", []string{"CERTIFICATE"}}
	pastedRequest     = pasted{"csr", "certificate signing request", []string{"CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"}}
)

// refuse says what is wrong with the field.
func (p pasted) refuse(kind fault.Kind, format string, args ...any) error {
	return inField(p.field, kind, format, args...)
}

// decode returns the content of the one block.
func (p pasted) decode(text string) ([]byte, error) {
	paste := "Paste the " + p.what + ", from -----BEGIN " + p.types[0] + "----- to -----END " + p.types[0] + "-----."
	switch {
	case strings.TrimSpace(text) == "":
		return nil, p.refuse(fault.Missing, "Field `%s` is missing. "+paste, p.field)
	case len(text) > maxPEM:
		return nil, p.refuse(fault.Invalid, "Field `%s` is longer than %d characters. "+paste, p.field, maxPEM)
	case strings.Contains(text, "PRIVATE KEY"):
		return nil, p.refuse(fault.Invalid, "Field `%s` holds a private key. "+paste+
			" The key was not stored; as it has left vCenter, make a new one there.", p.field)
	}
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return nil, p.refuse(fault.Invalid, "Field `%s` is not PEM. "+paste, p.field)
	case !slices.Contains(p.types, block.Type):
		return nil, p.refuse(fault.Invalid, "Field `%s` holds a %s. "+paste, p.field, shorten(block.Type))
	case bytes.Contains(rest, []byte("-----BEGIN")):
		return nil, p.refuse(fault.Invalid, "Field `%s` holds more than one PEM block. Paste the client's own %s alone, without a chain. "+otherWays, p.field, p.what)
	case len(bytes.TrimSpace(rest)) > 0, !strings.HasPrefix(strings.TrimSpace(text), "-----BEGIN "+block.Type+"-----"), len(block.Headers) > 0:
		return nil, p.refuse(fault.Invalid, "Field `%s` holds text beside the PEM block. "+paste, p.field)
	}
	return block.Bytes, nil
}

// unreadable refuses a block whose content the parser does not know.
func (p pasted) unreadable(form string, cause error) error {
	return &locatedError{
		target: api.ErrorTarget{Type: api.ErrorTargetTypeField, Name: p.field},
		err:    fault.Wrap(fault.Invalid, "Field `"+p.field+"` is not "+form+". Copy it again, whole.", cause),
	}
}

// checkKey refuses public keys that are weak, or that nodes can't work with.
func (p pasted) checkKey(public any, algorithm x509.PublicKeyAlgorithm) error {
	const remedy = " Make a new one in vCenter."
	switch key := public.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return p.refuse(fault.Invalid, "The %s's RSA key has %d bits; %d to %d are allowed."+remedy, p.what, bits, minRSABits, maxRSABits)
		}
	case *ecdsa.PublicKey:
		if key.Params().BitSize < minECBits {
			return p.refuse(fault.Invalid, "The %s's key is on curve %s; P-256, P-384 and P-521 are allowed."+remedy, p.what, key.Params().Name)
		}
	default:
		return p.refuse(fault.Invalid, "The %s's key is %s; RSA and elliptic curve keys are allowed."+remedy, p.what, algorithm)
	}
	return nil
}

// clientCertificate reads the one certificate of a PEM text and checks that a
// node can admit it. Only the leaf is pinned, so that its issuer and whether it
// calls itself an authority mean nothing: vCenter signs its own. An authority
// whose key usage leaves it nothing but signing, as that of vCenter's own
// authority does, can be no client's (RFC 5280, 4.2.1.3): it was meant to let in
// what it signs.
func clientCertificate(text string, now time.Time) (*x509.Certificate, error) {
	p := pastedCertificate
	der, err := p.decode(text)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, p.unreadable("an X.509 certificate", err)
	}
	const client = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement
	switch use := certificate.KeyUsage; {
	case !now.Before(certificate.NotAfter):
		return nil, p.refuse(fault.Invalid, "The certificate expired at %s. Make a new certificate in vCenter.", certificate.NotAfter.UTC().Format(time.RFC3339))
	case certificate.IsCA && use&x509.KeyUsageCertSign != 0 && use&client == 0:
		return nil, p.refuse(fault.Invalid, "The certificate is an authority's: its key usage allows to sign certificates and not to be a client. "+otherWays)
	}
	if err := p.checkKey(certificate.PublicKey, certificate.PublicKeyAlgorithm); err != nil {
		return nil, err
	}
	return certificate, nil
}

// signingRequest reads the one certificate signing request (RFC 2986) of a PEM
// text and checks that its sender holds the key.
func signingRequest(text string) (*x509.CertificateRequest, error) {
	p := pastedRequest
	der, err := p.decode(text)
	if err != nil {
		return nil, err
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, p.unreadable("a certificate signing request in PKCS #10", err)
	}
	if err := p.checkKey(request.PublicKey, request.PublicKeyAlgorithm); err != nil {
		return nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return nil, p.unreadable("signed with its own key", err)
	}
	return request, nil
}
