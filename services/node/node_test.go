package node

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
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

// rig is a node's server on a real socket, over stand-ins for its ports.
type rig struct {
	*server
	address string
	roots   *x509.CertPool
	one     *tls.Certificate // of tenant one
	source  *fixedSource
	tenant  tenant.Tenant
	vault   *enginetest.Vault
	stop    func()     // ends the node
	ended   chan error // what serve returned
}

func newRig(t *testing.T, wrap func(responder) responder) *rig {
	t.Helper()
	leaf, roots := serverCertificate(t)
	one := clientCertificate(t)
	r := &rig{roots: roots, one: one, vault: enginetest.NewKeyManager(), ended: make(chan error, 1)}
	r.tenant = tenant.Tenant{
		ID: "one", Shared: true, KeyManager: &tenant.KeyManager{},
		Clients: []tenant.Client{{ID: "c", Fingerprint: tenant.FingerprintOf(one.Certificate[0]), NotAfter: time.Now().Add(time.Hour)}},
	}
	r.source = &fixedSource{first: []tenant.Tenant{r.tenant}, deltas: make(chan tenant.Delta)}
	log := slog.New(slog.NewJSONHandler(t.Output(), nil))
	m := newMetrics(obs.NewRegistry())
	follow := &configuration{source: r.source, log: log, metrics: m}
	var respond responder = &wire.Responder{
		Engine: engine.New(engine.Config{Objects: enginetest.NewObjects(), KeyManagers: r.vault.KeyManagers, Now: time.Now}),
		Now:    time.Now, Vendor: "test",
	}
	if wrap != nil {
		respond = wrap(respond)
	}
	r.server = newServer(5696, leaf, follow, respond, log, m, time.Now)
	inForce := make(chan struct{})
	var once sync.Once
	follow.replaced = func(s *tenant.Snapshot) {
		r.replaced(s)
		once.Do(func() { close(inForce) })
	}
	ctx, cancel := context.WithCancel(context.Background())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	if err := r.ready(); err == nil {
		t.Error("ready before a configuration was read")
	}
	followed := make(chan struct{})
	go func() { follow.follow(ctx); close(followed) }()
	<-inForce
	go func() { r.ended <- r.serve(ctx, l) }()
	var stopOnce sync.Once
	r.stop = func() { stopOnce.Do(cancel) }
	t.Cleanup(func() {
		r.stop()
		<-followed
		select {
		case err := <-r.ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the node did not stop")
		}
	})
	return r
}

func serverCertificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: parsed}, roots
}

func clientCertificate(t *testing.T) *tls.Certificate {
	t.Helper()
	certPEM, keyPEM, err := client.NewCertificate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

// connect dials and discovers versions.
func (r *rig) connect(ctx context.Context, certificate *tls.Certificate) (*client.Conn, error) {
	conn, err := client.Dial(ctx, client.Config{Address: r.address, RootCAs: r.roots, VerifyName: "localhost", Certificate: certificate})
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
	conn, err := r.connect(t.Context(), r.one)
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

func TestRefusedAtTheDoor(t *testing.T) {
	r := newRig(t, nil)
	for name, certificate := range map[string]*tls.Certificate{"no certificate": nil, "unknown": clientCertificate(t)} {
		if conn, err := r.connect(t.Context(), certificate); err == nil {
			conn.Close()
			t.Errorf("%s: admitted", name)
		}
	}
	for name, bytes := range map[string]string{"HTTP": "GET / HTTP/1.1\r\n\r\n", "garbage": "\xff\x00\xff\x00", "nothing": ""} {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(conn, bytes)
		_ = conn.(*net.TCPConn).CloseWrite()
		if got, _ := io.ReadAll(conn); len(got) > 64 || strings.Contains(string(got), "HTTP") {
			t.Errorf("%s was answered with %q", name, got)
		}
		conn.Close()
	}
	r.mustConnect(t)
}

// TestSlowHandshakeHoldsUpNobody leaves connections open without a byte.
func TestSlowHandshakeHoldsUpNobody(t *testing.T) {
	r := newRig(t, nil)
	for range 20 {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if _, err := r.mustConnect(t).Create(t.Context(), vSphere...); err != nil {
		t.Error(err)
	}
}

func TestRemovedCertificateLosesItsConnections(t *testing.T) {
	answering, release := make(chan struct{}), make(chan struct{})
	hold := atomic.Bool{}
	r := newRig(t, func(next responder) responder {
		return respondFunc{next, func() {
			if hold.CompareAndSwap(true, false) {
				close(answering)
				<-release
			}
		}}
	})
	idle, busy := r.mustConnect(t), r.mustConnect(t)
	hold.Store(true)
	finished := make(chan error, 1)
	go func() {
		_, err := busy.Create(t.Context(), vSphere...)
		finished <- err
	}()
	<-answering
	removed := r.tenant
	removed.Clients = nil
	r.source.deltas <- tenant.Delta{After: tenant.Revision{Number: 1}, To: tenant.Revision{Number: 2}, Changed: []tenant.Tenant{removed}}
	if _, err := idle.DiscoverVersions(t.Context()); err == nil {
		t.Error("an idle connection outlives its certificate")
	}
	close(release)
	if err := <-finished; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	if _, err := busy.DiscoverVersions(t.Context()); err == nil {
		t.Error("a busy connection outlives its certificate by more than one request")
	}
	if _, err := r.connect(t.Context(), r.one); err == nil {
		t.Error("a removed certificate opens a connection")
	}
}

// respondFunc calls before ahead of every request.
type respondFunc struct {
	responder
	before func()
}

func (f respondFunc) Respond(ctx context.Context, t *tenant.Tenant, request []byte) wire.Response {
	f.before()
	return f.responder.Respond(ctx, t, request)
}

func TestPanicEndsItsConnectionAlone(t *testing.T) {
	panics := atomic.Bool{}
	r := newRig(t, func(next responder) responder {
		return respondFunc{next, func() {
			if panics.CompareAndSwap(true, false) {
				panic("a mistake")
			}
		}}
	})
	other := r.mustConnect(t)
	victim := r.mustConnect(t)
	panics.Store(true)
	if _, err := victim.DiscoverVersions(t.Context()); err == nil {
		t.Error("the request that panicked was answered")
	}
	if _, err := other.DiscoverVersions(t.Context()); err != nil {
		t.Errorf("another connection: %v", err)
	}
}

func TestDrainFinishesWhatIsUnderWay(t *testing.T) {
	answering, release := make(chan struct{}), make(chan struct{})
	hold := atomic.Bool{}
	r := newRig(t, func(next responder) responder {
		return respondFunc{next, func() {
			if hold.CompareAndSwap(true, false) {
				close(answering)
				<-release
			}
		}}
	})
	busy := r.mustConnect(t)
	hold.Store(true)
	finished := make(chan error, 1)
	go func() {
		_, err := busy.Create(t.Context(), vSphere...)
		finished <- err
	}()
	<-answering
	r.stop()
	close(release)
	if err := <-finished; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	r.ended <- nil
	if err := r.ready(); err == nil {
		t.Error("ready after the end")
	}
	if got := r.vault.Stored(); got != 1 {
		t.Errorf("%d keys stored, want 1", got)
	}
}

func TestParallelConnections(t *testing.T) {
	r := newRig(t, nil)
	const clients = 50 // below the burst of one source
	results := make(chan error, clients)
	for range clients {
		go func() {
			conn, err := r.connect(t.Context(), r.one)
			if err == nil {
				_, err = conn.Create(t.Context(), vSphere...)
				conn.Close()
			}
			results <- err
		}()
	}
	for range clients {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestOneSourceIsSlowedDown(t *testing.T) {
	s := sources{seen: make(map[netip.Addr]*rate.Limiter)}
	now := time.Now()
	a, b := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")
	for i := range sourceBurst {
		if !s.allow(a, now) {
			t.Fatalf("refused at connection %d", i)
		}
	}
	if s.allow(a, now) {
		t.Error("a flood is not refused")
	}
	if !s.allow(b, now) {
		t.Error("a flood from one source refuses another")
	}
	if !s.allow(a, now.Add(time.Second)) {
		t.Error("the allowance does not come back")
	}
}

func TestTurns(t *testing.T) {
	s := turns{tenants: make(map[tenant.ID]*turn)}
	forever, never := make(chan struct{}), make(chan struct{})
	close(never)
	var leave []func()
	for range tenantRequests {
		leave = append(leave, s.take("one", forever))
	}
	if s.take("one", never) != nil {
		t.Error("more requests at once than a tenant may have")
	}
	other := s.take("two", never)
	if other == nil {
		t.Fatal("one tenant's requests hold up another")
	}
	waiting := make(chan func())
	go func() { waiting <- s.take("one", forever) }()
	leave[0]()
	next := <-waiting
	for _, f := range append(leave[1:], next, other) {
		f()
	}
	if len(s.tenants) != 0 {
		t.Errorf("%d tenants remembered without requests", len(s.tenants))
	}
}

func TestConfigNamesEverythingMissing(t *testing.T) {
	err := Config{Listen: "5696"}.check()
	for _, name := range []string{"DATABASE_URL", "KMIP_TLS_CERTIFICATE_FILE", "KMIP_TLS_KEY_FILE", "KMIP_KEY_MANAGER_ENDPOINTS", "KMIP_SEALING_KEYS_FILE", "KMIP_LISTEN"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named in %v", name, err)
		}
	}
}
