package limits

import (
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// The account that asks too fast is told when to ask again; others notice
// nothing.
func TestLimits(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := New(func() time.Time { return now })
	take := func(account string, cost int) string {
		t.Helper()
		w := httptest.NewRecorder()
		err := l.Take(w, account, cost)
		after := w.Header().Get("Retry-After")
		if (err != nil) != (after != "") || err != nil && fault.KindOf(err) != fault.Throttled {
			t.Errorf("%v with Retry-After %q", err, after)
		}
		return after
	}
	for range AtOnce {
		if after := take("a", 1); after != "" {
			t.Fatalf("refused early: %s", after)
		}
	}
	if after := take("a", 1); after != "1" {
		t.Errorf("beyond the limit: Retry-After %q", after)
	}
	if after := take("a", PerSecond+1); after != "2" {
		t.Errorf("beyond the limit at a cost: Retry-After %q", after)
	}
	if after := take("b", AtOnce); after != "" {
		t.Errorf("another account: Retry-After %q", after)
	}
	now = now.Add(time.Second)
	if after := take("a", PerSecond); after != "" { // what was refused cost nothing
		t.Errorf("a second later: Retry-After %q", after)
	}
}

// Accounts that have not asked for a while are not remembered.
func TestLimitsForget(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := New(func() time.Time { return now })
	for i := range maxLimited {
		if err := l.Take(httptest.NewRecorder(), fmt.Sprint(i), 1); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(time.Minute)
	if err := l.Take(httptest.NewRecorder(), "another", AtOnce); err != nil {
		t.Fatal(err)
	}
	if len(l.accounts) != 1 {
		t.Errorf("%d accounts are remembered", len(l.accounts))
	}
	if err := l.Take(httptest.NewRecorder(), "another", 1); err == nil {
		t.Error("the account that asks was forgotten")
	}
}
