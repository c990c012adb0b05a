package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

// checks is the interval of checks in the cells of these tests.
const checks = 2 * time.Second

// condition returns status and reason of a condition of the instance.
func (i *instance) condition(t *testing.T, what string) string {
	t.Helper()
	var got struct {
		Conditions []struct{ Type, Status, Reason, Message string } `json:"conditions"`
	}
	i.api(t, http.MethodGet, "/v1/instances/"+i.id, nil).decode(t, &got)
	for _, c := range got.Conditions {
		if c.Type == what {
			if c.Message == "" {
				t.Errorf("condition %s has no message", what)
			}
			return c.Status + " " + c.Reason
		}
	}
	return ""
}

// awaitCondition waits until a condition has a status and a reason.
func (i *instance) awaitCondition(t *testing.T, what, want string) {
	t.Helper()
	eventually(t, func(context.Context) error {
		if got := i.condition(t, what); got != want {
			return fmt.Errorf("%s is %q, want %q", what, got, want)
		}
		return nil
	})
}

// TestRootKeyAndPermission follows what customers do to a root key and to our
// permission: each instance's condition names the cause, KMIP clients get a
// final answer, all heals without a restart, and the other tenant notices
// nothing.
func TestRootKeyAndPermission(t *testing.T) {
	t.Parallel()
	c := ownCell(t, "--check-interval", checks.String())
	mine, other := first(t, c), second(t, c)
	id, foreign := mine.create(t, nodes[0]), other.create(t, nodes[0])
	const ready = "key_manager_ready"
	// works tells whether an instance's keys are served on both nodes.
	works := func(i *instance, id kmip.ObjectID, when string) {
		t.Helper()
		for _, node := range nodes {
			eventually(t, func(context.Context) error {
				key, err := i.get(t, node, id)
				if err == nil {
					key.Wipe()
				}
				return err
			})
		}
		if got := i.condition(t, ready); got != "true ready" {
			t.Errorf("%s: %s is %q", when, ready, got)
		}
	}
	act := func(k keyProtect, root, action string) {
		t.Helper()
		method, path := http.MethodPost, "/keys/"+root+"/actions/"+action
		if action == "delete" {
			method, path = http.MethodDelete, "/keys/"+root+"?force=true"
		}
		if action == "restore" {
			path = "/keys/" + root + "/restore"
		}
		eventually(t, func(context.Context) error { // some actions have to be apart in time
			if a := k.call(t, method, path, nil); a.status >= 300 {
				return fmt.Errorf("%s: status %d, %s", action, a.status, a.body)
			}
			return nil
		})
	}
	mine.awaitCondition(t, ready, "true ready")
	other.awaitCondition(t, ready, "true ready")
	act(mine.customer, mine.rootKey, "rotate")
	works(mine, id, "rotated")
	for _, step := range []struct{ harm, reason, heal string }{
		{"disable", "root_key_disabled", "enable"}, {"delete", "root_key_gone", "restore"},
	} {
		act(mine.customer, mine.rootKey, step.harm)
		mine.awaitCondition(t, ready, "false "+step.reason)
		_, err := mine.get(t, nodes[0], id)
		wantReason(t, err, permissionDenied, step.harm)
		works(other, foreign, step.harm+", the other tenant")
		act(mine.customer, mine.rootKey, step.heal)
		mine.awaitCondition(t, ready, "true ready")
		works(mine, id, step.heal)
	}

	cloud := &cloud{admin: mine.env["EMULATOR_ADMIN_URL"]}
	cloud.rule(t, "withdrawals", m{"service": "hs-crypto", "instance": other.env["KP2_INSTANCE_ID"]})
	other.awaitCondition(t, "service_authorization", "false not_permitted")
	other.awaitCondition(t, ready, "false not_permitted")
	works(mine, id, "permission withdrawn from the other tenant")
	cloud.heal(t, "withdrawals")
	other.awaitCondition(t, "service_authorization", "true ready")
	other.awaitCondition(t, ready, "true ready")
	works(other, foreign, "permission given back")
}

// ledger is the cell's database as its owner, who sees one tenant's objects.
func (i *instance) ledger(t *testing.T) *pgx.Conn {
	t.Helper()
	db, err := pgx.Connect(t.Context(), i.env["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	change(t, db, "SELECT set_config('kmip.tenant', $1, false)", i.id)
	return db
}

func change(t *testing.T, db *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if tag, err := db.Exec(t.Context(), sql, args...); err != nil || tag.RowsAffected() == 0 {
		t.Fatalf("%s: %d rows, %v", sql, tag.RowsAffected(), err)
	}
}

// TestKilledJobsAreDone kills the control plane while it checks a key manager
// and settles a Create and a Destroy that no node finished. The next one does
// all of it: the key that was made is served, the one to be destroyed is gone,
// the condition tells the state as it is.
func TestKilledJobsAreDone(t *testing.T) {
	t.Parallel()
	c := ownCell(t, "--check-interval", checks.String())
	i := first(t, c)
	db := i.ledger(t)
	made, doomed := i.create(t, nodes[0]), i.create(t, nodes[0])
	key, err := i.get(t, nodes[1], made)
	if err != nil {
		t.Fatal(err)
	}
	cloud := &cloud{admin: i.env["EMULATOR_ADMIN_URL"]}
	cloud.rule(t, "latency", m{"service": "kms", "median_ms": 3000})
	change(t, db, "UPDATE objects SET phase = 'pending', key_ref = '', pending_until = now() - interval '61 minutes' WHERE id = $1", string(made))
	change(t, db, "UPDATE objects SET phase = 'destroying', updated_at = now() - interval '6 minutes' WHERE id = $1", string(doomed))
	running := func() (kinds map[string]int) {
		t.Helper()
		rows, err := db.Query(t.Context(), "SELECT kind, max(attempt) FROM river_job WHERE state = 'running' AND kind IN ('check_key_manager', 'settle_objects') GROUP BY kind")
		if err != nil {
			t.Fatal(err)
		}
		kinds = make(map[string]int)
		var kind string
		var attempt int
		if _, err := pgx.ForEachRow(rows, []any{&kind, &attempt}, func() error { kinds[kind] = attempt; return nil }); err != nil {
			t.Fatal(err)
		}
		return kinds
	}
	eventually(t, func(context.Context) error {
		if kinds := running(); len(kinds) < 2 {
			return fmt.Errorf("running are %v", kinds)
		}
		return nil
	})
	before := c.env(t)["CONTROL_PID"]
	if err := syscall.Kill(number(t, before), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if kinds := running(); len(kinds) != 2 {
		t.Errorf("the kill left %v in the state running", kinds)
	}
	i.customer.call(t, http.MethodPost, "/keys/"+i.rootKey+"/actions/disable", nil)
	cloud.heal(t, "latency")
	eventually(t, func(context.Context) error {
		if now := c.env(t)["CONTROL_PID"]; now == before {
			return errors.New("the control plane is not back")
		}
		return nil
	})
	// A job that a kill left behind is noticed after its time, and that time is
	// asked for every half minute.
	within(t, 3*time.Minute, func(context.Context) error {
		if got := i.condition(t, "key_manager_ready"); got != "false root_key_disabled" {
			return fmt.Errorf("key_manager_ready is %q", got)
		}
		return phases(t, db, map[kmip.ObjectID]string{made: "live", doomed: "destroyed"})
	})
	i.customer.call(t, http.MethodPost, "/keys/"+i.rootKey+"/actions/enable", nil)
	i.awaitCondition(t, "key_manager_ready", "true ready")
	again, err := i.get(t, nodes[0], made)
	if err != nil || !again.Equal(key) {
		t.Errorf("the key that was made: %v", err)
	}
	_, err = i.get(t, nodes[0], doomed)
	wantReason(t, err, itemNotFound, "the key that was destroyed")
	for id, want := range map[kmip.ObjectID]int{made: 1, doomed: 5} {
		if keys := i.customer.find(t, "vmware_kmip_"+string(id)); len(keys) != 1 || keys[0].State != want {
			text, _ := json.Marshal(keys)
			t.Errorf("%s: the key manager has %s, want one in state %d", id, text, want)
		}
	}
}

// phases compares the ledger's rows.
func phases(t *testing.T, db *pgx.Conn, want map[kmip.ObjectID]string) error {
	t.Helper()
	for id, phase := range want {
		var got string
		if err := db.QueryRow(t.Context(), "SELECT phase FROM objects WHERE id = $1", string(id)).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != phase {
			return fmt.Errorf("%s is %s, want %s", id, got, phase)
		}
	}
	return nil
}
