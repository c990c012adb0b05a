// Package knobs makes the emulator's services misbehave on request, and remembers what they were
// asked. A knob has a fixed path below /emulator/v1: GET shows it, PUT sets it, DELETE clears it.
//
// Most knobs are a list of rules. A rule has a scope, which tells what calls it is about and how often
// it strikes, and an effect. Of the rules of one knob the first that strikes is the one that counts.
// Knobs live in memory: an emulator that starts again has those of its command line alone.
package knobs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// Knobs holds every knob. It is safe for concurrent use.
type Knobs struct {
	clock clock
	calls *callLog

	latency     rules[*latency]
	errors      rules[*failure]
	throttling  rules[*throttle]
	lostAnswers rules[*loss]
	hangs       rules[*hang]
	outages     rules[*loss]
	withdrawals rules[*withdrawal]

	knobs map[string]knob // by name
	armed atomic.Int64    // rules of all knobs: none is the common case
}

// knob is what a path below /emulator/v1 does. A body that set refuses changes nothing.
type knob interface {
	show(ctx context.Context, query url.Values) (json.RawMessage, error)
	set(body []byte) error
	clear() error
}

// New makes knobs that do nothing yet over a clock, which they can move.
func New(now func() time.Time) *Knobs {
	k := &Knobs{clock: clock{base: now}}
	k.calls = newCallLog(k.Now)
	k.knobs = map[string]knob{
		"latency":      k.latency.of(k),
		"errors":       k.errors.of(k),
		"throttling":   k.throttling.of(k),
		"lost-answers": k.lostAnswers.of(k),
		"hangs":        k.hangs.of(k),
		"outages":      k.outages.of(k),
		"withdrawals":  k.withdrawals.of(k),
		"clock":        &k.clock,
		"calls":        k.calls,
	}
	return k
}

// Names are the knobs, in order. Each is a command-line flag of the emulator too.
func Names() []string {
	k := New(time.Now)
	k.Connect(IAM{})
	return slices.Sorted(maps.Keys(k.knobs))
}

// Set turns a knob as PUT would with this body.
func (k *Knobs) Set(name, body string) error {
	knob, ok := k.knobs[name]
	if !ok {
		return fmt.Errorf("there is no knob %q", name)
	}
	return knob.set([]byte(body))
}

// Now is the emulator's time: that of the clock that New got, moved by the knob.
func (k *Knobs) Now() time.Time { return k.clock.now() }

// Release lets go of the calls that hang or are delayed.
func (k *Knobs) Release() error { return errors.Join(k.hangs.clear(), k.latency.clear()) }

// Around is what a service's calls go through: each is remembered, and then meets the rules in the
// order in which they would strike on its way, outages first.
func (k *Knobs) Around(service string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mark := &marks{call: call{Service: service, Method: r.Method, Path: r.URL.EscapedPath()}}
		if id, err := uuid.Parse(r.Header.Get("Bluemix-Instance")); err == nil {
			mark.call.Instance = id.String()
		}
		k.calls.begin(&mark.call)
		defer k.calls.end(&mark.call)
		answer := &statusWriter{w, &mark.call.Status}
		r = r.WithContext(context.WithValue(r.Context(), marksKey{}, mark))
		if k.armed.Load() == 0 {
			next.ServeHTTP(answer, r)
			return
		}
		k.through(answer, r, mark, next)
	})
}

// through is the way of a call while there are rules.
func (k *Knobs) through(w http.ResponseWriter, r *http.Request, mark *marks, next http.Handler) {
	c := &mark.call
	if hit, ok := k.outages.strikes(c); ok {
		fail(w, hit.rule.Status)
		return
	}
	if hit, ok := k.latency.strikes(c); ok {
		hit.wait(w, r, hit.rule.duration())
	}
	if hit, ok := k.hangs.strikes(c); ok {
		if hit.rule.TakesEffect {
			next.ServeHTTP(&recorder{header: http.Header{}}, r)
		}
		hit.wait(w, r, forever)
		fail(w, 0)
		return
	}
	if hit, ok := k.throttling.strikes(c); ok {
		if after := hit.rule.RetryAfter; after != nil {
			w.Header().Set("Retry-After", strconv.Itoa(*after))
		}
		fail(w, http.StatusTooManyRequests)
		return
	}
	if hit, ok := k.errors.strikes(c); ok {
		fail(w, cmp.Or(hit.rule.Status, http.StatusInternalServerError))
		return
	}
	_, mark.withdrawn = k.withdrawals.strikes(c)
	lost, ok := k.lostAnswers.strikes(c)
	if !ok {
		next.ServeHTTP(w, r)
		return
	}
	kept := &recorder{header: http.Header{}}
	next.ServeHTTP(kept, r)
	if kept.status < http.StatusMultipleChoices {
		fail(w, lost.rule.Status)
		return
	}
	maps.Copy(w.Header(), kept.header)
	w.WriteHeader(kept.status)
	_, _ = w.Write(kept.body.Bytes()) // an error means that the client went away
}

// fail answers as something in front of a service does, with a status and its text; with no status the
// connection is cut instead.
func fail(w http.ResponseWriter, status int) {
	if status == 0 {
		panic(http.ErrAbortHandler)
	}
	http.Error(w, http.StatusText(status), status)
}

// marks is what a call carries through its service.
type marks struct {
	call      call
	withdrawn bool
}

type marksKey struct{}

func marksOf(ctx context.Context) *marks {
	m, ok := ctx.Value(marksKey{}).(*marks)
	if !ok {
		return &marks{}
	}
	return m
}

// SetCaller tells the log of calls who the request proved to come from.
func SetCaller(r *http.Request, iamID string) { marksOf(r.Context()).call.Principal = iamID }

// Withdrawn tells whether a knob withdraws the permission that the call with this context needs.
func Withdrawn(ctx context.Context) bool { return marksOf(ctx).withdrawn }

// statusWriter notes the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status *int
}

func (w *statusWriter) WriteHeader(status int) {
	*w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if *w.status == 0 {
		*w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// recorder holds an answer back.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) { r.status = status }

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.body.Write(p)
}
