package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// session is one connection, from its first byte to its end.
type session struct {
	server  *server
	raw     net.Conn
	id      string // a UUID, in the log and in events
	log     *slog.Logger
	address netip.Addr // of the client
	source  netip.Addr // that is charged until the connection is admitted

	// credential is what the connection's requests have sent.
	credential wire.Session

	// first tells how the wait for a request's first byte ended.
	first chan error

	mu      sync.Mutex
	arrival tenant.Arrival // its port from the start, the rest as the handshake shows it
	known   bool           // the handshake has shown all of it
	busy    bool           // a request is being read, carried out or answered
	closed  bool

	// Under server.mu, and set once:
	tenant *tenant.Tenant // that is charged, as it was at admission; nil before
	client tenant.Client
}

// recoverPanic is deferred in every goroutine of a connection: a panic ends
// that connection alone.
func (x *session) recoverPanic() {
	if p := recover(); p != nil {
		x.server.metrics.panics.Inc()
		x.log.Error("a connection panicked", "panic", p, "stack", string(debug.Stack()))
		x.raw.Close()
	}
}

// run waits for the source's turn, does the handshake and answers requests
// until the connection ends. Door ends when the node starts to shut down, work
// when it no longer waits for requests under way.
func (x *session) run(door, work context.Context, wait time.Duration) {
	defer x.raw.Close()
	defer x.recoverPanic()
	turn := time.NewTimer(wait)
	defer turn.Stop()
	select {
	case <-turn.C:
	case <-door.Done():
		return
	}
	conn, err := x.handshake(door)
	if err == nil {
		err = x.answerRequests(work, conn)
		_ = conn.CloseWrite() // the client may be gone
		x.log.Debug("connection ended", "error", err)
	}
	x.linger()
}

// linger lets the client read what was said last: a connection that is closed
// while bytes from the client are unread is reset, and an alert or answer on
// its way is lost with it.
func (x *session) linger() {
	half, ok := x.raw.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || x.raw.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, x.raw, maxRequest) // whatever comes, it is over
}

// handshake admits the client. vCenter connects and closes without a byte to
// see the certificate: that is no event.
func (x *session) handshake(ctx context.Context) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var refused error
	config := x.server.tls.Clone()
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		x.mu.Lock()
		x.arrival.ServerName = hello.ServerName
		x.mu.Unlock()
		return x.server.certificate(hello.ServerName), nil
	}
	config.VerifyConnection = func(state tls.ConnectionState) error {
		a := tenant.Arrival{ServerName: state.ServerName, Port: x.arrival.Port}
		if len(state.PeerCertificates) > 0 {
			a.Client, a.HasClient = tenant.FingerprintOf(state.PeerCertificates[0].Raw), true
		}
		// From here on a new snapshot finds this connection; admit sees every
		// snapshot before.
		x.mu.Lock()
		x.arrival, x.known = a, true
		x.mu.Unlock()
		_, _, refused = x.server.configuration.admit(a, x.server.now())
		return refused
	}
	conn := tls.Server(x.raw, config)
	err := conn.HandshakeContext(ctx)
	if err == nil {
		err = x.enter()
		refused = err
	}
	switch {
	case err == nil:
		x.server.metrics.handshakes.WithLabelValues("admitted").Inc()
	case refused != nil:
		x.server.metrics.handshakes.WithLabelValues(causeOf(refused)).Inc()
		x.refused("connection refused", x.arrival, refused)
	default:
		x.server.metrics.handshakes.WithLabelValues(string(noTLS)).Inc()
		x.log.Debug("no TLS connection", "error", err)
		if broken(err) {
			x.server.note(x, noTLS)
		}
	}
	return conn, err
}

// noTLS is the cause of a handshake that came to nothing: the client does not
// trust our certificate, knows none of our suites, or speaks no TLS.
const noTLS tenant.Cause = "no_tls"

// broken tells a handshake that failed from a client that just went away, as
// vCenter does when it compares certificates.
func broken(err error) bool {
	var network net.Error
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, context.Canceled):
		return false
	case errors.As(err, &network) && network.Timeout():
		return false
	}
	return true
}

// enter charges the connection to its tenant and no longer to its source: the
// handshake has proved that the client holds the certificate's key.
func (x *session) enter() error {
	now := x.server.now()
	t, client, err := x.server.configuration.admit(x.arrival, now)
	if err != nil {
		return err
	}
	if err := x.server.enter(x, t, client); err != nil {
		return err
	}
	x.server.admissions.note(client.ID, x.address, now)
	return nil
}

// refused writes down why somebody was turned away, and counts it.
func (x *session) refused(what string, a tenant.Arrival, err error) {
	x.server.note(x, tenant.Cause(causeOf(err)))
	x.server.recorder.refused(x, a, causeOf(err))
	fingerprint := ""
	if a.HasClient {
		fingerprint = a.Client.String()
	}
	x.log.Warn(what, "cause", causeOf(err), "server_name", a.ServerName, "port", a.Port, "client_certificate", fingerprint)
}

// answerRequests answers one request after the other.
func (x *session) answerRequests(ctx context.Context, conn *tls.Conn) error {
	// The smallest buffer: what a request holds stays in no other place than
	// the slice that is wiped after it.
	in := bufio.NewReaderSize(conn, 16)
	x.await(in, func() {})
	for {
		if err := x.rest(); err != nil {
			return err
		}
		if err := <-x.first; err != nil {
			return err
		}
		if err := x.wake(); err != nil {
			return err
		}
		request, err := message.Read(in, maxRequest)
		if err != nil {
			if errors.Is(err, message.ErrNotKMIP) || errors.Is(err, message.ErrTooLarge) {
				x.log.Warn("the client sent no KMIP request", "error", err)
				refused := x.server.responder.Refuse(nil, err)
				x.server.recorder.carriedOut(x, x.tenant, x.client, refused.Items)
				return errors.Join(err, x.write(conn, refused.Frame))
			}
			return err
		}
		end, err := x.answer(ctx, conn, in, request)
		clear(request)
		if err != nil || end {
			return err
		}
	}
}

// await waits in the background for the next request's first byte and sends
// the outcome to first. It calls gone if the connection ends before.
func (x *session) await(in *bufio.Reader, gone func()) {
	go func() {
		err := net.ErrClosed
		defer func() {
			if err != nil {
				gone()
			}
			x.first <- err
		}()
		defer x.recoverPanic()
		_, err = in.Peek(1)
	}()
}

// rest begins the time between requests. Only in it may the connection be
// closed because the node shuts down or the certificate was removed.
func (x *session) rest() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return net.ErrClosed
	}
	x.busy = false
	return x.raw.SetReadDeadline(time.Now().Add(idleTimeout))
}

// wake ends it: a request has begun to arrive.
func (x *session) wake() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return net.ErrClosed
	}
	x.busy = true
	return x.raw.SetReadDeadline(time.Now().Add(frameTimeout))
}

// closeIfIdle ends the connection unless a request is under way, which then is
// the last one. It reports whether the connection was idle.
func (x *session) closeIfIdle() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	idle := !x.closed && !x.busy
	x.closed = true
	if !x.busy {
		_ = x.raw.SetReadDeadline(time.Unix(1, 0)) // ends the wait; it fails on a closed connection alone
	}
	return idle
}

// shown returns what the handshake has shown so far, and whether that is all.
func (x *session) shown() (a tenant.Arrival, all bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.arrival, x.known
}

// answer carries out one request on one snapshot, loaded here: what was
// removed since the last request is refused now. It calls the work off when
// the client goes away.
func (x *session) answer(ctx context.Context, conn *tls.Conn, in *bufio.Reader, request []byte) (end bool, err error) {
	began := time.Now()
	now := x.server.now()
	t, client, err := x.server.configuration.admit(x.arrival, now)
	if err != nil {
		x.refused("request refused", x.arrival, err)
		return true, nil
	}
	x.server.admissions.note(client.ID, x.address, now)
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := x.raw.SetReadDeadline(time.Time{}); err != nil {
		return true, err
	}
	x.await(in, cancel)
	response := x.carryOut(ctx, t, request)
	x.server.recorder.carriedOut(x, t, client, response.Items)
	err = x.write(conn, response.Frame)
	took := time.Since(began)
	x.report(ctx, x.log.With("tenant", t.ID, "client_certificate_id", client.ID), t, response.Items, took)
	return response.Close, err
}

func (x *session) carryOut(ctx context.Context, t *tenant.Tenant, request []byte) wire.Response {
	finish, err := x.server.turns.take(line{t.ID, wire.Changes(request)}, ctx.Done())
	if err != nil {
		return x.server.responder.Refuse(request, err)
	}
	defer finish()
	return x.server.responder.Respond(ctx, t, &x.credential, request)
}

// write sends an answer and wipes it.
func (x *session) write(conn *tls.Conn, frame *secret.Bytes) error {
	defer frame.Wipe()
	if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := conn.Write(frame.Reveal())
	return err
}

// report writes one line for each batch item and counts it.
func (x *session) report(ctx context.Context, log *slog.Logger, t *tenant.Tenant, items []wire.Item, took time.Duration) {
	for i, it := range items {
		result := resultOf(it.Err)
		if i == 0 {
			x.server.metrics.duration.WithLabelValues(it.Operation).Observe(took.Seconds())
		}
		x.server.metrics.items.WithLabelValues(string(t.ID), it.Operation, result).Inc()
		level, details := slog.LevelInfo, []any{
			"operation", it.Operation, "unique_identifier", it.Object, "result", result, "duration_ms", float64(took.Microseconds()) / 1000,
		}
		if it.Window != "" {
			details = append(details, "window", it.Window)
			x.server.metrics.windows.WithLabelValues(string(t.ID), string(it.Window)).Inc()
		}
		if it.Err != nil {
			level, details = slog.LevelWarn, append(details, "result_reason", it.Reason, "error", it.Err)
		}
		if kind := fault.KindOf(it.Err); it.Err != nil && (kind == fault.Internal || kind == fault.Corrupt) {
			level = slog.LevelError
		}
		log.Log(ctx, level, "kmip", details...)
	}
}

// resultOf names the outcome of a call in logs and metrics.
func resultOf(err error) string {
	if err == nil {
		return "success"
	}
	return fault.KindOf(err).String()
}
