package control

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmip-for-vmware/kmip/libs/obs"
)

// A panic ends its request alone: the caller gets the error container, the
// operator the stack.
func TestPanicIsAnsweredAndLogged(t *testing.T) {
	var log bytes.Buffer
	root := chi.NewRouter()
	root.Use(obs.WithRequestID, observe(obs.NewLogger(&log, "test"), newRequestSeconds(prometheus.NewRegistry())))
	root.Get("/boom", func(http.ResponseWriter, *http.Request) { panic("an inner detail") })
	w := httptest.NewRecorder()
	root.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/boom", nil))
	trace := w.Header().Get(obs.CorrelationIDHeader)
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), trace) || strings.Contains(w.Body.String(), "detail") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	line := log.String()
	for _, want := range []string{`"level":"ERROR"`, trace, "an inner detail", "exchange_test.go"} {
		if !strings.Contains(line, want) {
			t.Errorf("no %s in %s", want, line)
		}
	}
}

// A handler without an entry in the table of routes is out of reach.
func TestRouteOutsideTheTableIsRefused(t *testing.T) {
	var log bytes.Buffer
	root := chi.NewRouter()
	root.Use(obs.WithRequestID, observe(obs.NewLogger(&log, "test"), newRequestSeconds(prometheus.NewRegistry())))
	root.With((&gate{}).guard).Get("/v1/forgotten", func(http.ResponseWriter, *http.Request) { t.Error("reached") })
	w := httptest.NewRecorder()
	root.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/forgotten", nil))
	if w.Code != http.StatusInternalServerError || !strings.Contains(log.String(), "is not in the table") {
		t.Errorf("%d %s %s", w.Code, w.Body, log.String())
	}
}
