package control

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/services/control/limits"
)

func TestTooManyRequests(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	handler := newAPI(&handlers{}, observe(slog.New(slog.DiscardHandler), newRequestSeconds(prometheus.NewRegistry())), &gate{
		verify: func(_ context.Context, token string) (iam.Identity, error) { return iam.Identity{Account: token}, nil },
		limits: limits.New(func() time.Time { return now }),
	})
	get := func(account string) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v1/key_estimate", nil)
		r.Header.Set("Authorization", "Bearer "+account)
		handler.ServeHTTP(w, r)
		return w
	}
	for range limits.AtOnce {
		if w := get("a"); w.Code != http.StatusOK {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if w := get("a"); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), `"too_many_requests"`) {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if w := get("b"); w.Code != http.StatusOK {
		t.Errorf("another account: %d %s", w.Code, w.Body)
	}
}
