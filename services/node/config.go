// Package node is the data plane: it terminates TLS from vCenter and ESXi,
// finds the tenant of each connection, and carries out KMIP requests over the
// tenant's key manager. It keeps no state; any node can be lost.
package node

import (
	"errors"
	"fmt"
	"net"
	"strconv"
)

// Config is read from the environment by cmd/kmip-node.
type Config struct {
	// Name tells nodes apart in logs and in the API.
	Name string `env:"KMIP_NODE_NAME" envDefault:"node"`
	// DatabaseURL is PostgreSQL's, for the role kmip_node.
	DatabaseURL string `env:"DATABASE_URL"`
	// Listen is where KMIP clients connect.
	Listen string `env:"KMIP_LISTEN" envDefault:":5696"`
	// AdvertisedPort is the port that clients use, if a balancer or another
	// mapping makes it differ from Listen's.
	AdvertisedPort uint16 `env:"KMIP_ADVERTISED_PORT"`
	// AdminAddress serves /livez, /readyz and /metrics.
	AdminAddress string `env:"KMIP_ADMIN_ADDRESS" envDefault:"127.0.0.1:8081"`
	// CertificateFile and KeyFile are the shared leaf with its chain, and its
	// key, in PEM.
	CertificateFile string `env:"KMIP_TLS_CERTIFICATE_FILE"`
	KeyFile         string `env:"KMIP_TLS_KEY_FILE"`
	// IAMURL is IBM Cloud IAM's, without a path.
	IAMURL string `env:"KMIP_IAM_URL" envDefault:"https://iam.cloud.ibm.com"`
	// KeyManagerEndpoints is the table of keyprotect.ParseEndpoints.
	KeyManagerEndpoints string `env:"KMIP_KEY_MANAGER_ENDPOINTS"`
	// SealingKeysFile holds the operator's keyring, see secret.ParseKeyring.
	SealingKeysFile string `env:"KMIP_SEALING_KEYS_FILE"`
}

// port returns the advertised port.
func (c Config) port() (uint16, error) {
	if c.AdvertisedPort != 0 {
		return c.AdvertisedPort, nil
	}
	_, text, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return 0, fmt.Errorf("KMIP_LISTEN is %q; want an address like 0.0.0.0:5696", c.Listen)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("KMIP_LISTEN is %q; the port has to be a number from 0 to 65535", c.Listen)
	}
	return uint16(port), nil
}

// check reports everything that is missing at once.
func (c Config) check() error {
	var problems []error
	for name, s := range map[string]struct{ value, remedy string }{
		"DATABASE_URL":               {c.DatabaseURL, "PostgreSQL's URL for the role kmip_node"},
		"KMIP_TLS_CERTIFICATE_FILE":  {c.CertificateFile, "the PEM file with the server certificate and its chain"},
		"KMIP_TLS_KEY_FILE":          {c.KeyFile, "the PEM file with the server certificate's key"},
		"KMIP_KEY_MANAGER_ENDPOINTS": {c.KeyManagerEndpoints, "where key managers are, e.g. kms/us-south=https://us-south.kms.cloud.ibm.com"},
		"KMIP_SEALING_KEYS_FILE":     {c.SealingKeysFile, "the file with the sealing keys; make one with `openssl rand -base64 32`"},
	} {
		if s.value == "" {
			problems = append(problems, fmt.Errorf("%s is not set; give it %s", name, s.remedy))
		}
	}
	_, err := c.port()
	return errors.Join(append(problems, err)...)
}
