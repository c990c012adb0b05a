package iam_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

const (
	firstCRN  = "crn:v1:bluemix:public:vmware-solutions:us-south:a/0123456789abcdef0123456789abcdef:11111111-59b5-4f5e-9d4c-1f1c4d1f7a01::"
	secondCRN = "crn:v1:bluemix:public:vmware-solutions:us-south:a/fedcba98765432100123456789abcdef:22222222-59b5-4f5e-9d4c-1f1c4d1f7a01::"
)

// service returns the Tokens of one IAM and this service's own token source.
func service(t *testing.T, c *cloud, now func() time.Time) (*iam.Tokens, *iam.TokenSource) {
	t.Helper()
	tokens, err := iam.NewTokens(iam.Config{URL: c.URL, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return tokens, tokens.ForAPIKey(secret.Of([]byte(canary)))
}

// authorized answers iam-authz with a token that names its bearer and the one
// who asked, and an API key with "own-" and the number of the request.
func authorized(c *cloud) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("grant_type") == "urn:ibm:params:oauth:grant-type:iam-authz" {
			answerToken(w, r.PostFormValue("desired_iam_id")+" by "+r.PostFormValue("access_token"), 1796)
			return
		}
		answerToken(w, fmt.Sprintf("own-%d", c.count(&c.tokens)), 3600)
	}
}

func TestInstancesNeverShareTokens(t *testing.T) {
	c := newCloud(t)
	c.token = authorized(c)
	tokens, own := service(t, c, newClock().now)
	first, second := tokens.ForInstance(own, firstCRN), tokens.ForInstance(own, secondCRN)
	for range 3 {
		want(t, first.Token, "crn-"+firstCRN+" by own-1")
		want(t, second.Token, "crn-"+secondCRN+" by own-1")
	}
	want(t, first.Renew, "crn-"+firstCRN+" by own-1")
	want(t, second.Token, "crn-"+secondCRN+" by own-1")
	if n := c.count(&c.tokens); n != 4 {
		t.Errorf("%d token requests, want one for the service, one for each instance and one renewed", n)
	}
	f := c.forms[1]
	if len(f) != 3 || f.Get("access_token") != "own-1" || f.Get("desired_iam_id") != "crn-"+firstCRN {
		t.Errorf("sent %v", f)
	}
}

func TestInstanceTokenLivesAsLongAsTheAnswerSays(t *testing.T) {
	c, clock := newCloud(t), newClock()
	c.token = authorized(c)
	tokens, own := service(t, c, clock.now)
	s := tokens.ForInstance(own, firstCRN)
	const token = "crn-" + firstCRN + " by own-1"
	want(t, s.Token, token)
	clock.advance(1436 * time.Second) // 80 % are 1436.8
	want(t, s.Token, token)
	if n := c.count(&c.tokens); n != 2 {
		t.Fatalf("%d token requests before 80 %% of the life", n)
	}
	c.set(func() { c.down = true })
	clock.advance(359 * time.Second)
	want(t, s.Token, token) // its last second
	clock.advance(time.Second)
	if _, err := s.Token(t.Context()); fault.KindOf(err) != fault.Unavailable {
		t.Fatalf("got %v, want unavailable", err)
	}
	c.set(func() { c.down = false })
	clock.advance(time.Minute)
	want(t, s.Token, token) // the service's own token has half an hour left
}

// TestInstanceTokenErrors: whatever fails is the operator's or IAM's fault.
func TestInstanceTokenErrors(t *testing.T) {
	authz := func(answer http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.PostFormValue("grant_type") == "urn:ibm:params:oauth:grant-type:iam-authz" {
				answer(w, r)
				return
			}
			answerToken(w, "own-"+canary, 3600)
		}
	}
	for name, tc := range map[string]struct {
		answer       http.HandlerFunc
		public, text string
		requests     int // with those for the service's own token
	}{
		"the service's API key is refused": {func(w http.ResponseWriter, _ *http.Request) {
			answerError(w, 400, "BXNIM0415E", canary)
		}, "own identity", "BXNIM0415E (request cmVxdWVzdA-17)", 1},
		"the service's own token can't be had": {func(w http.ResponseWriter, _ *http.Request) {
			answerError(w, 500, "BXNIM0111E", canary)
		}, "now", "500 BXNIM0111E", 1},
		"the field is malformed": {authz(func(w http.ResponseWriter, _ *http.Request) {
			answerError(w, 400, "BXNIM0109E", canary)
		}), "act for the instance", "400 BXNIM0109E (request cmVxdWVzdA-17)", 4},
		"not the instance's service": {authz(func(w http.ResponseWriter, _ *http.Request) {
			answerError(w, 403, "BXNIM0513E", canary)
		}), "act for the instance", "403 BXNIM0513E", 4},
		"a bare 403": {authz(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Transaction-Id", "tx-9")
			w.WriteHeader(http.StatusForbidden)
		}), "act for the instance", "(request tx-9)", 4},
		"429": {authz(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTooManyRequests)
		}), "now", "429", 2},
		"503": {authz(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, canary, http.StatusServiceUnavailable)
		}), "now", "503", 2},
		"not JSON": {authz(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("<html>" + canary))
		}), "now", "token service", 2},
		"JSON that is none": {authz(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(canary))
		}), "now", "token service", 2},
		"no life time": {authz(func(w http.ResponseWriter, _ *http.Request) {
			answerToken(w, canary, 0)
		}), "now", "no life time", 2},
		"redirected": {authz(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}), "now", "307", 2},
		"connection lost": {authz(func(w http.ResponseWriter, _ *http.Request) {
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				_ = conn.Close()
			}
		}), "now", "no HTTP answer", 2},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t)
			c.token = tc.answer
			tokens, own := service(t, c, newClock().now)
			s := tokens.ForInstance(own, firstCRN)
			for range 2 {
				_, err := s.Token(t.Context())
				if fault.KindOf(err) != fault.Unavailable || errors.Is(err, &fault.Error{Kind: fault.Denied}) {
					t.Fatalf("got %v, want unavailable and nothing else", err)
				}
				if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, canary) {
					t.Errorf("the error shows a secret: %s", text)
				}
				if !strings.Contains(fault.Public(err), tc.public) || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("got %q", err)
				}
			}
			if n := c.count(&c.tokens); n != tc.requests {
				t.Errorf("%d token requests, want %d: a failure answers for a while", n, tc.requests)
			}
		})
	}
}

// TestRefusalOfAnOldServiceToken: the service's rights changed after its own
// token was issued.
func TestRefusalOfAnOldServiceToken(t *testing.T) {
	c := newCloud(t)
	c.token = func(w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("access_token") == "own-1" {
			answerError(w, 403, "BXNIM0513E", "")
			return
		}
		authorized(c)(w, r)
	}
	tokens, own := service(t, c, newClock().now)
	want(t, own.Token, "own-1")
	want(t, tokens.ForInstance(own, firstCRN).Token, "crn-"+firstCRN+" by own-3")
}

// TestOneInstancesTroubleIsItsOwn: one instance is refused, one waits for an
// answer; the third has its token at once.
func TestOneInstancesTroubleIsItsOwn(t *testing.T) {
	c := newCloud(t)
	asked, proceed := make(chan struct{}), make(chan struct{})
	c.token = func(w http.ResponseWriter, r *http.Request) {
		switch r.PostFormValue("desired_iam_id") {
		case "crn-slow":
			close(asked)
			<-proceed
		case "crn-refused":
			answerError(w, 403, "BXNIM0513E", "")
			return
		}
		authorized(c)(w, r)
	}
	tokens, own := service(t, c, newClock().now)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := tokens.ForInstance(own, "slow").Token(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	<-asked
	if _, err := tokens.ForInstance(own, "refused").Token(t.Context()); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("got %v, want unavailable", err)
	}
	if got, err := tokens.ForInstance(own, secondCRN).Token(t.Context()); err != nil || !strings.HasPrefix(got, "crn-"+secondCRN) {
		t.Errorf("got %q, %v", got, err)
	}
	close(proceed)
	<-done
}
