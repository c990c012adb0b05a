package control_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// constant is a token that never ends.
type constant string

func (c constant) Token(context.Context) (string, error) { return string(c), nil }
func (c constant) Renew(context.Context) (string, error) { return string(c), nil }

// ledger is the instance's as nodes have it.
func (m member) ledger(t *testing.T) *pg.Objects {
	t.Helper()
	pool, err := pg.Open(t.Context(), pg.Config{URL: pgtest.URL(t, m.database, "kmip_node")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pg.NewObjects(pool)
}

// keys is a root key in the stand-in of Key Protect.
func (m member) keys(t *testing.T, rootKey string) engine.KeyManager {
	t.Helper()
	keys, err := keyprotect.New(keyprotect.Config{BaseURL: m.cloud.keyProtect.URL, InstanceCRN: kmsCRN(account), RootKeyID: rootKey, Tokens: constant(kmsToken)})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// node is what a node does for an instance, over ledger and keys.
func (m member) node(t *testing.T, rootKey string) (*engine.Engine, *tenant.Tenant) {
	t.Helper()
	keys := m.keys(t, rootKey)
	return engine.New(engine.Config{
		Objects: m.ledger(t), Now: time.Now, KeyManagers: func(*tenant.Tenant) (engine.KeyManager, error) { return keys, nil },
	}), &tenant.Tenant{ID: tenant.ID(m.id)}
}

func (m member) keyManager(t *testing.T) api.KeyManager {
	t.Helper()
	return read[api.KeyManager](t, m.as(t, m.account, "GET", "/v1/instances/"+m.id+"/key_manager", ""), http.StatusOK)
}

// Another root key: all keys are stored anew under it, with their bytes, one at
// a time, also when the key manager fails in between; then nothing needs the
// old one. What the customer had deleted stays deleted; the standard keys under
// the old root key stay, and no third is made.
func TestKeysMoveToAnotherRootKey(t *testing.T) {
	c := start(t, "KMIP_CHECK_INTERVAL", "1s")
	i := c.connected(t, account, keyManagerBody(nil))
	node, who := i.node(t, rootKey)
	template := []kmip.Attribute{
		{Name: kmip.AttributeCryptographicAlgorithm, Value: kmip.Enum(kmip.AES)},
		{Name: kmip.AttributeCryptographicUsageMask, Value: kmip.Int(12)},
		{Name: kmip.AttributeCryptographicLength, Value: kmip.Int(256)},
	}
	const keys = 5
	made := map[kmip.ObjectID]*secret.Bytes{}
	for range keys {
		id, err := node.Create(t.Context(), who, kmip.SymmetricKey, template)
		if err != nil {
			t.Fatal(err)
		}
		key, err := node.Get(t.Context(), who, id, 0)
		if err != nil {
			t.Fatal(err)
		}
		made[id] = key.Material
	}
	var gone kmip.ObjectID
	for id := range made {
		gone = id
	}
	c.cloud.deleteNamed("vmware_kmip_" + string(gone))
	if got := i.keyManager(t); got.Move != nil || len(got.Keys.ByRootKeyVersion) != 1 || got.Keys.ByRootKeyVersion[0].Keys != keys || got.Keys.ByRootKeyVersion[0].RootKeyID != rootKey {
		t.Errorf("before: %+v", got)
	}

	// A job was killed after it had stored a key anew, and before it took note.
	var halfway kmip.ObjectID
	for id := range made {
		if id != gone {
			halfway = id
		}
	}
	row, err := i.ledger(t).Get(t.Context(), who.ID, halfway)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := engine.Move(t.Context(), who.ID, row, i.keys(t, rootKey), i.keys(t, otherRootKey)); err != nil {
		t.Fatal(err)
	}
	c.postgres(t, "UPDATE objects SET moving_since = now() - interval '1 second' WHERE id = $1", string(halfway))

	// The same credential, or a new one, moves nothing.
	path := "/v1/instances/" + i.id
	if same := read[api.KeyManager](t, c.call(t, "PUT", path+"/key_manager", keyManagerBody(nil)), http.StatusOK); same.Move != nil {
		t.Errorf("the same again: %+v", same.Move)
	}
	body := keyManagerBody(map[string]any{"root_key_id": otherRootKey})
	// The old root key does nothing at first, so that no key can be moved.
	c.cloud.setRefusal(func(r *http.Request) (int, string) {
		if strings.Contains(r.URL.Path, rootKey+"/actions/unwrap") {
			return http.StatusConflict, "KEY_ACTION_INVALID_STATE_ERR"
		}
		return 0, ""
	})
	if begun := read[api.KeyManager](t, c.call(t, "PUT", path+"/key_manager", body), http.StatusOK); begun.Move == nil || begun.Move.Total != keys {
		t.Errorf("begun: %+v", begun.Move)
	}
	eventually(t, func() error {
		move := i.keyManager(t).Move
		if move == nil || move.Failed == 0 || move.Message == nil {
			return fmt.Errorf("move %+v", move)
		}
		return nil
	})
	state := i.keyManager(t)
	if m := state.Move; m.Total != keys || m.Done > 2 || // halfway and gone
		len(m.FormerRootKeys) != 1 || m.FormerRootKeys[0].RootKeyID != rootKey || !strings.Contains(*m.Message, "root key") {
		t.Errorf("while the old root key is off: %+v", m)
	}
	if got := read[api.Instance](t, c.call(t, "GET", path, ""), http.StatusOK).Status; got != api.InstanceStatusConfiguring {
		t.Errorf("status %s", got)
	}
	c.cloud.setRefusal(nil)
	eventually(t, func() error {
		if move := i.keyManager(t).Move; move == nil || move.Done != keys {
			return fmt.Errorf("move %+v", move)
		}
		return nil
	})
	c.postgres(t, "UPDATE key_moves SET started_at = now() - interval '61 seconds'")
	eventually(t, func() error {
		if got := read[api.Instance](t, c.call(t, "GET", path, ""), http.StatusOK).Status; got != api.InstanceStatusInstalled {
			return fmt.Errorf("status %s", got)
		}
		return nil
	})
	if got := i.keyManager(t); got.Move != nil || len(got.Keys.ByRootKeyVersion) != 1 || got.Keys.ByRootKeyVersion[0].RootKeyID != otherRootKey || got.Keys.ByRootKeyVersion[0].Keys != keys-1 {
		t.Errorf("after: %+v", got)
	}

	// The old root key may go.
	c.cloud.setRefusal(func(r *http.Request) (int, string) {
		if strings.Contains(r.URL.Path, rootKey+"/actions/") {
			return http.StatusGone, "KEY_DELETED_ERR"
		}
		return 0, ""
	})
	node, _ = i.node(t, otherRootKey)
	for id, material := range made {
		key, err := node.Get(t.Context(), who, id, 0)
		switch {
		case id == gone && !errors.Is(err, engine.ErrGone):
			t.Errorf("deleted before the move: %v", err)
		case id != gone && (err != nil || !key.Material.Equal(material)):
			t.Errorf("%s: %v", id, err)
		}
	}
	counts := map[string]int{}
	for _, name := range c.cloud.left() {
		counts[name]++
	}
	for id := range made {
		want := 2
		if id == gone {
			want = 0
		}
		if n := counts["vmware_kmip_"+string(id)]; n != want {
			t.Errorf("%s: %d standard keys, want %d", id, n, want)
		}
	}
}
