package iam_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

const canary = "canary-api-key-8f2b61"

func source(t *testing.T, c *cloud, now func() time.Time) *iam.TokenSource {
	t.Helper()
	tokens, err := iam.NewTokens(iam.Config{URL: c.URL, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	key := secret.Of([]byte(canary))
	defer key.Wipe() // the source has its own copy
	return tokens.ForAPIKey(key)
}

func want(t *testing.T, f func(context.Context) (string, error), token string) {
	t.Helper()
	got, err := f(t.Context())
	if err != nil || got != token {
		t.Fatalf("got %q, %v; want %q", got, err, token)
	}
}

func TestTokenIsFetchedOnceAndKept(t *testing.T) {
	c := newCloud(t)
	s := source(t, c, newClock().now)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if got, err := s.Token(t.Context()); err != nil || got != "token-1" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	all.Wait()
	if n := c.count(&c.tokens); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	if f := c.forms[0]; f.Get("grant_type") != "urn:ibm:params:oauth:grant-type:apikey" || f.Get("apikey") != canary {
		t.Errorf("sent %v", f)
	}
}

func TestTokenIsRefreshedInTheBackground(t *testing.T) {
	c, clock := newCloud(t), newClock()
	asked, proceed := make(chan struct{}), make(chan struct{})
	s := source(t, c, clock.now)
	want(t, s.Token, "token-1")
	clock.advance(47 * time.Minute)
	want(t, s.Token, "token-1")
	if n := c.count(&c.tokens); n != 1 {
		t.Fatalf("%d token requests before 80 %% of the life", n)
	}
	c.set(func() {
		c.token = func(w http.ResponseWriter, _ *http.Request) {
			close(asked)
			<-proceed
			answerToken(w, "token-2", 3600)
		}
	})
	clock.advance(2 * time.Minute)
	want(t, s.Token, "token-1") // nobody waits for the refresh
	<-asked
	want(t, s.Token, "token-1")
	clock.advance(time.Hour) // the first one has expired: now they do
	close(proceed)
	want(t, s.Token, "token-2")
	if n := c.count(&c.tokens); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

func TestTokenServesToItsLastSecondWhileIAMIsDown(t *testing.T) {
	c, clock := newCloud(t), newClock()
	s := source(t, c, clock.now)
	want(t, s.Token, "token-1")
	c.set(func() { c.down = true })
	clock.advance(time.Hour - time.Second)
	want(t, s.Token, "token-1")
	clock.advance(time.Second)
	if _, err := s.Token(t.Context()); fault.KindOf(err) != fault.Unavailable {
		t.Fatalf("got %v, want unavailable", err)
	}
	c.set(func() { c.down = false })
	clock.advance(time.Minute)
	want(t, s.Token, "token-2")
}

func TestRenewFetchesAfterTheRefusal(t *testing.T) {
	c, clock := newCloud(t), newClock()
	s := source(t, c, clock.now)
	want(t, s.Token, "token-1")
	want(t, s.Renew, "token-2")
	want(t, s.Token, "token-2")
	want(t, s.Renew, "token-2") // just fetched for this reason
	clock.advance(time.Minute)
	want(t, s.Renew, "token-3")
}

func TestRenewDoesNotTrustAFetchThatBeganEarlier(t *testing.T) {
	c, clock := newCloud(t), newClock()
	s := source(t, c, clock.now)
	want(t, s.Token, "token-1")
	asked, proceed := make(chan struct{}), make(chan struct{})
	c.set(func() {
		c.token = func(w http.ResponseWriter, _ *http.Request) {
			close(asked)
			<-proceed
			answerToken(w, "early", 3600)
		}
	})
	clock.advance(50 * time.Minute)
	want(t, s.Token, "token-1")
	<-asked
	c.set(func() { c.token = nil })
	clock.advance(time.Second)
	want(t, s.Renew, "token-3")
	close(proceed)
	c.Close() // waits until the early answer is out
	want(t, s.Token, "token-3")
}

func TestTokenErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		kind   fault.Kind
		text   string
	}{
		"unknown key": {func(w http.ResponseWriter, _ *http.Request) {
			answerError(w, 400, "BXNIM0415E", canary)
		}, fault.Denied, "BXNIM0415E (request cmVxdWVzdA-17)"},
		"a stranger's 400": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "bad request "+canary, http.StatusBadRequest)
		}, fault.Unavailable, "400"},
		"401": {func(w http.ResponseWriter, _ *http.Request) {
			answerError(w, 401, "BXNIM0439E", canary)
		}, fault.Unavailable, "BXNIM0439E"},
		"429": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Transaction-Id", "tx-4")
			w.WriteHeader(http.StatusTooManyRequests)
		}, fault.Unavailable, "(request tx-4)"},
		"500": {func(w http.ResponseWriter, _ *http.Request) {
			answerError(w, 500, "BXNIM0111E", canary)
		}, fault.Unavailable, "500"},
		"not JSON": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("<html>" + canary))
		}, fault.Unavailable, "no token"},
		"no life time": {func(w http.ResponseWriter, _ *http.Request) {
			answerToken(w, canary, 0)
		}, fault.Unavailable, "no token"},
		"redirected": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, fault.Unavailable, "307"},
		"not HTTP": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = conn.Write([]byte(canary + "\r\n\r\n"))
				_ = conn.Close()
			}
		}, fault.Unavailable, "no HTTP answer"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t)
			c.token = tc.answer
			s := source(t, c, newClock().now)
			for _, f := range []func(context.Context) (string, error){s.Token, s.Renew} {
				_, err := f(t.Context())
				if fault.KindOf(err) != tc.kind {
					t.Fatalf("got %v (%v), want %v", err, fault.KindOf(err), tc.kind)
				}
				if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, canary) {
					t.Errorf("the error shows a secret: %s", text)
				}
				if !strings.Contains(err.Error(), tc.text) {
					t.Errorf("%q does not hold %q", err, tc.text)
				}
			}
			if n := c.count(&c.tokens); n != 1 {
				t.Errorf("%d token requests, want 1: a failure answers for a while", n)
			}
		})
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	c, clock := newCloud(t), newClock()
	c.token = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "20")
		w.WriteHeader(http.StatusTooManyRequests)
	}
	s := source(t, c, clock.now)
	for range 3 {
		if _, err := s.Token(t.Context()); fault.KindOf(err) != fault.Unavailable {
			t.Fatal(err)
		}
		clock.advance(9 * time.Second)
	}
	c.set(func() { c.token = nil })
	want(t, s.Token, "token-2")
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	c := newCloud(t)
	asked, proceed := make(chan struct{}), make(chan struct{})
	c.token = func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-proceed
		answerToken(w, "late", 3600)
	}
	s := source(t, c, newClock().now)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := s.Token(ctx); fault.KindOf(err) != fault.Unavailable {
		t.Fatalf("got %v, want unavailable", err)
	}
	close(proceed)
	want(t, s.Token, "late") // the fetch itself went on
}

func TestOneTenantsSlowTokenHoldsUpNobody(t *testing.T) {
	c := newCloud(t)
	asked, proceed := make(chan struct{}), make(chan struct{})
	c.token = func(w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("apikey") == canary {
			close(asked)
			<-proceed
		}
		answerToken(w, "token of "+r.PostFormValue("apikey"), 3600)
	}
	tokens, err := iam.NewTokens(iam.Config{URL: c.URL})
	if err != nil {
		t.Fatal(err)
	}
	slow := tokens.ForAPIKey(secret.Of([]byte(canary)))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := slow.Token(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	<-asked
	want(t, tokens.ForAPIKey(secret.Of([]byte("second"))).Token, "token of second")
	close(proceed)
	<-done
}

func TestAddressIsChecked(t *testing.T) {
	for address, ok := range map[string]bool{
		"https://iam.cloud.ibm.com":       true,
		"https://iam.cloud.ibm.com/":      true,
		"http://127.0.0.1:8080":           true,
		"http://localhost:8080":           true,
		"http://iam.cloud.ibm.com":        false,
		"https://iam.cloud.ibm.com/token": false,
		"https://user@iam.cloud.ibm.com":  false,
		"iam.cloud.ibm.com":               false,
		"":                                false,
	} {
		if _, err := iam.NewTokens(iam.Config{URL: address}); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
	}
}
