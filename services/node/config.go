// Package node is the data plane: it terminates TLS from vCenter and ESXi,
// finds the tenant of each connection, and carries out KMIP requests over the
// tenant's key manager. It keeps no state; any node can be lost.
package node

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/time/rate"

	"github.com/kmip-for-vmware/kmip/libs/audit"
	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// Config is read from the environment by cmd/kmip-node.
type Config struct {
	// Name tells nodes apart in logs and in the API; no two nodes of a cell
	// have the same.
	Name string `env:"KMIP_NODE_NAME" envDefault:"node"`
	// Region is the cell's region, as in the CRNs of tenants.
	Region string `env:"KMIP_REGION" envDefault:"us-south"`
	// DatabaseURL is PostgreSQL's, for the role kmip_node. It may list
	// several servers, host-1:5432,host-2:5432, with
	// ?target_session_attrs=read-write: the one that takes writes is used, also
	// after a fail-over.
	DatabaseURL string `env:"DATABASE_URL"`
	// Listen is where KMIP clients connect.
	Listen string `env:"KMIP_LISTEN" envDefault:":5696"`
	// AdvertisedPort is the port that clients use, if a balancer or another
	// mapping makes it differ from Listen's.
	AdvertisedPort uint16 `env:"KMIP_ADVERTISED_PORT"`
	// DedicatedPortOffset leads from the advertised port of a tenant's own
	// endpoint to the one that this node listens on, at Listen's host: nodes on
	// one address have different ones.
	DedicatedPortOffset int `env:"KMIP_DEDICATED_PORT_OFFSET"`
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
	// DrainDelay is how long the node serves on after it was told to end,
	// unready, so that balancers send no one here any more.
	DrainDelay time.Duration `env:"KMIP_DRAIN_DELAY"`
	// StateFolder is on a volume that outlives the process; a sealed copy of
	// the configuration lies there, so that a node can start while PostgreSQL
	// is away. Empty: there is none.
	StateFolder string `env:"KMIP_STATE_FOLDER"`
	// ConfigurationAgeLimit is how long the last configuration serves while
	// PostgreSQL is away: a certificate can't be removed in that time. Zero
	// stands for 72 hours.
	ConfigurationAgeLimit time.Duration `env:"KMIP_CONFIGURATION_AGE_LIMIT"`
	// SealingKeysFile holds the operator's keyring, see secret.ParseKeyring. It
	// is read again when it changes.
	SealingKeysFile string `env:"KMIP_SEALING_KEYS_FILE"`
	// ServiceAPIKeyFile holds the API key of the operator's own service ID,
	// which belongs to the IAM service vmware-solutions. Tenants that gave no
	// API key are served with it, each under its own service authorization.
	ServiceAPIKeyFile string `env:"KMIP_SERVICE_API_KEY_FILE"`
	// Events takes a record of each request before its answer leaves; nil:
	// nobody does.
	Events audit.Sink `env:"-"`
}

// parts is what the settings stand for.
type parts struct {
	host        string // to listen on; empty: all addresses
	port        uint16 // advertised
	ageLimit    time.Duration
	certificate tls.Certificate
	managers    *keyManagers
}

// check reads every setting and returns all problems at once, each naming the
// variable and the remedy.
func (c Config) check() (parts, error) {
	var p parts
	var problems []error
	problem := func(variable, format string, args ...any) {
		problems = append(problems, fmt.Errorf(variable+": "+format, args...))
	}
	if u, err := url.Parse(c.DatabaseURL); err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		problem("DATABASE_URL", "not a PostgreSQL URL; set it to postgres://kmip_node:<password>@<host>:<port>/<database>")
	}
	if !regionForm.MatchString(c.Region) {
		problem("KMIP_REGION", "%q is not a region; set it to the cell's region, for example us-south", c.Region)
	}
	host, port, err := splitAddress(c.Listen)
	p.host = host
	if err != nil {
		problem("KMIP_LISTEN", "%q is not an address; set it to host:port, for example 0.0.0.0:5696", c.Listen)
	}
	if p.port = c.AdvertisedPort; p.port == 0 {
		p.port = port
	}
	if p.ageLimit = c.ConfigurationAgeLimit; p.ageLimit == 0 {
		p.ageLimit = defaultAgeLimit
	}
	if p.ageLimit < 0 {
		problem("KMIP_CONFIGURATION_AGE_LIMIT", "%s is no time; set it to how long nodes may serve without PostgreSQL, for example 72h", c.ConfigurationAgeLimit)
	}
	if c.DrainDelay < 0 {
		problem("KMIP_DRAIN_DELAY", "%s is no time; set it to what balancers need to notice, for example 5s, or leave it out", c.DrainDelay)
	}
	if c.StateFolder != "" {
		if err := os.MkdirAll(c.StateFolder, 0o700); err != nil {
			problem("KMIP_STATE_FOLDER", "%w; set it to a folder of the node's own, or leave it out", err)
		}
	}
	if c.DedicatedPortOffset <= -maxPort || c.DedicatedPortOffset >= maxPort {
		problem("KMIP_DEDICATED_PORT_OFFSET", "%d leads to no port; set it to what is to be added to advertised ports, 0 for nothing", c.DedicatedPortOffset)
	}
	if _, _, err := splitAddress(c.AdminAddress); err != nil {
		problem("KMIP_ADMIN_ADDRESS", "%q is not an address; set it to host:port, for example 127.0.0.1:8081", c.AdminAddress)
	}
	if c.CertificateFile == "" {
		problem("KMIP_TLS_CERTIFICATE_FILE", "not set; set it to the PEM file with the server certificate and its chain")
	}
	if c.KeyFile == "" {
		problem("KMIP_TLS_KEY_FILE", "not set; set it to the PEM file with the server certificate's key")
	}
	if c.CertificateFile != "" && c.KeyFile != "" {
		if p.certificate, err = tls.LoadX509KeyPair(c.CertificateFile, c.KeyFile); err != nil {
			problem("KMIP_TLS_CERTIFICATE_FILE, KMIP_TLS_KEY_FILE", "%w; set them to the server certificate with its chain, and its key, in PEM", err)
		}
	}
	tokens, err := iam.NewTokens(iam.Config{URL: c.IAMURL, Now: obs.Now})
	if err != nil {
		problem("KMIP_IAM_URL", "%w; leave it out for IBM Cloud", err)
	}
	endpoints, err := keyprotect.ParseEndpoints(c.KeyManagerEndpoints)
	if err != nil {
		problem("KMIP_KEY_MANAGER_ENDPOINTS", "%w; set it to kms/<region>=<URL of Key Protect>,hs-crypto/<region>=<URL of HPCS>", err)
	}
	p.managers = &keyManagers{
		file: c.SealingKeysFile, endpoints: endpoints, stale: rate.Sometimes{Interval: complainEvery},
		tokens: func(apiKey *secret.Bytes) keyprotect.Tokens { return tokens.ForAPIKey(apiKey) },
	}
	if c.ServiceAPIKeyFile != "" && tokens != nil {
		key, err := secret.ReadFile(c.ServiceAPIKeyFile)
		if err != nil {
			problem("KMIP_SERVICE_API_KEY_FILE", "%w; set it to a file with the API key of the operator's service ID, or leave it out", err)
		} else {
			own := tokens.ForAPIKey(key)
			p.managers.service = func(instanceCRN string) keyprotect.Tokens { return tokens.ForInstance(own, instanceCRN) }
		}
	}
	if c.SealingKeysFile == "" {
		problem("KMIP_SEALING_KEYS_FILE", "not set; set it to a file with one key per line, each made with `openssl rand -base64 32`")
	} else if err := p.managers.load(); err != nil {
		problem("KMIP_SEALING_KEYS_FILE", "%w", err)
	}
	return p, errors.Join(problems...)
}

var regionForm = regexp.MustCompile(`^[a-z]{2}-[a-z]{1,29}$`)

const maxPort = 1<<16 - 1

// splitAddress returns host and port of an address to listen on.
func splitAddress(address string) (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	number, err := strconv.ParseUint(text, 10, 16)
	return host, uint16(number), err
}
