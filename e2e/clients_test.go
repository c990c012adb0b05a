package e2e

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/e2e/oasis"
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

// update has tests write what they saw to the evidence of docs/kmip.md.
var update = flag.Bool("update", false, "write the evidence of docs/kmip.md")

// versions are those that every client is driven in.
var versions = []string{"1.0", "1.1", "1.2", "1.3", "1.4"}

// keep compares what a client asked, and was answered, with the evidence.
func keep(t *testing.T, e oasis.Evidence, file string) {
	t.Helper()
	if t.Failed() {
		return
	}
	if err := e.Keep(filepath.Join("oasis", "testdata", file), *update); err != nil {
		t.Error(err)
	}
}

// inEachVersion drives a client against each tenant in each version. Run
// returns how often each operation was asked for, which is the same for all
// tenants.
func inEachVersion(t *testing.T, client, file string, run func(t *testing.T, to tenant, version string) map[kmip14.Operation]int) {
	var mu sync.Mutex
	asked := make(map[string]map[kmip14.Operation]int)
	t.Run("tenants", func(t *testing.T) { // ends when its parallel tests have
		eachTenant(t, func(t *testing.T, to tenant) {
			for _, version := range versions {
				t.Run(version, func(t *testing.T) {
					t.Parallel()
					n := run(t, to, version)
					mu.Lock()
					defer mu.Unlock()
					if before, again := asked[version]; again && !maps.Equal(before, n) {
						t.Errorf("asked %v, another tenant %v", n, before)
					}
					asked[version] = n
				})
			}
		})
	})
	e := oasis.Evidence{Source: client}
	for version, operations := range asked {
		for operation, n := range operations {
			for range n {
				e.Saw(operation, version)
			}
		}
	}
	keep(t, e, file)
}

// TestPyKMIP drives a node with PyKMIP through all that both know.
func TestPyKMIP(t *testing.T) {
	t.Parallel()
	if err := exec.CommandContext(t.Context(), python, "-c", "import kmip").Run(); err != nil {
		notInstalled(t, "PyKMIP")
	}
	inEachVersion(t, "PyKMIP", "pykmip.json", runPyKMIP)
}

// pyKMIPAnswers is what each step of clients/pykmip.py has to be answered, with
// its labels for identifiers.
const pyKMIPAnswers = `{
	"objects": ["OPAQUE_DATA", "SECRET_DATA", "SYMMETRIC_KEY"],
	"vendor": "KMIP for VMware",
	"versions": ["1.4", "1.3", "1.2", "1.1", "1.0"],
	"added": [["key", "x-Name", "a virtual machine"], ["key", "Object Group", "group"]],
	"modified": [["key", "x-Name", "another machine"], ["key", "Name", "renamed"]],
	"after": ["another machine", "renamed"],
	"deleted": ["key", "x-Passing", "for a while"],
	"gone": null,
	"refused": {
		"add length": "PERMISSION_DENIED", "modify state": "PERMISSION_DENIED", "delete length": "PERMISSION_DENIED",
		"delete unset": "ITEM_NOT_FOUND", "name of another": "ILLEGAL_OPERATION"
	},
	"located": {
		"name": ["key"], "old name": [], "custom": ["key"], "group": ["key"], "state": ["key"], "other state": [],
		"date": ["key"], "range": ["key"], "other range": [], "mask": ["key"], "other mask": [], "type": ["key"], "other type": [],
		"identifier": ["key"], "on-line": ["key"], "archived": [], "one": 1
	},
	"registered": [
		["symmetric", "SymmetricKey", true, ["symmetric"], "ITEM_NOT_FOUND"],
		["secret", "SecretData", true, ["secret"], "ITEM_NOT_FOUND"],
		["opaque", "OpaqueObject", true, ["opaque"], "ITEM_NOT_FOUND"]
	],
	"checked": "key",
	"rekeyed": {"bytes differ": true, "length": 256, "name": ["replacement"], "states": ["PRE_ACTIVE", "PRE_ACTIVE"]},
	"states": ["PRE_ACTIVE", "ACTIVE", "DEACTIVATED", "DESTROYED"],
	"destroy active": "PERMISSION_DENIED",
	"get destroyed": "ITEM_NOT_FOUND",
	"get unknown": "ITEM_NOT_FOUND",
	"compromised": ["COMPROMISED", true, "DESTROYED_COMPROMISED"],
	"not built": {
		"key pair": "OPERATION_NOT_SUPPORTED", "derived key": "OPERATION_NOT_SUPPORTED", "encrypt": "OPERATION_NOT_SUPPORTED",
		"decrypt": "OPERATION_NOT_SUPPORTED", "sign": "OPERATION_NOT_SUPPORTED", "verify": "OPERATION_NOT_SUPPORTED",
		"mac": "OPERATION_NOT_SUPPORTED", "3DES": "INVALID_FIELD"
	}
}`

func runPyKMIP(t *testing.T, to tenant, version string) map[kmip14.Operation]int {
	run := exec.CommandContext(t.Context(), python, filepath.Join("clients", "pykmip.py"),
		"--host", to.host, "--port", to.ports[0], "--ca", to.ca, "--cert", to.certificateFile, "--key", to.keyFile, "--version", version)
	run.Stderr = os.Stderr
	out, err := run.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Asked   map[kmip14.Operation]int `json:"asked"`
		Results map[string]any           `json:"results"`
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	var want map[string]any
	if err := json.Unmarshal([]byte(pyKMIPAnswers), &want); err != nil {
		t.Fatal(err)
	}
	if version >= "1.3" {
		want["located"].(map[string]any)["beyond"] = []any{}
	}
	for _, listed := range []struct {
		step string
		some []any
	}{
		{"operations", []any{"CREATE", "REGISTER", "REKEY", "CHECK", "QUERY"}},
		{"listed", []any{"Name", "State", "Digest", "Object Group", "x-Name"}},
	} {
		all, _ := got.Results[listed.step].([]any)
		for _, one := range listed.some {
			if !slices.Contains(all, one) {
				t.Errorf("%s: %v, want %v among them", listed.step, all, one)
			}
		}
		delete(got.Results, listed.step)
	}
	for step, w := range want {
		if g, answered := got.Results[step]; !answered || !reflect.DeepEqual(g, w) {
			t.Errorf("%s: %v, want %v", step, g, w)
		}
	}
	if len(got.Results) != len(want) {
		t.Errorf("%d steps were answered, want %d", len(got.Results), len(want))
	}
	return got.Asked
}
