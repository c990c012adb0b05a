package control

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// What an account may ask of one control plane.
const (
	requestsPerSecond = 100
	requestsAtOnce    = 1000
	// maxLimited bounds how many accounts are counted before those that have
	// not asked for some seconds are forgotten.
	maxLimited = 10_000
)

// limits counts the requests of each account. Safe for concurrent use.
type limits struct {
	now func() time.Time

	mu       sync.Mutex
	accounts map[string]*rate.Limiter
}

func newLimits(now func() time.Time) *limits {
	return &limits{now: now, accounts: map[string]*rate.Limiter{}}
}

// take counts a request of an account at a cost. If that exceeds the limit,
// its error is Throttled and w's Retry-After says when it would not.
func (l *limits) take(w http.ResponseWriter, account string, cost int) error {
	now := l.now()
	one := l.of(account, now).ReserveN(now, cost)
	wait := one.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	one.CancelAt(now)
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	return fault.Newf(fault.Throttled, "Your account sends more than %d requests a second. Wait as the header `Retry-After` says.", requestsPerSecond)
}

// of returns an account's limiter.
func (l *limits) of(account string, now time.Time) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known := l.accounts[account]; known != nil {
		return known
	}
	if len(l.accounts) >= maxLimited {
		for name, limiter := range l.accounts {
			if limiter.TokensAt(now) >= requestsAtOnce { // as good as new
				delete(l.accounts, name)
			}
		}
	}
	limiter := rate.NewLimiter(requestsPerSecond, requestsAtOnce)
	l.accounts[account] = limiter
	return limiter
}
