package obs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/obs"
)

func get(t *testing.T, h http.Handler, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	q := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, q)
	return w
}

func TestAdmin(t *testing.T) {
	var ready error
	h := obs.Admin(obs.NewRegistry(), func(context.Context) error { return ready })
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		if w := get(t, h, path); w.Code != http.StatusOK || w.Body.Len() == 0 {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	ready = errors.New("the database does not answer")
	if w := get(t, h, "/readyz"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "the database does not answer") {
		t.Errorf("/readyz: %d %s", w.Code, w.Body)
	}
}

func TestRequestID(t *testing.T) {
	var seen string
	h := obs.WithRequestID(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { seen = obs.RequestID(q.Context()) }))
	w := get(t, h, "/", obs.RequestIDHeader, "ticket 4711, second try", obs.CorrelationIDHeader, "mine")
	if seen != "ticket 4711, second try" || w.Header().Get(obs.RequestIDHeader) != seen {
		t.Errorf("a usable id was replaced by %q", seen)
	}
	if w.Header().Get(obs.CorrelationIDHeader) == "mine" {
		t.Error("a client chose the correlation id")
	}
	for _, bad := range []string{"", "a\"b", strings.Repeat("a", 1025)} {
		if get(t, h, "/", obs.RequestIDHeader, bad); seen == bad || len(seen) != 36 {
			t.Errorf("%.20q became %q", bad, seen)
		}
	}
}

func TestBusyPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = obs.Listen(t.Context(), "KMIP_LISTEN", l.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "KMIP_LISTEN") || !strings.Contains(err.Error(), "in use") {
		t.Errorf("%v does not name the setting and the cause", err)
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l, err := obs.Listen(ctx, "X", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	ended := make(chan error, 1)
	go func() {
		ended <- obs.Serve(ctx, obs.NewLogger(&out, "test"), l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	}()
	answer, err := http.Get("http://" + l.Addr().String())
	if err != nil || answer.StatusCode != http.StatusNoContent {
		t.Fatal(answer, err)
	}
	answer.Body.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestLogLinesNameServiceAndBoot(t *testing.T) {
	var out bytes.Buffer
	obs.NewLogger(&out, "kmip-node").Info("hello")
	var line struct{ Service, Boot, Msg string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Service != "kmip-node" || len(line.Boot) != 36 || line.Msg != "hello" {
		t.Errorf("%s: %+v, %v", out.String(), line, err)
	}
}
