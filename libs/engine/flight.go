package engine

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// flightTime bounds the calls to a key manager that several Gets wait for.
const flightTime = 25 * time.Second

// subject is an object of a tenant, as caches and flights tell it apart.
type subject struct {
	tenant tenant.ID
	object kmip.ObjectID
	ref    KeyRef // another standard key is another subject
}

// opened is a standard key's envelope and the bytes that it holds wrapped.
type opened struct {
	envelope Envelope
	material *secret.Bytes
}

// flights lets concurrent Gets of one object share one pair of calls to the
// key manager: hosts that boot together ask for the same keys. Each gets its
// own copy of the bytes, and what the flight holds is wiped after the last.
type flights struct {
	mu    sync.Mutex
	under map[subject]*flight
}

// flight is one pair of calls under way.
type flight struct {
	landed  chan struct{}
	callOff context.CancelFunc
	waiting int // Gets that have not had their copy; under flights.mu
	// Set before landed is closed:
	opened
	err error
}

// join returns what open returns, for this caller or for one before it whose
// call is still under way. The call ends when nobody waits for it.
func (f *flights) join(ctx context.Context, s subject, open func(context.Context) (opened, error)) (opened, error) {
	f.mu.Lock()
	one := f.under[s]
	if one == nil {
		one = f.start(ctx, s, open)
	}
	one.waiting++
	f.mu.Unlock()

	var err error
	select {
	case <-one.landed:
	case <-ctx.Done():
		err = fault.Wrap(fault.Unavailable, "The key manager did not answer in time.", ctx.Err())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	one.waiting--
	mine := opened{envelope: one.envelope}
	if err == nil {
		mine.material, err = one.material.Clone(), one.err
	}
	if one.waiting == 0 {
		one.callOff()
		select {
		case <-one.landed:
			one.material.Wipe()
		default: // it wipes its result itself
			f.end(s, one)
		}
	}
	return mine, err
}

// start begins a flight; f.mu is held.
func (f *flights) start(ctx context.Context, s subject, open func(context.Context) (opened, error)) *flight {
	// It belongs to no caller, but keeps what the first one's context carries.
	ctx, callOff := context.WithTimeout(context.WithoutCancel(ctx), flightTime)
	one := &flight{landed: make(chan struct{}), callOff: callOff}
	if f.under == nil {
		f.under = make(map[subject]*flight)
	}
	f.under[s] = one
	go func() {
		result, err := recovered(ctx, open)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.end(s, one)
		if one.waiting == 0 {
			result.material.Wipe()
			return
		}
		one.opened, one.err = result, err
		close(one.landed)
	}()
	return one
}

// recovered makes a panic an error: it may not end the whole process.
func recovered(ctx context.Context, open func(context.Context) (opened, error)) (result opened, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return open(ctx)
}

// end lets no one join a flight any more; f.mu is held.
func (f *flights) end(s subject, one *flight) {
	if f.under[s] == one {
		delete(f.under, s)
	}
}
