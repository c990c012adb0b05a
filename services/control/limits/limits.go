// Package limits holds what each account may ask of one control plane.
package limits

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
	PerSecond = 100  // requests
	AtOnce    = 1000 // requests
	// maxLimited bounds how many accounts are counted before those that have
	// not asked for some seconds are forgotten.
	maxLimited = 10_000
)

// Accounts counts the requests of each account. Safe for concurrent use.
type Accounts struct {
	now func() time.Time

	mu       sync.Mutex
	accounts map[string]*rate.Limiter
}

// New returns Accounts that have asked for nothing yet.
func New(now func() time.Time) *Accounts {
	return &Accounts{now: now, accounts: map[string]*rate.Limiter{}}
}

// Take counts a request of an account at a cost. If that exceeds the limit,
// its error is Throttled and w's Retry-After says when it would not.
func (a *Accounts) Take(w http.ResponseWriter, account string, cost int) error {
	now := a.now()
	one := a.of(account, now).ReserveN(now, cost)
	wait := one.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	one.CancelAt(now)
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	return fault.Newf(fault.Throttled, "Your account sends more than %d requests a second. Wait as the header `Retry-After` says.", PerSecond)
}

// of returns an account's limiter.
func (a *Accounts) of(account string, now time.Time) *rate.Limiter {
	a.mu.Lock()
	defer a.mu.Unlock()
	if known := a.accounts[account]; known != nil {
		return known
	}
	if len(a.accounts) >= maxLimited {
		for name, limiter := range a.accounts {
			if limiter.TokensAt(now) >= AtOnce { // as good as new
				delete(a.accounts, name)
			}
		}
	}
	limiter := rate.NewLimiter(PerSecond, AtOnce)
	a.accounts[account] = limiter
	return limiter
}
