package knobs

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-chi/chi/v5"
)

func admin(k *Knobs) http.Handler {
	r := chi.NewRouter()
	k.Routes(r)
	return r
}

func ask(h http.Handler, method, path, body string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w.Code, strings.TrimSpace(w.Body.String())
}

// TestLatencyDistribution compares drawn delays with the two points that were asked for.
func TestLatencyDistribution(t *testing.T) {
	t.Parallel()
	l := &latency{MedianMS: 20, P99MS: 200}
	drawn := make([]time.Duration, 50_000)
	for i := range drawn {
		drawn[i] = l.duration()
	}
	slices.Sort(drawn)
	for share, want := range map[float64]time.Duration{0.5: 20 * time.Millisecond, 0.99: 200 * time.Millisecond} {
		got := drawn[int(share*float64(len(drawn)))]
		if got < want*8/10 || got > want*12/10 {
			t.Errorf("%v of the delays are up to %s, want about %s", share, got, want)
		}
	}
	if most := drawn[len(drawn)-1]; most > 600*time.Millisecond {
		t.Errorf("the longest delay is %s", most)
	}
}

// TestLatencyIsAsLongAsAsked runs in a bubble, where time is exact.
func TestLatencyIsAsLongAsAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := New(time.Now)
		if err := k.Set("latency", `{"rules":[{"median_ms":250}]}`); err != nil {
			t.Fatal(err)
		}
		service := k.Around("kms", http.NotFoundHandler())
		start := time.Now()
		if status, _ := ask(service, "GET", "/", ""); status != http.StatusNotFound {
			t.Errorf("status %d", status)
		}
		if took := time.Since(start); took != 250*time.Millisecond {
			t.Errorf("it took %s", took)
		}
	})
}

func TestIAMIsTurned(t *testing.T) {
	t.Parallel()
	var log []string
	broken := false
	k := New(time.Now)
	k.Connect(IAM{
		RollSigningKeys: func() error {
			if broken {
				return errors.New("the disk is full")
			}
			log = append(log, "roll")
			return nil
		},
		RetireSigningKeys: func() error { log = append(log, "retire"); return nil },
		SetDecisionDelay:  func(d time.Duration) { log = append(log, d.String()) },
	})
	h := admin(k)
	for _, c := range []struct {
		method, path, body string
		status             int
		answer             string
	}{
		{"PUT", "signing-keys", `{}`, 200, `{"rolls":1}`},
		{"PUT", "signing-keys", `{"retire_old":true}`, 200, `{"rolls":2}`},
		{"DELETE", "signing-keys", ``, 204, ``},
		{"PUT", "decisions", `{"delay_s":120}`, 200, `{"delay_s":120}`},
		{"PUT", "decisions", `{"delay_s":-1}`, 400, ``},
		{"DELETE", "decisions", ``, 204, ``},
		{"GET", "decisions", ``, 200, `{"delay_s":0}`},
	} {
		if status, body := ask(h, c.method, "/emulator/v1/"+c.path, c.body); status != c.status || c.answer != "" && body != c.answer {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, status, body)
		}
	}
	if got := strings.Join(log, ","); got != "roll,roll,retire,retire,2m0s,0s" {
		t.Errorf("IAM was turned: %s", got)
	}
	broken = true
	if status, body := ask(h, "PUT", "/emulator/v1/signing-keys", `{}`); status != 400 || !strings.Contains(body, "disk is full") {
		t.Errorf("a roll-over that fails: %d %s", status, body)
	}
	k.Connect(IAM{})
	for name, body := range map[string]string{"signing-keys": `{}`, "decisions": `{"delay_s":1}`} {
		if err := k.Set(name, body); !errors.Is(err, errNoIAM) {
			t.Errorf("%s without an IAM: %v", name, err)
		}
	}
}

func FuzzMatches(f *testing.F) {
	f.Add("/api/v2/keys/*/actions/", "/api/v2/keys/1/actions/wrap")
	f.Add("/", "")
	f.Add("//", "/a//b")
	f.Fuzz(func(t *testing.T, pattern, sent string) {
		s := Scope{Path: pattern}
		if s.checkScope() != nil || pattern == "" {
			t.Skip()
		}
		// A pattern without wildcards is about itself, and about what is below it if it ends in a slash.
		plain := !strings.ContainsAny(pattern, `*?[\`)
		want := sent == pattern || strings.HasSuffix(pattern, "/") && strings.HasPrefix(sent, pattern)
		if got := matches(pattern, sent); plain && got != want {
			t.Errorf("%q matches %q: %t", pattern, sent, got)
		}
	})
}
