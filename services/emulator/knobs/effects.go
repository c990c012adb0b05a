package knobs

import (
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"time"
)

// latency delays calls by a time from a log-normal distribution, given by two of its points.
type latency struct {
	Scope
	MedianMS int `json:"median_ms"`
	P99MS    int `json:"p99_ms,omitempty"` // absent: the median always
}

const maxLatencyMS = maxSeconds * 1000

func (l *latency) check() error {
	if l.MedianMS < 1 || l.MedianMS > maxLatencyMS {
		return errors.New("median_ms is missing, less than 1 or more than a year: give milliseconds")
	}
	if l.P99MS != 0 && (l.P99MS < l.MedianMS || l.P99MS > maxLatencyMS) {
		return errors.New("p99_ms is less than median_ms or more than a year")
	}
	return nil
}

// z99 is the 99th percentile of the standard normal distribution.
var z99 = math.Sqrt2 * math.Erfinv(2*0.99-1)

// duration is drawn anew for each call; it is never longer than three times the 99th percentile.
func (l *latency) duration() time.Duration {
	median := float64(l.MedianMS) * float64(time.Millisecond)
	if l.P99MS == 0 {
		return time.Duration(median)
	}
	ratio := float64(l.P99MS) / float64(l.MedianMS)
	drawn := median * math.Pow(ratio, rand.NormFloat64()/z99) //nolint:gosec // not a secret
	return time.Duration(min(drawn, 3*ratio*median))
}

// failure answers a call that has no effect.
type failure struct {
	Scope
	Status int `json:"status,omitempty"` // absent: 500
}

func (f *failure) check() error { return checkStatus(f.Status) }

// throttle answers 429.
type throttle struct {
	Scope
	RetryAfter *int `json:"retry_after,omitempty"` // seconds; absent: no such header
}

func (t *throttle) check() error {
	if t.RetryAfter != nil && (*t.RetryAfter < 0 || *t.RetryAfter > maxSeconds) {
		return errors.New("retry_after is less than 0 or more than a year: give seconds")
	}
	return nil
}

// loss takes the answer away: of a call that took effect, or, as an outage, before it could.
type loss struct {
	Scope
	Status int `json:"status,omitempty"` // absent: the connection is cut
}

func (l *loss) check() error { return checkStatus(l.Status) }

func checkStatus(status int) error {
	if status != 0 && (status < http.StatusInternalServerError || status > 599) {
		return errors.New("status is not 500 to 599")
	}
	return nil
}

// hang gives no answer until the client goes away or the knob is turned.
type hang struct {
	Scope
	TakesEffect bool `json:"takes_effect,omitempty"` // the call is carried out first
}

func (*hang) check() error { return nil }

// withdrawal takes away the permission that a call needs, whoever makes it.
type withdrawal struct{ Scope }

func (*withdrawal) check() error { return nil }
