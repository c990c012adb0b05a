//go:build linux

package faults

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// key is a key whose Create was answered.
type key struct {
	id kmip.ObjectID

	mu    sync.Mutex
	bytes *secret.Bytes // as read first; nil until then
}

// same compares bytes that a Get gave with those that the first one gave.
func (k *key) same(got *secret.Bytes) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.bytes == nil {
		k.bytes = got
		return got.Len() == 32
	}
	defer got.Wipe()
	return k.bytes.Equal(got)
}

// keys are those of a tenant, in the order in which they were answered.
type keys struct {
	mu  sync.Mutex
	all []*key
}

func (k *keys) add(id kmip.ObjectID) *key {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all = append(k.all, &key{id: id})
	return k.all[len(k.all)-1]
}

// any returns one of them, half the time one of the newest; nil if there is none.
func (k *keys) any() *key {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch n := len(k.all); {
	case n == 0:
		return nil
	case rand.IntN(2) == 0:
		return k.all[max(0, n-1-rand.IntN(10))]
	default:
		return k.all[rand.IntN(n)]
	}
}

// since returns those that were answered after the first n.
func (k *keys) since(n int) []*key {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.all[n:])
}

// settings are what the REST API has acknowledged for an instance.
type settings struct {
	mu sync.Mutex
	// name is what its name may be: the last one that was acknowledged, and
	// later ones of which nobody knows.
	name         map[string]bool
	certificates map[string]certificateState // by id
}

type certificateState struct {
	certificate *tls.Certificate
	removed     bool
	unknown     bool // a removal was asked for and not answered
}

func (s *settings) named(name string, acknowledged bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if acknowledged {
		s.name = map[string]bool{}
	}
	s.name[name] = true
}

func (s *settings) put(id string, state certificateState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.certificates[id] = state
}

func (s *settings) copy() (name map[string]bool, certificates map[string]certificateState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.name), maps.Clone(s.certificates)
}

// set goes back to what copy returned.
func (s *settings) set(name map[string]bool, certificates map[string]certificateState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name, s.certificates = name, certificates
}

// recorder counts what clients see between two calls of begin.
type recorder struct {
	mu       sync.Mutex
	sum      summary
	last     map[string]time.Time // success of each kind of request of each tenant
	progress map[string]int       // successes of each watcher since begin or reset
	cuts     [nodeCount]cut
	found    []violation
	moved    chan struct{}
}

// cut is a time in which a node can't hear of changes.
type cut struct{ from, to time.Time }

// summary is what clients saw during one fault.
type summary struct {
	Requests int            // answered or not, at one node
	Failed   int            // of them, not carried out
	Unserved int            // operations that no node carried out
	Errors   map[string]int // failed requests by kind
	Gaps     map[string]time.Duration
	Changes  int           // acknowledged by the REST API
	Late     time.Duration // a removed certificate's last success after the answer
	Lost     int
	Foreign  int
}

func newRecorder() *recorder {
	r := &recorder{last: make(map[string]time.Time), moved: make(chan struct{})}
	r.begin()
	return r
}

// begin starts counting anew.
func (r *recorder) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum = summary{Errors: make(map[string]int), Gaps: make(map[string]time.Duration)}
	r.progress = make(map[string]int)
	now := time.Now()
	for what := range r.last {
		r.last[what] = now
	}
}

// end returns what was counted since begin.
func (r *recorder) end() summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := r.sum
	sum.Errors, sum.Gaps = maps.Clone(sum.Errors), maps.Clone(sum.Gaps)
	return sum
}

// request counts one request to one node or control plane.
func (r *recorder) request(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.Requests++
	if err != nil {
		r.sum.Failed++
		r.sum.Errors[kindOf(err)]++
	}
}

// operation notes how an operation ended after all nodes were tried.
func (r *recorder) operation(what string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.sum.Unserved++
		return
	}
	now := time.Now()
	if before, ok := r.last[what]; ok {
		r.sum.Gaps[what] = max(r.sum.Gaps[what], now.Sub(before))
	}
	r.last[what] = now
}

// changed counts an acknowledged change.
func (r *recorder) changed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.Changes++
}

// worked notes a success of a watcher.
func (r *recorder) worked(watcher string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress[watcher]++
	close(r.moved)
	r.moved = make(chan struct{})
}

// reset forgets the successes of watchers.
func (r *recorder) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.progress)
}

// allWorked tells whether each watcher had n successes; if not, which ones are
// missing, and what is closed when that may have changed.
func (r *recorder) allWorked(watchers []string, n int) (missing []string, moved <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range watchers {
		if r.progress[w] < n {
			missing = append(missing, w)
		}
	}
	return missing, r.moved
}

// violation is something that must never happen.
type violation struct {
	lost string // the key or setting that is lost; empty: it is something else
	text string
}

// violation notes what must never happen.
func (r *recorder) violation(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found = append(r.found, violation{text: fmt.Sprintf(format, args...)})
}

func (r *recorder) foreign(format string, args ...any) {
	r.violation(format, args...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.Foreign++
}

// violations returns what was found, and forgets it.
func (r *recorder) violations() []violation {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := r.found
	r.found = nil
	return found
}

// cutOff says that nodes can't hear of changes from now on, or that they can again.
func (r *recorder) cutOff(nodes []int, isCut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range nodes {
		if isCut {
			r.cuts[n] = cut{from: time.Now()}
		} else {
			r.cuts[n].to = time.Now()
		}
	}
}

// informed returns since when a node could hear of a change that was
// acknowledged at a time; false: it can't yet.
func (r *recorder) informed(node int, acknowledged time.Time) (time.Time, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch cut := r.cuts[node]; {
	case cut.from.IsZero(), !cut.to.IsZero() && cut.to.Before(acknowledged):
		return acknowledged, true
	case cut.to.IsZero():
		return time.Time{}, false
	default:
		return cut.to, true
	}
}

// late notes how long a node has served a certificate after it could know of its
// end.
func (r *recorder) late(by time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.Late = max(r.sum.Late, by)
}

// The result reasons that clients tell apart (KMIP 1.4, 9.1.3.2.29).
const (
	itemNotFound     = 1
	permissionDenied = 12
	generalFailure   = 256
)

// kindOf names the kind of an error for the table.
func kindOf(err error) string {
	var result *client.ResultError
	var status *statusError
	var network net.Error
	switch {
	case errors.As(err, &result) && result.Reason == generalFailure:
		return "General Failure"
	case errors.As(err, &result) && result.Reason == itemNotFound:
		return "Item Not Found"
	case errors.As(err, &result) && result.Reason == permissionDenied:
		return "Permission Denied"
	case errors.As(err, &result):
		return fmt.Sprintf("result reason %d", result.Reason)
	case errors.As(err, &status):
		return fmt.Sprintf("HTTP %d", status.status)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "no answer in time"
	}
	return "no connection"
}

// errorsByKind lists them, the most frequent first.
func (s summary) errorsByKind() string {
	kinds := slices.SortedFunc(maps.Keys(s.Errors), func(a, b string) int { return s.Errors[b] - s.Errors[a] })
	for i, kind := range kinds {
		kinds[i] = fmt.Sprintf("%s %d", kind, s.Errors[kind])
	}
	return strings.Join(kinds, ", ")
}

// gap returns the longest of a kind of request, of any tenant.
func (s summary) gap(kind string) (longest time.Duration) {
	for what, gap := range s.Gaps {
		if strings.HasSuffix(what, kind) {
			longest = max(longest, gap)
		}
	}
	return longest
}
