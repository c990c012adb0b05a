package node

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// TestRefusedAlike turns away every kind of stranger: outside all look the
// same, inside each has its cause. The alert arrives with TLS 1.3 as well,
// where the client has sent its first request already.
func TestRefusedAlike(t *testing.T) {
	r := newRig(t, nil)
	suspended := newTenant("suspended", clientCertificate(t))
	suspended.Suspended = true
	third := clientCertificate(t)
	suspended.Clients[0].Fingerprint = tenant.FingerprintOf(third.Certificate[0])
	r.change(tenant.Delta{Changed: []tenant.Tenant{suspended}})
	r.change(tenant.Delta{}) // returns once the one before is in force

	strangers := map[string]client.Config{
		"no_certificate":      {},
		"unknown_certificate": {Certificate: clientCertificate(t)},
		"foreign_certificate": {Certificate: r.two, ServerName: "one.example.com"},
		"suspended":           {Certificate: third},
	}
	for _, most := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for cause, cfg := range strangers {
			cfg.TLSMax = most
			conn, err := r.connectBy(t.Context(), cfg)
			if err == nil {
				conn.Close()
				t.Errorf("%s: admitted with %s", cause, tls.VersionName(most))
				continue
			}
			var alert tls.AlertError
			if !errors.As(err, &alert) && !strings.Contains(err.Error(), "remote error: tls: bad certificate") {
				t.Errorf("%s, %s: %v; want the alert bad certificate", cause, tls.VersionName(most), err)
			}
			cfg.Address = r.address
			chain, err := client.FetchCertificates(t.Context(), cfg)
			if err != nil || chain[0].Subject.CommonName != "localhost" {
				t.Errorf("%s, %s: the server's certificate is not shown: %v", cause, tls.VersionName(most), err)
			}
		}
		conn, err := r.connectBy(t.Context(), client.Config{Certificate: r.one, ServerName: "one.example.com", TLSMax: most})
		if err != nil {
			t.Fatalf("the tenant itself: %v", err)
		}
		conn.Close()
	}
	counted := r.finalMetrics(t)
	for cause := range strangers {
		if n := counted[`kmip_handshakes_total{outcome="`+cause+`"}`]; n != "4" {
			t.Errorf("%s was counted %q times, want 4", cause, n)
		}
	}
}

// TestCertificateNeedsItsKey shows a registered certificate, as anybody may
// have seen it, over another key.
func TestCertificateNeedsItsKey(t *testing.T) {
	r := newRig(t, nil)
	stolen := &tls.Certificate{Certificate: r.one.Certificate, PrivateKey: clientCertificate(t).PrivateKey}
	if conn, err := r.connect(t.Context(), stolen); err == nil {
		conn.Close()
		t.Error("admitted without the certificate's key")
	}
}

func TestNoTLS(t *testing.T) {
	r := newRig(t, nil)
	for name, bytes := range map[string]string{
		"HTTP": "GET / HTTP/1.1\r\nHost: kmip\r\n\r\n", "garbage": "\xff\x00\xff\x00" + strings.Repeat("garbage", 1000),
		"KMIP without TLS": "\x42\x00\x78\x01\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00",
		"half a record":    "\x16\x03\x01\x02\x00\x01", "nothing": "",
	} {
		if got := r.exchange(t, bytes); len(got) > 64 || strings.Contains(got, "HTTP") {
			t.Errorf("%s was answered with %q", name, got)
		}
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

// TestParallelConnections opens more at once than the burst of one source:
// some wait for their turn, all are served.
func TestParallelConnections(t *testing.T) {
	r := newRig(t, nil)
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			conn, err := r.connect(t.Context(), r.one)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if _, err = conn.Create(t.Context(), vSphere...); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := r.vault.Stored(); n != 100 {
		t.Errorf("%d keys stored, want 100", n)
	}
}

func TestSourceIsSlowedDown(t *testing.T) {
	s := sources{seen: make(map[netip.Addr]*source)}
	now := time.Now()
	a, b := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	enter := func(from netip.Addr) (time.Duration, string) {
		wait, refused := s.enter(from, now)
		if refused == "" {
			s.leave(from)
		}
		return wait, refused
	}
	for i := range sourceBurst {
		if wait, refused := enter(a); wait > 0 || refused != "" {
			t.Fatalf("connection %d: waits %s, refused %q", i, wait, refused)
		}
	}
	for i := range int(sourceRate * sourceWait / time.Second) {
		if wait, refused := enter(a); wait <= 0 || wait > sourceWait || refused != "" {
			t.Fatalf("connection %d over the burst: waits %s, refused %q", i, wait, refused)
		}
	}
	if _, refused := enter(a); refused != "source_too_fast" {
		t.Errorf("a flood: refused %q", refused)
	}
	if wait, refused := enter(b); wait > 0 || refused != "" {
		t.Errorf("a flood holds up another source: waits %s, refused %q", wait, refused)
	}
	now = now.Add(sourceWait + 2*time.Second)
	if wait, refused := enter(a); wait > 0 || refused != "" {
		t.Errorf("the allowance does not come back: waits %s, refused %q", wait, refused)
	}
}

func TestSourceAtTheDoor(t *testing.T) {
	s := sources{seen: make(map[netip.Addr]*source)}
	now := time.Now()
	a := netip.MustParseAddr("192.0.2.2")
	for range sourceDoor {
		if _, refused := s.enter(a, now); refused != "" {
			t.Fatal(refused)
		}
		now = now.Add(time.Second)
	}
	if _, refused := s.enter(a, now); refused != "too_many_handshakes_of_source" {
		t.Errorf("refused %q", refused)
	}
	s.leave(a)
	if _, refused := s.enter(a, now); refused != "" {
		t.Errorf("after one has left: %s", refused)
	}
}

func TestSourcesAreForgotten(t *testing.T) {
	s := sources{seen: make(map[netip.Addr]*source)}
	now := time.Now()
	for i := range maxSources {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if _, refused := s.enter(a, now); refused != "" {
			t.Fatal(refused)
		}
		s.leave(a)
	}
	more := netip.MustParseAddr("192.0.2.2")
	if _, refused := s.enter(more, now); refused != "too_many_sources" {
		t.Errorf("refused %q", refused)
	}
	if _, refused := s.enter(more, now.Add(2*time.Second)); refused != "" || len(s.seen) != 1 {
		t.Errorf("refused %q, %d sources remembered", refused, len(s.seen))
	}
}

func TestSourceOf(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::",
	} {
		if got := sourceOf(netip.MustParseAddr(address)); got.String() != want {
			t.Errorf("%s is charged to %s", address, got)
		}
	}
}

func TestTenantsConnectionsAreBounded(t *testing.T) {
	r := newRig(t, nil)
	r.mu.Lock()
	r.admitted["one"] = tenantConnections
	r.mu.Unlock()
	if conn, err := r.connect(t.Context(), r.one); err == nil {
		conn.Close()
		t.Error("a tenant has more connections than it may have")
	}
	r.mustConnectAs(t, r.two)
}

// TestEverythingIsGivenBack ends connections in several ways.
func TestEverythingIsGivenBack(t *testing.T) {
	r := newRig(t, nil)
	r.mustConnect(t).Close()
	r.exchange(t, "GET / HTTP/1.1\r\n\r\n")
	if conn, err := r.connect(t.Context(), nil); err == nil {
		conn.Close()
		t.Error("admitted without a certificate")
	}
	counted := r.finalMetrics(t)
	if len(r.sessions) != 0 || len(r.admitted) != 0 || r.sources.door != 0 {
		t.Errorf("left: %d sessions, %v admitted, %d at the door", len(r.sessions), r.admitted, r.sources.door)
	}
	if n := counted["kmip_connections"]; n != "0" {
		t.Errorf("%q connections are counted as open", n)
	}
}
