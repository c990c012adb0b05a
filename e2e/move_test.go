package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// TestAnotherRootKey gives an instance another root key while clients read its
// keys on both nodes, and kills the control plane while it moves them. No read
// fails, all keys end under the new root key with their bytes, one standard key
// each for the old root key and for the new one, and then the old root key can
// be deleted. The other tenant notices nothing.
func TestAnotherRootKey(t *testing.T) {
	t.Parallel()
	c := ownCell(t, "--check-interval", checks.String())
	i, other := first(t, c), second(t, c)
	foreign := other.create(t, nodes[0])
	const keys = 12
	made := make(map[kmip.ObjectID]*secret.Bytes)
	for n := range keys {
		id := i.create(t, nodes[n%2])
		key, err := i.get(t, nodes[0], id)
		if err != nil {
			t.Fatal(err)
		}
		made[id] = key
	}

	// Clients read all keys over and over.
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for _, node := range nodes {
		conn := i.dial(t, node)
		readers.Go(func() {
			for ctx.Err() == nil {
				for id, want := range made {
					key, err := conn.Get(ctx, id)
					if ctx.Err() != nil {
						return
					}
					if err != nil || !key.Equal(want) {
						t.Errorf("%s on %s during the move: %v", id, node, err)
						return
					}
					key.Wipe()
				}
			}
		})
	}
	state := func() (s struct {
		Move *struct{ Total, Done, Failed int }
	},
	) {
		i.api(t, http.MethodGet, "/v1/instances/"+i.id+"/key_manager", nil).decode(t, &s)
		return s
	}
	newRoot := i.customer.createRootKey(t)
	a := i.api(t, http.MethodPut, "/v1/instances/"+i.id+"/key_manager", map[string]any{
		"type": "key_protect", "instance_crn": keyProtectCRN(i.env), "key_ring": "default", "api_key": i.env["KP_SERVICE_API_KEY"], "root_key_id": newRoot,
	})
	if a.status != http.StatusOK {
		t.Fatalf("another root key: status %d, %s", a.status, a.body)
	}
	cloud := &cloud{admin: i.env["EMULATOR_ADMIN_URL"]}
	cloud.rule(t, "latency", m{"service": "kms", "method": "POST", "median_ms": 200})
	eventually(t, func(context.Context) error {
		if s := state(); s.Move == nil || s.Move.Done < 2 {
			return fmt.Errorf("%+v", s.Move)
		}
		return nil
	})
	before := c.env(t)["CONTROL_PID"]
	if err := syscall.Kill(number(t, before), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(context.Context) error {
		if now := c.env(t)["CONTROL_PID"]; now == before {
			return errors.New("the control plane is not back")
		}
		return nil
	})
	eventually(t, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, i.env["ADMIN_URL"]+"/readyz", nil)
		if err != nil {
			t.Fatal(err)
		}
		ready, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		ready.Body.Close()
		if ready.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", ready.StatusCode)
		}
		return nil
	})
	if s := state(); s.Move == nil || s.Move.Done == s.Move.Total {
		t.Errorf("the kill came too late: %+v", s.Move)
	}
	cloud.heal(t, "latency")
	within(t, 4*time.Minute, func(context.Context) error {
		if s := state(); s.Move != nil {
			return fmt.Errorf("%+v", *s.Move)
		}
		return nil
	})
	stop()
	readers.Wait()

	if a := i.customer.call(t, http.MethodDelete, "/keys/"+i.rootKey+"?force=true", nil); a.status >= 300 {
		t.Fatalf("deleting the old root key: status %d, %s", a.status, a.body)
	}
	for id, want := range made {
		for _, node := range nodes {
			if key, err := i.get(t, node, id); err != nil || !key.Equal(want) {
				t.Errorf("%s on %s without the old root key: %v", id, node, err)
			}
		}
		if stored := i.customer.find(t, "vmware_kmip_"+string(id)); len(stored) != 2 || stored[0].State != 1 || stored[1].State != 1 {
			t.Errorf("%s: standard keys %+v", id, stored)
		}
	}
	i.create(t, nodes[1])
	if _, err := other.get(t, nodes[1], foreign); err != nil {
		t.Errorf("the other tenant: %v", err)
	}
}
