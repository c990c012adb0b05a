package knobs

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
)

// Limits of the log of calls.
const (
	defaultCallsKept = 10_000
	maxCallsKept     = 1_000_000
	maxLoggedText    = 512 // of a path
	maxCallsWait     = 20  // seconds; the admin address answers within 30
)

// call is one request that a service received: neither query, header, body nor secret is kept.
type call struct {
	Sequence  uint64    `json:"sequence"` // of its arrival, from 1
	Time      time.Time `json:"time"`     // of its arrival, by the emulator's clock
	Service   string    `json:"service"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`                // as sent
	Status    int       `json:"status"`              // 0: not answered, yet or ever
	Instance  string    `json:"instance,omitempty"`  // Bluemix-Instance header, when it is a UUID
	Principal string    `json:"principal,omitempty"` // IAM id, when the request proved one
}

// callLog is a ring of the latest calls.
type callLog struct {
	now func() time.Time

	mu    sync.Mutex
	ring  []call // call n is at n modulo the length
	first uint64 // sequence number of the oldest call that is kept
	last  uint64
	moved chan struct{} // made by who waits, closed when a call begins or ends
}

func newCallLog(now func() time.Time) *callLog {
	return &callLog{now: now, ring: make([]call, defaultCallsKept), first: 1}
}

// begin remembers a call that arrived and gives it its number and time.
func (l *callLog) begin(c *call) {
	now := l.now().UTC()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	c.Sequence, c.Time = l.last, now
	l.first = max(l.first, l.last+1-min(l.last, uint64(len(l.ring))))
	l.write(c)
}

// end remembers how a call was answered, unless it was pushed out. The server completes the answer
// after this: who has it finds its call here.
func (l *callLog) end(c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.Sequence >= l.first {
		l.write(c)
	}
}

func (l *callLog) write(c *call) {
	at := &l.ring[c.Sequence%uint64(len(l.ring))]
	*at = *c
	at.Path = c.Path[:min(len(c.Path), maxLoggedText)]
	if l.moved != nil {
		close(l.moved)
		l.moved = nil
	}
}

// callsBody is what GET shows, oldest call first. LastSequence is for the next query's since.
type callsBody struct {
	Calls        []call `json:"calls"`
	LastSequence uint64 `json:"last_sequence"`
	Kept         int    `json:"kept"` // how many of the latest calls are remembered
}

// show answers the calls that the query asks for: service, instance, method and path as in a Scope, and
// those after the number since. With wait_s it waits up to so many seconds until there is one.
func (l *callLog) show(ctx context.Context, query url.Values) (json.RawMessage, error) {
	want := Scope{Service: query.Get("service"), Instance: query.Get("instance"), Method: query.Get("method"), Path: query.Get("path")}
	if err := want.checkScope(); err != nil {
		return nil, err
	}
	var since uint64
	if s := query.Get("since"); s != "" {
		var err error
		if since, err = strconv.ParseUint(s, 10, 64); err != nil {
			return nil, fmt.Errorf("since is %q: give the number of a call", s)
		}
	}
	wait := 0
	if s := query.Get("wait_s"); s != "" {
		var err error
		if wait, err = strconv.Atoi(s); err != nil || wait < 0 || wait > maxCallsWait {
			return nil, fmt.Errorf("wait_s is %q: give 0 to %d", s, maxCallsWait)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(wait)*time.Second)
	defer cancel()
	for {
		body, moved := l.find(want, since)
		if len(body.Calls) == 0 && ctx.Err() == nil {
			select {
			case <-moved:
				continue
			case <-ctx.Done():
			}
		}
		return json.Marshal(body)
	}
}

// find is what show answers now, and the channel that is closed when that may have changed.
func (l *callLog) find(want Scope, since uint64) (callsBody, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	body := callsBody{Calls: []call{}, LastSequence: l.last, Kept: len(l.ring)}
	for n := max(l.first, since+1); n <= l.last; n++ {
		if c := &l.ring[n%uint64(len(l.ring))]; want.covers(c, c.Time) {
			body.Calls = append(body.Calls, *c)
		}
	}
	if l.moved == nil {
		l.moved = make(chan struct{})
	}
	return body, l.moved
}

// set changes how many calls are remembered.
func (l *callLog) set(body []byte) error {
	var b struct {
		Kept int `json:"kept"`
	}
	if err := jsonhttp.Decode(body, &b); err != nil {
		return err
	}
	if b.Kept < 1 || b.Kept > maxCallsKept {
		return fmt.Errorf("kept is not 1 to %d", maxCallsKept)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.ring
	l.ring = make([]call, b.Kept)
	l.first = max(l.first, l.last+1-min(l.last, uint64(b.Kept)))
	for n := l.first; n <= l.last; n++ {
		l.ring[n%uint64(b.Kept)] = old[n%uint64(len(old))]
	}
	return nil
}

// clear forgets all calls; their numbers go on.
func (l *callLog) clear() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.ring)
	l.first = l.last + 1
	return nil
}
