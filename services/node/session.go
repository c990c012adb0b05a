package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// session is one connection, from its first byte to its end.
type session struct {
	server *server
	raw    net.Conn
	id     string
	source netip.Addr

	mu      sync.Mutex
	arrival tenant.Arrival
	known   bool // arrival was admitted
	busy    bool // a request is being read, carried out or answered
	closed  bool
}

// run does the handshake and answers requests until the connection ends. A
// panic ends this connection alone.
func (x *session) run(ctx context.Context) {
	defer x.raw.Close()
	log := x.server.log.With("connection", x.id, "source", x.source.String())
	defer func() {
		if p := recover(); p != nil {
			x.server.metrics.panics.Inc()
			log.Error("a connection panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	conn, err := x.handshake(ctx, log)
	if err != nil {
		return
	}
	if err := x.answerRequests(ctx, conn, log); err != nil {
		log.Debug("connection ended", "error", err)
	}
	_ = conn.Close()
}

// handshake admits the client. vCenter connects and closes without a byte to
// see the certificate: that is no event.
func (x *session) handshake(ctx context.Context, log *slog.Logger) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var refused error
	config := x.server.tls.Clone()
	config.VerifyConnection = func(state tls.ConnectionState) error {
		a := tenant.Arrival{ServerName: state.ServerName, Port: x.server.port}
		if len(state.PeerCertificates) > 0 {
			a.Client, a.HasClient = tenant.FingerprintOf(state.PeerCertificates[0].Raw), true
		}
		if _, _, refused = x.server.configuration.admit(a, x.server.now()); refused != nil {
			x.refusal(log, a, refused)
			return refused
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		x.arrival, x.known = a, true
		return nil
	}
	conn := tls.Server(x.raw, config)
	err := conn.HandshakeContext(ctx)
	switch {
	case err == nil:
		x.server.metrics.handshakes.WithLabelValues("admitted").Inc()
	case refused != nil:
		x.server.metrics.handshakes.WithLabelValues(causeOf(refused)).Inc()
	default:
		x.server.metrics.handshakes.WithLabelValues("no_tls").Inc()
		log.Debug("no TLS connection", "error", err)
	}
	return conn, err
}

// refusal writes down why somebody was turned away.
func (x *session) refusal(log *slog.Logger, a tenant.Arrival, err error) {
	fingerprint := ""
	if a.HasClient {
		fingerprint = a.Client.String()
	}
	log.Warn("connection refused", "cause", causeOf(err), "server_name", a.ServerName, "port", a.Port, "client_certificate", fingerprint)
}

// answerRequests answers one request after the other.
func (x *session) answerRequests(ctx context.Context, conn *tls.Conn, log *slog.Logger) error {
	in := bufio.NewReader(conn)
	for {
		if err := x.awaitRequest(conn, in); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(frameTimeout)); err != nil {
			return err
		}
		request, err := message.Read(in, maxRequest)
		if err != nil {
			if errors.Is(err, message.ErrNotKMIP) || errors.Is(err, message.ErrTooLarge) {
				log.Warn("the client sent no KMIP request", "error", err)
				refused := x.server.responder.Refuse(nil, fault.Wrap(fault.Malformed, "The message is not a KMIP request, or is too large.", err))
				return errors.Join(err, x.write(conn, refused.Frame))
			}
			return err
		}
		end, err := x.answer(ctx, conn, request, log)
		clear(request)
		if err != nil || end {
			return err
		}
	}
}

// awaitRequest waits for a request's first byte. Only here may the connection
// be closed because the node shuts down or the certificate was removed.
func (x *session) awaitRequest(conn *tls.Conn, in *bufio.Reader) error {
	x.mu.Lock()
	x.busy = false
	ended := x.closed || x.server.draining.Load()
	x.mu.Unlock()
	if ended {
		return net.ErrClosed
	}
	if err := conn.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
		return err
	}
	if _, err := in.Peek(1); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return net.ErrClosed
	}
	x.busy = true
	return nil
}

// answer carries out one request on one snapshot, loaded here: what was
// removed since the last request is refused now.
func (x *session) answer(ctx context.Context, conn *tls.Conn, request []byte, log *slog.Logger) (end bool, err error) {
	began := time.Now()
	arrival, _ := x.admitted()
	t, client, err := x.server.configuration.admit(arrival, x.server.now())
	if err != nil {
		x.refusal(log, arrival, err)
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	response := x.carryOut(ctx, t, request)
	err = x.write(conn, response.Frame)
	took := time.Since(began)
	x.report(ctx, log.With("tenant", t.ID, "client_certificate_id", client.ID), t, response.Items, took)
	return response.Close, err
}

func (x *session) carryOut(ctx context.Context, t *tenant.Tenant, request []byte) wire.Response {
	done := x.server.turns.take(t.ID, ctx.Done())
	if done == nil {
		return x.server.responder.Refuse(request, errBusy)
	}
	defer done()
	return x.server.responder.Respond(ctx, t, request)
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
		result := "success"
		if it.Err != nil {
			result = fault.KindOf(it.Err).String()
		}
		if i == 0 {
			x.server.metrics.duration.WithLabelValues(it.Operation).Observe(took.Seconds())
		}
		x.server.metrics.items.WithLabelValues(string(t.ID), it.Operation, result).Inc()
		level, details := slog.LevelInfo, []any{
			"operation", it.Operation, "unique_identifier", it.Object, "result", result, "duration_ms", float64(took.Microseconds()) / 1000,
		}
		if it.Err != nil {
			level, details = slog.LevelWarn, append(details, "result_reason", it.Reason, "error", it.Err)
		}
		log.Log(ctx, level, "kmip", details...)
	}
}

// admitted returns the arrival, and whether the handshake admitted it.
func (x *session) admitted() (tenant.Arrival, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.arrival, x.known
}

// closeIfIdle ends the connection unless a request is under way, which then is
// the last one.
func (x *session) closeIfIdle() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	if !x.busy {
		x.raw.Close()
	}
}
