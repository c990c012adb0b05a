package engine

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// TestFlightIsShared lets many ask for one object, and one for the same object
// of another tenant: there is one call for each tenant, every answer is a copy
// of its own, and the shared bytes are wiped.
func TestFlightIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flights
		var mu sync.Mutex
		var made [][]byte // what the calls gave, as it lies in memory
		open := func(key byte) func(context.Context) (opened, error) {
			return func(context.Context) (opened, error) {
				<-time.After(time.Second)
				mu.Lock()
				defer mu.Unlock()
				made = append(made, []byte{key, key, key, key})
				return opened{material: secret.Of(made[len(made)-1])}, nil
			}
		}
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				got, err := f.join(t.Context(), subject{tenant: "one", object: "id"}, open(1))
				if err != nil || !got.material.Equal(secret.Of([]byte{1, 1, 1, 1})) {
					t.Errorf("%v, or other bytes", err)
				}
				got.material.Wipe() // takes nothing from the others
			})
		}
		all.Go(func() {
			got, err := f.join(t.Context(), subject{tenant: "two", object: "id"}, open(2))
			if err != nil || !got.material.Equal(secret.Of([]byte{2, 2, 2, 2})) {
				t.Errorf("the other tenant: %v, or other bytes", err)
			}
		})
		all.Wait()
		if len(made) != 2 || len(f.under) != 0 {
			t.Errorf("%d calls, want 2; %d flights are left", len(made), len(f.under))
		}
		for _, m := range made {
			if !bytes.Equal(m, make([]byte, 4)) {
				t.Error("shared bytes were not wiped")
			}
		}
	})
}

// TestFlightOutlivesItsFirst lets the one who began it go away: the others get
// their answer. When all have gone the call is called off and its result wiped.
func TestFlightOutlivesItsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flights
		late := secret.Of([]byte("late"))
		calledOff := false
		open := func(ctx context.Context) (opened, error) {
			select {
			case <-time.After(3 * time.Second):
			case <-ctx.Done():
				calledOff = true
			}
			return opened{material: late.Clone()}, nil
		}
		var all sync.WaitGroup
		wait := func(patience time.Duration, want error) {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				got, err := f.join(ctx, subject{object: "id"}, open)
				if !errors.Is(err, want) || want == nil && !got.material.Equal(late) {
					t.Errorf("with %s: %v, want %v", patience, err, want)
				}
			})
		}
		wait(time.Second, ErrUnavailable)
		synctest.Wait()
		wait(time.Minute, nil)
		all.Wait()
		if calledOff {
			t.Error("called off while somebody waited")
		}
		wait(time.Second, ErrUnavailable)
		all.Wait()
		synctest.Wait()
		if !calledOff || len(f.under) != 0 {
			t.Errorf("nobody waits: called off %t, %d flights", calledOff, len(f.under))
		}
	})
}

func TestFlightFails(t *testing.T) {
	var f flights
	denied := fault.New(fault.Denied, "No.")
	for name, open := range map[string]func(context.Context) (opened, error){
		"an error": func(context.Context) (opened, error) { return opened{}, denied },
		"a panic":  func(context.Context) (opened, error) { panic("boom") },
	} {
		_, err := f.join(t.Context(), subject{object: "id"}, open)
		if err == nil || name == "an error" && !errors.Is(err, ErrDenied) || name == "a panic" && fault.KindOf(err) != fault.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
}
