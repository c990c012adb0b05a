package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// admin returns `kmipctl admin …` with the control plane's settings.
func (c *cell) admin(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	e := c.env(t)
	database, err := url.Parse(e["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	password, _ := database.User.Password()
	database.User = url.UserPassword("kmip_control", password)
	command := exec.CommandContext(t.Context(), filepath.Join(bin, "kmipctl"), append([]string{"admin"}, args...)...)
	command.Env = append(os.Environ(),
		"DATABASE_URL="+database.String(), "KMIP_IAM_URL="+e["IAM_URL"],
		"KMIP_KEY_MANAGER_ENDPOINTS=kms/us-south="+e["KP_URL"]+",hs-crypto/us-south="+e["HPCS_URL"],
		"KMIP_SEALING_KEYS_FILE="+filepath.Join(c.dir, "sealing-keys"), "KMIP_SERVICE_API_KEY_FILE="+filepath.Join(c.dir, "service-api-key"))
	command.Stdout, command.Stderr = new(bytes.Buffer), new(bytes.Buffer)
	return command
}

// result runs a command that prints JSON, and wants an exit code.
func result[T any](t *testing.T, command *exec.Cmd, code int) (printed T) {
	t.Helper()
	_ = command.Run() // the exit code tells
	if got := command.ProcessState.ExitCode(); got != code {
		t.Fatalf("%v: exit code %d, want %d\n%s%s", command.Args, got, code, command.Stdout, command.Stderr)
	}
	if err := json.Unmarshal(command.Stdout.(*bytes.Buffer).Bytes(), &printed); err != nil {
		t.Fatalf("%v: %v in %s", command.Args, err, command.Stdout)
	}
	return printed
}

// outcome is what rebuild prints of an instance.
type outcome struct {
	Instance string `json:"instance_id"`
	engine.Rebuilt
	Error string
}

// recovered returns the identifiers of the tenant's rows, and whether all are
// live and marked.
func recovered(t *testing.T, db *pgx.Conn) (ids []kmip.ObjectID, marked bool) {
	t.Helper()
	rows, err := db.Query(t.Context(), "SELECT id, recovered AND phase = 'live' FROM objects ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	marked = true
	var id string
	var well bool
	if _, err := pgx.ForEachRow(rows, []any{&id, &well}, func() error {
		ids, marked = append(ids, kmip.ObjectID(id)), marked && well
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return ids, marked
}

// TestRebuild empties the ledger of tenants on Key Protect, two of them in one
// key manager, and on HPCS. kmipctl is killed while it writes the rows again, and
// does the rest while the key manager throttles: every key is back on both nodes,
// with its bytes, for its own tenant alone. Then a standard key is deleted and
// two rows are swapped: a comparison names all three.
func TestRebuild(t *testing.T) {
	t.Parallel()
	c := ownCell(t, "--check-interval", checks.String())
	one, neighbour, two := newInstance(t, c), newInstance(t, c), newDedicated(t, c)
	all := []*instance{one, neighbour, two}
	keys := make(map[*instance]map[kmip.ObjectID]*secret.Bytes)
	ledger := make(map[*instance]*pgx.Conn)
	for _, i := range all {
		keys[i], ledger[i] = make(map[kmip.ObjectID]*secret.Bytes), i.ledger(t)
		conn := i.dial(t, nodes[0])
		for range 12 {
			id, err := conn.Create(t.Context(), vSphere...)
			if err != nil {
				t.Fatal(err)
			}
			if keys[i][id], err = conn.Get(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := ledger[one].Exec(t.Context(), "TRUNCATE objects CASCADE"); err != nil {
		t.Fatal(err)
	}
	for _, dry := range result[[]outcome](t, c.admin(t, "rebuild", "--instance", one.id, "--dry-run", "--output", "json"), 0) {
		if dry.Written != 12 || dry.Recorded != 0 || dry.Foreign < 12 {
			t.Errorf("a dry run: %+v", dry)
		}
	}
	if ids, _ := recovered(t, ledger[one]); len(ids) != 0 {
		t.Errorf("a dry run wrote %v", ids)
	}

	cloud := &cloud{admin: one.env["EMULATOR_ADMIN_URL"]}
	cloud.rule(t, "latency", m{"service": "kms", "method": "POST", "median_ms": 300})
	killed := c.admin(t, "rebuild", "--instance", one.id)
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(context.Context) error {
		if ids, _ := recovered(t, ledger[one]); len(ids) < 2 {
			return fmt.Errorf("%d rows", len(ids))
		}
		return nil
	})
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = killed.Wait() // it was killed
	if ids, marked := recovered(t, ledger[one]); len(ids) == 12 || !marked {
		t.Errorf("the kill came too late: %d rows, marked %t", len(ids), marked)
	}
	cloud.heal(t, "latency")
	cloud.rule(t, "throttling", m{"service": "kms", "rate": 0.4, "retry_after": 1})
	written := make(map[string]int)
	for _, r := range result[[]outcome](t, c.admin(t, "rebuild", "--all", "--output", "json"), 0) {
		if r.Error != "" || len(r.Failed) > 0 {
			t.Errorf("%+v", r)
		}
		written[r.Instance] = r.Written + r.Recorded
	}
	cloud.heal(t, "throttling")
	for _, i := range all {
		ids, marked := recovered(t, ledger[i])
		if want := slices.Sorted(maps.Keys(keys[i])); !slices.Equal(ids, want) || !marked || written[i.id] != 12 {
			t.Errorf("%s: %d rows, marked %t; %d told", i.id, len(ids), marked, written[i.id])
		}
		for _, node := range nodes {
			conn := i.dial(t, node)
			for id, want := range keys[i] {
				key, err := conn.Get(t.Context(), id)
				if err != nil || !key.Equal(want) {
					t.Errorf("%s on %s: %v", id, node, err)
				}
			}
		}
		if r := result[engine.Comparison](t, c.admin(t, "reconcile", "--instance", i.id, "--deep", "--output", "json"), 0); r.Rows != 12 || r.Loaded < 12 || len(r.Findings) != 0 {
			t.Errorf("%s: %+v", i.id, r)
		}
		i.awaitCondition(t, "keys_reconciled", "true matching")
	}
	for id := range keys[one] {
		_, err := neighbour.get(t, nodes[0], id)
		wantReason(t, err, itemNotFound, "the neighbour's Get")
		break
	}

	ids, _ := recovered(t, ledger[one])
	deleted := one.customer.find(t, engine.StandardKeyPrefix+string(ids[0]))
	one.customer.delete(t, deleted[0].ID)
	change(t, ledger[one], `UPDATE objects o SET key_ref = p.key_ref, version = o.version + 1 FROM objects p
		WHERE o.id IN ($1, $2) AND p.id IN ($1, $2) AND o.id <> p.id`, string(ids[1]), string(ids[2]))
	found := result[engine.Comparison](t, c.admin(t, "reconcile", "--instance", one.id, "--deep", "--output", "json"), 1)
	named := make(map[kmip.ObjectID]engine.FindingKind)
	for _, f := range found.Findings {
		named[f.Object] = f.Kind
	}
	want := map[kmip.ObjectID]engine.FindingKind{ids[0]: engine.KeyMissing, ids[1]: engine.Mismatched, ids[2]: engine.Mismatched}
	if !maps.Equal(named, want) || len(found.Findings) != 3 {
		t.Errorf("found %+v, want %v", found.Findings, want)
	}
	result[engine.Comparison](t, c.admin(t, "reconcile", "--instance", neighbour.id, "--output", "json"), 0)
	// What the control plane has found in its turn, before the harm.
	if last := result[engine.Comparison](t, c.admin(t, "reconcile", "--instance", one.id, "--last", "--output", "json"), 0); last.Rows != 12 {
		t.Errorf("the last comparison: %+v", last)
	}
	for _, id := range []string{"", "7d0c4b6f-1e2a-4983-8c1b-2a3948576675"} {
		wrong := c.admin(t, "reconcile", "--instance", id)
		if err := wrong.Run(); err == nil || wrong.ProcessState.ExitCode() != 2 {
			t.Errorf("instance %q: %v", id, err)
		}
	}
}
