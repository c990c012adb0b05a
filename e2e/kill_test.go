package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/audit"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// TestKillsLoseNoAnsweredCreate kills nodes, one and both, and the control
// plane while clients of both tenants make keys: every key whose Create was
// answered is readable on both nodes, with the bytes that were read first, and
// its event is in a log of which no line is missing.
func TestKillsLoseNoAnsweredCreate(t *testing.T) {
	t.Parallel()
	c := ownCell(t)
	makers := []*maker{{instance: first(t, c)}, {instance: second(t, c)}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var working sync.WaitGroup
	for _, m := range makers {
		m.read = make(map[kmip.ObjectID]*secret.Bytes)
		for n, node := range nodes {
			for _, readOn := range []string{nodes[1-n], node} {
				makes, reads := m.config(t, node, m.certificate), m.config(t, readOn, m.certificate)
				working.Go(func() { m.work(ctx, makes, reads) })
			}
		}
	}
	// more waits until each tenant has had another n keys answered.
	more := func(n int) {
		t.Helper()
		for _, m := range makers {
			want := m.count() + n
			eventually(t, func(context.Context) error {
				if m.count() < want {
					return fmt.Errorf("%d keys answered, want %d", m.count(), want)
				}
				return nil
			})
		}
	}
	more(10)
	for _, victims := range [][]string{{"NODE1_PID"}, {"NODE2_PID"}, {"CONTROL_PID"}, {"NODE1_PID", "NODE2_PID"}} {
		before := c.env(t)
		for _, name := range victims {
			if err := syscall.Kill(number(t, before[name]), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range victims {
			eventually(t, func(context.Context) error {
				if now := c.env(t)[name]; now == before[name] {
					return fmt.Errorf("%s is still %s", name, now)
				}
				return nil
			})
		}
		more(10)
	}
	stop()
	working.Wait()
	for _, m := range makers {
		t.Logf("instance %s: %d keys answered, %d of them read at once", m.id, len(m.answered), len(m.read))
		m.check(t)
	}
	checkRecord(t, c, makers)
}

// checkRecord verifies the audit lines of each program, also of those that were
// killed, and looks for the event of each answered Create under its tenant.
func checkRecord(t *testing.T, c *cell, makers []*maker) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(c.dir, "logs", "*"))
	if err != nil {
		t.Fatal(err)
	}
	created := make(map[string]bool)
	chains := 0
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(text, []byte(`{"chain":`)) {
			continue
		}
		report, err := exec.CommandContext(t.Context(), filepath.Join(bin, "kmipctl"), "audit", "verify", log).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", log, err, report)
		}
		chains += bytes.Count(report, []byte("warning: ended without a last line"))
		for line := range bytes.Lines(text) {
			var e audit.Event
			if bytes.HasPrefix(line, []byte(`{"chain":`)) && json.Unmarshal(line, &e) == nil && e.Action == "vmware-solutions.kmip-key.create" {
				created[e.LogSourceCRN+e.Target.Name] = true
			}
		}
	}
	if chains < 5 { // as many were killed
		t.Errorf("%d chains without an end", chains)
	}
	for _, m := range makers {
		account := m.env["ACCOUNT_ID"]
		if m.own != nil {
			account = m.env["ACCOUNT2_ID"]
		}
		for _, id := range m.answered {
			if !created["crn:v1:bluemix:public:vmware-solutions:us-south:a/"+account+":"+m.id+"::"+string(id)] {
				t.Errorf("no event of the answered Create of %s", id)
			}
		}
	}
}

// maker is a tenant whose clients make keys whatever happens.
type maker struct {
	*instance
	mu       sync.Mutex
	answered []kmip.ObjectID
	read     map[kmip.ObjectID]*secret.Bytes
}

func (m *maker) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.answered)
}

// work makes keys on one node and reads each on another. A client that fails
// tries again, as vCenter's user does.
func (m *maker) work(ctx context.Context, makes, reads client.Config) {
	for ctx.Err() == nil {
		conn, err := discover(ctx, makes)
		if err != nil {
			continue
		}
		id, err := conn.Create(ctx, vSphere...)
		conn.Close()
		if err != nil {
			continue
		}
		m.mu.Lock()
		m.answered = append(m.answered, id)
		m.mu.Unlock()
		if conn, err = discover(ctx, reads); err != nil {
			continue
		}
		key, err := conn.Get(ctx, id)
		conn.Close()
		if err == nil {
			m.mu.Lock()
			m.read[id] = key
			m.mu.Unlock()
		}
	}
}

// check reads every answered key on every node.
func (m *maker) check(t *testing.T) {
	t.Helper()
	for _, node := range nodes {
		eventually(t, func(ctx context.Context) error {
			conn, err := discover(ctx, m.config(t, node, m.certificate))
			if err == nil {
				conn.Close()
			}
			return err
		})
		conn := m.dial(t, node)
		for _, id := range m.answered {
			key, err := conn.Get(t.Context(), id)
			if err != nil {
				t.Errorf("%s, answered before a kill, on %s: %v", id, node, err)
				continue
			}
			if earlier := m.read[id]; earlier != nil && !earlier.Equal(key) {
				t.Errorf("%s has other bytes on %s than it had first", id, node)
			}
			key.Wipe()
		}
	}
}
