package iam

import (
	"context"
	"sync"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
)

// How often the token service is asked for one identity.
const (
	// freshFor is how long a token fetched because of a refusal counts as
	// fresh: a tenant whose permission is gone costs one fetch in this time,
	// however often it asks.
	freshFor = 10 * time.Second
	// refusedPause follows a refusal of the identity.
	refusedPause = 5 * time.Second
	// failedPause follows any other failure, unless the token service names
	// another time in Retry-After, of which maxPause is honoured.
	failedPause = time.Second
	maxPause    = time.Minute
)

// Tokens makes token sources for one IAM.
type Tokens struct {
	config  Config
	service *core.BaseService // carries what go-sdk-core has no authenticator for
}

// NewTokens returns Tokens, or what is wrong with c.
func NewTokens(c Config) (*Tokens, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	service, err := core.NewBaseService(&core.ServiceOptions{URL: c.URL, Authenticator: &core.NoAuthAuthenticator{}})
	if err != nil {
		return nil, err
	}
	service.Client = c.HTTP
	return &Tokens{config: c, service: service}, nil
}

// TokenSource holds the access token of one identity and keeps it fresh. From
// 80 % of a token's life on, use fetches its successor in the background; it
// serves until its last second while IAM is down. Concurrent callers share one
// fetch. Safe for concurrent use.
//
// The token requests are go-sdk-core's. Its cache is not used: it ignores
// contexts, and fetches the tokens of all API keys of a process behind one
// lock, so that one slow answer would hold up every tenant.
type TokenSource struct {
	now   func() time.Time
	fetch fetch

	mu      sync.Mutex
	current token
	flight  *flight // the fetch under way; nil when there is none
	// After a failure, failed answers until the time resume.
	failed error
	resume time.Time
}

type token struct {
	value   string
	asked   time.Time // when its fetch began
	refresh time.Time
	expires time.Time
	renewed bool // fetched because its predecessor was refused
}

// flight is one fetch; token and err are set before done is closed.
type flight struct {
	renews bool
	done   chan struct{}
	token  token
	err    error
}

// Token returns an access token that has not expired. Its errors are
// fault.Denied when IAM does not accept the tenant's API key and
// fault.Unavailable otherwise; they name IBM's error code and request id, never
// a key or token.
func (s *TokenSource) Token(ctx context.Context) (string, error) {
	s.mu.Lock()
	now := s.now()
	valid := now.Before(s.current.expires)
	if valid && now.Before(s.current.refresh) {
		defer s.mu.Unlock()
		return s.current.value, nil
	}
	f := s.flight
	if f == nil {
		f = s.start(now, false)
	}
	if valid {
		defer s.mu.Unlock()
		return s.current.value, nil
	}
	s.mu.Unlock()
	return f.wait(ctx)
}

// Renew returns an access token that was fetched after a service refused the
// one before. A service that refuses this one too has given its final answer.
// Errors are as with Token.
func (s *TokenSource) Renew(ctx context.Context) (string, error) {
	s.mu.Lock()
	now := s.now()
	if s.current.renewed && now.Before(s.current.expires) && now.Sub(s.current.asked) < freshFor {
		defer s.mu.Unlock()
		return s.current.value, nil
	}
	f := s.flight
	if f == nil || !f.renews { // a fetch begun before the refusal proves nothing
		f = s.start(now, true)
	}
	s.mu.Unlock()
	return f.wait(ctx)
}

func (f *flight) wait(ctx context.Context) (string, error) {
	select {
	case <-f.done:
		return f.token.value, f.err
	case <-ctx.Done():
		return "", unavailable(ctx.Err())
	}
}

// start begins a fetch, or fails at once during the pause after a failure. The
// fetch belongs to no caller and ends after answerTime. A token's life counts
// from the moment it was asked for, by our clock alone. s.mu is held.
func (s *TokenSource) start(now time.Time, renews bool) *flight {
	f := &flight{renews: renews, done: make(chan struct{})}
	if s.failed != nil && now.Before(s.resume) {
		f.err = s.failed
		close(f.done)
		return f
	}
	s.flight = f
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), answerTime)
		defer cancel()
		answer, pause, err := s.fetch(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		defer close(f.done)
		if s.flight == f {
			s.flight = nil
		}
		s.failed, f.err = err, err
		if err != nil {
			s.resume = s.now().Add(pause)
			return
		}
		life := time.Duration(answer.ExpiresIn) * time.Second
		f.token = token{
			value: answer.AccessToken, asked: now, renewed: renews,
			refresh: now.Add(life * 8 / 10), expires: now.Add(life),
		}
		if !now.Before(s.current.asked) {
			s.current = f.token
		}
	}()
	return f
}
