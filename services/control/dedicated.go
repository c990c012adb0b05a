package control

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/services/control/signing"
)

// dedicated makes endpoints for instances that are not reached at the shared
// ones: a name below the operator's domain, and a certificate for it over the
// key that all nodes hold.
type dedicated struct {
	domain  string
	first   uint16 // of the advertised ports
	last    uint16
	servers signing.Servers
}

// readDedicated reads the settings for dedicated endpoints and returns all
// problems at once.
func (c Config) readDedicated(authority *x509.Certificate, nodes crypto.PublicKey) (*dedicated, error) {
	var problems []error
	problem := func(variable, format string, args ...any) {
		problems = append(problems, fmt.Errorf(variable+": "+format, args...))
	}
	d := &dedicated{servers: signing.Servers{Authority: authority, Nodes: nodes, Now: obs.Now}}
	if !d.parse(c.DedicatedEndpoints) {
		problem("KMIP_DEDICATED_ENDPOINTS", "%q is no domain with a range of ports; set it to domain:first-last, for example kmip.example.com:20000-29999", c.DedicatedEndpoints)
	}
	var err error
	if d.servers.Signer, err = signing.ReadSigner(c.CAKeyFile); err == nil && !signing.SamePublicKey(d.servers.Signer.Public(), authority.PublicKey) {
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

// endpoint returns what an instance gets if it has no key manager yet.
func (d *dedicated) endpoint(id tenant.ID) (*pg.Dedicated, error) {
	name := string(id) + "." + d.domain
	certificate, _, err := d.servers.Certificate(name)
	return &pg.Dedicated{HostName: name, ServerCertificate: certificate, FirstPort: d.first, LastPort: d.last}, err
}
