package control_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// member is an instance, with the account that it belongs to.
type member struct {
	*cell
	account, id string
	crn         string
}

// connected creates an instance and gives it its key manager.
func (c *cell) connected(t *testing.T, account, body string) member {
	t.Helper()
	made := read[api.Instance](t, c.as(t, account, "POST", "/v1/instances", "{}"), http.StatusAccepted)
	c.cloud.authorize(made.CRN)
	read[api.KeyManager](t, c.as(t, account, "PUT", "/v1/instances/"+made.ID+"/key_manager", body), http.StatusOK)
	return member{c, account, made.ID, made.CRN}
}

// conditions returns status and reason of each condition of the instance.
func (m member) conditions(t *testing.T) map[api.ConditionType]string {
	t.Helper()
	got := read[api.Instance](t, m.as(t, m.account, "GET", "/v1/instances/"+m.id, ""), http.StatusOK)
	all := make(map[api.ConditionType]string)
	for _, c := range got.Conditions {
		if all[c.Type] = fmt.Sprint(c.Status, " ", c.Reason); len(c.Message) < 20 || c.Since.IsZero() || !c.Status.Valid() || !c.Type.Valid() {
			t.Errorf("condition %+v", c)
		}
	}
	return all
}

// await waits until a condition has a status and a reason.
func (m member) await(t *testing.T, what api.ConditionType, want string) {
	t.Helper()
	eventually(t, func() error {
		if got := m.conditions(t); got[what] != want {
			return fmt.Errorf("%s is %q, want %q", what, got[what], want)
		}
		return nil
	})
}

// eventually polls until f returns nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(30 * time.Second); ; {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 30 seconds: %v", err)
		}
	}
}

const (
	ready         = api.ConditionTypeKeyManagerReady
	destroy       = api.ConditionTypeDestroyPermitted
	authorization = api.ConditionTypeServiceAuthorization
)

// What happens to a key manager shows in its instance's conditions, heals by
// itself, and touches no other instance.
func TestConditionsFollowTheKeyManager(t *testing.T) {
	c := start(t, "KMIP_CHECK_INTERVAL", "1s")
	first, second := c.connected(t, account, keyManagerBody(nil)), c.connected(t, stranger, hpcsBody(stranger))
	if got := first.conditions(t); got[ready] != "true ready" || got[destroy] != "true ready" || got[authorization] != "" || len(got) != 3 {
		t.Errorf("connected with an API key: %v", got)
	}
	second.await(t, authorization, "true ready")
	// of tells whose call it is; on, which one.
	refuse := func(of, on string, status int, code string) {
		c.cloud.setRefusal(func(r *http.Request) (int, string) {
			if strings.HasPrefix(r.Header.Get("Authorization"), "Bearer "+of) && (on == "" || strings.HasSuffix(r.Method+r.URL.Path, on) || r.Method == on) {
				return status, code
			}
			return 0, ""
		})
	}
	for _, step := range []struct {
		of, on  string
		status  int
		code    string
		want    string // of key_manager_ready
		destroy string
	}{
		{of: kmsToken, on: "/actions/wrap", status: 409, code: "KEY_ACTION_INVALID_STATE_ERR", want: "false root_key_disabled", destroy: "unknown not_tried"},
		{of: kmsToken, on: "/actions/unwrap", status: 404, code: "KEY_NOT_FOUND_ERR", want: "false root_key_gone", destroy: "unknown not_tried"},
		{of: kmsToken, on: "/actions/wrap", status: 400, code: "KEY_ROOT_REQ_ERR", want: "false not_a_root_key", destroy: "unknown not_tried"},
		{of: kmsToken, status: 401, want: "false not_permitted", destroy: "unknown not_tried"},
		{of: kmsToken, on: "DELETE", status: 401, want: "true ready", destroy: "false not_permitted"},
		{of: kmsToken, on: "GET", status: 401, want: "false not_permitted", destroy: "unknown not_tried"},
		{of: kmsToken, status: 422, want: "false wrong_answer", destroy: "unknown not_tried"},
		{of: kmsToken, status: 503, want: "unknown no_answer", destroy: "unknown not_tried"},
		{of: "nobody", want: "true ready", destroy: "true ready"},
	} {
		refuse(step.of, step.on, step.status, step.code)
		first.await(t, ready, step.want)
		first.await(t, destroy, step.destroy)
		if got := second.conditions(t); got[ready] != "true ready" || got[authorization] != "true ready" {
			t.Errorf("%s: the other instance has %v", step.want, got)
		}
	}
	c.cloud.setAuthorized(second.crn, false)
	second.await(t, authorization, "false not_permitted")
	second.await(t, ready, "false not_permitted")
	if got := first.conditions(t); got[ready] != "true ready" {
		t.Errorf("the other instance has %v", got)
	}
	c.cloud.setAuthorized(second.crn, true)
	second.await(t, authorization, "true ready")
	second.await(t, ready, "true ready")
	if left := c.cloud.left(); len(left) != 0 {
		t.Errorf("the checks left %v in the key manager", left)
	}
}

// postgres runs statements that no policy binds.
func (c *cell) postgres(t *testing.T, sql string, args ...any) {
	t.Helper()
	db, err := pgx.Connect(t.Context(), pgtest.URL(t, c.database, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Creates and Destroys that no node will finish are finished: what the key
// manager has becomes a key, the rest leaves nothing. A row that can't be
// settled yet keeps no other from it.
func TestUnfinishedObjectsAreSettled(t *testing.T) {
	c := start(t, "KMIP_CHECK_INTERVAL", "1s")
	i := c.connected(t, account, keyManagerBody(nil))
	node, err := pg.Open(t.Context(), pg.Config{URL: pgtest.URL(t, c.database, "kmip_node")})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	ledger, owner := pg.NewObjects(node), tenant.ID(i.id)
	add := func(phase engine.Phase, stored tenant.ID, state int) (engine.Record, string) {
		t.Helper()
		r := enginetest.NewRecord()
		r.Phase, r.PendingFor = phase, time.Minute
		ref := uuid.NewString()
		if phase == engine.Destroying {
			r.KeyRef = engine.KeyRef(ref)
		}
		if err := ledger.Create(t.Context(), owner, r); err != nil {
			t.Fatal(err)
		}
		if state != 0 {
			payload, err := json.Marshal(engine.Envelope{Format: engine.EnvelopeFormat, Tenant: stored, Object: r.Object})
			if err != nil {
				t.Fatal(err)
			}
			c.cloud.store(ref, engine.StandardKeyPrefix+string(r.Object.ID), payload, state)
		}
		return r, ref
	}
	stored, ref := add(engine.Pending, owner, 1)
	foreign, _ := add(engine.Pending, enginetest.NewTenantID(), 1)
	nothing, _ := add(engine.Pending, "", 0)
	deleted, _ := add(engine.Pending, owner, 5)
	destroying, destroyed := add(engine.Destroying, owner, 1)
	c.postgres(t, "UPDATE objects SET pending_until = now() - interval '61 minutes', updated_at = now() - interval '6 minutes'")

	phase := func(id kmip.ObjectID, want engine.Phase) {
		t.Helper()
		eventually(t, func() error {
			r, err := ledger.Get(t.Context(), owner, id)
			if err == nil && r.Phase == want || want == "" && err != nil && strings.Contains(err.Error(), "no such object") {
				return nil
			}
			return fmt.Errorf("%s is %q (%w), want %q", id, r.Phase, err, want)
		})
	}
	phase(stored.Object.ID, engine.Live)
	phase(nothing.Object.ID, "")
	phase(deleted.Object.ID, "")
	phase(destroying.Object.ID, engine.Gone)
	phase(foreign.Object.ID, engine.Pending)
	if r, err := ledger.Get(t.Context(), owner, stored.Object.ID); err != nil || string(r.KeyRef) != ref {
		t.Errorf("%+v, %v, want the standard key %s", r, err, ref)
	}
	for _, name := range c.cloud.left() {
		if name == engine.StandardKeyPrefix+string(destroying.Object.ID) {
			t.Errorf("the standard key %s is left", destroyed)
		}
	}
}

// A server certificate for an instance's own name that ends within 60 days is
// signed again over the nodes' key, and nodes learn of it; one that does not
// stays, and changes nothing.
func TestServerCertificateIsRenewed(t *testing.T) {
	c := start(t, "KMIP_CHECK_INTERVAL", "1s")
	first, second := c.connected(t, account, hpcsBody(account)), c.connected(t, stranger, hpcsBody(stranger))
	own := func(m member) (der []byte, noted *time.Time, revision int64) {
		t.Helper()
		db, err := pgx.Connect(t.Context(), c.database)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close(t.Context())
		err = db.QueryRow(t.Context(), `SELECT server_certificate, certificate_not_after, revision
			FROM endpoints e JOIN instances i ON i.id = instance_id WHERE i.id = $1`, m.id).Scan(&der, &noted, &revision)
		if err != nil {
			t.Fatal(err)
		}
		return der, noted, revision
	}
	eventually(t, func() error {
		if _, noted, _ := own(second); noted == nil {
			return fmt.Errorf("its end is not known")
		}
		return nil
	})
	kept, _, revision := own(second)
	before, _, changed := own(first)
	leaf, err := x509.ParseCertificate(before)
	if err != nil {
		t.Fatal(err)
	}
	ending := selfSigned(t, leaf.DNSNames[0], time.Now().Add(59*24*time.Hour))
	c.postgres(t, "UPDATE endpoints SET server_certificate = $1, certificate_not_after = NULL WHERE instance_id = $2", ending, first.id)
	var renewed []byte
	eventually(t, func() error {
		if renewed, _, _ = own(first); bytes.Equal(renewed, ending) {
			return fmt.Errorf("still the one that ends")
		}
		return nil
	})
	again, err := x509.ParseCertificate(renewed)
	if err != nil {
		t.Fatal(err)
	}
	if !again.PublicKey.(*rsa.PublicKey).Equal(leaf.PublicKey) || again.VerifyHostname(leaf.DNSNames[0]) != nil || time.Until(again.NotAfter) < 700*24*time.Hour {
		t.Errorf("renewed: %v until %s", again.DNSNames, again.NotAfter)
	}
	if _, noted, now := own(first); now < changed+2 || noted == nil || !noted.Equal(again.NotAfter) {
		t.Errorf("revision %d, was %d, noted end %v", now, changed, noted)
	}
	if der, _, now := own(second); !bytes.Equal(der, kept) || now != revision {
		t.Error("the other instance's certificate has changed")
	}
	if got := first.conditions(t)[api.ConditionTypeEndpointCertificate]; got != "true valid" {
		t.Errorf("condition %q", got)
	}
}

// selfSigned returns a certificate for a host name, in DER.
func selfSigned(t *testing.T, name string, notAfter time.Time) []byte {
	t.Helper()
	key := rsaKey(t, 2048)
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: notAfter}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// The condition of client certificates names the first that ends, and how long
// it has.
func TestClientCertificatesCondition(t *testing.T) {
	c := start(t)
	i := c.connected(t, account, keyManagerBody(nil))
	const what = api.ConditionTypeClientCertificates
	if got := i.conditions(t)[what]; got != "false none" {
		t.Errorf("without one: %q", got)
	}
	for _, step := range []struct {
		name string
		left time.Duration
		want string
	}{
		{"long", 400 * 24 * time.Hour, "true valid"},
		{"soon", 10*24*time.Hour + time.Hour, "false ends_soon"},
	} {
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(t, "vc", time.Now().Add(step.left))}))
		read[api.ClientCertificate](t, c.call(t, "POST", "/v1/instances/"+i.id+"/client_certificates", object(map[string]any{"name": step.name, "certificate": text})), http.StatusCreated)
		if got := i.conditions(t)[what]; got != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
	if r := c.call(t, "GET", "/v1/instances/"+i.id, ""); !strings.Contains(r.body, "`soon` ends in 10 days") {
		t.Errorf("message in %s", r.body)
	}
	// Once its successor is in use, the one that ends is no matter any more.
	const replaced = "UPDATE client_certificates SET replaced_by = (SELECT id FROM client_certificates WHERE name = 'long'), replaced_at = now() WHERE name = 'soon'"
	c.postgres(t, replaced)
	if got := i.conditions(t)[what]; got != "false ends_soon" {
		t.Errorf("replaced by one that is unused: %q", got)
	}
	c.postgres(t, "UPDATE client_certificates SET first_used_at = now(), last_used_at = now() WHERE name = 'long'")
	if got := i.conditions(t)[what]; got != "true valid" {
		t.Errorf("replaced by one that is in use: %q", got)
	}
	c.postgres(t, "UPDATE client_certificates SET not_after = now() - interval '1 hour' WHERE name = 'long'")
	if got := i.conditions(t)[what]; got != "false expired" {
		t.Errorf("expired: %q", got)
	}
}
