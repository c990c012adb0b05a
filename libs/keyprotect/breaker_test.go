package keyprotect_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// pipes is a network inside a synctest bubble: real HTTP over net.Pipe, whose
// waiting lets the bubble's clock go on.
type pipes struct {
	made   chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// inBubble serves handler and returns a client that reaches it whatever the address.
func inBubble(t *testing.T, handler http.HandlerFunc) *http.Client {
	t.Helper()
	p := &pipes{made: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = server.Serve(p) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		select {
		case p.made <- theirs:
			return ours, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
	})
	return &http.Client{Transport: transport}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.made:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.IPAddr{} }

// bubbleClient returns a client whose exchanges handler answers, and their
// number.
func bubbleClient(t *testing.T, handler http.HandlerFunc) (*keyprotect.Client, *atomic.Int64) {
	t.Helper()
	n := new(atomic.Int64)
	c, err := keyprotect.New(keyprotect.Config{
		BaseURL: "http://127.0.0.1", InstanceCRN: instanceCRN, RootKeyID: rootKey, Tokens: &tokens{},
		HTTP: inBubble(t, func(w http.ResponseWriter, r *http.Request) {
			n.Add(1)
			// Once it is read, the request's context ends with the connection.
			content, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(content))
			handler(w, r)
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c, n
}

func wrapped(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, `{"ciphertext":"c","keyVersion":{"id":"v"}}`)
}

// unavailable makes calls until the breaker is open, which a call without an
// exchange and without a pause shows.
func unavailable(t *testing.T, c *keyprotect.Client, n *atomic.Int64) {
	t.Helper()
	for {
		before, start := n.Load(), time.Now()
		if err := operations["wrap"](t.Context(), c); fault.KindOf(err) != fault.Unavailable {
			t.Fatalf("got %v, want unavailable", err)
		}
		switch made := n.Load(); {
		case made == before && time.Since(start) == 0:
			return
		case made > keyprotect.OpenAfter:
			t.Fatalf("not open after %d exchanges", made)
		}
	}
}

func TestBreakerOpensWhenTheKeyManagerIsAway(t *testing.T) {
	for name, away := range map[string]http.HandlerFunc{
		"5xx":               func(w http.ResponseWriter, _ *http.Request) { refusal(w, http.StatusServiceUnavailable, "") },
		"hangs":             func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"another's answer":  func(w http.ResponseWriter, _ *http.Request) { http.NotFound(w, nil) },
		"connection is cut": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, n := bubbleClient(t, away)
				unavailable(t, c, n)
				if made := n.Load(); made != keyprotect.OpenAfter {
					t.Errorf("open after %d exchanges", made)
				}
			})
		})
	}
}

// TestBreakerProbes: when its time is over one call alone goes out, and what
// comes of it decides.
func TestBreakerProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		c, n := bubbleClient(t, func(w http.ResponseWriter, r *http.Request) {
			<-time.After(time.Second)
			if up.Load() {
				wrapped(w, r)
				return
			}
			refusal(w, http.StatusBadGateway, "")
		})
		together := func() (good int64) {
			var all sync.WaitGroup
			var ok atomic.Int64
			for range 20 {
				all.Go(func() {
					if err := operations["wrap"](t.Context(), c); err == nil {
						ok.Add(1)
					} else if fault.KindOf(err) != fault.Unavailable {
						t.Error(err)
					}
				})
			}
			all.Wait()
			return ok.Load()
		}
		unavailable(t, c, n)

		<-time.After(keyprotect.OpenTime + 1)
		before := n.Load()
		if good := together(); good != 0 || n.Load() != before+1 {
			t.Errorf("%d calls succeeded with %d probes", good, n.Load()-before)
		}
		if good := together(); good != 0 || n.Load() != before+1 {
			t.Errorf("%d calls succeeded, %d exchanges right after a failed probe", good, n.Load()-before-1)
		}

		up.Store(true)
		<-time.After(keyprotect.OpenTime + 1)
		if good := together(); good != 1 {
			t.Errorf("%d calls succeeded beside the probe", good)
		}
		if good := together(); good != 20 {
			t.Errorf("%d of 20 calls succeeded after a good probe", good)
		}
	})
}

func TestBreakerStaysClosed(t *testing.T) {
	answer := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { refusal(w, status, code) }
	}
	var turn atomic.Int64
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		context func(context.Context) (context.Context, context.CancelFunc)
	}{
		"final answers: permission": {answer(401, ""), nil},
		"final answers: root key":   {answer(410, "KEY_DELETED_ERR"), nil},
		"final answers: corrupt":    {answer(422, "UNPROCESSABLE_CIPHERTEXT_ERR"), nil},
		"throttled by a gateway":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }, nil},
		"one key is broken":         {answer(500, "INCOMPLETE_METADATA_ERR"), nil},
		"every second one fails": {func(w http.ResponseWriter, r *http.Request) {
			if turn.Add(1)%2 == 0 {
				answer(503, "")(w, r)
				return
			}
			wrapped(w, r)
		}, nil},
		"callers go away": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(keyprotect.TryTime/2, cancel)
			return ctx, cancel
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, n := bubbleClient(t, c.handler)
				for range 3 * keyprotect.OpenAfter {
					ctx, cancel := t.Context(), context.CancelFunc(func() {})
					if c.context != nil {
						ctx, cancel = c.context(ctx)
					}
					before := n.Load()
					_ = operations["wrap"](ctx, client)
					cancel()
					if n.Load() == before {
						t.Fatalf("open after %d exchanges", before)
					}
				}
			})
		})
	}
}

// TestBreakersAreTheTenantsOwn: the key manager fails for one tenant alone.
func TestBreakersAreTheTenantsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		endpoints, err := keyprotect.ParseEndpoints("kms/us-south=http://127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		var failing atomic.Int64
		f := &keyprotect.Factory{
			Endpoints: endpoints, Service: func(name string) keyprotect.Tokens { return &tokens{token: name} },
			HTTP: inBubble(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == "Bearer "+(&tenant.Tenant{ID: "one"}).CRN("us-south") {
					failing.Add(1)
					refusal(w, http.StatusServiceUnavailable, "")
					return
				}
				wrapped(w, r)
			}),
		}
		wrap := func(id tenant.ID) error {
			m, err := f.For(&tenant.Tenant{ID: id, KeyManager: &tenant.KeyManager{InstanceCRN: instanceCRN, RootKeyID: rootKey}})
			if err != nil {
				t.Fatal(err)
			}
			_, err = m.Wrap(t.Context(), secret.Random(32), binding)
			return err
		}
		for range keyprotect.OpenAfter {
			if err := wrap("one"); fault.KindOf(err) != fault.Unavailable {
				t.Fatal(err)
			}
		}
		if n := failing.Load(); n != keyprotect.OpenAfter {
			t.Errorf("%d exchanges of the tenant whose key manager fails", n)
		}
		before := time.Now()
		if err := wrap("two"); err != nil || time.Since(before) != 0 {
			t.Errorf("the other tenant: %v after %s", err, time.Since(before))
		}
	})
}
