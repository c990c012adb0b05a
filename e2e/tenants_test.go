package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// turnedAway wants a node to refuse a client in the handshake.
func turnedAway(t *testing.T, cfg client.Config, when string) {
	t.Helper()
	conn, err := discover(t.Context(), cfg)
	if err == nil {
		conn.Close()
		t.Errorf("%s: it was served", when)
		return
	}
	var alert *net.OpError
	if !errors.As(err, &alert) || alert.Op != "remote error" {
		t.Errorf("%s: %v, want an alert", when, err)
	}
}

func served(t *testing.T, cfg client.Config, when string) {
	t.Helper()
	conn, err := discover(t.Context(), cfg)
	if err != nil {
		t.Errorf("%s: %v", when, err)
		return
	}
	conn.Close()
}

// TestRouting reaches a tenant of the shared endpoints and one with an endpoint
// of its own by every name and port, with their own certificates and each
// other's.
func TestRouting(t *testing.T) {
	t.Parallel()
	c := sharedCell(t)
	one, two := newInstance(t, c), newDedicated(t, c)
	for _, node := range nodes {
		own := two.config(t, node, two.certificate)
		as := func(certificate *tls.Certificate, serverName string, cfg client.Config) client.Config {
			cfg.Certificate, cfg.ServerName, cfg.VerifyName = certificate, serverName, ""
			return cfg
		}
		shared := one.config(t, node, one.certificate)
		for _, name := range []string{"", two.own.HostName, one.env["KMIP_SNI"], one.env["KMIP2_SNI"], "nobody.example.com"} {
			served(t, as(two.certificate, name, own), node+": tenant 2 at its port with SNI "+name)
			turnedAway(t, as(one.certificate, name, own), node+": tenant 1 at tenant 2's port with SNI "+name)
			turnedAway(t, as(nil, name, own), node+": nobody at tenant 2's port with SNI "+name)
		}
		served(t, as(two.certificate, two.own.HostName, shared), node+": tenant 2 at the shared port with its name")
		served(t, as(two.certificate, strings.ToUpper(two.own.HostName), shared), node+": the same in capitals")
		turnedAway(t, as(one.certificate, two.own.HostName, shared), node+": tenant 1 at tenant 2's name")
		for _, name := range []string{"", one.env["KMIP_SNI"], one.env["KMIP2_SNI"], "nobody.example.com"} {
			turnedAway(t, as(two.certificate, name, shared), node+": tenant 2 at the shared port with SNI "+name)
			if name != one.env["KMIP2_SNI"] {
				served(t, as(one.certificate, name, shared), node+": tenant 1 at the shared port with SNI "+name)
			}
		}
		// Tenant 2's name shows its own certificate, anything else the shared one.
		for name, want := range map[string]string{two.own.HostName: two.own.HostName, "": one.env["KMIP_SNI"], "nobody.example.com": one.env["KMIP_SNI"]} {
			for _, cfg := range []client.Config{own, shared} {
				chain, err := client.FetchCertificates(t.Context(), as(nil, name, cfg))
				if err != nil || chain[0].VerifyHostname(want) != nil || len(chain) != 2 {
					t.Errorf("%s: SNI %q at %s shows %v, %v; want %s", node, name, cfg.Address, chain, err, want)
				}
			}
		}
	}
}

// TestKeysOnHPCS makes a key for a tenant on HPCS: it lies there alone, wrapped
// by its root key, and dies with its standard key or with the root key.
func TestKeysOnHPCS(t *testing.T) {
	t.Parallel()
	two := newDedicated(t, sharedCell(t))
	id, revoked := two.create(t, nodes[0]), two.create(t, nodes[1])
	for _, node := range nodes {
		if _, err := two.get(t, node, id); err != nil {
			t.Fatalf("Get on %s: %v", node, err)
		}
	}
	standard := two.customer.find(t, engine.StandardKeyPrefix+string(revoked))
	if len(standard) != 1 || !standard[0].Extractable {
		t.Fatalf("standard keys in HPCS: %+v, want one", standard)
	}
	elsewhere := keyProtect{two.env["KP_URL"], two.env["KP_INSTANCE_ID"], token(t, two.env["IAM_URL"], two.env["API_KEY"])}
	if found := elsewhere.find(t, standard[0].Name); len(found) != 0 {
		t.Errorf("the other tenant's Key Protect holds %+v", found)
	}
	two.customer.delete(t, standard[0].ID)
	for _, node := range nodes {
		_, err := two.get(t, node, revoked)
		wantReason(t, err, itemNotFound, "Get of the revoked key on "+node)
	}
	two.customer.delete(t, two.rootKey)
	for _, node := range nodes {
		_, err := two.get(t, node, id)
		wantReason(t, err, permissionDenied, "Get under a deleted root key on "+node)
	}
}

// TestServiceAuthorizationWithdrawn takes the authorization away and gives it
// back: final for that tenant alone, healed without a restart.
func TestServiceAuthorizationWithdrawn(t *testing.T) {
	t.Parallel()
	c := sharedCell(t)
	two, neighbour := newUnconnected(t, c), newDedicated(t, c)

	// Before: the refusal names what is missing.
	settings := map[string]any{"type": "hpcs", "instance_crn": hpcsCRN(two.env), "root_key_id": two.rootKey}
	a := two.api(t, http.MethodPut, "/v1/instances/"+two.id+"/key_manager", settings)
	if text := string(a.body); a.status != http.StatusBadRequest || !strings.Contains(text, "IAM service authorization: source service vmware-solutions, instance "+two.id) {
		t.Errorf("without an authorization: status %d, %s", a.status, a.body)
	}
	policy := two.authorize(t)
	two.connect(t, settings)
	id, other := two.create(t, nodes[0]), neighbour.create(t, nodes[0])

	if a := call(t, http.MethodDelete, policy, map[string]string{"Authorization": "Bearer " + two.bearer}, nil); a.status != http.StatusNoContent {
		t.Fatalf("deleting the policy: status %d, %s", a.status, a.body)
	}
	for _, node := range nodes {
		_, err := two.get(t, node, id)
		wantReason(t, err, permissionDenied, "Get without an authorization on "+node)
		if _, err := neighbour.get(t, node, other); err != nil {
			t.Errorf("the neighbour on %s: %v", node, err)
		}
	}
	two.authorize(t)
	for _, node := range nodes {
		if _, err := two.get(t, node, id); err != nil {
			t.Errorf("Get with the authorization back on %s: %v", node, err)
		}
	}
}

// TestHPCSWithAPIKey connects HPCS with a service ID's API key, as an operator
// without an IAM service of its own does it.
func TestHPCSWithAPIKey(t *testing.T) {
	t.Parallel()
	two := newUnconnected(t, sharedCell(t))
	two.connect(t, map[string]any{"type": "hpcs", "instance_crn": hpcsCRN(two.env), "api_key": two.env["API2_KEY"]})
	if two.own == nil {
		t.Fatal("an instance on HPCS has no endpoint of its own")
	}
	id := two.create(t, nodes[0])
	if _, err := two.get(t, nodes[1], id); err != nil {
		t.Error(err)
	}
}

// TestRefusalsAreShown turns strangers away at a tenant's own endpoint and at
// the shared ones: the tenant sees the former, with cause and fingerprint, and
// nobody else does.
func TestRefusalsAreShown(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux answers on all of 127.0.0.0/8")
	}
	c := sharedCell(t)
	one, two := newInstance(t, c), newDedicated(t, c)
	unknown, _ := newCertificate(t)
	own := two.config(t, nodes[0], unknown)
	own.LocalAddress = netip.MustParseAddr("127.0.2.77") // the tenant's own client was early, from another
	turnedAway(t, own, "an unknown certificate at tenant 2's port")
	turnedAway(t, one.shared(t, nodes[1], two.own.HostName, one.certificate), "tenant 1's certificate at tenant 2's name")
	turnedAway(t, one.config(t, nodes[0], unknown), "an unknown certificate at the shared endpoint")
	exchange(t, own.Address, "GET / HTTP/1.1\r\nHost: kmip\r\n\r\n")

	type refusal struct {
		Cause       string `json:"cause"`
		Message     string `json:"message"`
		Source      string `json:"source"`
		ServerName  string `json:"server_name"`
		Port        int    `json:"port"`
		Fingerprint string `json:"client_certificate_fingerprint"`
		Count       int    `json:"count"`
	}
	list := func(i *instance) (found map[string]refusal) {
		var answer struct {
			Refusals []refusal `json:"refusals"`
		}
		i.api(t, http.MethodGet, "/v1/instances/"+i.id+"/refusals", nil).decode(t, &answer)
		found = make(map[string]refusal)
		for _, r := range answer.Refusals {
			if r.Cause != "unknown_certificate" || r.Source == own.LocalAddress.String() {
				found[r.Cause] = r
			}
		}
		return found
	}
	var seen map[string]refusal
	eventually(t, func(context.Context) error {
		if seen = list(two); len(seen) < 3 {
			return fmt.Errorf("%d causes so far", len(seen))
		}
		return nil
	})
	want := map[string]refusal{
		"unknown_certificate": {ServerName: two.own.HostName, Port: two.own.Port, Fingerprint: fingerprintOf(unknown)},
		"foreign_certificate": {ServerName: two.own.HostName, Port: number(t, two.env["KMIP_PORT_2"]), Fingerprint: fingerprintOf(one.certificate)},
		"no_tls":              {Port: two.own.Port},
	}
	for cause, w := range want {
		got := seen[cause]
		if got.ServerName != w.ServerName || got.Port != w.Port || got.Fingerprint != w.Fingerprint || got.Source == "" || got.Count < 1 || got.Message == "" {
			t.Errorf("%s: %+v, want %+v", cause, got, w)
		}
	}
	if others := list(one); len(others) != 0 {
		t.Errorf("tenant 1 of the shared endpoints sees %+v", others)
	}
	a := one.api(t, http.MethodGet, "/v1/instances/"+two.id+"/refusals", nil)
	if a.status != http.StatusNotFound {
		t.Errorf("a foreign instance's refusals: status %d, %s", a.status, a.body)
	}
}

// inForce is what the REST API says of a change's way to the nodes.
type inForce struct {
	Nodes   int `json:"nodes"`
	Total   int `json:"total"`
	Unknown int `json:"unknown"`
}

// awaitInForce waits until the API says that the instance's newest change is in
// force on both nodes.
func (i *instance) awaitInForce(t *testing.T) {
	t.Helper()
	eventually(t, func(context.Context) error {
		var shown struct {
			InForce inForce `json:"in_force"`
		}
		i.api(t, http.MethodGet, "/v1/instances/"+i.id, nil).decode(t, &shown)
		if shown.InForce != (inForce{Nodes: 2, Total: 2}) {
			return fmt.Errorf("in force on %+v", shown.InForce)
		}
		return nil
	})
}

// TestPropagation times changes from the REST answer, or the commit, to the
// first request on each node that is treated by them: at a shared endpoint and
// at an own one, for new connections and for those that are open. It logs the
// longest; the target of the design is one second.
func TestPropagation(t *testing.T) {
	t.Parallel()
	c := sharedCell(t)
	var longest time.Duration
	for name, newTenant := range map[string]func(*testing.T, *cell) *instance{"shared": newInstance, "own": newDedicated} {
		i := newTenant(t, c)
		// until waits for a node to serve a certificate, or to refuse it.
		until := func(what string, wanted bool, certificate *tls.Certificate) {
			t.Helper()
			began := time.Now()
			for _, node := range nodes {
				cfg := i.config(t, node, certificate)
				eventually(t, func(ctx context.Context) error {
					conn, err := discover(ctx, cfg)
					if err == nil {
						conn.Close()
					}
					if (err == nil) == wanted {
						return nil
					}
					return errors.Join(errors.New(what+" is not in force"), err)
				})
			}
			took := time.Since(began)
			longest = max(longest, took)
			t.Logf("%s, %s: in force on both nodes after %s", name, what, took.Round(time.Millisecond))
		}
		// open connects to both nodes; gone waits for the connections' end.
		open := func(certificate *tls.Certificate) (idle []*client.Conn) {
			t.Helper()
			for _, node := range nodes {
				conn, err := discover(t.Context(), i.config(t, node, certificate))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				idle = append(idle, conn)
			}
			return idle
		}
		gone := func(what string, idle []*client.Conn) {
			t.Helper()
			for n, conn := range idle {
				if _, err := conn.DiscoverVersions(t.Context()); err == nil {
					t.Errorf("%s, %s: an open connection to %s is served on", name, what, nodes[n])
				}
			}
		}

		second, secondID := i.addCertificate(t)
		until("a certificate added", true, second)
		i.awaitInForce(t)
		idle := open(second)
		if a := i.api(t, http.MethodDelete, "/v1/instances/"+i.id+"/client_certificates/"+secondID, nil); a.status != http.StatusNoContent {
			t.Fatalf("removing the certificate: status %d, %s", a.status, a.body)
		}
		until("a certificate removed", false, second)
		gone("a certificate removed", idle)

		idle = open(i.certificate)
		c.sql(t, "UPDATE instances SET suspended = true WHERE id = '"+i.id+"'")
		until("suspended in the database", false, i.certificate)
		gone("suspended in the database", idle)
		i.awaitInForce(t)
		c.sql(t, "UPDATE instances SET suspended = false WHERE id = '"+i.id+"'")
		until("suspension lifted", true, i.certificate)

		idle = open(i.certificate)
		if a := i.api(t, http.MethodDelete, "/v1/instances/"+i.id, nil); a.status != http.StatusAccepted {
			t.Fatalf("deleting the instance: status %d, %s", a.status, a.body)
		}
		until("the instance deleted", false, i.certificate)
		gone("the instance deleted", idle)
	}
	t.Logf("the longest of all: %s", longest.Round(time.Millisecond))
}

// sql runs a statement as the database's owner, as an operator may.
func (c *cell) sql(t *testing.T, statement string) {
	t.Helper()
	db, err := pgx.Connect(t.Context(), c.env(t)["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	if _, err := db.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func fingerprintOf(certificate *tls.Certificate) string {
	return fingerprint(certificate.Certificate[0])
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}
