package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
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
	customer      keyProtect // the account's user on its Key Protect instance
	bearer        string
}

// newInstance makes an instance in account 1, ready for KMIP.
func newInstance(t *testing.T, c *cell) *instance {
	t.Helper()
	env := c.env(t)
	i := &instance{cell: c, env: env, bearer: token(t, env["IAM_URL"], env["API_KEY"])}
	i.customer = keyProtect{env["KP_URL"], env["KP_INSTANCE_ID"], i.bearer}
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

	a = i.api(t, http.MethodPut, "/v1/instances/"+i.id+"/key_manager", map[string]any{
		"type": "key_protect", "instance_crn": keyProtectCRN(env), "key_ring": "default",
		"root_key_id": i.rootKey, "api_key": env["KP_SERVICE_API_KEY"],
	})
	if a.status != http.StatusOK {
		t.Fatalf("configuring the key manager: status %d, %s", a.status, a.body)
	}
	i.certificate, i.certificateID = i.addCertificate(t)
	i.awaitAdmission(t, i.certificate)
	return i
}

func keyProtectCRN(env map[string]string) string {
	return "crn:v1:bluemix:public:kms:us-south:a/" + env["ACCOUNT_ID"] + ":" + env["KP_INSTANCE_ID"] + "::"
}

// api calls the REST API as the account's user.
func (i *instance) api(t *testing.T, method, path string, body any) answer {
	t.Helper()
	return call(t, method, i.env["API_URL"]+path, map[string]string{"Authorization": "Bearer " + i.bearer}, body)
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
	return kmipConfig(t, i.env["KMIP_HOST"]+":"+i.env[node], i.env["KMIP_SNI"], i.env["KMIP_CA"], certificate)
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
