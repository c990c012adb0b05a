package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
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
)

// python is Debian's: a python3 on the PATH may be another one.
const python = "/usr/bin/python3"

// TestPyKMIP drives a node with PyKMIP in every protocol version that both
// know.
func TestPyKMIP(t *testing.T) {
	t.Parallel()
	if err := exec.CommandContext(t.Context(), python, "-c", "import kmip").Run(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("PyKMIP is not installed: .ci/clients installs it")
		}
		t.Skip("PyKMIP is not installed: .ci/clients installs it")
	}
	c := sharedCell(t)
	env := os.Environ()
	for name, value := range c.env(t) {
		env = append(env, name+"="+value)
	}
	for _, version := range []string{"1.0", "1.1", "1.2", "1.3", "1.4"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			run := exec.CommandContext(t.Context(), python, filepath.Join("clients", "pykmip.py"), version)
			run.Env, run.Stderr = env, os.Stderr
			out, err := run.Output()
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				ID             string   `json:"id"`
				Located        []string `json:"located"`
				Digest         string   `json:"digest"`
				States         []string `json:"states"`
				DestroyActive  string   `json:"destroy_active"`
				GetDestroyed   string   `json:"get_destroyed"`
				GetUnknownName string   `json:"get_unknown"`
			}
			if err := json.Unmarshal(out, &got); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
			if !slices.Equal(got.Located, []string{got.ID}) || len(got.Digest) != 64 {
				t.Errorf("located %v, want %s alone; digest %q", got.Located, got.ID, got.Digest)
			}
			if want := []string{"PRE_ACTIVE", "ACTIVE", "DEACTIVATED", "DESTROYED"}; !slices.Equal(got.States, want) {
				t.Errorf("states %v, want %v", got.States, want)
			}
			if got.DestroyActive != "PERMISSION_DENIED" || got.GetDestroyed != "ITEM_NOT_FOUND" || got.GetUnknownName != "ITEM_NOT_FOUND" {
				t.Errorf("refusals: %s", out)
			}
		})
	}
}

// TestOVHClient drives both nodes with ovh/kmip-go's client: what it makes on
// one it reads on the other, and our own client reads the same.
func TestOVHClient(t *testing.T) {
	t.Parallel()
	i := newInstance(t, sharedCell(t))
	dial := func(node string, minor int32) *kmipclient.Client {
		t.Helper()
		cfg := i.config(t, node, i.certificate)
		// It connects by address and sends no server name.
		c, err := kmipclient.DialContext(t.Context(), cfg.Address,
			kmipclient.WithTlsConfig(&tls.Config{RootCAs: cfg.RootCAs, Certificates: []tls.Certificate{*i.certificate}, MinVersion: tls.VersionTLS12}),
			kmipclient.WithKmipVersions(ovh.ProtocolVersion{ProtocolVersionMajor: 1, ProtocolVersionMinor: minor}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	for minor := range int32(5) {
		version := fmt.Sprintf("1.%d", minor)
		first, second := dial(nodes[0], minor), dial(nodes[1], minor)
		name := "ovh-" + uuid.NewString()
		must := func(step string, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s, %s: %v", version, step, err)
			}
		}
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
		ours, err := i.get(t, nodes[0], kmip.ObjectID(id))
		must("our Get", err)
		if !ours.Equal(secret.Of(material)) {
			t.Errorf("%s: ovh's client and ours read different bytes", version)
		}
		ours.Wipe()
		for _, c := range []*kmipclient.Client{first, second} {
			located, err := c.Locate().WithName(name).WithAttribute("x-Name", "a virtual machine").ExecContext(t.Context())
			must("Locate", err)
			if !slices.Equal(located.UniqueIdentifier, []string{id}) {
				t.Errorf("%s: located %v, want %s alone", version, located.UniqueIdentifier, id)
			}
		}
		if _, err := first.Destroy(id).ExecContext(t.Context()); err == nil {
			t.Errorf("%s: an Active key was destroyed", version)
		}
		_, err = first.Revoke(id).ExecContext(t.Context())
		must("Revoke", err)
		_, err = second.Destroy(id).ExecContext(t.Context())
		must("Destroy", err)
		if _, err := first.Get(id).ExecContext(t.Context()); err == nil {
			t.Errorf("%s: a destroyed key was read", version)
		}
	}
}
