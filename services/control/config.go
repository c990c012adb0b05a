package control

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/kmip-for-vmware/kmip/libs/audit"
	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/services/control/ibmcloud"
	"github.com/kmip-for-vmware/kmip/services/control/signing"
)

// Config is the control plane's configuration. What has no default is needed.
type Config struct {
	// DatabaseURL reaches the cell's PostgreSQL as role kmip_control. It may list
	// several servers, host-1:5432,host-2:5432, with
	// ?target_session_attrs=read-write: the one that takes writes is used, also
	// after a fail-over.
	DatabaseURL string `env:"DATABASE_URL"`
	// Region is the cell's region, as in CRNs.
	Region string `env:"KMIP_REGION" envDefault:"us-south"`
	// APIAddress is where the customer API listens, in plain HTTP: TLS ends in
	// front of it.
	APIAddress string `env:"KMIP_API_ADDRESS" envDefault:":8080"`
	// AdminAddress is where health, metrics and the admin document are served.
	AdminAddress string `env:"KMIP_ADMIN_ADDRESS" envDefault:":8081"`
	// IAMURL is the base of IAM's paths; signing keys and tokens come from it.
	IAMURL string `env:"KMIP_IAM_URL" envDefault:"https://iam.cloud.ibm.com"`
	// IAMIssuer is the only accepted issuer of callers' tokens.
	IAMIssuer string `env:"KMIP_IAM_ISSUER" envDefault:"https://iam.cloud.ibm.com/identity"`
	// ResourceControllerURL is the base of the resource controller's paths; it
	// lists customers' key managers to them.
	ResourceControllerURL string `env:"KMIP_RESOURCE_CONTROLLER_URL" envDefault:"https://resource-controller.cloud.ibm.com"`
	// KeyManagerEndpoints is the table of keyprotect.ParseEndpoints.
	KeyManagerEndpoints string `env:"KMIP_KEY_MANAGER_ENDPOINTS"`
	// SealingKeysFile holds the set of secret.ParseKeyring. It is read again
	// whenever an API key is sealed, so a rotated set needs no restart.
	SealingKeysFile string `env:"KMIP_SEALING_KEYS_FILE"`
	// SharedEndpoints are the cell's shared host names and ports,
	// "name:port,name:port", in the order to enter them in vCenter.
	SharedEndpoints string `env:"KMIP_SHARED_ENDPOINTS"`
	// CAFile holds, in PEM, the certificate of the authority that signed the
	// nodes' server certificates.
	CAFile string `env:"KMIP_CA_FILE"`
	// DedicatedEndpoints says where instances with an endpoint of their own are
	// reached, "domain:first port-last port": each gets a name below the domain
	// and a port of the range, as advertised. Without it there are none, and so
	// no instances on HPCS. With it, CAKeyFile is needed.
	DedicatedEndpoints string `env:"KMIP_DEDICATED_ENDPOINTS"`
	// PublicURL is where customers reach the API, "https://host[:port]"; it
	// begins the links in answers. Without it they begin as the request did, in
	// plain HTTP.
	PublicURL string `env:"KMIP_PUBLIC_URL"`
	// CAKeyFile holds, in PEM, the key of CAFile's certificate; it signs server
	// certificates for instances' own names.
	CAKeyFile string `env:"KMIP_CA_KEY_FILE"`
	// CertificateFile is the nodes' shared server certificate, in PEM, which the
	// authority has signed; those for instances' own names are over the same key.
	CertificateFile string `env:"KMIP_TLS_CERTIFICATE_FILE"`
	// ServiceAPIKeyFile holds the API key of the operator's own service ID,
	// which belongs to the IAM service vmware-solutions: with it instances reach
	// HPCS under a service authorization. Without it they need API keys.
	ServiceAPIKeyFile string `env:"KMIP_SERVICE_API_KEY_FILE"`
	// CheckInterval is within what time each instance's key manager is checked
	// once, unless it was used meanwhile; all control planes of a cell have the
	// same.
	CheckInterval time.Duration `env:"KMIP_CHECK_INTERVAL" envDefault:"15m"`
	// ReconcileInterval is within what time each instance's ledger is compared
	// once with its key manager, which costs a reading of the list of all keys;
	// all control planes of a cell have the same.
	ReconcileInterval time.Duration `env:"KMIP_RECONCILE_INTERVAL" envDefault:"24h"`
	// Events takes a record of each call of the customer API; nil: nobody does,
	// and those that change an instance are kept in the database alone.
	Events audit.Sink `env:"-"`
}

// ReadConfig fills a Config from environment variables. What they hold is
// checked by New.
func ReadConfig(environment map[string]string) (Config, error) {
	return env.ParseAsWithOptions[Config](env.Options{Environment: environment})
}

// parts is what the settings stand for.
type parts struct {
	public    *url.URL      // nil: not told
	endpoints []pg.Endpoint // the shared ones
	authority *x509.Certificate
	dedicated *dedicated // nil: there are none
	iam       iam.Config
	manager   keyManagers
	cloud     *ibmcloud.Client
}

var (
	regionForm   = regexp.MustCompile(`^[a-z]{2}-[a-z]{1,29}$`)
	hostNameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
)

// check reads every setting and returns all problems at once, each naming the
// variable and the remedy.
func (c Config) check() (parts, error) {
	var p parts
	var problems []error
	problem := func(variable, format string, args ...any) {
		problems = append(problems, fmt.Errorf(variable+": "+format, args...))
	}
	if u, err := url.Parse(c.DatabaseURL); err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		problem("DATABASE_URL", "not a PostgreSQL URL; set it to postgres://kmip_control:<password>@<host>:<port>/<database>")
	}
	if !regionForm.MatchString(c.Region) {
		problem("KMIP_REGION", "%q is not a region; set it to the cell's region, for example us-south", c.Region)
	}
	for _, listen := range [][2]string{{"KMIP_API_ADDRESS", c.APIAddress}, {"KMIP_ADMIN_ADDRESS", c.AdminAddress}} {
		_, port, err := net.SplitHostPort(listen[1])
		if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
			problem(listen[0], "%q is not an address; set it to host:port, for example 127.0.0.1:8080", listen[1])
		}
	}
	if c.CheckInterval < time.Second {
		problem("KMIP_CHECK_INTERVAL", "%s is too short; set it to one second or more, for example 15m", c.CheckInterval)
	}
	if c.ReconcileInterval < time.Second {
		problem("KMIP_RECONCILE_INTERVAL", "%s is too short; set it to one second or more, for example 24h", c.ReconcileInterval)
	}
	p.iam = iam.Config{URL: c.IAMURL, Issuer: c.IAMIssuer, Now: obs.Now}
	tokens, err := iam.NewTokens(p.iam)
	if err != nil {
		problem("KMIP_IAM_URL", "%w; leave it out for IBM Cloud", err)
	}
	if err := checkService(c.ResourceControllerURL); err != nil {
		problem("KMIP_RESOURCE_CONTROLLER_URL", "%w; leave it out for IBM Cloud", err)
	} else if p.cloud, err = ibmcloud.New(strings.TrimSuffix(c.IAMURL, "/"), strings.TrimSuffix(c.ResourceControllerURL, "/"), callersToken); err != nil {
		problem("KMIP_IAM_URL", "%w; leave it out for IBM Cloud", err)
	}
	addresses, err := keyprotect.ParseEndpoints(c.KeyManagerEndpoints)
	if err != nil {
		problem("KMIP_KEY_MANAGER_ENDPOINTS", "%w; set it to kms/%s=<URL of Key Protect>,hs-crypto/%s=<URL of HPCS>", err, c.Region, c.Region)
	}
	var service func(instanceCRN string) keyprotect.Tokens
	if c.ServiceAPIKeyFile != "" && tokens != nil {
		key, err := secret.ReadFile(c.ServiceAPIKeyFile)
		if err != nil {
			problem("KMIP_SERVICE_API_KEY_FILE", "%w; set it to a file with the API key of the operator's service ID, or leave it out", err)
		} else {
			own := tokens.ForAPIKey(key)
			service = func(instanceCRN string) keyprotect.Tokens { return tokens.ForInstance(own, instanceCRN) }
		}
	}
	p.manager = keyManagers{
		address: addresses.URL, ring: c.keyring, authorized: service != nil, served: addresses.Serves,
		open: func(ring *secret.Keyring, t *tenant.Tenant) (engine.KeyManager, error) {
			factory := &keyprotect.Factory{
				Endpoints: addresses, Keyring: ring, Service: service, Now: obs.Now,
				Tokens: func(apiKey *secret.Bytes) keyprotect.Tokens { return tokens.ForAPIKey(apiKey) },
			}
			return factory.For(t)
		},
	}
	if _, err := c.keyring(); err != nil {
		problems = append(problems, err)
	}
	if p.endpoints, err = parseSharedEndpoints(c.SharedEndpoints); err != nil {
		problem("KMIP_SHARED_ENDPOINTS", "%w; set it to name:port,name:port, the host names in lower case", err)
	}
	if p.authority, err = signing.ReadCertificate(c.CAFile); err != nil {
		problem("KMIP_CA_FILE", "%w; set it to a PEM file with the certificate of the nodes' authority", err)
	}
	shared, err := signing.ReadCertificate(c.CertificateFile)
	if err == nil && p.authority != nil {
		err = shared.CheckSignatureFrom(p.authority)
	}
	if err != nil {
		problem("KMIP_TLS_CERTIFICATE_FILE", "%w; set it to the nodes' shared server certificate, which KMIP_CA_FILE's has signed", err)
	} else {
		for i := range p.endpoints {
			p.endpoints[i].ServerCertificate = shared.Raw
		}
	}
	if c.PublicURL != "" {
		p.public, err = url.Parse(strings.TrimSuffix(c.PublicURL, "/"))
		if err != nil || p.public.Scheme != "https" && p.public.Scheme != "http" || p.public.Host == "" || p.public.String() != p.public.Scheme+"://"+p.public.Host {
			problem("KMIP_PUBLIC_URL", "%q is not the URL of a host; set it to https://host or https://host:port, or leave it out", c.PublicURL)
		}
	}
	if c.DedicatedEndpoints != "" && p.authority != nil && shared != nil {
		p.dedicated, err = c.readDedicated(p.authority, shared.PublicKey)
		problems = append(problems, err)
		for _, e := range p.endpoints {
			if e.Port >= p.dedicated.first && e.Port <= p.dedicated.last {
				problem("KMIP_DEDICATED_ENDPOINTS", "its ports hold %d, a port of KMIP_SHARED_ENDPOINTS, where no instance may be alone; set it to a range without that", e.Port)
			}
		}
	}
	return p, errors.Join(problems...)
}

// checkService checks the address of one of IBM Cloud's services, to which
// callers' tokens go: https, or http on this machine.
func checkService(address string) error {
	u, err := url.Parse(strings.TrimSuffix(address, "/"))
	if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("%q: want https://<host>", address)
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "localhost" && !ip.IsLoopback()) {
		return fmt.Errorf("%q: want https; http is for this machine alone", address)
	}
	return nil
}

// keyring reads the operator's sealing keys as they are now.
func (c Config) keyring() (*secret.Keyring, error) {
	const variable = "KMIP_SEALING_KEYS_FILE"
	if c.SealingKeysFile == "" {
		return nil, errors.New(variable + ": not set; set it to a file with one key per line, each made with `openssl rand -base64 32`")
	}
	ring, err := secret.ReadKeyring(c.SealingKeysFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", variable, err)
	}
	return ring, nil
}

// parseSharedEndpoints reads "name:port,name:port".
func parseSharedEndpoints(text string) ([]pg.Endpoint, error) {
	if text == "" {
		return nil, errors.New("not set")
	}
	var all []pg.Endpoint
	for part := range strings.SplitSeq(text, ",") {
		host, number, err := net.SplitHostPort(strings.TrimSpace(part))
		port, portErr := strconv.ParseUint(number, 10, 16)
		if err != nil || portErr != nil || port == 0 || !hostNameForm.MatchString(host) {
			return nil, fmt.Errorf("%q is not a host name and port", part)
		}
		all = append(all, pg.Endpoint{HostName: host, Port: uint16(port)})
	}
	return all, nil
}
