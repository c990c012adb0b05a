package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
)

// cloud is a kmip-emulator alone: IBM Cloud without a cell.
type cloud struct {
	iam, controller, kms, hpcs, admin string // addresses with http://
	dir, seed                         string
	flags                             []string
	command                           *exec.Cmd
	ended                             chan struct{}
}

// cloudSeed is what the tests with a cloud of their own begin with. Every id is new.
type cloudSeed struct {
	account, other       string // account ids
	keys, crypto, second string // GUIDs of a kms and an hs-crypto instance, and of a kms instance of other
	admin, writer, boss  string // API keys: administrator of both instances; writer of keys; administrator in other
	service              string // API key of a service ID of vmware-solutions
	adminID, writerID    string // IAM ids
}

func newCloudSeed() cloudSeed {
	hexadecimal := func() string { return strings.ReplaceAll(uuid.NewString(), "-", "") }
	apiKey := func() string { return hexadecimal() + hexadecimal() }
	return cloudSeed{
		account: hexadecimal(), other: hexadecimal(),
		keys: uuid.NewString(), crypto: uuid.NewString(), second: uuid.NewString(),
		admin: apiKey(), writer: apiKey(), boss: apiKey(), service: apiKey(),
		adminID: "IBMid-" + strings.ToUpper(hexadecimal()[:10]), writerID: "iam-ServiceId-" + uuid.NewString(),
	}
}

func (s cloudSeed) file(t *testing.T) string {
	t.Helper()
	type m = map[string]any
	access := func(service, instance string, roles ...string) m {
		return m{"service": service, "instance": instance, "roles": roles}
	}
	text, err := json.Marshal(m{
		"accounts": []m{{"id": s.account, "name": "Customer"}, {"id": s.other, "name": "Other"}},
		"instances": []m{
			{"service": "kms", "guid": s.keys, "account": s.account, "region": "us-south", "name": "keys"},
			{"service": "hs-crypto", "guid": s.crypto, "account": s.account, "region": "us-south", "name": "crypto"},
			{"service": "kms", "guid": s.second, "account": s.other, "region": "eu-de", "name": "keys of another"},
		},
		"users": []m{
			{
				"iam_id": s.adminID, "email": "ada@example.com", "name": "Ada Admin", "account": s.account, "api_key": s.admin,
				"access": []m{access("kms", "", "Administrator", "Manager"), access("hs-crypto", "", "Administrator", "Manager")},
			},
			{
				"iam_id": "IBMid-270004ABCE", "email": "ben@example.com", "name": "Ben Boss", "account": s.other, "api_key": s.boss,
				"access": []m{access("kms", "", "Administrator", "Manager")},
			},
		},
		"service_ids": []m{
			{
				"id": strings.TrimPrefix(s.writerID, "iam-"), "name": "writer", "account": s.account, "api_key": s.writer,
				"access": []m{access("kms", s.keys, "Viewer", "Writer")},
			},
			{"id": "ServiceId-" + uuid.NewString(), "service": "vmware-solutions", "name": "kmip", "account": s.other, "api_key": s.service},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "seed.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// startCloud runs kmip-emulator with a seed, and with more flags, until the test ends.
func startCloud(t *testing.T, seed cloudSeed, flags ...string) *cloud {
	t.Helper()
	c := &cloud{dir: t.TempDir(), seed: seed.file(t), flags: flags}
	c.run(t, freeBasePort())
	return c
}

// run starts the emulator and waits until it says so in its log.
func (c *cloud) run(t *testing.T, basePort int) {
	t.Helper()
	arguments := append([]string{"--data-dir", filepath.Join(c.dir, "data"), "--seed", c.seed}, c.flags...)
	for i, flag := range []string{"--iam-addr", "--resource-controller-addr", "--key-protect-addr", "--hpcs-addr", "--admin-addr"} {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(basePort+i))
		arguments = append(arguments, flag, address)
		*[]*string{&c.iam, &c.controller, &c.kms, &c.hpcs, &c.admin}[i] = "http://" + address
	}
	c.command = exec.Command(filepath.Join(bin, "kmip-emulator"), arguments...)
	log, err := c.command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.command.Start(); err != nil {
		t.Fatal(err)
	}
	started, ended, printed := make(chan struct{}), make(chan struct{}), new(bytes.Buffer)
	go func() {
		for s := bufio.NewScanner(log); s.Scan(); {
			fmt.Fprintln(printed, s.Text())
			if strings.Contains(s.Text(), `"emulator started"`) {
				close(started)
			}
		}
		_ = c.command.Wait()
		close(ended)
	}()
	c.ended = ended
	t.Cleanup(func() {
		_ = c.command.Process.Signal(syscall.SIGTERM)
		<-ended
	})
	select {
	case <-started:
	case <-ended:
		t.Fatalf("kmip-emulator ended after printing\n%s", printed)
	case <-time.After(time.Minute):
		t.Fatal("kmip-emulator did not start within a minute")
	}
}

// kill ends the emulator as a power cut would, and starts it again on the same data and addresses.
func (c *cloud) kill(t *testing.T) {
	t.Helper()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(c.iam, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	basePort, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-c.ended
	c.run(t, basePort)
}

// actAs mints a token by which the service acts as one of its instances; the answer is IAM's.
func (c *cloud) actAs(t *testing.T, serviceToken, desired string) answer {
	t.Helper()
	return call(t, "POST", c.iam+"/identity/token", map[string]string{"Content-Type": "application/x-www-form-urlencoded"},
		"grant_type=urn%3Aibm%3Aparams%3Aoauth%3Agrant-type%3Aiam-authz&access_token="+serviceToken+"&desired_iam_id="+desired)
}
