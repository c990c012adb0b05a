// Package keyprotect is the key manager port over the REST API v2 that IBM Key
// Protect and Hyper Protect Crypto Services share.
package keyprotect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/sony/gobreaker/v2"

	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// The limits of calls to a key manager, in one place.
const (
	callTime   = 20 * time.Second // one call with its repetitions, within the caller's deadline
	tryTime    = 8 * time.Second  // one exchange
	tries      = 3                // exchanges of a call that may be repeated
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second // a longer Retry-After ends the call, unless it throttles

	// A tenant's calls under way at one key manager instance: Key Protect names
	// no number. Half are kept for reads.
	atOnce        = 32
	changesAtOnce = atOnce / 2
	// throttledTries bounds how often a call is answered 429: each time all
	// calls wait, so it is seldom the same one.
	throttledTries = 10
	// longestHold is the most that a 429 holds all calls back. Whoever asks for
	// more is asked again by one call after it.
	longestHold = time.Minute

	openAfter = 10              // exchanges in a row without a word of the key manager hold back all others
	openTime  = 5 * time.Second // until one of them may try again

	lookUpTime  = 6 * time.Second // finding out what became of a create, after the caller's deadline
	lookUpPause = 250 * time.Millisecond
	// clocksDiffer is how far the key manager's clock and ours may be apart,
	// the length of a create included.
	clocksDiffer = 10 * time.Minute
	pageSize     = 5_000           // the most that the API gives
	maxListed    = 100_000         // keys of an instance
	readTime     = time.Minute     // reading the whole list
	readEvery    = 5 * time.Minute // at most; a reading that failed doesn't count

	checkTime = 60 * time.Second
	cleanUp   = 10 * time.Second // removing a probe, after the caller's deadline

	maxAnswer = 64 << 10 // of one key or action, in bytes
	maxList   = 32 << 20 // of a page: a key has at most 2 KiB of name, description, tags and aliases

	// To one host, all tenants together. As many may be idle: fewer would make
	// a burst open and close connections, which doubles the CPU time of a call.
	connections     = 256
	idleConnections = 2_048 // to all hosts
)

// Tokens gives access tokens; iam.TokenSource is one.
type Tokens interface {
	// Token returns a token that has not expired.
	Token(ctx context.Context) (string, error)
	// Renew returns a token fetched after a service refused the one before.
	Renew(ctx context.Context) (string, error)
}

// Config is what a Client is made of.
type Config struct {
	BaseURL     string // address without a path, from Endpoints
	InstanceCRN string // key manager instance; its GUID goes into each request
	KeyRing     string // ring of new standard keys; empty: "default"
	RootKeyID   string // UUID
	Tokens      Tokens
	// Authorized is the KMIP instance as which Tokens speak under an IAM
	// service authorization. Empty: they are those of an API key's owner.
	Authorized tenant.ID
	HTTP       *http.Client     // nil: one like NewHTTPClient's, shared
	Now        func() time.Time // nil: time.Now
}

// Client is an engine.KeyManager: one root key in one key manager instance. It
// holds no key material between calls. Safe for concurrent use.
type Client struct {
	base       string // ends in /api/v2
	instance   crn.CRN
	location   engine.Location
	tokens     Tokens
	authorized tenant.ID
	http       *http.Client
	breaker    *gobreaker.CircuitBreaker[answer]
	gate       *gate
	index      index
	now        func() time.Time
	sleep      func(ctx context.Context, d time.Duration) error
}

var _ engine.KeyManager = (*Client)(nil)

// New returns a Client. Its errors are fault.Invalid: a setting is not one.
func New(c Config) (*Client, error) {
	if uuid.Validate(c.RootKeyID) != nil {
		return nil, fault.New(fault.Invalid, "The root key's ID is not a UUID.")
	}
	return build(c)
}

// build is New for who needs no root key.
func build(c Config) (*Client, error) {
	name, err := crn.Parse(c.InstanceCRN)
	if err != nil || uuid.Validate(name.Instance) != nil {
		return nil, errInstance
	}
	if c.KeyRing == "" {
		c.KeyRing = "default"
	}
	if !identifier.MatchString(c.KeyRing) {
		return nil, fault.New(fault.Invalid, "The key ring's ID holds characters that key rings don't have.")
	}
	if c.HTTP == nil {
		c.HTTP = sharedHTTP()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	// A redirection is an unknown answer: it would carry token and key
	// elsewhere, and make a POST twice.
	client := *c.HTTP
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{
		base:       c.BaseURL + "/api/v2",
		instance:   name,
		location:   engine.Location{KeyManagerCRN: c.InstanceCRN, KeyRing: c.KeyRing, RootKeyID: c.RootKeyID},
		tokens:     c.Tokens,
		authorized: c.Authorized,
		http:       &client,
		breaker:    newBreaker(),
		gate:       newGate(),
		now:        c.Now,
		sleep:      sleep,
	}, nil
}

// Location implements engine.KeyManager.
func (c *Client) Location() engine.Location { return c.location }

// NewHTTPClient returns a client that keeps connections to key managers open
// and bounds their number; nil means the system's roots. It speaks HTTP/1.1
// without compression: less of a key lingers in buffers that we can't zero, and
// BenchmarkUnwrap finds HTTP/2 dearer for calls one by one and hardly cheaper
// for many at once.
func NewHTTPClient(roots *x509.CertPool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Client{Transport: &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    5 * time.Second,
		Protocols:              protocols,
		MaxConnsPerHost:        connections,
		MaxIdleConns:           idleConnections,
		MaxIdleConnsPerHost:    connections,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}}
}

var sharedHTTP = sync.OnceValue(func() *http.Client { return NewHTTPClient(nil) })

// request is one call of the API.
type request struct {
	action  string // its name in errors: "wrap"
	method  string
	path    string // escaped
	query   url.Values
	body    *body // nil: none
	about   subject
	anyRing bool // not in the tenant's key ring alone
	change  bool // reads go first
	once    bool // making it twice makes two keys: not repeated unless the first had no effect
	limit   int  // of the answer, in bytes
}

// answer is a success: its body, which the caller clears, and what IBM's
// support finds the exchange by.
type answer struct {
	action, correlation string
	content             []byte
}

// failure is that of a success that brings no result.
func (a answer) failure(err error) *failure {
	return &failure{action: a.action, correlation: a.correlation, sent: true, err: err}
}

// unreadable is the failure of an answer that is not as documented. The
// decoder's own words are left out: they may quote the answer.
func (a answer) unreadable() error {
	return fault.Wrap(fault.Unavailable, publicUnavailable, a.failure(errors.New("the answer is not as documented")))
}

// call makes a request and returns its success. A refused token is exchanged once; a key that is not in its ring is
// asked for without one, as it may have been moved; what may pass is repeated
// if that is safe; after a 429 all calls wait. Errors are a *fault.Error around a *failure, or the tokens'.
func (c *Client) call(ctx context.Context, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	token, err := c.tokens.Token(ctx)
	if err != nil {
		return answer{}, noToken(err)
	}
	ring, renewed := c.location.KeyRing, false
	if r.anyRing {
		ring = ""
	}
	for try, throttled := 1, 1; ; {
		a, f := c.attempt(ctx, r, token, ring)
		switch {
		case f == nil:
			return a, nil
		case f.status == http.StatusUnauthorized && !renewed:
			renewed = true
			if token, err = c.tokens.Renew(ctx); err != nil {
				return answer{}, noToken(err)
			}
		case f.status == http.StatusNotFound && r.about != collection && ring != "":
			ring = ""
		case f.status == http.StatusTooManyRequests && throttled < throttledTries:
			pause := f.retryAfter
			if pause == 0 {
				pause = min(firstPause<<throttled, maxPause)
			}
			c.gate.hold(c.now().Add(min(pause, longestHold))) // the next attempt waits with all others
			throttled++
		case f.status != http.StatusTooManyRequests && f.passing() && (!r.once || !f.unknown()) && try < tries && c.pause(ctx, try, f.retryAfter):
			try++
		default:
			return answer{}, f.fault(r.about)
		}
	}
}

// noToken keeps the kinds that tokens have and calls all else unavailable.
func noToken(err error) error {
	if kind := fault.KindOf(err); kind == fault.Denied || kind == fault.Unavailable {
		return err
	}
	return fault.Wrap(fault.Unavailable, publicUnavailable, err)
}

// pause waits before another try, with full jitter, and reports whether there
// is time for one.
func (c *Client) pause(ctx context.Context, try int, asked time.Duration) bool {
	if asked > maxPause {
		return false
	}
	d := asked + rand.N(firstPause<<try) //nolint:gosec // jitter, not a secret
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	return c.sleep(ctx, d) == nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// exchange sends r once. Headers: Key Protect API v2, "Headers"; without a
// ring the key manager looks in all.
func (c *Client) exchange(ctx context.Context, r request, token, ring string) (answer, *failure) {
	correlation := uuid.NewString()
	var sent atomic.Bool // set by another goroutine
	lost := func(err error) *failure {
		return &failure{action: r.action, correlation: correlation, sent: sent.Load(), err: broken(err)}
	}
	ctx, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { sent.Store(true) },
	})
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, nil)
	if err != nil {
		return answer{}, lost(err)
	}
	req.URL.RawQuery = r.query.Encode()
	req.Header = http.Header{
		"Accept":           {"application/json"},
		"Authorization":    {"Bearer " + token},
		"Bluemix-Instance": {c.instance.Instance},
		"Correlation-Id":   {correlation},
	}
	if ring != "" {
		req.Header.Set("X-Kms-Key-Ring", ring)
	}
	if r.method == http.MethodDelete {
		req.Header.Set("Prefer", "return=minimal")
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
		req.ContentLength = int64(len(r.body.bytes))
		req.Body = r.body.reader()
		// For a connection that was closed before anything was written.
		req.GetBody = func() (body io.ReadCloser, err error) { return r.body.reader(), nil }
	}
	response, err := c.http.Do(req)
	if err != nil {
		return answer{}, lost(err)
	}
	defer response.Body.Close()
	// The key manager echoes our id; what stands before it may set its own.
	if id := response.Header.Get("Correlation-Id"); identifier.MatchString(id) {
		correlation = id
	}
	content, err := readAll(response.Body, r.limit)
	if err != nil {
		return answer{}, lost(err)
	}
	switch response.StatusCode {
	case http.StatusOK, http.StatusCreated, http.StatusNoContent:
		return answer{action: r.action, correlation: correlation, content: content}, nil
	}
	defer clear(content)
	f := refusal(response, content, c.now())
	f.action, f.correlation = r.action, correlation
	return answer{}, f
}

// keyPath is the path of a key, or of an action on it.
func keyPath[ID ~string](id ID, action string) string {
	return fmt.Sprintf("/keys/%s%s", url.PathEscape(string(id)), action)
}
