package node

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// advertised is a dedicated port that no test listens on: an offset leads to a
// free one.
const advertised = 7000

var loopback = netip.MustParseAddr("127.0.0.1")

// dedicatedRig is a cell with tenant one at the shared endpoint and tenant two
// at an endpoint of its own.
type dedicatedRig struct {
	*rig
	second tenant.Tenant
	door   string // address of tenant two's own port
}

func newDedicatedRig(t *testing.T) *dedicatedRig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().(*net.TCPAddr).Port
	l.Close()
	r := &rig{one: oneIdentity().must(t), two: twoIdentity().must(t), revision: 1}
	r.tenant = newTenant("one", r.one)
	second := newTenant("two", r.two)
	second.Shared, second.Names, second.Ports = false, []string{"two.example.com"}, []uint16{advertised}
	second.ServerCertificates = map[string][]byte{"two.example.com": leafFor(t, "two.example.com", serverIdentity())}
	r.source = &fixedSource{first: []tenant.Tenant{r.tenant, second}, deltas: make(chan tenant.Delta)}
	r.cell = serveCell(t, ports{source: r.source, objects: enginetest.NewObjects(), offset: free - advertised})
	r.awaitRevision(t, 1)
	return &dedicatedRig{r, second, net.JoinHostPort("127.0.0.1", strconv.Itoa(free))}
}

// leafFor signs a leaf over a server's own key.
func leafFor(t *testing.T, name string, over identity) []byte {
	t.Helper()
	own := over.must(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	parent, err := x509.ParseCertificate(own.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, parent.PublicKey, own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// awaitRevision waits until a revision is in force, ports included.
func (c *cell) awaitRevision(t *testing.T, number int64) {
	t.Helper()
	for {
		if at := c.inForce.Load(); at != nil && at.Number >= number {
			return
		}
		select {
		case <-c.told:
		case <-time.After(10 * time.Second):
			t.Fatalf("revision %d is not in force", number)
		}
	}
}

// connectAt connects to an address with a certificate and a server name.
func (r *dedicatedRig) connectAt(t *testing.T, cfg client.Config) error {
	t.Helper()
	cfg.RootCAs, cfg.VerifyName = r.roots, ""
	conn, err := client.Dial(t.Context(), cfg)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.DiscoverVersions(t.Context())
	return err
}

func TestDedicatedPort(t *testing.T) {
	r := newDedicatedRig(t)
	for name, c := range map[string]struct {
		cfg  client.Config
		want string // cause; empty: admitted
	}{
		"own port without SNI":                  {client.Config{Address: r.door, Certificate: r.two}, ""},
		"own port with its name":                {client.Config{Address: r.door, ServerName: "two.example.com", Certificate: r.two}, ""},
		"own port with any name":                {client.Config{Address: r.door, ServerName: "kmip-1.example.com", Certificate: r.two}, ""},
		"shared port with its name":             {client.Config{Address: r.address, ServerName: "two.example.com", Certificate: r.two}, ""},
		"shared port without SNI":               {client.Config{Address: r.address, Certificate: r.two}, "not_shared"},
		"shared port with another name":         {client.Config{Address: r.address, ServerName: "kmip-1.example.com", Certificate: r.two}, "not_shared"},
		"the other tenant at its port":          {client.Config{Address: r.door, Certificate: r.one}, "foreign_certificate"},
		"the other tenant at its name":          {client.Config{Address: r.address, ServerName: "two.example.com", Certificate: r.one}, "foreign_certificate"},
		"the other tenant at its port and name": {client.Config{Address: r.door, ServerName: "two.example.com", Certificate: r.one}, "foreign_certificate"},
		"the other tenant at the shared port":   {client.Config{Address: r.address, Certificate: r.one}, ""},
		"nobody at its port":                    {client.Config{Address: r.door}, "no_certificate"},
	} {
		if err := r.connectAt(t, c.cfg); (err == nil) != (c.want == "") {
			t.Errorf("%s: %v, want cause %q", name, err, c.want)
		}
	}
	r.finalMetrics(t)
	got := r.refusals.take()
	want := map[pg.Refused]int64{
		{Cause: tenant.NotShared, Source: loopback}:                            2,
		{Addressed: "two", Cause: tenant.ForeignCertificate, Source: loopback}: 3,
		{Addressed: "two", Cause: tenant.NoCertificate, Source: loopback}:      1,
	}
	for who, times := range want {
		if got[who].Times != times {
			t.Errorf("%+v on record %d times, want %d", who, got[who].Times, times)
		}
	}
	if len(got) != len(want) {
		t.Errorf("on record: %+v", got)
	}
	foreign := got[pg.Refused{Addressed: "two", Cause: tenant.ForeignCertificate, Source: loopback}]
	if !foreign.HasClient || foreign.Client != tenant.FingerprintOf(r.one.Certificate[0]) || foreign.Port != 5696 && foreign.Port != advertised {
		t.Errorf("the latest foreign certificate: %+v", foreign)
	}
}

// TestOwnServerCertificate asks for a tenant's own name, for others and none.
func TestOwnServerCertificate(t *testing.T) {
	r := newDedicatedRig(t)
	for name, want := range map[string]string{
		"two.example.com": "two.example.com", "TWO.example.com": "two.example.com", "": "localhost", "kmip-1.example.com": "localhost",
	} {
		for _, address := range []string{r.address, r.door} {
			chain, err := client.FetchCertificates(t.Context(), client.Config{Address: address, ServerName: name})
			if err != nil || chain[0].Subject.CommonName != want {
				t.Errorf("with SNI %q at %s: %v, %v; want %s", name, address, chain, err, want)
			}
		}
	}
	// One over a key that the node does not hold is not shown.
	strange := r.second
	strange.ServerCertificates = map[string][]byte{"two.example.com": leafFor(t, "two.example.com", newServerIdentity())}
	r.change(tenant.Delta{Changed: []tenant.Tenant{strange}})
	r.awaitRevision(t, 2)
	chain, err := client.FetchCertificates(t.Context(), client.Config{Address: r.door, ServerName: "two.example.com"})
	if err != nil || chain[0].Subject.CommonName != "localhost" {
		t.Errorf("with a leaf over another key: %v, %v", chain, err)
	}
	if err := r.connectAt(t, client.Config{Address: r.door, ServerName: "two.example.com", Certificate: r.two}); err != nil {
		t.Errorf("the tenant is not served: %v", err)
	}
}

// TestDoorsFollowTheConfiguration closes a tenant's port with the tenant, open
// connections included, and opens it again.
func TestDoorsFollowTheConfiguration(t *testing.T) {
	r := newDedicatedRig(t)
	conn, err := client.Dial(t.Context(), client.Config{Address: r.door, RootCAs: r.roots, Certificate: r.two})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.DiscoverVersions(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.change(tenant.Delta{Removed: []tenant.ID{"two"}})
	r.awaitRevision(t, 2)
	if _, err := conn.DiscoverVersions(t.Context()); err == nil {
		t.Error("an open connection of a removed tenant is served")
	}
	var refused *net.OpError
	if err := r.connectAt(t, client.Config{Address: r.door, Certificate: r.two}); !errors.As(err, &refused) || refused.Op != "dial" {
		t.Errorf("the port of a removed tenant: %v, want that nobody listens", err)
	}
	r.change(tenant.Delta{Changed: []tenant.Tenant{r.second}})
	r.awaitRevision(t, 3)
	if err := r.connectAt(t, client.Config{Address: r.door, Certificate: r.two}); err != nil {
		t.Errorf("the port of a tenant that is there again: %v", err)
	}
	r.stop()
	<-r.ended
	if err := r.connectAt(t, client.Config{Address: r.door, Certificate: r.two}); !errors.As(err, &refused) || refused.Op != "dial" {
		t.Errorf("after the node's end: %v, want that nobody listens", err)
	}
}

// TestDoorIsTaken lets another program hold a tenant's port: everything else
// is served, it is told, and the port is opened once it is free.
func TestDoorIsTaken(t *testing.T) {
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	port := held.Addr().(*net.TCPAddr).Port
	two := twoIdentity().must(t)
	second := newTenant("two", two)
	second.Ports = []uint16{uint16(port)}
	source := &fixedSource{first: []tenant.Tenant{second}, deltas: make(chan tenant.Delta)}
	c := serveCell(t, ports{source: source, objects: enginetest.NewObjects()})
	c.awaitRevision(t, 1)
	c.mustConnectAs(t, two)
	if got := scrape(t, c.registry)[`kmip_dedicated_ports{state="missing"}`]; got != "1" {
		t.Errorf("%q ports are missing, want 1", got)
	}
	held.Close()
	source.deltas <- tenant.Delta{After: tenant.Revision{Number: 1}, To: tenant.Revision{Number: 2}}
	c.awaitRevision(t, 2)
	conn, err := client.Dial(t.Context(), client.Config{Address: held.Addr().String(), RootCAs: c.roots, Certificate: two})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.DiscoverVersions(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRefusalsInMemoryAreBounded counts more kinds than are told apart.
func TestRefusalsInMemoryAreBounded(t *testing.T) {
	r := refusals{counted: make(map[pg.Refused]pg.Seen)}
	address := netip.MustParseAddr("10.0.0.1")
	for range 2 * maxRefusals {
		r.add(map[pg.Refused]pg.Seen{{Cause: tenant.NoCertificate, Source: address}: {Port: 5696, Times: 1}})
		address = address.Next()
	}
	all := r.take()
	total := int64(0)
	for _, seen := range all {
		total += seen.Times
	}
	if len(all) != maxRefusals+1 || total != 2*maxRefusals || all[pg.Refused{Cause: tenant.NoCertificate}].Times != maxRefusals {
		t.Errorf("%d kinds, %d in all", len(all), total)
	}
	if len(r.take()) != 0 {
		t.Error("what was taken is still there")
	}
}
