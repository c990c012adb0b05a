package e2e

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// TestKillsLoseNoAnsweredCreate kills nodes, one and both, and the control
// plane while clients make keys: every key whose Create was answered is
// readable on both nodes, with the bytes that were read first.
func TestKillsLoseNoAnsweredCreate(t *testing.T) {
	t.Parallel()
	c := ownCell(t)
	i := first(t, c)

	var (
		mu       sync.Mutex
		answered []kmip.ObjectID
		read     = make(map[kmip.ObjectID]*secret.Bytes)
		working  sync.WaitGroup
	)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	// more waits until another n keys were answered.
	more := func(n int) {
		t.Helper()
		mu.Lock()
		want := len(answered) + n
		mu.Unlock()
		eventually(t, func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			if len(answered) < want {
				return fmt.Errorf("%d keys answered, want %d", len(answered), want)
			}
			return nil
		})
	}
	for n, node := range nodes {
		configs := [2]struct{ make, read string }{{node, nodes[1-n]}, {node, node}}
		for _, pair := range configs {
			makes, reads := i.config(t, pair.make, i.certificate), i.config(t, pair.read, i.certificate)
			working.Go(func() {
				for ctx.Err() == nil {
					// A client that fails tries again, as vCenter's user does.
					conn, err := discover(ctx, makes)
					if err != nil {
						continue
					}
					id, err := conn.Create(ctx, vSphere...)
					conn.Close()
					if err != nil {
						continue
					}
					mu.Lock()
					answered = append(answered, id)
					mu.Unlock()
					if conn, err = discover(ctx, reads); err != nil {
						continue
					}
					key, err := conn.Get(ctx, id)
					conn.Close()
					if err == nil {
						mu.Lock()
						read[id] = key
						mu.Unlock()
					}
				}
			})
		}
	}
	more(10)
	for _, victims := range [][]string{{"NODE1_PID"}, {"NODE2_PID"}, {"CONTROL_PID"}, {"NODE1_PID", "NODE2_PID"}} {
		before := c.env(t)
		for _, name := range victims {
			pid, err := strconv.Atoi(before[name])
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
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

	t.Logf("%d keys answered, %d of them read at once", len(answered), len(read))
	for _, node := range nodes {
		eventually(t, func(ctx context.Context) error {
			conn, err := discover(ctx, i.config(t, node, i.certificate))
			if err == nil {
				conn.Close()
			}
			return err
		})
		conn := i.dial(t, node)
		for _, id := range answered {
			key, err := conn.Get(t.Context(), id)
			if err != nil {
				t.Errorf("%s, answered before a kill, on %s: %v", id, node, err)
				continue
			}
			if earlier := read[id]; earlier != nil && !earlier.Equal(key) {
				t.Errorf("%s has other bytes on %s than it had first", id, node)
			}
			key.Wipe()
		}
	}
}
