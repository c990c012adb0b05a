package control_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Two instances share a key manager. What one's ledger and the key manager
// disagree about shows in its condition, its metric and the log, by identifier;
// nothing is changed, and the other notices nothing.
func TestLedgersAreCompared(t *testing.T) {
	c := start(t, "KMIP_RECONCILE_INTERVAL", "1s")
	i, other := c.connected(t, account, keyManagerBody(nil)), c.connected(t, stranger, hpcsBody(stranger))
	node, err := pg.Open(t.Context(), pg.Config{URL: pgtest.URL(t, c.database, "kmip_node")})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	ledger := pg.NewObjects(node)
	store := func(m member, crn string, recorded bool) kmip.ObjectID {
		t.Helper()
		r := enginetest.NewRecord()
		r.Phase, r.KeyRef, r.Location.KeyManagerCRN = engine.Live, engine.KeyRef(uuid.NewString()), crn
		payload, err := json.Marshal(engine.Envelope{Format: engine.EnvelopeFormat, Tenant: tenant.ID(m.id), Object: r.Object})
		if err != nil {
			t.Fatal(err)
		}
		c.cloud.store(string(r.KeyRef), engine.StandardKeyPrefix+string(r.Object.ID), payload, 1)
		if recorded {
			if err := ledger.Create(t.Context(), tenant.ID(m.id), r); err != nil {
				t.Fatal(err)
			}
		}
		return r.Object.ID
	}
	good, deleted := store(i, kmsCRN(account), true), store(i, kmsCRN(account), true)
	store(other, hpcsCRN(stranger), true)
	const what = api.ConditionTypeKeysReconciled
	i.await(t, what, "true matching")
	other.await(t, what, "true matching")

	lost := store(i, kmsCRN(account), false)
	i.await(t, what, "false unrecorded")
	c.cloud.deleteNamed(engine.StandardKeyPrefix + string(deleted))
	i.await(t, what, "false key_missing")
	c.postgres(t, "UPDATE objects SET key_ref = 'another' WHERE id = $1", string(good))
	i.await(t, what, "false key_missing")
	eventually(t, func() error {
		text := c.call(t, "GET", "/v1/instances/"+i.id, "").body
		if !strings.Contains(text, "2 (`") || !strings.Contains(text, "1 (`"+string(lost)+"`)") || !strings.Contains(text, string(deleted)) || !strings.Contains(text, string(good)) {
			return fmt.Errorf("%s names not what is wrong", text)
		}
		return nil
	})
	if got := other.conditions(t)[what]; got != "true matching" {
		t.Errorf("the other instance: %q", got)
	}
	for _, text := range []string{c.log.String(), c.send(t, http.MethodGet, c.admin+"/metrics", "", "").body} {
		if !strings.Contains(text, `key_missing`) || !strings.Contains(text, i.id) {
			t.Errorf("nothing of it in\n%s", text)
		}
	}
	if left := c.cloud.left(); len(left) != 3 {
		t.Errorf("the comparison left %v", left)
	}
	if got, err := ledger.Get(t.Context(), tenant.ID(i.id), good); err != nil || got.Version != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}
