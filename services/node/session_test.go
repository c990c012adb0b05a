package node

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// removed is tenant one without its certificate.
func (r *rig) removed() tenant.Delta {
	one := r.tenant
	one.Clients = nil
	return tenant.Delta{Changed: []tenant.Tenant{one}}
}

func TestRemovedCertificateLosesItsConnections(t *testing.T) {
	h := newHeld()
	r := newRig(t, h.wrap)
	busy, other := r.mustConnect(t), r.mustConnectAs(t, r.two)
	idle := r.raw(t, r.one)
	began := time.Now()
	h.next.Store(true)
	finished := make(chan error, 1)
	go func() {
		_, err := busy.Create(t.Context(), vSphere...)
		finished <- err
	}()
	<-h.answering
	r.change(r.removed())
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection outlives its certificate: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second { // the idle limit is 30 s
		t.Errorf("it was closed after %s", took)
	}
	close(h.release)
	if err := <-finished; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	if _, err := busy.DiscoverVersions(t.Context()); err == nil {
		t.Error("a busy connection outlives its certificate by more than one request")
	}
	if _, err := r.connect(t.Context(), r.one); err == nil {
		t.Error("a removed certificate opens a connection")
	}
	if _, err := other.DiscoverVersions(t.Context()); err != nil {
		t.Errorf("another tenant: %v", err)
	}
}

// TestRefusedAtTheNextRequest removes a certificate without the walk over the
// sessions: each request is admitted anew.
func TestRefusedAtTheNextRequest(t *testing.T) {
	r := newRig(t, nil)
	conn := r.mustConnect(t)
	gone, _, err := r.configuration.current.Load().Apply(tenant.Delta{
		After: tenant.Revision{Number: 1}, To: tenant.Revision{Number: 2}, Removed: []tenant.ID{"one"},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.configuration.current.Store(gone)
	if _, err := conn.DiscoverVersions(t.Context()); err == nil {
		t.Error("a deleted instance is served")
	}
}

func TestPanicEndsItsConnectionAlone(t *testing.T) {
	panics := atomic.Bool{}
	r := newRig(t, func(next responder) responder {
		return respondFunc{next, func(context.Context) {
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
	if n := r.finalMetrics(t)["kmip_connection_panics_total"]; n != "1" {
		t.Errorf("%q panics counted", n)
	}
}

// TestClientLeaves calls a request off when its client goes away.
func TestClientLeaves(t *testing.T) {
	h := newHeld()
	r := newRig(t, h.wrap)
	conn := r.mustConnect(t)
	h.next.Store(true)
	go func() { _, _ = conn.DiscoverVersions(t.Context()) }()
	ctx := <-h.answering
	if err := ctx.Err(); err != nil {
		t.Errorf("called off before the client left: %v", err)
	}
	conn.Close()
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second): // the request's own deadline is 30 s
		t.Error("a request goes on without its client")
	}
	close(h.release)
}

func TestDrainFinishesWhatIsUnderWay(t *testing.T) {
	h := newHeld()
	r := newRig(t, h.wrap)
	busy, idle := r.mustConnect(t), r.raw(t, r.one)
	h.next.Store(true)
	finished := make(chan error, 1)
	go func() {
		_, err := busy.Create(t.Context(), vSphere...)
		finished <- err
	}()
	<-h.answering
	r.stop()
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection at shutdown: %v", err)
	}
	if err := r.ready(); err == nil {
		t.Error("ready during shutdown")
	}
	close(h.release)
	if err := <-finished; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	<-r.ended
	if got := r.vault.Stored(); got != 1 {
		t.Errorf("%d keys stored, want 1", got)
	}
	if _, err := r.connect(t.Context(), r.one); err == nil {
		t.Error("a node that has ended takes connections")
	}
}

// TestNonsense sends what is no KMIP over an admitted connection: the answer
// is a failure or the end of the connection, and nothing is allocated for a
// length that is only claimed.
func TestNonsense(t *testing.T) {
	r := newRig(t, nil)
	for name, bytes := range map[string]string{
		"HTTP":             "GET / HTTP/1.1\r\nHost: kmip\r\n\r\n",
		"a huge length":    "\x42\x00\x78\x01\xff\xff\xff\xf8",
		"over the limit":   "\x42\x00\x78\x01\x00\x10\x00\x00",
		"an empty message": "\x42\x00\x78\x01\x00\x00\x00\x00",
	} {
		conn := r.raw(t, r.one)
		// What follows the nonsense must not cost the client the answer.
		if _, err := io.WriteString(conn, bytes+strings.Repeat("x", 20_000)); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(got), "\x42\x00\x7b") {
			t.Errorf("%s: answered with %x, %v", name, got, err)
		}
	}
	r.mustConnect(t)
}

// TestPipelined sends two requests at once: they are answered in order.
func TestPipelined(t *testing.T) {
	r := newRig(t, nil)
	conn := r.raw(t, r.one)
	if _, err := io.WriteString(conn, discover+discover); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		readFrame(t, conn)
	}
	if n := r.finalMetrics(t)[`kmip_batch_items_total{operation="Discover Versions",result="success",tenant="one"}`]; n != "3" { // one of raw
		t.Errorf("%q requests counted", n)
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
