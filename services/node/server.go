package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire"
)

// responder carries out one KMIP request; wire.Responder in the program.
type responder interface {
	Respond(ctx context.Context, t *tenant.Tenant, request []byte) wire.Response
	Refuse(request []byte, err error) wire.Response
}

// server accepts KMIP connections on one listener.
type server struct {
	port          uint16 // advertised
	tls           *tls.Config
	configuration *configuration
	responder     responder
	log           *slog.Logger
	metrics       *metrics
	now           func() time.Time

	sources  sources
	turns    turns
	draining atomic.Bool
	mu       sync.Mutex
	sessions map[*session]struct{}
	running  sync.WaitGroup
}

func newServer(port uint16, certificate tls.Certificate, c *configuration, r responder, log *slog.Logger, m *metrics, now func() time.Time) *server {
	return &server{
		port: port, configuration: c, responder: r, log: log, metrics: m, now: now,
		tls: &tls.Config{
			Certificates: []tls.Certificate{certificate},
			MinVersion:   tls.VersionTLS12,
			// vCenter's certificate is self-signed and has no extended key
			// usage: no chain is built, VerifyConnection pins the leaf. A
			// client that has none yet is shown ours and then refused.
			ClientAuth: tls.RequestClientCert,
			// A resumed session would outlive the certificate's removal.
			SessionTicketsDisabled: true,
		},
		sources:  sources{seen: make(map[netip.Addr]*rate.Limiter)},
		turns:    turns{tenants: make(map[tenant.ID]*turn)},
		sessions: make(map[*session]struct{}),
	}
}

// serve accepts until ctx ends, then lets requests in flight finish. The
// accept loop itself never waits for a client.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() {
		s.draining.Store(true)
		l.Close()
	})
	defer stop()
	for pause := time.Millisecond; ; {
		conn, err := l.Accept()
		switch {
		case err == nil:
			pause = time.Millisecond
			s.accept(ctx, conn)
			continue
		case ctx.Err() != nil:
			s.drain()
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		}
		// Most likely out of file descriptors: others will be closed.
		s.log.Error("a connection could not be accepted", "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, time.Second)
	}
}

// accept charges listener and source, and starts the session.
func (s *server) accept(ctx context.Context, conn net.Conn) {
	source := sourceOf(conn)
	outcome := ""
	x := &session{server: s, raw: conn, id: uuid.NewString(), source: source}
	s.mu.Lock()
	switch {
	case len(s.sessions) >= maxConnections:
		outcome = "too_many_connections"
	case !s.sources.allow(source, s.now()):
		outcome = "source_too_fast"
	default:
		s.sessions[x] = struct{}{}
		s.metrics.connections.Set(float64(len(s.sessions)))
		s.running.Add(1)
	}
	s.mu.Unlock()
	if outcome != "" {
		s.metrics.handshakes.WithLabelValues(outcome).Inc()
		s.log.Warn("connection refused", "cause", outcome, "source", source.String())
		conn.Close()
		return
	}
	go func() {
		defer s.running.Done()
		defer s.forget(x)
		x.run(context.WithoutCancel(ctx))
	}()
}

func (s *server) forget(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, x)
	s.metrics.connections.Set(float64(len(s.sessions)))
}

// replaced closes idle connections whose tenant or certificate is no longer
// admitted. Busy ones are refused at their next request.
func (s *server) replaced(*tenant.Snapshot) {
	for _, x := range s.open() {
		if arrival, ok := x.admitted(); ok {
			if _, _, err := s.configuration.admit(arrival, s.now()); err != nil {
				x.closeIfIdle()
			}
		}
	}
}

// drain closes idle connections and waits for the others.
func (s *server) drain() {
	for _, x := range s.open() {
		x.closeIfIdle()
	}
	finished := make(chan struct{})
	go func() { s.running.Wait(); close(finished) }()
	select {
	case <-finished:
	case <-time.After(drainTimeout):
		left := s.open()
		s.log.Warn("connections did not finish in time", "connections", len(left))
		for _, x := range left {
			x.raw.Close()
		}
		<-finished
	}
}

func (s *server) open() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*session, 0, len(s.sessions))
	for x := range s.sessions {
		all = append(all, x)
	}
	return all
}

// ready tells why the node should get no new connections, or nil.
func (s *server) ready() error {
	switch {
	case s.draining.Load():
		return errors.New("the node is shutting down")
	case s.configuration.current.Load() == nil:
		return errNoConfiguration
	}
	return nil
}

func sourceOf(conn net.Conn) netip.Addr {
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// errBusy answers a request that found its tenant's queue full.
var errBusy = fault.New(fault.Throttled, fmt.Sprintf("More than %d requests of this instance wait; try again later.", tenantQueue))
