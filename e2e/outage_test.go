package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// TestDatabaseHangs stops PostgreSQL without closing a connection and starts a
// node again in the middle of it: what was handed out is served by both nodes
// to both tenants, to its own tenant alone; nothing is made or changed, and
// afterwards everything is again.
func TestDatabaseHangs(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the processes of PostgreSQL are found as Linux lists them")
	}
	c := ownCell(t)
	tenants := []*instance{first(t, c), second(t, c)}
	ids := make([]kmip.ObjectID, len(tenants))
	for n, i := range tenants {
		ids[n] = i.create(t, nodes[0])
	}
	revoked := tenants[0].create(t, nodes[0])
	conn := tenants[0].dial(t, nodes[0])
	if err := errors.Join(conn.Activate(t.Context(), revoked), conn.Revoke(t.Context(), revoked, 1, "", time.Time{})); err != nil {
		t.Fatal(err)
	}
	for _, i := range tenants {
		i.awaitInForce(t)
	}

	resume := c.hangPostgreSQL(t)
	before := c.env(t)["NODE2_PID"]
	if err := syscall.Kill(number(t, before), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(context.Context) error {
		if c.env(t)["NODE2_PID"] == before {
			return fmt.Errorf("node 2 is not started again")
		}
		return nil
	})
	var changes sync.WaitGroup // they take until the ledger is given up
	for _, node := range nodes {
		for n, i := range tenants {
			eventually(t, func(ctx context.Context) error {
				conn, err := discover(ctx, i.config(t, node, i.certificate))
				if err == nil {
					conn.Close()
				}
				return err
			})
			conn := i.dial(t, node)
			key, err := conn.Get(t.Context(), ids[n])
			if err != nil || key.Len() != 32 {
				t.Errorf("tenant %d on %s: Get: %v", n, node, err)
				continue
			}
			if state, err := conn.GetAttributes(t.Context(), ids[n], kmip.AttributeState); err != nil || len(state) != 1 {
				t.Errorf("tenant %d on %s: State: %v, %v", n, node, state, err)
			}
			_, err = conn.Get(t.Context(), ids[1-n])
			wantReason(t, err, itemNotFound, "Get of the other tenant's key on "+node)
			_, err = conn.Get(t.Context(), kmip.ObjectID(uuid.NewString()))
			wantReason(t, err, itemNotFound, "Get of a key that never was on "+node)
			for change, do := range map[string]func(*client.Conn) error{
				"Create":  func(conn *client.Conn) error { _, err := conn.Create(t.Context(), vSphere...); return err },
				"Destroy": func(conn *client.Conn) error { return conn.Destroy(t.Context(), ids[n]) },
			} {
				conn := i.dial(t, node)
				changes.Go(func() { wantReason(t, do(conn), generalFailure, change+" on "+node) })
			}
		}
		_, err := tenants[0].get(t, node, revoked)
		wantReason(t, err, permissionDenied, "Get of a revoked key on "+node)
	}
	changes.Wait()

	resume()
	for _, node := range nodes {
		for n, i := range tenants {
			eventually(t, func(ctx context.Context) error {
				conn, err := discover(ctx, i.config(t, node, i.certificate))
				if err != nil {
					return err
				}
				defer conn.Close()
				_, err = conn.Create(ctx, vSphere...)
				return err
			})
			if _, err := i.get(t, node, ids[n]); err != nil {
				t.Errorf("afterwards tenant %d on %s: %v", n, node, err)
			}
		}
	}
}

// hangPostgreSQL stops the cell's PostgreSQL with its connections open, until
// resume is called or the test ends.
func (c *cell) hangPostgreSQL(t *testing.T) (resume func()) {
	t.Helper()
	postmaster := number(t, c.env(t)["POSTGRES_PID"])
	signal := func(s syscall.Signal) {
		for _, pid := range slices.Concat([]int{postmaster}, children(t, postmaster)) {
			if err := syscall.Kill(pid, s); err != nil && err != syscall.ESRCH {
				t.Errorf("signalling PostgreSQL's process %d: %v", pid, err)
			}
		}
	}
	// The postmaster first: it then makes no more of them.
	signal(syscall.SIGSTOP)
	resumed := false
	resume = func() {
		if !resumed {
			resumed = true
			signal(syscall.SIGCONT)
		}
	}
	t.Cleanup(resume)
	return resume
}

// children returns the processes that a process has started.
func children(t *testing.T, parent int) (pids []int) {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	if err != nil || len(lists) == 0 {
		t.Fatalf("no list of the children of process %d: %v", parent, err)
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		for word := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}
