package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// stackNames are the names that stack.env has.
const stackNames = `API_URL ADMIN_URL CONSOLE_URL IAM_URL IAM_POLICY_URL RC_URL KP_URL HPCS_URL EMULATOR_ADMIN_URL
	DATABASE_URL NODE1_ADMIN_URL NODE2_ADMIN_URL CONTROL_PID NODE1_PID NODE2_PID EMULATOR_PID
	POSTGRES_PID SUPPORT_API_KEY KP_SERVICE_API_KEY
	KMIP_HOST KMIP_PORT KMIP_PORT_2 KMIP_SNI KMIP_CA KMIP_CERT KMIP_KEY INSTANCE_ID ACCOUNT_ID
	API_KEY KP_INSTANCE_ID KP_ROOT_KEY_ID
	KMIP2_HOST KMIP2_PORT KMIP2_PORT_2 KMIP2_SNI KMIP2_CA KMIP2_CERT KMIP2_KEY INSTANCE2_ID ACCOUNT2_ID
	API2_KEY KP2_INSTANCE_ID KP2_ROOT_KEY_ID`

func TestStackEnv(t *testing.T) {
	t.Parallel()
	c := sharedCell(t)
	env := c.env(t)
	if info, err := os.Stat(filepath.Join(c.dir, "stack.env")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("stack.env: %v, %v, want mode 0600", info.Mode(), err)
	}
	names := strings.Fields(stackNames)
	for _, name := range names {
		if env[name] == "" && name != "CONSOLE_URL" {
			t.Errorf("%s is empty or missing", name)
		}
	}
	if len(env) != len(names) {
		t.Errorf("stack.env has %d names, want %d", len(env), len(names))
	}

	url := regexp.MustCompile(`^http://127\.0\.0\.1:(\d+)$`)
	for name, value := range env {
		switch {
		case name == "DATABASE_URL" || value == "":
		case strings.HasSuffix(name, "_URL"):
			m := url.FindStringSubmatch(value)
			if m == nil {
				t.Errorf("%s is %s", name, value)
				continue
			}
			if port, _ := strconv.Atoi(m[1]); port < c.basePort || port >= c.basePort+100 {
				t.Errorf("%s uses port %d, not one of the hundred from %d", name, port, c.basePort)
			}
		case strings.HasSuffix(name, "_PID"):
			pid, err := strconv.Atoi(value)
			if err != nil || syscall.Kill(pid, 0) != nil {
				t.Errorf("%s: no process %s", name, value)
			}
		case slices.Contains([]string{"KMIP_CA", "KMIP_CERT", "KMIP_KEY", "KMIP2_CA", "KMIP2_CERT", "KMIP2_KEY"}, name):
			if info, err := os.Stat(value); err != nil || !filepath.IsAbs(value) || info.Size() == 0 {
				t.Errorf("%s is %s: %v", name, value, err)
			}
		}
	}
	for _, node := range []string{"NODE1_ADMIN_URL", "NODE2_ADMIN_URL"} {
		for _, path := range []string{"/livez", "/readyz", "/metrics"} {
			if a := call(t, http.MethodGet, env[node]+path, nil, nil); a.status != http.StatusOK || len(a.body) == 0 {
				t.Errorf("%s%s: status %d", node, path, a.status)
			}
		}
	}
	for _, listener := range []string{"API_URL", "ADMIN_URL"} {
		if a := call(t, http.MethodGet, env[listener]+"/openapi.yaml", nil, nil); a.status != http.StatusOK || !strings.HasPrefix(string(a.body), "openapi: 3") {
			t.Errorf("%s/openapi.yaml: status %d, %.40s", listener, a.status, a.body)
		}
	}
	if a := call(t, http.MethodPost, env["KP_URL"]+"/api/v2/keys", nil, "{}"); a.status != http.StatusBadRequest && a.status != http.StatusUnauthorized {
		t.Errorf("Key Protect without a token: status %d", a.status)
	}
	if got := claims(t, token(t, env["IAM_URL"], env["SUPPORT_API_KEY"])); got["iss"] == "" {
		t.Errorf("the support engineer's token: %v", got)
	}
}

// first is tenant 1 of a cell, as stack.env gives it.
func first(t *testing.T, c *cell) *instance {
	t.Helper()
	env := c.env(t)
	pair, err := tls.LoadX509KeyPair(env["KMIP_CERT"], env["KMIP_KEY"])
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{cell: c, env: env, id: env["INSTANCE_ID"], rootKey: env["KP_ROOT_KEY_ID"], certificate: &pair}
	i.bearer = token(t, env["IAM_URL"], env["API_KEY"])
	i.customer = keyProtect{env["KP_URL"], env["KP_INSTANCE_ID"], i.bearer}
	return i
}

// second is tenant 2 of a cell, as stack.env gives it.
func second(t *testing.T, c *cell) *instance {
	t.Helper()
	env := c.env(t)
	pair, err := tls.LoadX509KeyPair(env["KMIP2_CERT"], env["KMIP2_KEY"])
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{
		cell: c, env: env, id: env["INSTANCE2_ID"], rootKey: env["KP2_ROOT_KEY_ID"], certificate: &pair,
		own: &ownEndpoint{HostName: env["KMIP2_SNI"], Port: number(t, env["KMIP2_PORT"])},
	}
	i.bearer = token(t, env["IAM_URL"], env["API2_KEY"])
	i.customer = keyProtect{env["HPCS_URL"], env["KP2_INSTANCE_ID"], i.bearer}
	return i
}

// TestStateOutlivesTheStack stops a cell and starts it again in the same
// folder, and once more after kmip-dev itself was killed: the instance, its
// certificate and its keys are the same.
func TestStateOutlivesTheStack(t *testing.T) {
	t.Parallel()
	c := ownCell(t)
	i := first(t, c)
	id := i.create(t, nodes[0])
	want, err := i.get(t, nodes[1], id)
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(){
		func() {
			if err := c.stop(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(c.dir, "stack.env")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("stack.env after the end: %v", err)
			}
		},
		func() {
			if err := c.command.Process.Kill(); err != nil {
				t.Error(err)
			}
			if err := <-c.ended; err == nil {
				t.Error("kmip-dev was killed and says that it ended well")
			}
		},
	} {
		end()
		c = runCell(t, c.dir, c.basePort)
		again := first(t, c)
		if again.id != i.id || again.rootKey != i.rootKey || !slices.Equal(again.certificate.Certificate[0], i.certificate.Certificate[0]) {
			t.Errorf("tenant 1 changed from %s to %s", i.id, again.id)
		}
		for _, node := range nodes {
			got, err := again.get(t, node, id)
			if err != nil || !got.Equal(want) {
				t.Errorf("the key on %s after a new start: %v", node, err)
			}
		}
	}
}

// TestKilledProcessesComeBack kills each process in turn. With one node dead
// the other serves; every answered Create stays readable.
func TestKilledProcessesComeBack(t *testing.T) {
	t.Parallel()
	c := ownCell(t)
	i := first(t, c)
	id := i.create(t, nodes[0])
	want, err := i.get(t, nodes[1], id)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"NODE1_PID", "NODE2_PID", "CONTROL_PID", "EMULATOR_PID", "POSTGRES_PID"} {
		before := c.env(t)[name]
		pid, err := strconv.Atoi(before)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if name == "NODE1_PID" {
			if got, err := i.get(t, nodes[1], id); err != nil || !got.Equal(want) {
				t.Errorf("node 2 while node 1 is dead: %v", err)
			}
		}
		eventually(t, func(context.Context) error {
			if now := c.env(t)[name]; now == before {
				return fmt.Errorf("%s is still %s in stack.env", name, now)
			}
			return nil
		})
		for _, node := range nodes {
			cfg := i.config(t, node, i.certificate)
			eventually(t, func(ctx context.Context) error { return readsBack(ctx, cfg, id) })
			got, err := i.get(t, node, id)
			if err != nil || !got.Equal(want) {
				t.Errorf("the key on %s after %s was killed: %v", node, name, err)
			}
		}
	}
	// A change through the REST API still reaches both nodes.
	pair, _ := i.addCertificate(t)
	i.awaitAdmission(t, pair)
}

// readsBack reads a key once and forgets it.
func readsBack(ctx context.Context, cfg client.Config, id kmip.ObjectID) error {
	conn, err := discover(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close()
	key, err := conn.Get(ctx, id)
	if err != nil {
		return err
	}
	key.Wipe()
	return nil
}
