package keyprotect_test

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
)

// TestThrottlingHoldsAllCallsBack: after one 429 no call of the instance goes out
// before its time, and all succeed then. Another tenant's go on.
func TestThrottlingHoldsAllCallsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var throttled atomic.Bool
		c, n := bubbleClient(t, func(w http.ResponseWriter, r *http.Request) {
			if throttled.CompareAndSwap(false, true) {
				w.Header().Set("Retry-After", "3")
				refusal(w, http.StatusTooManyRequests, "")
				return
			}
			if d := time.Since(began); d < 3*time.Second {
				t.Errorf("a call after %s, before the Retry-After", d)
			}
			wrapped(w, r)
		})
		other, _ := bubbleClient(t, wrapped)
		const calls = 2 * keyprotect.OpenAfter
		var under sync.WaitGroup
		for i := range calls {
			if i == 1 {
				synctest.Wait() // the first one waits after its 429
				if err := operations["wrap"](t.Context(), other); err != nil || time.Since(began) != 0 {
					t.Errorf("another tenant's call: %v after %s", err, time.Since(began))
				}
			}
			under.Go(func() {
				if err := operations["wrap"](t.Context(), c); err != nil {
					t.Error(err)
				}
			})
		}
		under.Wait()
		if got := n.Load(); got != calls+1 {
			t.Errorf("%d exchanges for %d calls and one 429", got, calls)
		}
	})
}

// TestLongThrottlingIsAnsweredAtOnce, to the call that meets it and to others.
// After a minute one call asks again, whatever the time was.
func TestLongThrottlingIsAnsweredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, n := bubbleClient(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "86400")
			refusal(w, http.StatusTooManyRequests, "")
		})
		for range 3 {
			began := time.Now()
			err := operations["wrap"](t.Context(), c)
			if fault.KindOf(err) != fault.Unavailable || time.Since(began) != 0 {
				t.Errorf("%v after %s", err, time.Since(began))
			}
		}
		if n.Load() != 1 {
			t.Errorf("%d exchanges, want 1", n.Load())
		}
		<-time.After(time.Minute)
		if _ = operations["wrap"](t.Context(), c); n.Load() != 2 {
			t.Errorf("%d exchanges a minute later, want 2", n.Load())
		}
	})
}

// TestChangesLeaveRoomForReads: of calls that hang no more than a number are
// under way, changes are half of them at most, and reads go past those that wait.
func TestChangesLeaveRoomForReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wraps, unwraps atomic.Int64
		release := make(chan struct{})
		c, _ := bubbleClient(t, func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/unwrap") {
				unwraps.Add(1)
				<-release
				_, _ = w.Write([]byte(`{"plaintext":"a2V5"}`))
				return
			}
			wraps.Add(1)
			<-release
			wrapped(w, r)
		})
		var under sync.WaitGroup
		call := func(operation string) {
			for range 2 * keyprotect.AtOnce {
				under.Go(func() {
					if err := operations[operation](t.Context(), c); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
		}
		call("wrap")
		if n := wraps.Load(); n != keyprotect.AtOnce/2 {
			t.Errorf("%d changes under way, want %d", n, keyprotect.AtOnce/2)
		}
		call("unwrap")
		if n := unwraps.Load(); n != keyprotect.AtOnce/2 {
			t.Errorf("%d reads under way beside them, want %d", n, keyprotect.AtOnce/2)
		}
		close(release)
		under.Wait()
	})
}
