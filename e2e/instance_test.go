package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// instance is a KMIP for VMware instance that a test made through the REST
// API, with a root key and a client certificate of its own.
type instance struct {
	cell          *cell
	env           map[string]string
	id            string
	certificateID string
	rootKey       string
	certificate   *tls.Certificate
	customer      keyProtect // the account's user on its key manager
	bearer        string
	own           *ownEndpoint // nil: it is reached at the shared endpoints
}

// ownEndpoint is a host name and port of one instance alone, as advertised.
type ownEndpoint struct {
	HostName string `json:"hostname"`
	Port     int    `json:"port"`
}

// newInstance makes an instance in account 1 on Key Protect, ready for KMIP at
// the shared endpoints.
func newInstance(t *testing.T, c *cell) *instance {
	t.Helper()
	env := c.env(t)
	i := &instance{cell: c, env: env, bearer: token(t, env["IAM_URL"], env["API_KEY"])}
	i.customer = keyProtect{env["KP_URL"], env["KP_INSTANCE_ID"], i.bearer}
	i.make(t)
	i.connect(t, map[string]any{
		"type": "key_protect", "instance_crn": keyProtectCRN(env), "key_ring": "default", "api_key": env["KP_SERVICE_API_KEY"],
	})
	return i
}

// newDedicated makes an instance in account 2 on HPCS, under a service
// authorization and at an endpoint of its own.
func newDedicated(t *testing.T, c *cell) *instance {
	t.Helper()
	i := newUnconnected(t, c)
	i.authorize(t)
	i.connect(t, map[string]any{"type": "hpcs", "instance_crn": hpcsCRN(i.env)})
	return i
}

// newUnconnected makes an instance in account 2 that has no key manager yet.
func newUnconnected(t *testing.T, c *cell) *instance {
	t.Helper()
	env := c.env(t)
	i := &instance{cell: c, env: env, bearer: token(t, env["IAM_URL"], env["API2_KEY"])}
	i.customer = keyProtect{env["HPCS_URL"], env["KP2_INSTANCE_ID"], i.bearer}
	i.make(t)
	return i
}

// make creates root key and instance.
func (i *instance) make(t *testing.T) {
	t.Helper()
	i.rootKey = i.customer.createRootKey(t)
	var made struct {
		ID     string `json:"id"`
		Status string `json:"status"`
	}
	a := i.api(t, http.MethodPost, "/v1/instances", map[string]any{"name": "e2e-" + uuid.NewString()[:8]})
	a.decode(t, &made)
	if a.status != http.StatusAccepted || made.ID == "" || made.Status == "" {
		t.Fatalf("creating an instance: status %d, %s", a.status, a.body)
	}
	i.id = made.ID
}

// connect gives the instance its key manager and a client certificate, and
// waits until both nodes serve it.
func (i *instance) connect(t *testing.T, settings map[string]any) {
	t.Helper()
	settings["root_key_id"] = i.rootKey
	if a := i.api(t, http.MethodPut, "/v1/instances/"+i.id+"/key_manager", settings); a.status != http.StatusOK {
		t.Fatalf("configuring the key manager: status %d, %s", a.status, a.body)
	}
	var list struct {
		Endpoints []ownEndpoint `json:"endpoints"`
	}
	i.api(t, http.MethodGet, "/v1/instances/"+i.id+"/endpoints", nil).decode(t, &list)
	if len(list.Endpoints) == 1 {
		i.own = &list.Endpoints[0]
	}
	i.certificate, i.certificateID = i.addCertificate(t)
	i.awaitAdmission(t, i.certificate)
}

func keyProtectCRN(env map[string]string) string {
	return "crn:v1:bluemix:public:kms:us-south:a/" + env["ACCOUNT_ID"] + ":" + env["KP_INSTANCE_ID"] + "::"
}

func hpcsCRN(env map[string]string) string {
	return "crn:v1:bluemix:public:hs-crypto:us-south:a/" + env["ACCOUNT2_ID"] + ":" + env["KP2_INSTANCE_ID"] + "::"
}

// authorize creates the service authorization from the instance to HPCS, as
// IBM's manual has it, and returns the path of the policy.
func (i *instance) authorize(t *testing.T) string {
	t.Helper()
	attribute := func(name, value string) map[string]any { return map[string]any{"name": name, "value": value} }
	account := attribute("accountId", i.env["ACCOUNT2_ID"])
	a := call(t, http.MethodPost, i.env["IAM_POLICY_URL"]+"/v1/policies", map[string]string{"Authorization": "Bearer " + i.bearer}, map[string]any{
		"type": "authorization",
		"subjects": []any{map[string]any{"attributes": []any{
			account, attribute("serviceName", "vmware-solutions"), attribute("serviceInstance", i.id),
		}}},
		"roles": []any{
			map[string]any{"role_id": "crn:v1:bluemix:public:iam::::role:Viewer"},
			map[string]any{"role_id": "crn:v1:bluemix:public:hs-crypto::::serviceRole:VMwareKMIPManager"},
		},
		"resources": []any{map[string]any{"attributes": []any{
			account, attribute("serviceName", "hs-crypto"), attribute("serviceInstance", i.env["KP2_INSTANCE_ID"]),
		}}},
	})
	var made struct {
		ID string `json:"id"`
	}
	a.decode(t, &made)
	if a.status != http.StatusCreated || made.ID == "" {
		t.Fatalf("creating the service authorization: status %d, %s", a.status, a.body)
	}
	return i.env["IAM_POLICY_URL"] + "/v1/policies/" + made.ID
}

// api calls the REST API as the account's user, and holds request and answer
// to its document; header holds pairs of name and value.
func (i *instance) api(t *testing.T, method, path string, body any, header ...string) answer {
	t.Helper()
	headers := map[string]string{"Authorization": "Bearer " + i.bearer}
	if body != nil {
		headers["Content-Type"] = "application/json"
	}
	if method == http.MethodPatch {
		headers["Content-Type"] = "application/merge-patch+json"
	}
	for at := 0; at < len(header); at += 2 {
		headers[header[at]] = header[at+1]
	}
	a := call(t, method, i.env["API_URL"]+path, headers, body)
	checkContract(t, method, path, headers, body, a)
	return a
}

// newCertificate makes a client certificate like vCenter's.
func newCertificate(t *testing.T) (*tls.Certificate, string) {
	t.Helper()
	certPEM, keyPEM, err := client.NewCertificate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return &pair, string(certPEM)
}

// addCertificate makes a client certificate and adds it to the instance.
func (i *instance) addCertificate(t *testing.T) (*tls.Certificate, string) {
	t.Helper()
	pair, pem := newCertificate(t)
	var made struct {
		ID string `json:"id"`
	}
	a := i.api(t, http.MethodPost, "/v1/instances/"+i.id+"/client_certificates", map[string]any{"name": "vc-" + uuid.NewString()[:8], "certificate": pem})
	a.decode(t, &made)
	if a.status != http.StatusCreated || made.ID == "" {
		t.Fatalf("adding a certificate: status %d, %s", a.status, a.body)
	}
	return pair, made.ID
}

// nodes are the ports' names in stack.env.
var nodes = []string{"KMIP_PORT", "KMIP_PORT_2"}

// config says how to reach a node with a certificate.
func (i *instance) config(t *testing.T, node string, certificate *tls.Certificate) client.Config {
	t.Helper()
	if i.own == nil {
		return i.shared(t, node, i.env["KMIP_SNI"], certificate)
	}
	port := i.own.Port
	if node == nodes[1] { // an offset tells node 2's ports apart on one address
		port += number(t, i.env["KMIP2_PORT_2"]) - number(t, i.env["KMIP2_PORT"])
	}
	return kmipConfig(t, i.env["KMIP_HOST"]+":"+strconv.Itoa(port), i.own.HostName, i.env["KMIP_CA"], certificate)
}

// shared says how to reach a node's shared port under a server name.
func (i *instance) shared(t *testing.T, node, serverName string, certificate *tls.Certificate) client.Config {
	t.Helper()
	return kmipConfig(t, i.env["KMIP_HOST"]+":"+i.env[node], serverName, i.env["KMIP_CA"], certificate)
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func kmipConfig(t *testing.T, address, serverName, ca string, certificate *tls.Certificate) client.Config {
	t.Helper()
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("%s holds no certificate", ca)
	}
	return client.Config{Address: address, ServerName: serverName, VerifyName: serverName, RootCAs: roots, Certificate: certificate}
}

// dial connects to a node and discovers versions, as every client begins.
func (i *instance) dial(t *testing.T, node string) *client.Conn {
	t.Helper()
	conn, err := discover(t.Context(), i.config(t, node, i.certificate))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func discover(ctx context.Context, cfg client.Config) (*client.Conn, error) {
	conn, err := client.Dial(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if _, err := conn.DiscoverVersions(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// awaitAdmission waits until both nodes serve a certificate.
func (i *instance) awaitAdmission(t *testing.T, certificate *tls.Certificate) {
	t.Helper()
	for _, node := range nodes {
		cfg := i.config(t, node, certificate)
		eventually(t, func(ctx context.Context) error {
			conn, err := discover(ctx, cfg)
			if err == nil {
				conn.Close()
			}
			return err
		})
	}
}

// create makes a key on a node.
func (i *instance) create(t *testing.T, node string) kmip.ObjectID {
	t.Helper()
	id, err := i.dial(t, node).Create(t.Context(), vSphere...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// vSphere is the template that vCenter sends.
var vSphere = []kmip.Attribute{
	{Name: kmip.AttributeCryptographicAlgorithm, Value: kmip.Enum(kmip.AES)},
	{Name: kmip.AttributeCryptographicUsageMask, Value: kmip.Int(12)},
	{Name: kmip.AttributeCryptographicLength, Value: kmip.Int(256)},
}

// get reads a key on a node.
func (i *instance) get(t *testing.T, node string, id kmip.ObjectID) (*secret.Bytes, error) {
	t.Helper()
	return i.dial(t, node).Get(t.Context(), id)
}

// KMIP result reasons (KMIP 1.4, 9.1.3.2.29).
const (
	itemNotFound     = 0x1
	permissionDenied = 0xC
	generalFailure   = 0x100
)

// wantReason checks that an error is a KMIP failure with a reason and a message.
func wantReason(t *testing.T, err error, reason uint32, when string) {
	t.Helper()
	var failure *client.ResultError
	if !errors.As(err, &failure) || failure.Reason != reason || failure.Message == "" {
		t.Errorf("%s: %v, want result reason 0x%X with a message", when, err, reason)
	}
}
