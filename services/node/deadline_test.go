package node

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener without sockets, so that time can be a test's own.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (p *pipes) dial() net.Conn {
	here, there := net.Pipe()
	p.conns <- there
	return here
}

// inTime runs f with a node on pipes and a clock that jumps.
func inTime(t *testing.T, wrap func(responder) responder, f func(t *testing.T, r *rig, p *pipes)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		f(t, newRigOn(t, p, wrap), p)
	})
}

// overPipe opens a connection of tenant one.
func (r *rig) overPipe(t *testing.T, p *pipes) *tls.Conn {
	t.Helper()
	conn := tls.Client(p.dial(), &tls.Config{
		RootCAs: r.roots, ServerName: "localhost", MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*r.one},
	})
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return conn
}

// ends measures how long a connection stays open.
func ends(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	conn.Close()
	return time.Since(began)
}

func TestSilentHandshakeEnds(t *testing.T) {
	inTime(t, nil, func(t *testing.T, _ *rig, p *pipes) {
		if took := ends(t, p.dial()); took != handshakeTimeout {
			t.Errorf("it was closed after %s", took)
		}
	})
}

func TestIdleConnectionEnds(t *testing.T) {
	inTime(t, nil, func(t *testing.T, r *rig, p *pipes) {
		if took := ends(t, r.overPipe(t, p)); took != idleTimeout {
			t.Errorf("it was closed after %s", took)
		}
	})
}

// TestSlowRequestEnds sends a request byte by byte: each is in time for an
// idle connection, all together are not.
func TestSlowRequestEnds(t *testing.T) {
	inTime(t, nil, func(t *testing.T, r *rig, p *pipes) {
		conn := r.overPipe(t, p)
		var sender sync.WaitGroup
		defer sender.Wait()
		sender.Go(func() {
			for i := range discover {
				if _, err := io.WriteString(conn, discover[i:i+1]); err != nil {
					return
				}
				<-time.After(time.Second)
			}
		})
		if took := ends(t, conn); took != frameTimeout {
			t.Errorf("it was closed after %s", took)
		}
	})
}

// endless is a responder whose requests end with their context alone.
func endless(causes chan<- error) func(responder) responder {
	return func(next responder) responder {
		return respondFunc{next, func(ctx context.Context) {
			<-ctx.Done()
			causes <- ctx.Err()
		}}
	}
}

func TestRequestHasADeadline(t *testing.T) {
	causes := make(chan error, 1)
	inTime(t, endless(causes), func(t *testing.T, r *rig, p *pipes) {
		conn := r.overPipe(t, p)
		began := time.Now()
		if _, err := io.WriteString(conn, discover); err != nil {
			t.Fatal(err)
		}
		readFrame(t, conn)
		if took, cause := time.Since(began), <-causes; took != requestTimeout || !errors.Is(cause, context.DeadlineExceeded) {
			t.Errorf("it ended after %s: %v", took, cause)
		}
		conn.Close()
	})
}

// TestDrainIsBounded shuts down while a request does not come to its end.
func TestDrainIsBounded(t *testing.T) {
	causes := make(chan error, 1)
	inTime(t, endless(causes), func(t *testing.T, r *rig, p *pipes) {
		conn := r.overPipe(t, p)
		if _, err := io.WriteString(conn, discover); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began := time.Now()
		r.stop()
		<-r.ended
		if took, cause := time.Since(began), <-causes; took != drainTimeout || !errors.Is(cause, context.Canceled) {
			t.Errorf("shutdown took %s; the request ended with %v", took, cause)
		}
		conn.Close()
	})
}

// TestServesOnWhileBalancersNotice ends a node that has to wait for them: it is
// unready at once and serves new connections until the time is over.
func TestServesOnWhileBalancersNotice(t *testing.T) {
	inTime(t, nil, func(t *testing.T, r *rig, p *pipes) {
		r.drainDelay = 5 * time.Second
		began := time.Now()
		r.stop()
		synctest.Wait()
		if err := r.ready(); err == nil {
			t.Error("ready although it is to end")
		}
		<-time.After(4 * time.Second)
		conn := r.overPipe(t, p)
		if _, err := io.WriteString(conn, discover); err != nil {
			t.Fatal(err)
		}
		readFrame(t, conn)
		go func() { _, _ = io.Copy(io.Discard, conn) }() // the node's goodbye
		<-r.ended
		if took := time.Since(began); took < r.drainDelay || took > r.drainDelay+drainTimeout {
			t.Errorf("it ended after %s", took)
		}
	})
}
