package control

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/iam"
)

// The account that asks too fast is told when to ask again; others notice
// nothing.
func TestLimits(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := newLimits(func() time.Time { return now })
	take := func(account string, cost int) string {
		t.Helper()
		w := httptest.NewRecorder()
		err := l.take(w, account, cost)
		after := w.Header().Get("Retry-After")
		if (err != nil) != (after != "") || err != nil && fault.KindOf(err) != fault.Throttled {
			t.Errorf("%v with Retry-After %q", err, after)
		}
		return after
	}
	for range requestsAtOnce {
		if after := take("a", 1); after != "" {
			t.Fatalf("refused early: %s", after)
		}
	}
	if after := take("a", 1); after != "1" {
		t.Errorf("beyond the limit: Retry-After %q", after)
	}
	if after := take("a", requestsPerSecond+1); after != "2" {
		t.Errorf("beyond the limit at a cost: Retry-After %q", after)
	}
	if after := take("b", requestsAtOnce); after != "" {
		t.Errorf("another account: Retry-After %q", after)
	}
	now = now.Add(time.Second)
	if after := take("a", requestsPerSecond); after != "" { // what was refused cost nothing
		t.Errorf("a second later: Retry-After %q", after)
	}
}

// Accounts that have not asked for a while are not remembered.
func TestLimitsForget(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := newLimits(func() time.Time { return now })
	for i := range maxLimited {
		if err := l.take(httptest.NewRecorder(), fmt.Sprint(i), 1); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(time.Minute)
	if err := l.take(httptest.NewRecorder(), "another", requestsAtOnce); err != nil {
		t.Fatal(err)
	}
	if len(l.accounts) != 1 {
		t.Errorf("%d accounts are remembered", len(l.accounts))
	}
	if err := l.take(httptest.NewRecorder(), "another", 1); err == nil {
		t.Error("the account that asks was forgotten")
	}
}

func TestTooManyRequests(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	handler := newAPI(&handlers{}, observe(slog.New(slog.DiscardHandler), newRequestSeconds(prometheus.NewRegistry())), &gate{
		verify: func(_ context.Context, token string) (iam.Identity, error) { return iam.Identity{Account: token}, nil },
		limits: newLimits(func() time.Time { return now }),
	})
	get := func(account string) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v1/key_estimate", nil)
		r.Header.Set("Authorization", "Bearer "+account)
		handler.ServeHTTP(w, r)
		return w
	}
	for range requestsAtOnce {
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
