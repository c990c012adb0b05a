//go:build linux

package faults

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
)

// mode is what a link does with what it carries.
type mode int

const (
	pass   mode = iota
	hold        // nothing gets through and nothing is closed: a black hole
	refuse      // connections are reset, new ones at once
)

// link carries TCP connections from one process to another, and can be broken.
type link struct {
	listener net.Listener
	target   string // host:port

	mu      sync.Mutex
	mode    mode
	delay   time.Duration // of everything, one way
	changed chan struct{} // closed when mode changes
	open    map[net.Conn]bool
}

// newLink returns a link to a port of this machine.
func newLink(t testing.TB, target int) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{listener: listener, target: address(target), changed: make(chan struct{}), open: make(map[net.Conn]bool)}
	t.Cleanup(func() {
		l.listener.Close()
		l.set(refuse, 0)
	})
	go l.serve()
	return l
}

// port is where the link is reached.
func (l *link) port() int { return l.listener.Addr().(*net.TCPAddr).Port }

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// set changes what becomes of connections, open ones among them.
func (l *link) set(m mode, delay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mode, l.delay = m, delay
	close(l.changed)
	l.changed = make(chan struct{})
	if m == refuse {
		for conn := range l.open {
			reset(conn)
		}
	}
}

func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

func (l *link) serve() {
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			return
		}
		go l.carry(conn)
	}
}

// carry connects to the target, from the address that the client has: nodes
// limit what each source may open.
func (l *link) carry(client net.Conn) {
	if !l.admit(client) {
		return
	}
	defer l.forget(client)
	if !l.ready() {
		return
	}
	dialer := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: client.RemoteAddr().(*net.TCPAddr).IP}}
	server, err := dialer.Dial("tcp", l.target)
	if err != nil {
		return
	}
	if !l.admit(server) {
		return
	}
	defer l.forget(server)
	var both sync.WaitGroup
	both.Go(func() { l.pump(server, client) })
	both.Go(func() { l.pump(client, server) })
	both.Wait()
}

// admit remembers a connection unless it is to be refused.
func (l *link) admit(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mode == refuse {
		reset(conn)
		return false
	}
	l.open[conn] = true
	return true
}

func (l *link) forget(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, conn)
	conn.Close()
}

// ready waits while the link holds and as long as it delays. It is false when
// the link refuses.
func (l *link) ready() bool {
	var delayed <-chan time.Time
	for {
		l.mu.Lock()
		m, delay, changed := l.mode, l.delay, l.changed
		l.mu.Unlock()
		switch {
		case m == refuse:
			return false
		case m == pass && delay == 0:
			return true
		case m == pass && delayed == nil:
			delayed = time.After(delay)
		}
		if m == hold {
			<-changed
			continue
		}
		select {
		case <-delayed:
			return true
		case <-changed:
		}
	}
}

// pump carries one direction, a piece at a time, and passes its end on.
func (l *link) pump(to, from net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if !l.ready() {
			return
		}
		if _, wrote := to.Write(buffer[:n]); wrote != nil {
			reset(from)
			return
		}
		switch tcp, ok := to.(*net.TCPConn); {
		case err == nil:
		case errors.Is(err, io.EOF) && ok:
			_ = tcp.CloseWrite()
			return
		default:
			reset(to)
			return
		}
	}
}
