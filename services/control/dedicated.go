package control

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// serverYears is the life of a server certificate. vCenter trusts the one that
// it was shown, so a short life would cost administrators a click.
const serverYears = 2

// dedicated makes endpoints for instances that are not reached at the shared
// ones: a name below the operator's domain, and a certificate for it over the
// key that all nodes hold.
type dedicated struct {
	domain    string
	first     uint16 // of the advertised ports
	last      uint16
	authority *x509.Certificate
	signer    crypto.Signer    // the authority's
	nodes     crypto.PublicKey // the shared server certificate's
	now       func() time.Time
}

// readDedicated reads the settings for dedicated endpoints and returns all
// problems at once.
func (c Config) readDedicated(authority *x509.Certificate, nodes crypto.PublicKey) (*dedicated, error) {
	var problems []error
	problem := func(variable, format string, args ...any) {
		problems = append(problems, fmt.Errorf(variable+": "+format, args...))
	}
	d := &dedicated{authority: authority, nodes: nodes, now: time.Now}
	if !d.parse(c.DedicatedEndpoints) {
		problem("KMIP_DEDICATED_ENDPOINTS", "%q is no domain with a range of ports; set it to domain:first-last, for example kmip.example.com:20000-29999", c.DedicatedEndpoints)
	}
	var err error
	if d.signer, err = readSigner(c.CAKeyFile); err == nil && !samePublicKey(d.signer.Public(), authority.PublicKey) {
		err = errors.New("it is the key of another certificate")
	}
	if err != nil {
		problem("KMIP_CA_KEY_FILE", "%w; set it to a PEM file with the key of KMIP_CA_FILE's certificate", err)
	}
	return d, errors.Join(problems...)
}

// parse reads "domain:first-last".
func (d *dedicated) parse(text string) bool {
	domain, ports, _ := strings.Cut(text, ":")
	low, high, _ := strings.Cut(ports, "-")
	first, err := strconv.ParseUint(low, 10, 16)
	last, lastErr := strconv.ParseUint(high, 10, 16)
	d.domain, d.first, d.last = domain, uint16(first), uint16(last)
	return err == nil && lastErr == nil && first > 0 && first <= last && hostNameForm.MatchString(domain)
}

func readSigner(file string) (crypto.Signer, error) {
	block, err := readPEM(file)
	if err != nil {
		return nil, err
	}
	defer clear(block.Bytes)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s holds no private key in PKCS #8", file) // the parser's own words may quote it
	}
	return signer, nil
}

func samePublicKey(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

// endpoint returns what an instance gets if it has no key manager yet.
func (d *dedicated) endpoint(id tenant.ID) (*pg.Dedicated, error) {
	name := string(id) + "." + d.domain
	certificate, _, err := d.certificate(name)
	return &pg.Dedicated{HostName: name, ServerCertificate: certificate, FirstPort: d.first, LastPort: d.last}, err
}

// certificate signs a leaf for a host name and returns it in DER.
func (d *dedicated) certificate(hostName string) (der []byte, notAfter time.Time, err error) {
	serial := make([]byte, 16)
	rand.Read(serial) // never fails
	serial[0] &= 0x7f // positive
	const longest = 64
	common := hostName // X.520: at most 64 characters; clients read the alternative name
	if len(common) > longest {
		common, _, _ = strings.Cut(common, ".")
	}
	now := d.now()
	notAfter = now.AddDate(serverYears, 0, 0).Truncate(time.Second)
	der, err = x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: common}, DNSNames: []string{hostName},
		NotBefore: now.Add(-time.Minute), NotAfter: notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}, d.authority, d.nodes, d.signer)
	return der, notAfter, err
}
