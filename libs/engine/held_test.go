package engine_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// windowed is a bench whose tenants have windows, on the bubble's clock. It
// counts what the key manager is asked, and fails as down says.
type windowed struct {
	*bench
	asked int
	down  error
	shift time.Duration // of the clock
}

func newWindowed(cache, grace time.Duration) *windowed {
	b := &windowed{bench: newBench()}
	b.Engine = engine.New(engine.Config{Objects: b.objects, KeyManagers: b.keys.KeyManagers, Now: func() time.Time { return time.Now().Add(b.shift) }})
	for _, t := range []*tenant.Tenant{b.one, b.two} {
		t.Cache, t.OutageGrace, t.KeyManager = cache, grace, &tenant.KeyManager{RootKeyID: "root"}
	}
	b.keys.Fail = func(_ string, done bool) error {
		if done {
			return nil
		}
		b.asked++
		return b.down
	}
	return b
}

// get reads a key and says by which window.
func (b *windowed) get(t *testing.T, id kmip.ObjectID) (engine.Window, error) {
	t.Helper()
	key, err := b.Get(t.Context(), b.one, id, 0)
	if err == nil && key.Material.Len() != 32 {
		t.Errorf("%d bytes", key.Material.Len())
	}
	key.Material.Wipe() // takes nothing from what is held
	return key.Window, err
}

// want reads a key by a window.
func (b *windowed) want(t *testing.T, id kmip.ObjectID, by engine.Window) {
	t.Helper()
	if got, err := b.get(t, id); err != nil || got != by {
		t.Errorf("after %s: by %q, %v; want by %q", time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)), got, err, by)
	}
}

func (b *windowed) refused(t *testing.T, id kmip.ObjectID, want fault.Kind) {
	t.Helper()
	if by, err := b.get(t, id); fault.KindOf(err) != want {
		t.Errorf("by %q: %v, want %s", by, err, want)
	}
}

// wiped fails unless bytes that were held are zero and no more are.
func (b *windowed) wiped(t *testing.T, when string, before [][]byte) {
	t.Helper()
	if len(before) == 0 || len(b.HeldBytes(b.one.ID)) > 0 {
		t.Errorf("%s: %d were held, %d are", when, len(before), len(b.HeldBytes(b.one.ID)))
	}
	for _, m := range before {
		if !bytes.Equal(m, make([]byte, 32)) {
			t.Errorf("%s: bytes were not wiped", when)
		}
	}
}

// Without a window nothing is held.
func TestNoWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newWindowed(0, 0)
		id := b.create(t)
		b.want(t, id, "")
		b.want(t, id, "")
		if n := len(b.HeldBytes(b.one.ID)); n > 0 {
			t.Errorf("%d keys are held", n)
		}
		b.down = engine.ErrUnavailable
		b.refused(t, id, fault.Unavailable)
	})
}

// Within the cache window the key manager is not asked; then it is, and the
// window begins anew. What was held is wiped though nobody asks for it.
func TestCacheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newWindowed(time.Minute, 0)
		id := b.create(t)
		b.want(t, id, "")
		b.asked, b.down = 0, engine.ErrUnavailable
		<-time.After(59 * time.Second)
		b.want(t, id, engine.Cache)
		if b.asked > 0 {
			t.Errorf("the key manager was asked %d times", b.asked)
		}
		if _, err := b.Get(t.Context(), b.two, id, 0); fault.KindOf(err) != fault.NotFound && fault.KindOf(err) != fault.Unavailable {
			t.Errorf("the other tenant: %v", err)
		}
		held := b.HeldBytes(b.one.ID)
		<-time.After(time.Second)
		synctest.Wait()
		b.wiped(t, "after the window", held)
		b.refused(t, id, fault.Unavailable)
		b.down = nil
		b.want(t, id, "")
		b.want(t, id, engine.Cache)
	})
}

// Within the outage grace the key manager is asked every time, and its silence
// alone is bridged, counted from when it was asked last and gave the key.
func TestOutageGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newWindowed(0, time.Minute)
		id := b.create(t)
		b.want(t, id, "")
		<-time.After(30 * time.Second)
		b.want(t, id, "")
		b.down = engine.ErrUnavailable
		<-time.After(59 * time.Second)
		b.asked = 0
		b.want(t, id, engine.Grace)
		if b.asked == 0 {
			t.Error("the key manager was not asked")
		}
		held := b.HeldBytes(b.one.ID)
		<-time.After(time.Second)
		synctest.Wait()
		b.wiped(t, "after the grace", held)
		b.refused(t, id, fault.Unavailable)
	})
}

// A key manager that hangs is waited for three seconds.
func TestOutageGraceOfOneThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newWindowed(0, time.Minute)
		id := b.create(t)
		hold := make(chan struct{})
		node := engine.New(engine.Config{Objects: b.objects, Now: time.Now, KeyManagers: func(*tenant.Tenant) (engine.KeyManager, error) {
			return hanging{b.keys, hold}, nil
		}})
		close(hold)
		if key, err := node.Get(t.Context(), b.one, id, 0); err != nil || key.Window != "" {
			t.Fatal(key.Window, err)
		}
		hold = make(chan struct{})
		began := time.Now()
		if key, err := node.Get(t.Context(), b.one, id, 0); err != nil || key.Window != engine.Grace || time.Since(began) != 3*time.Second {
			t.Errorf("by %q after %s: %v", key.Window, time.Since(began), err)
		}
	})
}

// Each way in which what is held is given up wipes it, and what the key manager
// says for good is never bridged.
func TestHeldIsGivenUp(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, b *windowed, id, other kmip.ObjectID) (kept int){
		"the root key is deleted": func(t *testing.T, b *windowed, id, _ kmip.ObjectID) int {
			b.keys.DeleteRootKey()
			b.refused(t, id, fault.Denied) // and with it the other key
			return 0
		},
		"the root key is deleted, and standard keys can't be loaded": func(t *testing.T, b *windowed, id, _ kmip.ObjectID) int {
			b.keys.DeleteRootKey()
			fail := b.keys.Fail
			b.keys.Fail = func(method string, done bool) error {
				if method == "Load" {
					return engine.ErrUnavailable
				}
				return fail(method, done)
			}
			b.refused(t, id, fault.Denied)
			return 0
		},
		"a Create is denied": func(t *testing.T, b *windowed, _, _ kmip.ObjectID) int {
			b.down = engine.ErrDenied
			if _, err := b.Create(t.Context(), b.one, kmip.SymmetricKey, vSphere); !errors.Is(err, engine.ErrDenied) {
				t.Error(err)
			}
			return 0
		},
		"the standard key is deleted": func(t *testing.T, b *windowed, id, _ kmip.ObjectID) int {
			ref, err := b.keys.Find(t.Context(), id)
			if err := errors.Join(err, b.keys.Delete(t.Context(), ref)); err != nil {
				t.Fatal(err)
			}
			b.refused(t, id, fault.Gone)
			return 1
		},
		"a client destroys it": func(t *testing.T, b *windowed, id, _ kmip.ObjectID) int {
			if err := b.Destroy(t.Context(), b.one, id); err != nil {
				t.Fatal(err)
			}
			b.refused(t, id, fault.NotFound)
			return 1
		},
		"it is withheld": func(t *testing.T, b *windowed, id, _ kmip.ObjectID) int {
			b.one.Withheld = []string{string(id)}
			b.obey()
			return 1
		},
		"the tenant is suspended": func(_ *testing.T, b *windowed, _, _ kmip.ObjectID) int {
			b.one.Suspended = true
			b.obey()
			return 0
		},
		"the tenant is gone": func(_ *testing.T, b *windowed, _, _ kmip.ObjectID) int {
			b.one = &tenant.Tenant{ID: "another"}
			b.obey()
			return 0
		},
		"another root key": func(_ *testing.T, b *windowed, _, _ kmip.ObjectID) int {
			b.one.KeyManager = &tenant.KeyManager{RootKeyID: "another"}
			b.obey()
			return 0
		},
		"the windows are closed": func(_ *testing.T, b *windowed, _, _ kmip.ObjectID) int {
			b.one.Cache, b.one.OutageGrace = 0, 0
			b.obey()
			return 0
		},
		"the clock is set back": func(t *testing.T, b *windowed, id, other kmip.ObjectID) int {
			b.down = engine.ErrUnavailable
			b.shift = -time.Hour
			b.refused(t, id, fault.Unavailable)
			b.refused(t, other, fault.Unavailable)
			return 0
		},
		"the engine is closed": func(_ *testing.T, b *windowed, _, _ kmip.ObjectID) int {
			b.Close()
			return 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newWindowed(0, time.Hour)
				id, other := b.create(t), b.create(t)
				foreign, err := b.Create(t.Context(), b.two, kmip.SymmetricKey, vSphere)
				if err != nil {
					t.Fatal(err)
				}
				who := b.one.ID
				b.want(t, id, "")
				held := b.HeldBytes(who)
				b.want(t, other, "")
				if key, err := b.Get(t.Context(), b.two, foreign, 0); err != nil || key.Window != "" {
					t.Fatal(err)
				}
				kept := end(t, b, id, other)
				if now := b.HeldBytes(who); len(now) != kept || !bytes.Equal(held[0], make([]byte, 32)) {
					t.Errorf("%d keys are held, want %d; or one was not wiped", len(now), kept)
				}
				if want := 1; name != "the engine is closed" && len(b.HeldBytes(b.two.ID)) != want {
					t.Error("the other tenant's key is held no longer")
				}
			})
		})
	}
}

// obey puts the tenants as they are now in force.
func (b *windowed) obey() {
	c, _ := tenant.NewSnapshot(tenant.Revision{Number: 1}, []tenant.Tenant{*b.one, *b.two})
	b.Obey(c)
}

// A window that is made smaller ends what is held sooner, a larger one later.
func TestWindowsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newWindowed(time.Minute, 0)
		id := b.create(t)
		b.want(t, id, "")
		for _, seconds := range []int{30, 90} {
			held := b.HeldBytes(b.one.ID)
			b.one.Cache = time.Duration(seconds) * time.Second
			b.obey()
			<-time.After(b.one.Cache - time.Second)
			synctest.Wait()
			b.want(t, id, engine.Cache)
			<-time.After(time.Second)
			synctest.Wait()
			b.wiped(t, "after the new window", held)
			b.want(t, id, "")
		}
	})
}

// A call that was under way when the root key went adds nothing afterwards,
// though the key manager had given the key before.
func TestDeniedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newWindowed(0, time.Hour)
		slow, other := b.create(t), b.create(t)
		hold := make(chan struct{})
		denied := false
		node := engine.New(engine.Config{Objects: b.objects, Now: time.Now, KeyManagers: func(*tenant.Tenant) (engine.KeyManager, error) {
			if denied {
				return b.keys, nil
			}
			return hanging{b.keys, hold}, nil
		}})
		answered := make(chan error)
		go func() {
			key, err := node.Get(t.Context(), b.one, slow, 0)
			key.Material.Wipe()
			answered <- err
		}()
		synctest.Wait() // it hangs in the last call
		denied, b.down = true, engine.ErrDenied
		if _, err := node.Get(t.Context(), b.one, other, 0); fault.KindOf(err) != fault.Denied {
			t.Errorf("the other key: %v", err)
		}
		b.down = nil
		close(hold)
		if err := <-answered; err != nil {
			t.Error(err)
		}
		if n := node.Held(); n > 0 {
			t.Errorf("%d keys are held", n)
		}
	})
}

// hanging is a key manager whose Unwrap waits until it is let.
type hanging struct {
	*enginetest.Vault
	hold chan struct{}
}

func (h hanging) Unwrap(ctx context.Context, w engine.Wrapped, b engine.Binding) (*secret.Bytes, error) {
	select {
	case <-h.hold:
		return h.Vault.Unwrap(ctx, w, b)
	case <-ctx.Done():
		return nil, engine.ErrUnavailable
	}
}
