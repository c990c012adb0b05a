package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmip-for-vmware/kmip/libs/audit"
	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// fixedSource is a tenant.Source that tests move forward.
type fixedSource struct {
	first  []tenant.Tenant
	deltas chan tenant.Delta
}

func (s *fixedSource) Snapshot(context.Context) (*tenant.Snapshot, []tenant.Quarantined, error) {
	snapshot, quarantined := tenant.NewSnapshot(tenant.Revision{Number: 1}, s.first)
	return snapshot, quarantined, nil
}

func (s *fixedSource) Watch(ctx context.Context, _ tenant.Revision, apply func(tenant.Delta) error) error {
	for {
		select {
		case d := <-s.deltas:
			if err := apply(d); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ports are what a node's server works with.
type ports struct {
	source  tenant.Source
	objects engine.Objects
	wrap    func(responder) responder // nil: as it is
	listen  net.Listener              // nil: a real socket
	vault   *enginetest.Vault         // nil: a fresh one
	offset  int                       // from advertised dedicated ports to bound ones
	disk    *diskCopy                 // nil: none
	events  audit.Sink                // nil: they are left out
	stored  func(context.Context, []pg.KMIPEvents) error
	// ageLimit of the configuration; zero: an hour, and a configuration that is
	// usable is waited for.
	ageLimit time.Duration
}

// cell is a node's server that listens.
type cell struct {
	*server
	address  string
	roots    *x509.CertPool
	vault    *enginetest.Vault
	uses     *uses
	registry *prometheus.Registry
	applied  chan struct{}      // gets a value after each change of the configuration
	stop     context.CancelFunc // ends the node
	ended    chan struct{}      // closed when serve has returned
}

// serveCell starts a server and returns once its first snapshot is in force.
func serveCell(t *testing.T, p ports) *cell {
	t.Helper()
	shown := serverIdentity()
	if p.vault == nil {
		p.vault = enginetest.NewKeyManager()
	}
	used := &uses{tenants: make(map[tenant.ID]*use)}
	c := &cell{roots: shown.roots, vault: p.vault, uses: used, applied: make(chan struct{}, 1), ended: make(chan struct{})}
	log := slog.New(slog.NewJSONHandler(t.Output(), nil))
	c.registry = obs.NewRegistry()
	m := newMetrics(c.registry)
	follow := &configuration{source: p.source, disk: p.disk, ageLimit: p.ageLimit, now: time.Now, log: log, metrics: m}
	if p.ageLimit == 0 {
		follow.ageLimit = time.Hour
	}
	var respond responder = &wire.Responder{
		Engine: engine.New(engine.Config{Objects: p.objects, KeyManagers: counted(c.vault.KeyManagers, m, c.uses), Now: time.Now}),
		Now:    time.Now, Vendor: "test",
	}
	if p.wrap != nil {
		respond = p.wrap(respond)
	}
	c.server = newServer(5696, *shown.must(t), follow, respond, log, m, time.Now)
	c.recorder = newRecorder("us-south", p.events, p.stored, log, m, time.Now)
	c.doors.host, c.doors.offset = "127.0.0.1", p.offset
	follow.replaced = func() {
		c.replaced()
		signal(c.applied)
	}
	if err := c.ready(); err == nil {
		t.Error("ready before a configuration was read")
	}
	l := p.listen
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	c.address = l.Addr().String()
	var ctx context.Context
	ctx, c.stop = context.WithCancel(context.Background())
	var followed sync.WaitGroup
	followed.Go(func() { follow.follow(ctx) })
	<-c.applied
	if err := c.ready(); err != nil && p.ageLimit == 0 {
		t.Error(err)
	}
	go func() {
		defer close(c.ended)
		if err := c.serve(ctx, l); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		c.stop()
		followed.Wait()
		<-c.ended
	})
	return c
}

// scrape returns the metrics as Prometheus reads them: values by name and
// labels.
func scrape(t *testing.T, registry *prometheus.Registry) map[string]string {
	t.Helper()
	answer := httptest.NewRecorder()
	obs.Admin(registry, nil).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	values := make(map[string]string)
	for line := range strings.Lines(answer.Body.String()) {
		line = strings.TrimSpace(line)
		if end := strings.LastIndexByte(line, ' '); end > 0 && line[0] != '#' {
			values[line[:end]] = line[end+1:]
		}
	}
	return values
}

// finalMetrics ends the node, so that what is counted is complete.
func (c *cell) finalMetrics(t *testing.T) map[string]string {
	t.Helper()
	c.stop()
	<-c.ended
	return scrape(t, c.registry)
}

// awaitAdmission waits for a configuration that admits a certificate.
func (c *cell) awaitAdmission(t *testing.T, certificate tenant.Fingerprint) {
	t.Helper()
	for {
		_, _, err := c.configuration.admit(tenant.Arrival{Port: c.port, Client: certificate, HasClient: true}, time.Now())
		if err == nil {
			return
		}
		select {
		case <-c.applied:
		case <-time.After(10 * time.Second):
			t.Fatalf("not admitted: %v", err)
		}
	}
}

// rig is a cell with two tenants, over stand-ins for its ports.
type rig struct {
	*cell
	one, two *tls.Certificate // of tenants one and two
	source   *fixedSource
	tenant   tenant.Tenant // one
	revision int64
}

func newRig(t *testing.T, wrap func(responder) responder) *rig {
	t.Helper()
	return newRigOn(t, nil, wrap)
}

func newRigOn(t *testing.T, l net.Listener, wrap func(responder) responder) *rig {
	t.Helper()
	r := &rig{one: oneIdentity().must(t), two: twoIdentity().must(t), revision: 1}
	r.tenant = newTenant("one", r.one)
	r.tenant.Names = []string{"one.example.com"}
	r.source = &fixedSource{first: []tenant.Tenant{r.tenant, newTenant("two", r.two)}, deltas: make(chan tenant.Delta)}
	r.cell = serveCell(t, ports{source: r.source, objects: enginetest.NewObjects(), wrap: wrap, listen: l})
	return r
}

func newTenant(id tenant.ID, certificate *tls.Certificate) tenant.Tenant {
	return tenant.Tenant{
		ID: id, Shared: true, KeyManager: &tenant.KeyManager{},
		Clients: []tenant.Client{{
			ID: "c-" + string(id), Fingerprint: tenant.FingerprintOf(certificate.Certificate[0]), NotAfter: time.Now().Add(time.Hour),
		}},
	}
}

// change puts a delta in force.
func (r *rig) change(d tenant.Delta) {
	d.After.Number, d.To.Number = r.revision, r.revision+1
	r.revision++
	r.source.deltas <- d
}

// connect dials and discovers versions.
func (c *cell) connect(ctx context.Context, certificate *tls.Certificate) (*client.Conn, error) {
	return c.connectBy(ctx, client.Config{Certificate: certificate})
}

// connectBy is connect with more settings.
func (c *cell) connectBy(ctx context.Context, cfg client.Config) (*client.Conn, error) {
	cfg.Address, cfg.RootCAs, cfg.VerifyName = c.address, c.roots, "localhost"
	conn, err := client.Dial(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if _, err := conn.DiscoverVersions(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (r *rig) mustConnect(t *testing.T) *client.Conn {
	t.Helper()
	return r.mustConnectAs(t, r.one)
}

func (c *cell) mustConnectAs(t *testing.T, certificate *tls.Certificate) *client.Conn {
	t.Helper()
	conn, err := c.connect(t.Context(), certificate)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

var vSphere = []kmip.Attribute{
	{Name: kmip.AttributeCryptographicAlgorithm, Value: kmip.Enum(kmip.AES)},
	{Name: kmip.AttributeCryptographicUsageMask, Value: kmip.Int(12)},
	{Name: kmip.AttributeCryptographicLength, Value: kmip.Int(256)},
}

// discover is a Request Message of KMIP 1.1 with a lone Discover Versions.
const discover = "\x42\x00\x78\x01\x00\x00\x00\x60" +
	"\x42\x00\x77\x01\x00\x00\x00\x38" +
	"\x42\x00\x69\x01\x00\x00\x00\x20" +
	"\x42\x00\x6a\x02\x00\x00\x00\x04\x00\x00\x00\x01\x00\x00\x00\x00" +
	"\x42\x00\x6b\x02\x00\x00\x00\x04\x00\x00\x00\x01\x00\x00\x00\x00" +
	"\x42\x00\x0d\x02\x00\x00\x00\x04\x00\x00\x00\x01\x00\x00\x00\x00" +
	"\x42\x00\x0f\x01\x00\x00\x00\x18" +
	"\x42\x00\x5c\x05\x00\x00\x00\x04\x00\x00\x00\x1e\x00\x00\x00\x00" +
	"\x42\x00\x79\x01\x00\x00\x00\x00"

// readFrame reads one message and leaves it out.
func readFrame(t *testing.T, r io.Reader) {
	t.Helper()
	if _, err := message.Read(r, maxRequest); err != nil {
		t.Fatalf("no answer: %v", err)
	}
}

// raw opens an admitted connection for bytes of the test's own. With TLS 1.3
// only the answer to a request shows that it is admitted.
func (c *cell) raw(t *testing.T, certificate *tls.Certificate) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", c.address, &tls.Config{
		RootCAs: c.roots, ServerName: "localhost", MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*certificate},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, discover); err != nil {
		t.Fatal(err)
	}
	readFrame(t, conn)
	return conn
}

// exchange writes bytes to a plain connection, ends its side and reads to the end.
func (c *cell) exchange(t *testing.T, bytes string) string {
	t.Helper()
	conn, err := net.Dial("tcp", c.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, bytes); err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(conn)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatalf("%.10q: %v", bytes, err)
	}
	return string(got)
}

// respondFunc calls before ahead of every request.
type respondFunc struct {
	responder
	before func(context.Context)
}

func (f respondFunc) Respond(ctx context.Context, t *tenant.Tenant, s *wire.Session, request []byte) wire.Response {
	f.before(ctx)
	return f.responder.Respond(ctx, t, s, request)
}

// held lets tests stop one request in the middle.
type held struct {
	next      atomic.Bool // hold the next request
	answering chan context.Context
	release   chan struct{}
}

func newHeld() *held {
	return &held{answering: make(chan context.Context), release: make(chan struct{})}
}

func (h *held) wrap(next responder) responder {
	return respondFunc{next, func(ctx context.Context) {
		if h.next.CompareAndSwap(true, false) {
			h.answering <- ctx
			<-h.release
		}
	}}
}
