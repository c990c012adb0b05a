package node

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire"
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

// TestTurns holds the bounds of two tenants: neither takes from the other, and
// changes nothing from reads.
func TestTurns(t *testing.T) {
	s := turns{lines: make(map[line]*turn)}
	never := make(chan struct{})
	close(never)
	var finish []func()
	fill := func(l line, n int) {
		t.Helper()
		for range n {
			f, err := s.take(l, never)
			if err != nil {
				t.Fatalf("%+v: %v", l, err)
			}
			finish = append(finish, f)
		}
		if _, err := s.take(l, never); err == nil {
			t.Errorf("%+v: more than %d at once", l, n)
		}
	}
	for _, id := range []tenant.ID{"one", "two"} {
		fill(line{id, true}, tenantChanges)
		fill(line{id, false}, tenantReads)
	}
	for _, f := range finish {
		f()
	}
	if len(s.lines) != 0 || s.changes != 0 {
		t.Errorf("%d lines and %d changes remembered without requests", len(s.lines), s.changes)
	}
}

// TestTurnsInOrder fills a line and its queue: who waits is served in the order
// of coming, and who comes then is turned away.
func TestTurnsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := turns{lines: make(map[line]*turn)}
		l, forever := line{"one", true}, make(chan struct{})
		var running []func()
		for range tenantChanges {
			f, err := s.take(l, forever)
			if err != nil {
				t.Fatal(err)
			}
			running = append(running, f)
		}
		served := make(chan int, tenantChangesQueued)
		for n := range tenantChangesQueued {
			go func() {
				f, err := s.take(l, forever)
				if err != nil {
					t.Error(err)
					return
				}
				served <- n
				f()
			}()
			synctest.Wait()
		}
		if _, err := s.take(l, forever); !errors.Is(err, errChangesQueued) {
			t.Errorf("with a full queue: %v", err)
		}
		running[0]()
		for n := range tenantChangesQueued {
			if got := <-served; got != n {
				t.Errorf("number %d was served where %d was next", got, n)
			}
		}
	})
}

// TestNodeSheds lets many tenants make changes: those of a further one are
// turned away, its reads are not.
func TestNodeSheds(t *testing.T) {
	s, never := turns{lines: make(map[line]*turn)}, make(chan struct{})
	close(never)
	var last func()
	for n := range nodeChanges {
		f, err := s.take(line{tenant.ID(strconv.Itoa(n / tenantChanges)), true}, never)
		if err != nil {
			t.Fatal(err)
		}
		last = f
	}
	if _, err := s.take(line{"further", true}, never); !errors.Is(err, errNodeChanges) {
		t.Errorf("a change on a loaded node: %v", err)
	}
	if _, err := s.take(line{"further", false}, never); err != nil {
		t.Errorf("a read on a loaded node: %v", err)
	}
	last()
	if _, err := s.take(line{"further", true}, never); err != nil {
		t.Errorf("a change after another has ended: %v", err)
	}
}

// TestCreatesDelayNoGet floods a tenant's changes through the socket, each of
// which hangs: the tenant's reads are answered, and the other tenant's changes.
func TestCreatesDelayNoGet(t *testing.T) {
	const creating = tenantChanges + 8
	began, release := make(chan struct{}, creating), make(chan struct{})
	r := newRig(t, func(next responder) responder {
		return respondTo{next, func(t *tenant.Tenant, request []byte) {
			if t.ID == "one" && wire.Changes(request) {
				began <- struct{}{}
				<-release
			}
		}}
	})
	var creates sync.WaitGroup
	for range creating {
		conn := r.mustConnect(t)
		creates.Go(func() {
			if _, err := conn.Create(t.Context(), vSphere...); err != nil {
				t.Error(err)
			}
		})
	}
	for range tenantChanges {
		<-began
	}
	if _, err := r.mustConnect(t).Locate(t.Context(), 1); err != nil {
		t.Errorf("a read of the flooding tenant: %v", err)
	}
	if _, err := r.mustConnectAs(t, r.two).Create(t.Context(), vSphere...); err != nil {
		t.Errorf("a change of another tenant: %v", err)
	}
	close(release)
	creates.Wait()
}

// respondTo calls before with tenant and request ahead of each.
type respondTo struct {
	responder
	before func(*tenant.Tenant, []byte)
}

func (f respondTo) Respond(ctx context.Context, t *tenant.Tenant, s *wire.Session, request []byte) wire.Response {
	f.before(t, request)
	return f.responder.Respond(ctx, t, s, request)
}
