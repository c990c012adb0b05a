package node

import (
	"crypto"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// heldSigner signs when it is let.
type heldSigner struct {
	crypto.Signer
	under atomic.Int64
	let   chan struct{}
}

func (s *heldSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	s.under.Add(1)
	<-s.let
	s.under.Add(-1)
	return nil, nil
}

// TestSignaturesAreBounded: as many are made at once as there are processors, and
// all of them in the end.
func TestSignaturesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := &heldSigner{let: make(chan struct{})}
		s := newSigner(held)
		var made atomic.Int64
		most := runtime.GOMAXPROCS(0)
		for range 3 * most {
			go func() {
				if _, err := s.Sign(nil, nil, nil); err == nil {
					made.Add(1)
				}
			}()
		}
		for n := range 3 * most {
			synctest.Wait()
			if got, want := held.under.Load(), min(most, 3*most-n); int(got) != want {
				t.Errorf("%d signatures are under way after %d, want %d", got, n, want)
			}
			held.let <- struct{}{}
		}
		synctest.Wait()
		if got := made.Load(); int(got) != 3*most {
			t.Errorf("%d signatures were made, want %d", got, 3*most)
		}
	})
}
