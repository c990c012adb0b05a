package iam

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// How often the token service is asked for one API key.
const (
	// freshFor is how long a token fetched because of a refusal counts as
	// fresh: a tenant whose permission is gone costs one fetch in this time,
	// however often it asks.
	freshFor = 10 * time.Second
	// refusedPause follows a refusal of the API key.
	refusedPause = 5 * time.Second
	// failedPause follows any other failure, unless the token service names
	// another time in Retry-After, of which maxPause is honoured.
	failedPause = time.Second
	maxPause    = time.Minute
)

// Tokens makes token sources for one IAM.
type Tokens struct {
	config Config
}

// NewTokens returns Tokens, or what is wrong with c.
func NewTokens(c Config) (*Tokens, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	return &Tokens{config: c}, nil
}

// ForAPIKey returns a source of access tokens for the owner of an API key. It
// keeps a copy of the key and asks for nothing until its first use.
func (t *Tokens) ForAPIKey(apiKey *secret.Bytes) *TokenSource {
	return &TokenSource{config: t.config, apiKey: apiKey.Clone()}
}

// TokenSource holds the access token of one API key and keeps it fresh. From
// 80 % of a token's life on, use fetches its successor in the background; it
// serves until its last second while IAM is down. Requests are never repeated
// here, and concurrent callers share one. Safe for concurrent use.
//
// The token request is go-sdk-core's. Its cache is not used: it ignores
// contexts, and fetches the tokens of all API keys of a process behind one
// lock, so that one slow answer would hold up every tenant.
type TokenSource struct {
	config Config
	apiKey *secret.Bytes

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
// fault.Denied when IAM does not accept the API key and fault.Unavailable
// otherwise; they name IBM's error code and request id, never the key.
func (s *TokenSource) Token(ctx context.Context) (string, error) {
	s.mu.Lock()
	now := s.config.Now()
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
	now := s.config.Now()
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
// fetch belongs to no caller and ends after answerTime. s.mu is held.
func (s *TokenSource) start(now time.Time, renews bool) *flight {
	f := &flight{renews: renews, done: make(chan struct{})}
	if s.failed != nil && now.Before(s.resume) {
		f.err = s.failed
		close(f.done)
		return f
	}
	s.flight = f
	go func() {
		answer, pause, err := s.fetch()
		s.mu.Lock()
		defer s.mu.Unlock()
		defer close(f.done)
		if s.flight == f {
			s.flight = nil
		}
		s.failed, f.err = err, err
		if err != nil {
			s.resume = s.config.Now().Add(pause)
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

// fetch asks the token service once; with an error it says how long to pause.
func (s *TokenSource) fetch() (*core.IamTokenServerResponse, time.Duration, error) {
	authenticator, err := core.NewIamAuthenticatorBuilder().
		SetURL(s.config.URL).
		SetApiKey(string(s.apiKey.Reveal())).
		SetClient(s.config.HTTP).
		Build()
	if err != nil { // its text names the field alone
		return nil, refusedPause, fault.Wrap(fault.Denied, publicRefused, err)
	}
	answer, err := authenticator.RequestToken()
	if err != nil {
		return nil, pauseAfter(err), explain(err)
	}
	if answer.AccessToken == "" || answer.ExpiresIn <= 0 {
		return nil, failedPause, unavailable(errors.New("token service: the answer holds no token or no life time"))
	}
	return answer, 0, nil
}

const publicRefused = "IAM does not accept the API key. Give a valid API key of the service ID."

func unavailable(err error) error {
	return fault.Wrap(fault.Unavailable, "IAM does not give out access tokens now.", err)
}

// explain gives the failure of a token request its kind. Final is the token
// service's own word about the API key alone: status 400 with its errorCode
// (BXNIM0415E and others), not a stranger's 400. Texts are left out: they may
// repeat what was sent.
func explain(err error) error {
	var refusal *core.AuthenticationError
	if !errors.As(err, &refusal) || refusal.HTTPProblem == nil || refusal.Response == nil {
		return unavailable(broken(err))
	}
	code, request := ibmCode(refusal.Response), requestID(refusal.Response)
	cause := fmt.Errorf("token service answered %d %s (request %s)", refusal.Response.StatusCode, code, request)
	if refusal.Response.StatusCode == http.StatusBadRequest && code != "" {
		return fault.Wrap(fault.Denied, publicRefused, cause)
	}
	return unavailable(cause)
}

// broken describes a failed exchange by those errors whose texts are ours or
// the operating system's: net/http's may quote what the other side sent.
func broken(err error) error {
	var network *net.OpError
	var certificate *tls.CertificateVerificationError
	var other net.Error
	switch {
	case errors.As(err, &certificate):
		return certificate
	case errors.As(err, &network):
		return network
	case errors.As(err, &other) && other.Timeout():
		return fmt.Errorf("token service: no answer within %s", answerTime)
	default:
		return errors.New("token service: no HTTP answer")
	}
}

func pauseAfter(err error) time.Duration {
	if fault.KindOf(explain(err)) == fault.Denied {
		return refusedPause
	}
	var refusal *core.AuthenticationError
	if errors.As(err, &refusal) && refusal.HTTPProblem != nil && refusal.Response != nil {
		seconds, err := strconv.Atoi(refusal.Response.Headers.Get("Retry-After"))
		if err == nil && seconds > 0 && seconds <= int(maxPause/time.Second) {
			return time.Duration(seconds) * time.Second
		}
	}
	return failedPause
}

// An identifier from IAM enters our logs only in this shape.
var identifier = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// ibmCode returns the errorCode of the token service's error document, or "".
func ibmCode(answer *core.DetailedResponse) string {
	document, _ := answer.Result.(map[string]any)
	code, _ := document["errorCode"].(string)
	if !identifier.MatchString(code) {
		return ""
	}
	return code
}

// requestID returns what IBM's support finds the request by.
func requestID(answer *core.DetailedResponse) string {
	document, _ := answer.Result.(map[string]any)
	details, _ := document["context"].(map[string]any)
	id, _ := details["requestId"].(string)
	if id == "" {
		id = answer.Headers.Get("Transaction-Id")
	}
	if !identifier.MatchString(id) {
		return "unknown"
	}
	return id
}
