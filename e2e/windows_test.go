package e2e

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

// setWindows sets an instance's windows and waits until both nodes obey.
func (i *instance) setWindows(t *testing.T, cacheSeconds, outageGraceSeconds int) {
	t.Helper()
	a := i.api(t, http.MethodPatch, "/v1/instances/"+i.id, m{"cache_seconds": cacheSeconds, "outage_grace_seconds": outageGraceSeconds},
		"If-Match", "*", "Content-Type", "application/merge-patch+json")
	if a.status != http.StatusOK {
		t.Fatalf("setting windows: status %d, %s", a.status, a.body)
	}
	i.awaitInForce(t)
}

// reads fails unless a node serves a key.
func (i *instance) reads(t *testing.T, node string, id kmip.ObjectID, when string) {
	t.Helper()
	key, err := i.get(t, node, id)
	if err != nil {
		t.Errorf("%s: Get on %s: %v", when, node, err)
	}
	key.Wipe()
}

// TestOutageGrace has one tenant's key manager away and then hanging: the node
// that has read a key serves it until the grace has passed, the other does not,
// nor does a node after a restart; a tenant without grace gets nothing. What the
// key manager says for good is in force at once, also if it hangs right after.
func TestOutageGrace(t *testing.T) {
	t.Parallel()
	c := ownCell(t)
	i, strict := newInstance(t, c), newInstance(t, c)
	cloud := &cloud{admin: c.env(t)["EMULATOR_ADMIN_URL"]}
	i.setWindows(t, 0, 3600)
	unread, revoked, without := i.create(t, nodes[0]), i.create(t, nodes[0]), strict.create(t, nodes[0])
	i.reads(t, nodes[0], revoked, "before")
	i.customer.delete(t, i.customer.find(t, engine.StandardKeyPrefix+string(revoked))[0].ID)
	_, err := i.get(t, nodes[0], revoked)
	wantReason(t, err, itemNotFound, "Get of a key that the customer deleted")
	strict.reads(t, nodes[0], without, "before")
	var read kmip.ObjectID
	for _, knob := range []string{"throttling", "hangs", "outages"} {
		eventually(t, func(context.Context) error { // the breaker lets a call through
			_, err := i.get(t, nodes[0], unread)
			return err
		})
		read, unread = unread, i.create(t, nodes[0])
		cloud.rule(t, knob, m{"service": "kms"})
		i.reads(t, nodes[0], read, knob)
		if knob == "outages" {
			for what, get := range map[string]func() error{
				"on the node that has not read it": func() error { _, err := i.get(t, nodes[1], read); return err },
				"of a key that was not read":       func() error { _, err := i.get(t, nodes[0], unread); return err },
				"of a key that was deleted before": func() error { _, err := i.get(t, nodes[0], revoked); return err },
				"of a tenant without grace":        func() error { _, err := strict.get(t, nodes[0], without); return err },
			} {
				wantReason(t, get(), generalFailure, "Get "+what)
			}
		}
		cloud.heal(t, knob)
	}
	eventually(t, func(context.Context) error {
		_, err := i.get(t, nodes[0], read)
		return err
	})

	i.setWindows(t, 0, 2)
	i.reads(t, nodes[0], read, "before the grace passes")
	cloud.rule(t, "outages", m{"service": "kms"})
	eventually(t, func(context.Context) error {
		if _, err := i.get(t, nodes[0], read); err == nil {
			return errors.New("it is still served")
		}
		return nil
	})
	cloud.heal(t, "outages")

	i.setWindows(t, 0, 3600)
	eventually(t, func(context.Context) error {
		_, err := i.get(t, nodes[0], read)
		return err
	})
	i.reads(t, nodes[0], unread, "before the root key goes")
	i.customer.delete(t, i.rootKey)
	_, err = i.get(t, nodes[0], unread)
	wantReason(t, err, permissionDenied, "Get after the root key was deleted")
	cloud.rule(t, "hangs", m{"service": "kms"})
	if _, err := i.get(t, nodes[0], read); err == nil {
		t.Error("the root key is deleted, the key manager hangs, and another key is served")
	}
}

// TestCacheWindow reads a key again and again: within the window the key manager
// is asked once, and learns of nothing; without one it is asked each time.
func TestCacheWindow(t *testing.T) {
	t.Parallel()
	c := ownCell(t)
	i := newInstance(t, c)
	id := i.create(t, nodes[0])
	asked := &calls{cloud: &cloud{admin: c.env(t)["EMULATOR_ADMIN_URL"]}}
	unwraps := func(gets int) int {
		t.Helper()
		path := "/api/v2/keys/" + i.rootKey + "/actions/unwrap"
		asked.count(t, http.MethodPost, path)
		for range gets {
			i.reads(t, nodes[0], id, "the key manager answers")
		}
		return asked.count(t, http.MethodPost, path)
	}
	if n := unwraps(3); n != 3 {
		t.Errorf("without a window the key manager was asked %d times, want 3", n)
	}
	i.setWindows(t, 3600, 0)
	if n := unwraps(5); n != 1 {
		t.Errorf("within the window the key manager was asked %d times, want once", n)
	}
	i.customer.delete(t, i.rootKey)
	i.reads(t, nodes[0], id, "within the window") // a revocation takes so long, as the API says
	_, err := i.get(t, nodes[1], id)
	wantReason(t, err, permissionDenied, "Get on the node that has not read it")
	i.setWindows(t, 0, 0)
	_, err = i.get(t, nodes[0], id)
	wantReason(t, err, permissionDenied, "Get when the window is closed")
}
