package node

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire"
)

// responder carries out one KMIP request; wire.Responder in the program.
type responder interface {
	Respond(ctx context.Context, t *tenant.Tenant, s *wire.Session, request []byte) wire.Response
	Refuse(request []byte, err error) wire.Response
}

// server accepts KMIP connections on the shared listener and on tenants' own
// ports.
type server struct {
	port          uint16 // of the shared listener, as advertised
	doors         doors
	tls           *tls.Config
	configuration *configuration
	responder     responder
	log           *slog.Logger
	metrics       *metrics
	now           func() time.Time

	sources    sources
	turns      turns
	refusals   refusals
	admissions admissions
	recorder   *recorder
	draining   atomic.Bool
	// drainDelay is how long the node serves on after it was told to end.
	drainDelay time.Duration
	tooFast    rate.Sometimes // bounds the log, not the refusals
	changed    chan struct{}  // has a value when the configuration was replaced
	// inForce is what new connections, ports included, are served by; told gets
	// a value when it has changed.
	inForce  atomic.Pointer[tenant.Revision]
	told     chan struct{}
	running  sync.WaitGroup
	mu       sync.Mutex
	sessions map[*session]struct{}
	admitted map[tenant.ID]int // connections by tenant
}

func newServer(port uint16, certificate tls.Certificate, c *configuration, r responder, log *slog.Logger, m *metrics, now func() time.Time) *server {
	if key, ok := certificate.PrivateKey.(crypto.Signer); ok {
		certificate.PrivateKey = newSigner(key)
	}
	return &server{
		port: port, configuration: c, responder: r, log: log, metrics: m, now: now,
		doors: doors{log: log, metrics: m, open: make(map[uint16]net.Listener), missing: make(map[uint16]string)},
		tls: &tls.Config{
			// Without SNI, with a shared name or with a stranger's.
			Certificates: []tls.Certificate{certificate},
			MinVersion:   tls.VersionTLS12,
			// vCenter's certificate is self-signed and has no extended key
			// usage: no chain is built, VerifyConnection pins the leaf. A
			// client that has none yet is shown ours and then refused.
			ClientAuth: tls.RequestClientCert,
			// A resumed session would outlive the certificate's removal.
			SessionTicketsDisabled: true,
		},
		sources:    sources{seen: make(map[netip.Addr]*source)},
		turns:      turns{lines: make(map[line]*turn)},
		refusals:   refusals{counted: make(map[pg.Refused]pg.Seen)},
		admissions: admissions{latest: make(map[string]*admission)},
		tooFast:    rate.Sometimes{Interval: time.Second},
		changed:    make(chan struct{}, 1),
		told:       make(chan struct{}, 1),
		sessions:   make(map[*session]struct{}),
		admitted:   make(map[tenant.ID]int),
	}
}

// serve accepts on l, and on tenants' own ports. When ctx ends it is no longer
// ready but serves on for drainDelay, so that balancers and probes notice; then
// it accepts no more and lets requests in flight finish.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	door, shut := context.WithCancel(context.WithoutCancel(ctx))
	defer shut()
	stop := context.AfterFunc(ctx, func() {
		s.draining.Store(true)
		select {
		case <-time.After(s.drainDelay):
		case <-door.Done(): // a listener broke
		}
		shut()
		l.Close()
	})
	defer stop()
	work, callOff := context.WithCancel(context.WithoutCancel(ctx))
	defer callOff()
	s.running.Go(func() { s.keepDoors(door, work) })
	if err := s.acceptAll(door, work, l, s.port); err != nil {
		return err
	}
	s.drain(callOff)
	return nil
}

// acceptAll accepts until ctx ends, or l is closed before: that is its error.
// It never waits for a client.
func (s *server) acceptAll(ctx, work context.Context, l net.Listener, port uint16) error {
	for pause := time.Millisecond; ; {
		conn, err := l.Accept()
		switch {
		case err == nil:
			pause = time.Millisecond
			s.accept(ctx, work, conn, port)
			continue
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the end is no failure
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
func (s *server) accept(door, work context.Context, conn net.Conn, port uint16) {
	address := addressOf(conn)
	x := &session{
		server: s, raw: conn, id: uuid.NewString(), address: address, source: sourceOf(address), first: make(chan error, 1),
		arrival: tenant.Arrival{Port: port},
	}
	x.log = s.log.With("connection", x.id, "source", address.String())
	wait, refused := s.add(x)
	if refused != "" {
		s.metrics.handshakes.WithLabelValues(refused).Inc()
		s.note(x, tenant.Cause(refused))
		s.tooFast.Do(func() {
			x.log.Warn("connection refused; at most one such line is written each second", "cause", refused, "port", port)
		})
		conn.Close()
		return
	}
	s.running.Go(func() {
		defer s.forget(x)
		x.run(door, work, wait)
	})
}

// add takes in a new connection, or says why not.
func (s *server) add(x *session) (wait time.Duration, refused string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sessions) >= maxConnections {
		return 0, "too_many_connections"
	}
	if wait, refused = s.sources.enter(x.source, s.now()); refused == "" {
		s.sessions[x] = struct{}{}
		s.metrics.connections.Set(float64(len(s.sessions)))
	}
	return wait, refused
}

// errCrowded turns away a client whose tenant has too many connections.
var errCrowded = errors.New("too_many_connections_of_tenant")

// enter charges a connection to its tenant, and its source no longer.
func (s *server) enter(x *session, t *tenant.Tenant, client tenant.Client) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.admitted[t.ID] >= tenantConnections {
		return errCrowded
	}
	s.admitted[t.ID]++
	x.tenant, x.client = t, client
	s.sources.leave(x.source)
	return nil
}

// admission returns whom a connection was admitted as, or nil.
func (s *server) admission(x *session) (*tenant.Tenant, tenant.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return x.tenant, x.client
}

// forget gives back what a connection was charged for.
func (s *server) forget(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, x)
	s.metrics.connections.Set(float64(len(s.sessions)))
	if x.tenant == nil {
		s.sources.leave(x.source)
		return
	}
	if s.admitted[x.tenant.ID]--; s.admitted[x.tenant.ID] == 0 {
		delete(s.admitted, x.tenant.ID)
	}
}

// replaced closes idle connections whose tenant or certificate is no longer
// admitted. Busy ones are refused at their next request.
func (s *server) replaced() {
	signal(s.changed)
	for _, x := range s.open() {
		arrival, ok := x.shown()
		if !ok {
			continue
		}
		if _, _, err := s.configuration.admit(arrival, s.now()); err != nil && x.closeIfIdle() {
			x.refused("connection closed: it is no longer admitted", arrival, err)
		}
	}
}

// drain closes idle connections, waits for the others and calls them off when
// that takes too long.
func (s *server) drain(callOff func()) {
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
		callOff()
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

// certificate returns the leaf for a server name: the tenant's own if it has
// one over the key that this node holds, else the shared one.
func (s *server) certificate(serverName string) *tls.Certificate {
	shared := &s.tls.Certificates[0]
	snapshot := s.configuration.current.Load()
	if snapshot == nil {
		return shared
	}
	der := snapshot.ServerCertificate(serverName)
	if der == nil {
		return shared
	}
	leaf, err := x509.ParseCertificate(der)
	if err == nil && !samePublicKey(leaf, shared) {
		err = errors.New("it is over another key than the shared one: give all nodes and the control plane the same certificate and key")
	}
	if err != nil {
		s.tooFast.Do(func() {
			s.log.Error("a tenant's server certificate can't be shown, the shared one is", "server_name", serverName, "error", err)
		})
		return shared
	}
	return &tls.Certificate{
		Certificate: append([][]byte{der}, shared.Certificate[1:]...), PrivateKey: shared.PrivateKey, Leaf: leaf,
	}
}

func samePublicKey(leaf *x509.Certificate, own *tls.Certificate) bool {
	key, ok := own.PrivateKey.(crypto.Signer)
	if !ok {
		return false
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(leaf.PublicKey)
}

// signal leaves a value in a channel with room for one, unless one is there
// that nobody took yet.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// ready tells why the node should get no new connections, or nil.
func (s *server) ready() error {
	if s.draining.Load() {
		return errors.New("the node is shutting down")
	}
	return s.configuration.usable()
}
