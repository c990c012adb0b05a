package e2e

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/uuid"
	ovh "github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/kmipclient"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// tenants are the tenants of a cell that clients of others are driven against:
// what their names in stack.env begin with.
var tenants = []string{"KMIP", "KMIP2"}

// tenant is what such a client is told: addresses and PEM files.
type tenant struct {
	name                         string // of tenants
	host                         string
	ports                        []string // one of each node
	serverName                   string   // in the server's certificate; our own client asks for it
	ca, certificateFile, keyFile string
	certificate                  *tls.Certificate
}

// eachTenant runs a test for each of the shared cell's tenants.
func eachTenant(t *testing.T, run func(t *testing.T, to tenant)) {
	env := sharedCell(t).env(t)
	for _, prefix := range tenants {
		t.Run(prefix, func(t *testing.T) {
			t.Parallel()
			to := tenant{
				name: prefix, host: env[prefix+"_HOST"], ports: []string{env[prefix+"_PORT"], env[prefix+"_PORT_2"]}, serverName: env[prefix+"_SNI"],
				ca: env[prefix+"_CA"], certificateFile: env[prefix+"_CERT"], keyFile: env[prefix+"_KEY"],
			}
			pair, err := tls.LoadX509KeyPair(to.certificateFile, to.keyFile)
			if err != nil {
				t.Fatal(err)
			}
			to.certificate = &pair
			run(t, to)
		})
	}
}

// address is that of a node.
func (to tenant) address(node int) string { return net.JoinHostPort(to.host, to.ports[node]) }

// dial connects our own client to a node.
func (to tenant) dial(t *testing.T, node int) *client.Conn {
	t.Helper()
	conn, err := discover(t.Context(), kmipConfig(t, to.address(node), to.serverName, to.ca, to.certificate))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// notInstalled skips a test whose client is not there; in CI it fails.
func notInstalled(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed: .ci/clients installs it", what)
	}
	t.Skipf("%s is not installed: .ci/clients installs it", what)
}

// python is Debian's: a python3 on the PATH may be another one.
const python = "/usr/bin/python3"

// TestPyKMIP drives a node with PyKMIP in every protocol version that both
// know.
func TestPyKMIP(t *testing.T) {
	t.Parallel()
	if err := exec.CommandContext(t.Context(), python, "-c", "import kmip").Run(); err != nil {
		notInstalled(t, "PyKMIP")
	}
	eachTenant(t, func(t *testing.T, to tenant) {
		for _, version := range []string{"1.0", "1.1", "1.2", "1.3", "1.4"} {
			t.Run(version, func(t *testing.T) {
				t.Parallel()
				runPyKMIP(t, to, version)
			})
		}
	})
}

func runPyKMIP(t *testing.T, to tenant, version string) {
	run := exec.CommandContext(t.Context(), python, filepath.Join("clients", "pykmip.py"),
		"--host", to.host, "--port", to.ports[0], "--ca", to.ca, "--cert", to.certificateFile, "--key", to.keyFile, "--version", version)
	run.Stderr = os.Stderr
	out, err := run.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		ID            string   `json:"id"`
		Added         []string `json:"added"`
		Located       []string `json:"located"`
		Digest        string   `json:"digest"`
		States        []string `json:"states"`
		AddRefused    string   `json:"add_refused"`
		DestroyActive string   `json:"destroy_active"`
		GetDestroyed  string   `json:"get_destroyed"`
		GetUnknown    string   `json:"get_unknown"`
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if want := []string{got.ID, "x-Name", "a virtual machine"}; !slices.Equal(got.Added, want) {
		t.Errorf("Add Attribute answered %q, want %q", got.Added, want)
	}
	if !slices.Equal(got.Located, []string{got.ID}) || len(got.Digest) != 2*sha256.Size {
		t.Errorf("located %v, want %s alone; digest %q", got.Located, got.ID, got.Digest)
	}
	if want := []string{"PRE_ACTIVE", "ACTIVE", "DEACTIVATED", "DESTROYED"}; !slices.Equal(got.States, want) {
		t.Errorf("states %v, want %v", got.States, want)
	}
	if got.AddRefused != "PERMISSION_DENIED" || got.DestroyActive != "PERMISSION_DENIED" ||
		got.GetDestroyed != "ITEM_NOT_FOUND" || got.GetUnknown != "ITEM_NOT_FOUND" {
		t.Errorf("refusals: %s", out)
	}
}

// TestOVHClient drives both nodes with ovh/kmip-go's client in every version:
// what it makes on one it reads on the other, and our own client reads the same.
func TestOVHClient(t *testing.T) {
	t.Parallel()
	eachTenant(t, func(t *testing.T, to tenant) {
		for minor := range int32(5) {
			t.Run(fmt.Sprintf("1.%d", minor), func(t *testing.T) {
				t.Parallel()
				runOVH(t, to, minor)
			})
		}
	})
}

func runOVH(t *testing.T, to tenant, minor int32) {
	dial := func(node int) *kmipclient.Client {
		t.Helper()
		// It connects by address and sends no server name.
		c, err := kmipclient.DialContext(t.Context(), to.address(node),
			kmipclient.WithRootCAFile(to.ca), kmipclient.WithClientCertFiles(to.certificateFile, to.keyFile),
			kmipclient.WithKmipVersions(ovh.ProtocolVersion{ProtocolVersionMajor: 1, ProtocolVersionMinor: minor}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	must := func(step string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
	}
	first, second := dial(0), dial(1)
	name := "ovh-" + uuid.NewString()
	created, err := first.Create().AES(256, ovh.CryptographicUsageEncrypt|ovh.CryptographicUsageDecrypt).WithName(name).ExecContext(t.Context())
	must("Create", err)
	id := created.UniqueIdentifier
	_, err = first.AddAttribute(id, "x-Name", "a virtual machine").ExecContext(t.Context())
	must("Add Attribute", err)
	_, err = second.Activate(id).ExecContext(t.Context())
	must("Activate", err)
	got, err := second.Get(id).ExecContext(t.Context())
	must("Get", err)
	material, err := got.Object.(*ovh.SymmetricKey).KeyMaterial()
	must("key material", err)
	ours, err := to.dial(t, 0).Get(t.Context(), kmip.ObjectID(id))
	must("our Get", err)
	if !ours.Equal(secret.Of(material)) {
		t.Error("ovh's client and ours read different bytes")
	}
	ours.Wipe()
	for _, c := range []*kmipclient.Client{first, second} {
		located, err := c.Locate().WithName(name).WithAttribute("x-Name", "a virtual machine").ExecContext(t.Context())
		must("Locate", err)
		if !slices.Equal(located.UniqueIdentifier, []string{id}) {
			t.Errorf("located %v, want %s alone", located.UniqueIdentifier, id)
		}
	}
	if _, err := first.Destroy(id).ExecContext(t.Context()); err == nil {
		t.Error("an Active key was destroyed")
	}
	_, err = first.Revoke(id).ExecContext(t.Context())
	must("Revoke", err)
	_, err = second.Destroy(id).ExecContext(t.Context())
	must("Destroy", err)
	if _, err := first.Get(id).ExecContext(t.Context()); err == nil {
		t.Error("a destroyed key was read")
	}
}
