package control_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// authority is a cell's authority, its key, and the nodes' shared certificate,
// in PEM.
type authority struct{ certificate, key, shared string }

func newAuthority(t *testing.T) authority {
	t.Helper()
	caKey, nodeKey := rsaKey(t, 2048), rsaKey(t, 2048)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	shared := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"kmip-1.test"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter}
	encode := func(kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	var a authority
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	a.certificate = encode("CERTIFICATE", der, err)
	der, err = x509.CreateCertificate(rand.Reader, shared, ca, nodeKey.Public(), caKey)
	a.shared = encode("CERTIFICATE", der, err)
	der, err = x509.MarshalPKCS8PrivateKey(caKey)
	a.key = encode("PRIVATE KEY", der, err)
	return a
}

// as creates an instance as the user of an account.
func (c *cell) as(t *testing.T, account, method, path, body string) response {
	t.Helper()
	return c.send(t, method, c.url+path, c.cloud.token(t, account, nil), body)
}

// hpcsBody is a good body without an API key.
func hpcsBody(account string) string {
	return keyManagerBody(map[string]any{
		"type": "hpcs", "instance_crn": strings.Replace(kmsCRN(account), ":kms:", ":hs-crypto:", 1), "key_ring": nil, "api_key": nil,
	})
}

// Instances of two accounts reach HPCS under service authorizations: each has
// a host name, a port and a server certificate that nobody else has.
func TestDedicatedEndpoint(t *testing.T) {
	c := start(t)
	seen := map[string]bool{}
	for _, account := range []string{account, stranger} {
		made := read[api.Instance](t, c.as(t, account, "POST", "/v1/instances", "{}"), http.StatusAccepted)
		path := "/v1/instances/" + made.ID
		shared := read[api.EndpointCollection](t, c.as(t, account, "GET", path+"/endpoints", ""), http.StatusOK)
		if len(shared.Endpoints) != 2 {
			t.Errorf("before: %+v", shared.Endpoints)
		}

		// Without the authorization the refusal names it, and nothing is taken.
		refusal(t, c.as(t, account, "PUT", path+"/key_manager", hpcsBody(account)), http.StatusBadRequest, api.ErrorCodeInvalidValue, "",
			"Create an IAM service authorization: source service vmware-solutions, instance "+made.ID)
		c.cloud.authorize(made.CRN)
		connected := read[api.KeyManager](t, c.as(t, account, "PUT", path+"/key_manager", hpcsBody(account)), http.StatusOK)
		if connected.Credential != api.KeyManagerCredentialServiceAuthorization || connected.KeyRing != "default" {
			t.Errorf("connected: %+v", connected)
		}
		for range 2 { // the endpoint stays, also with another key manager
			own := read[api.EndpointCollection](t, c.as(t, account, "GET", path+"/endpoints", ""), http.StatusOK)
			if len(own.Endpoints) != 1 || own.Endpoints[0].Hostname != made.ID+".kmip.test" || own.CACertificate != shared.CACertificate {
				t.Fatalf("own endpoints: %+v", own)
			}
			provesItself(t, own.Endpoints[0], own.CACertificate)
			seen[fmt.Sprint(own.Endpoints[0])] = true
			read[api.KeyManager](t, c.as(t, account, "PUT", path+"/key_manager", keyManagerBody(map[string]any{"instance_crn": kmsCRN(account)})), http.StatusOK)
		}
		c.hasServerCertificate(t, made.ID+".kmip.test", shared.CACertificate)
	}
	if len(seen) != 2 {
		t.Errorf("endpoints of two instances: %v", seen)
	}
	third := c.instance(t, "third")
	c.cloud.authorize(read[api.Instance](t, c.call(t, "GET", third, ""), http.StatusOK).CRN)
	refusal(t, c.call(t, "PUT", third+"/key_manager", hpcsBody(account)), http.StatusServiceUnavailable, api.ErrorCodeServiceUnavailable, "", "no port left")
	c.isInactive(t, third)
	refusal(t, c.call(t, "PUT", third+"/key_manager", strings.Replace(hpcsBody(account), "}", `,"key_ring":"mine"}`, 1)),
		http.StatusBadRequest, api.ErrorCodeInvalidValue, "key_ring", "has to be `default`")
}

// hasServerCertificate checks what the nodes read for a name.
func (c *cell) hasServerCertificate(t *testing.T, name, ca string) {
	t.Helper()
	db, err := pgx.Connect(t.Context(), c.database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	var der []byte
	if err := db.QueryRow(t.Context(), "SELECT server_certificate FROM endpoints WHERE host_name = $1", name).Scan(&der); err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca))
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
		t.Error(err)
	}
	if years := time.Until(leaf.NotAfter).Hours() / 24 / 365; years < 1.9 || len(leaf.Subject.CommonName) > 64 {
		t.Errorf("%.1f years for %q", years, leaf.Subject.CommonName)
	}
}

// A node that reports, and one that has fallen silent, are counted for every
// resource.
func TestInForce(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	node, err := pg.Open(t.Context(), pg.Config{URL: pgtest.URL(t, c.database, "kmip_node")})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	want := func(when string, f api.InForce) {
		t.Helper()
		if got := read[api.Instance](t, c.call(t, "GET", path, ""), http.StatusOK).InForce; got != f {
			t.Errorf("%s: instance in force %+v, want %+v", when, got, f)
		}
		if got := read[api.InstanceCollection](t, c.call(t, "GET", "/v1/instances", ""), http.StatusOK).Instances[0].InForce; got != f {
			t.Errorf("%s: listed in force %+v, want %+v", when, got, f)
		}
	}
	want("without nodes", api.InForce{})
	first, second := pg.NewReports(node, "node-1"), pg.NewReports(node, "node-2")
	report := func(r *pg.Reports) {
		t.Helper()
		s, _, err := pg.NewSource(node).Snapshot(t.Context())
		if err == nil {
			_, err = r.InForce(t.Context(), s.Revision())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	report(first)
	report(second)
	want("both at the newest", api.InForce{Nodes: 2, Total: 2})
	added := read[api.ClientCertificate](t, c.call(t, "POST", path+"/client_certificates",
		object(map[string]any{"name": "vc", "certificate": certificate(t, rsaKey(t, 2048), time.Hour)})), http.StatusCreated)
	if added.InForce != (api.InForce{Total: 2}) {
		t.Errorf("a new certificate: %+v", added.InForce)
	}
	report(first)
	want("one has the certificate", api.InForce{Nodes: 1, Total: 2})
	if got := read[api.ClientCertificateCollection](t, c.call(t, "GET", path+"/client_certificates", ""), http.StatusOK).ClientCertificates[0].InForce; got.Nodes != 1 {
		t.Errorf("the certificate: %+v", got)
	}
	c.sql(t, "UPDATE nodes SET reported_at = now() - interval '1 minute' WHERE name = 'node-2'")
	want("one is silent", api.InForce{Nodes: 1, Total: 2, Unknown: 1})

	c.sql(t, "UPDATE instances SET suspended = true")
	i := read[api.Instance](t, c.call(t, "GET", path, ""), http.StatusOK)
	if !i.Suspended || i.InForce != (api.InForce{Total: 2, Unknown: 1}) {
		t.Errorf("suspended in the database: %+v", i)
	}
}

// Refusals are shown to the account whose instance was addressed, with a
// sentence for every cause that nodes know.
func TestRefusals(t *testing.T) {
	c := start(t)
	mine := c.instance(t, "mine")
	theirs := "/v1/instances/" + read[api.Instance](t, c.as(t, stranger, "POST", "/v1/instances", "{}"), http.StatusAccepted).ID
	if got := c.call(t, "GET", mine+"/refusals", ""); got.body != "{\"refusals\":[]}\n" {
		t.Errorf("without any: %s", got.body)
	}
	node, err := pg.Open(t.Context(), pg.Config{URL: pgtest.URL(t, c.database, "kmip_node")})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	id := func(path string) tenant.ID { return tenant.ID(strings.TrimPrefix(path, "/v1/instances/")) }
	causes := []tenant.Cause{
		tenant.NoCertificate, tenant.UnknownCertificate, tenant.ForeignCertificate, tenant.ExpiredCertificate, tenant.SuspendedTenant,
		tenant.Unconfigured, "no_tls", "too_many_connections_of_tenant", "source_too_fast", "too_many_handshakes",
	}
	counted := map[pg.Refused]pg.Seen{
		{Addressed: id(theirs), Cause: tenant.NoCertificate, Source: netip.MustParseAddr("192.0.2.1")}: {Port: 7001, Times: 5},
		{Cause: tenant.UnknownCertificate, Source: netip.MustParseAddr("192.0.2.2")}:                   {Port: 5696, Times: 5},
		{Addressed: id(mine), Cause: tenant.NoCertificate}:                                             {Port: 7000, Times: 5},
	}
	for _, cause := range causes {
		counted[pg.Refused{Addressed: id(mine), Cause: cause, Source: netip.MustParseAddr("192.0.2.3")}] = pg.Seen{
			ServerName: "x.kmip.test", Port: 7000, Client: tenant.Fingerprint{1}, HasClient: true, Times: 2,
		}
	}
	if err := pg.NewReports(node, "node-1").CountRefused(t.Context(), counted); err != nil {
		t.Fatal(err)
	}
	messages := map[string]bool{}
	for _, r := range read[api.RefusalCollection](t, c.call(t, "GET", mine+"/refusals", ""), http.StatusOK).Refusals {
		messages[r.Message] = true
		if r.Source == nil {
			if r.Count != 5 || r.ClientCertificateFingerprint != nil || r.ServerName != nil {
				t.Errorf("beyond the cap: %+v", r)
			}
			continue
		}
		if *r.Source != "192.0.2.3" || *r.ServerName != "x.kmip.test" || r.Port != 7000 || r.Count != 2 ||
			*r.ClientCertificateFingerprint != (tenant.Fingerprint{1}).String() || r.FirstAt.IsZero() {
			t.Errorf("refusal %+v", r)
		}
	}
	if len(messages) != len(causes) {
		t.Errorf("%d sentences for %d causes: %v", len(messages), len(causes), messages)
	}
	if got := c.call(t, "GET", theirs+"/refusals", ""); got.status != http.StatusNotFound {
		t.Errorf("a foreign instance's: %d %s", got.status, got.body)
	}
}

// sql runs a statement as the database's owner.
func (c *cell) sql(t *testing.T, statement string) {
	t.Helper()
	db, err := pgx.Connect(t.Context(), c.database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	if _, err := db.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}
