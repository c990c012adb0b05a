package knobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
)

const maxSeconds = 365 * 24 * 60 * 60

// Services are the names by which rules tell the emulator's services apart.
var Services = []string{"iam", "resource-controller", "kms", "hs-crypto"}

// Scope says what calls a rule is about, and how often it strikes. What is left out does not narrow.
type Scope struct {
	Service  string `json:"service,omitempty"`
	Instance string `json:"instance,omitempty"` // Bluemix-Instance header
	Method   string `json:"method,omitempty"`
	// Path is a pattern for the path as it was sent: * is what has no slash, and a pattern that ends
	// in a slash is about everything below.
	Path string `json:"path,omitempty"`
	// AfterS is how many seconds after the knob was set, by the emulator's clock, the rule begins.
	AfterS int `json:"after_s,omitempty"`
	// Times is how often the rule strikes before it is gone.
	Times *int `json:"times,omitempty"`
	// Rate is the share of calls that it strikes, above 0 up to 1. Which ones is drawn from a sequence
	// that starts anew when the knob is set.
	Rate *float64 `json:"rate,omitempty"`

	begins time.Time
}

func (s *Scope) scope() *Scope { return s }

func (s *Scope) checkScope() error {
	var problems []error
	if s.Service != "" && !slices.Contains(Services, s.Service) {
		problems = append(problems, fmt.Errorf("service is %q: write one of %s", s.Service, strings.Join(Services, ", ")))
	}
	if _, err := path.Match(s.Path, ""); err != nil || s.Path != "" && s.Path[0] != '/' {
		problems = append(problems, fmt.Errorf("path is %q: begin it with a slash, as in /api/v2/keys/*/actions/wrap", s.Path))
	}
	if s.AfterS < 0 || s.AfterS > maxSeconds {
		problems = append(problems, fmt.Errorf("after_s is not 0 to %d", maxSeconds))
	}
	if s.Times != nil && *s.Times < 1 {
		problems = append(problems, errors.New("times is less than 1: leave it out for a rule without end"))
	}
	if s.Rate != nil && !(*s.Rate > 0 && *s.Rate <= 1) {
		problems = append(problems, errors.New("rate is not above 0 and up to 1: leave it out for every call"))
	}
	return errors.Join(problems...)
}

func (s *Scope) covers(c *call, now time.Time) bool {
	return !now.Before(s.begins) &&
		(s.Service == "" || s.Service == c.Service) &&
		(s.Instance == "" || strings.EqualFold(s.Instance, c.Instance)) &&
		(s.Method == "" || strings.EqualFold(s.Method, c.Method)) &&
		(s.Path == "" || matches(s.Path, c.Path))
}

func matches(pattern, sent string) bool {
	if strings.HasSuffix(pattern, "/") {
		// As many segments as the pattern has before its last slash.
		n := strings.Count(pattern, "/")
		parts := strings.SplitAfterN(sent, "/", n+1)
		if len(parts) <= n {
			return false
		}
		sent = strings.Join(parts[:n], "")
	}
	ok, _ := path.Match(pattern, sent) // the pattern was checked when it was set
	return ok
}

// rule is a scope and an effect.
type rule interface {
	comparable
	scope() *Scope
	check() error // of the effect
}

// rules is a knob that is a list of rules.
type rules[R rule] struct {
	knobs   *Knobs
	mu      sync.Mutex
	list    []R
	draw    *rand.Rand
	changed chan struct{} // closed when the list is set or cleared
}

type rulesBody[R rule] struct {
	Rules []R `json:"rules"`
}

func (l *rules[R]) of(k *Knobs) *rules[R] {
	l.knobs, l.list, l.changed = k, []R{}, make(chan struct{})
	return l
}

func (l *rules[R]) show(context.Context, url.Values) (json.RawMessage, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return json.Marshal(rulesBody[R]{l.list})
}

func (l *rules[R]) set(body []byte) error {
	var b rulesBody[R]
	if err := jsonhttp.Decode(body, &b); err != nil {
		return err
	}
	var none R
	for i, r := range b.Rules {
		if r == none {
			return fmt.Errorf("rules[%d] is null: remove it", i)
		}
		if err := errors.Join(r.scope().checkScope(), r.check()); err != nil {
			return fmt.Errorf("rules[%d]: %w", i, err)
		}
	}
	l.replace(append([]R{}, b.Rules...))
	return nil
}

func (l *rules[R]) clear() error {
	l.replace([]R{})
	return nil
}

func (l *rules[R]) replace(list []R) {
	now := l.knobs.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.knobs.armed.Add(int64(len(list) - len(l.list)))
	for _, r := range list {
		r.scope().begins = now.Add(time.Duration(r.scope().AfterS) * time.Second)
	}
	l.list = list
	l.draw = rand.New(rand.NewPCG(1, 1)) //nolint:gosec // to be repeated, not to be secret
	close(l.changed)
	l.changed = make(chan struct{})
}

// strike is a rule that meets a call, and the channel that is closed when the knob is turned.
type strike[R rule] struct {
	rule    R
	changed <-chan struct{}
}

// strikes finds the first rule that is about the call and whose turn it is.
func (l *rules[R]) strikes(c *call) (strike[R], bool) {
	now := l.knobs.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, r := range l.list {
		s := r.scope()
		if !s.covers(c, now) || s.Rate != nil && l.draw.Float64() >= *s.Rate {
			continue
		}
		if s.Times != nil {
			if *s.Times--; *s.Times == 0 {
				l.list = slices.Delete(l.list, i, i+1)
				l.knobs.armed.Add(-1)
			}
		}
		return strike[R]{r, l.changed}, true
	}
	return strike[R]{}, false
}

// forever is longer than any test or demonstration runs.
const forever = time.Duration(math.MaxInt64)

// wait lets d pass; it ends early when the client goes away or the knob is turned. The connection's
// own deadlines do not end it.
func (s strike[R]) wait(w http.ResponseWriter, r *http.Request, d time.Duration) {
	ctl := http.NewResponseController(w)
	_ = errors.Join(ctl.SetReadDeadline(time.Time{}), ctl.SetWriteDeadline(time.Time{})) // recorders have none
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.changed:
	case <-r.Context().Done():
	}
}
