//go:build linux

package faults

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

const (
	nodeCount    = 3
	controlCount = 2
	region       = "us-south"
	// dedicatedPorts is how many instances can have ports of their own.
	dedicatedPorts = 10
	// tokenLife is short, so that tokens are fetched again during a fault.
	tokenLife = 30 * time.Second
)

// cell is a whole cell with the services of IBM Cloud, all of them processes
// that are started again when they die, and breakable links between them.
type cell struct {
	dir      string
	database *database
	emulator *process
	knobs    int // port of the emulator's knobs
	iam      int // ports of the emulator that customers use
	keys     map[string]int
	nodes    [nodeCount]*node
	controls [controlCount]*control
	roots    *x509.CertPool
	tenants  []*tenant
}

// peers are the links of one of our processes to what it uses.
type peers struct {
	database [2]*link
	kms      *link
	hpcs     *link
	iam      *link // IAM and the resource controller
	rc       *link
}

func (p peers) all() []*link {
	return []*link{p.database[0], p.database[1], p.kms, p.hpcs, p.iam, p.rc}
}

type node struct {
	*process
	peers
	shared, own *link // from clients, to the shared port and to that of the tenant with its own
	admin       int
	state       string // folder
}

type control struct {
	*process
	peers
	api   *link // from administrators
	admin int
}

// programs builds what the suite runs, with the clock that can be shifted.
func programs(t testing.TB, dir string) string {
	t.Helper()
	bin := filepath.Join(dir, "bin")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "faults", "-o", bin+"/",
		"./services/cmd/kmip-node", "./services/cmd/kmip-control", "./services/cmd/kmip-emulator")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the programs: %v\n%s", err, out)
	}
	return bin
}

// startCell starts a cell with two tenants, of which both nodes and control
// planes are ready; it ends with the test.
func startCell(t testing.TB) *cell {
	t.Helper()
	dir, err := os.MkdirTemp("", "kmip-faults-") //nolint:usetesting // PostgreSQL's user has to reach it
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the logs are in %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	bin := programs(t, dir)
	c := &cell{dir: dir}
	c.volume(t, "data", 1500)
	c.volume(t, "logs", 1000)
	c.database = startDatabase(t, c.path("data"))

	c.iam, c.knobs = freePorts(t, 1), freePorts(t, 1)
	rc := freePorts(t, 1)
	c.keys = map[string]int{serviceKMS: freePorts(t, 1), serviceHPCS: freePorts(t, 1)}
	serviceKey := c.seed(t)
	c.emulator = supervise(t, "emulator", program(filepath.Join(bin, "kmip-emulator"), c.log("emulator"), nil,
		"--data-dir", c.path("emulator"), "--seed", c.path("seed.json"), "--token-lifetime", tokenLife.String(),
		"--iam-addr", address(c.iam), "--resource-controller-addr", address(rc), "--admin-addr", address(c.knobs),
		"--key-protect-addr", address(c.keys[serviceKMS]), "--hpcs-addr", address(c.keys[serviceHPCS])))

	files := c.certificates(t)
	must(t, os.WriteFile(c.path("sealing-keys"), sealingKey(), 0o600))
	must(t, os.WriteFile(c.path("service-api-key"), []byte(serviceKey), 0o600))
	connect := func(role, name string) (peers, []string) {
		p := peers{
			database: [2]*link{newLink(t, c.database.servers[0].port), newLink(t, c.database.servers[1].port)},
			kms:      newLink(t, c.keys[serviceKMS]), hpcs: newLink(t, c.keys[serviceHPCS]),
			iam: newLink(t, c.iam), rc: newLink(t, rc),
		}
		return p, append([]string{
			"DATABASE_URL=" + databaseURL(role, [2]int{p.database[0].port(), p.database[1].port()}),
			"KMIP_IAM_URL=http://" + address(p.iam.port()),
			"KMIP_KEY_MANAGER_ENDPOINTS=" + fmt.Sprintf("kms/%s=http://%s,hs-crypto/%s=http://%s", region, address(p.kms.port()), region, address(p.hpcs.port())),
			"KMIP_SEALING_KEYS_FILE=" + c.path("sealing-keys"),
			"KMIP_SERVICE_API_KEY_FILE=" + c.path("service-api-key"),
			"KMIP_CLOCK_OFFSET_FILE=" + c.clockFile(name),
		}, files...)
	}
	sharedPort := freePorts(t, nodeCount)
	dedicated := freePorts(t, nodeCount*dedicatedPorts)
	for i := range c.controls {
		name := fmt.Sprint("control-", i+1)
		p, env := connect(controlRole, name)
		port, admin := freePorts(t, 1), freePorts(t, 1)
		env = append(env,
			"KMIP_REGION="+region,
			"KMIP_RESOURCE_CONTROLLER_URL=http://"+address(p.rc.port()),
			"KMIP_API_ADDRESS="+address(port),
			"KMIP_ADMIN_ADDRESS="+address(admin),
			fmt.Sprintf("KMIP_SHARED_ENDPOINTS=%s:%d", sharedName, sharedPort),
			fmt.Sprintf("KMIP_DEDICATED_ENDPOINTS=%s:%d-%d", ownDomain, dedicated, dedicated+dedicatedPorts-1),
			"KMIP_CHECK_INTERVAL=30s",
		)
		c.controls[i] = &control{
			process: supervise(t, name, program(filepath.Join(bin, "kmip-control"), c.log(name), env)),
			peers:   p, api: newLink(t, port), admin: admin,
		}
	}
	for i := range c.nodes {
		name := fmt.Sprint("node-", i+1)
		state := name + "-state"
		c.volume(t, state, 4)
		p, env := connect(nodeRole, name)
		admin := freePorts(t, 1)
		env = append(env,
			"KMIP_NODE_NAME="+name,
			"KMIP_LISTEN="+address(sharedPort+i),
			fmt.Sprintf("KMIP_ADVERTISED_PORT=%d", sharedPort),
			fmt.Sprintf("KMIP_DEDICATED_PORT_OFFSET=%d", i*dedicatedPorts),
			"KMIP_STATE_FOLDER="+c.path(state),
			"KMIP_ADMIN_ADDRESS="+address(admin),
		)
		c.nodes[i] = &node{
			process: supervise(t, name, program(filepath.Join(bin, "kmip-node"), c.log(name), env)),
			peers:   p, shared: newLink(t, sharedPort+i), own: newLink(t, dedicated+i*dedicatedPorts), admin: admin,
			state: c.path(state),
		}
	}
	must(t, await(t.Context(), 30*time.Second, c.ready))
	c.provision(t)
	return c
}

// ready asks every process whether it is.
func (c *cell) ready(ctx context.Context) error {
	ports := []int{c.knobs}
	for _, control := range c.controls {
		ports = append(ports, control.admin)
	}
	for _, node := range c.nodes {
		ports = append(ports, node.admin)
	}
	for _, port := range ports {
		if err := ready(ctx, port); err != nil {
			return err
		}
	}
	return nil
}

func (c *cell) path(name string) string { return filepath.Join(c.dir, name) }
func (c *cell) log(name string) string  { return filepath.Join(c.dir, "logs", name+".log") }

// clockFile is where a process reads how wrong its clock is.
func (c *cell) clockFile(process string) string { return c.path(process + ".clock") }

// volume makes a folder, on a small file system of its own where that is
// possible: as root on Linux.
func (c *cell) volume(t testing.TB, name string, megabytes int) {
	t.Helper()
	folder := c.path(name)
	must(t, os.Mkdir(folder, 0o755))
	if !canMount() {
		return
	}
	must(t, mount(folder, megabytes))
	t.Cleanup(func() {
		if t.Failed() { // for whoever looks for the cause
			_ = exec.Command("cp", "-r", folder, folder+".kept").Run()
		}
		if err := unmount(folder); err != nil {
			t.Errorf("unmounting %s: %v", folder, err)
		}
	})
}

// The names under which clients reach nodes.
const (
	sharedName = "kmip-1.private.us-south.vmware-solutions.cloud.ibm.com"
	ownDomain  = "kmip.private.us-south.hs-crypto.appdomain.cloud"
)

// certificates makes the cell's authority and the nodes' certificate, and
// returns the settings that name their files.
func (c *cell) certificates(t testing.TB) []string {
	t.Helper()
	write := func(name, kind string, der []byte) string {
		must(t, os.WriteFile(c.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return c.path(name)
	}
	keyFile := func(name string) (*rsa.PrivateKey, string) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		must(t, err)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		must(t, err)
		return key, write(name, "PRIVATE KEY", der)
	}
	now := time.Now()
	authorityKey, authorityKeyFile := keyFile("ca-key.pem")
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of the suite"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	must(t, err)
	authorityFile := write("ca.pem", "CERTIFICATE", der)
	authority, err = x509.ParseCertificate(der)
	must(t, err)
	c.roots = x509.NewCertPool()
	c.roots.AddCert(authority)
	serverKey, serverKeyFile := keyFile("server-key.pem")
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: sharedName}, DNSNames: []string{sharedName},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(2, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err = x509.CreateCertificate(rand.Reader, server, authority, serverKey.Public(), authorityKey)
	must(t, err)
	return []string{
		"KMIP_CA_FILE=" + authorityFile, "KMIP_CA_KEY_FILE=" + authorityKeyFile,
		"KMIP_TLS_CERTIFICATE_FILE=" + write("server.pem", "CERTIFICATE", der), "KMIP_TLS_KEY_FILE=" + serverKeyFile,
	}
}

// clientCertificate makes a self-signed certificate for a KMIP client.
func clientCertificate(ends time.Time) (certificate *tls.Certificate, text string) {
	serial := make([]byte, 16)
	rand.Read(serial) // never fails (Go 1.24)
	serial[0] &= 0x7f // positive
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: "kmipClient"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: ends, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	var der []byte
	if err == nil {
		der, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	}
	if err == nil {
		template, err = x509.ParseCertificate(der)
	}
	if err != nil {
		panic(err) // nothing here depends on anything
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: template},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// sealingKey is one line of the operator's keyring.
func sealingKey() []byte {
	key := make([]byte, 32)
	rand.Read(key) // never fails (Go 1.24)
	return []byte(base64.StdEncoding.EncodeToString(key) + "\n")
}

const (
	serviceVMware = "vmware-solutions"
	serviceKMS    = "kms"
	serviceHPCS   = "hs-crypto"
)

// seed tells the emulator who is there: two customers, one with Key Protect and
// one with HPCS, and the operator, whose API key it returns.
func (c *cell) seed(t testing.TB) string {
	t.Helper()
	type object = map[string]any
	account := func() string { return strings.ReplaceAll(uuid.NewString(), "-", "") }
	secret := func() string { return rand.Text() + rand.Text() }
	access := func(service, instance string, roles ...string) object {
		return object{"service": service, "instance": instance, "roles": roles}
	}
	operator, operatorKey := account(), secret()
	var accounts, instances, users, services []object
	for n, service := range []string{serviceKMS, serviceHPCS} {
		x := &tenant{name: fmt.Sprint("tenant ", n+1), account: account(), apiKey: secret(), service: service, keyManager: uuid.NewString()}
		accounts = append(accounts, object{"id": x.account, "name": x.name})
		instances = append(instances, object{"service": service, "guid": x.keyManager, "account": x.account, "region": region, "name": "keys"})
		users = append(users, object{
			"iam_id": "IBMid-" + strings.ToUpper(x.account[:10]), "email": x.account + "@example.com", "name": "Ada", "account": x.account, "api_key": x.apiKey,
			"access": []object{{"service": serviceVMware, "roles": []string{"Administrator"}}, access(service, x.keyManager, "Administrator", "Manager")},
		})
		if service == serviceKMS {
			x.serviceKey = secret()
			services = append(services, object{
				"id": "ServiceId-" + uuid.NewString(), "name": "kmip", "account": x.account, "api_key": x.serviceKey,
				"access": []object{access(service, x.keyManager, "Viewer", "Manager")},
			})
		}
		c.tenants = append(c.tenants, x)
	}
	accounts = append(accounts, object{"id": operator, "name": "operator"})
	services = append(services, object{"id": "ServiceId-" + uuid.NewString(), "name": "operator", "account": operator, "service": serviceVMware, "api_key": operatorKey})
	text, err := json.Marshal(object{"accounts": accounts, "instances": instances, "users": users, "service_ids": services})
	must(t, err)
	must(t, os.WriteFile(c.path("seed.json"), text, 0o600))
	return operatorKey
}
