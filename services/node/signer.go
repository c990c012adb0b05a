package node

import (
	"crypto"
	"io"
	"runtime"
)

// signer signs for handshakes, as many at a time as there are processors and in
// the order in which they come. When thousands of hosts connect at once all of
// them would otherwise share the processors and be late together, and requests of
// clients that are connected would wait for them.
type signer struct {
	crypto.Signer
	slots chan struct{} // one element for each signature that is being made
}

func newSigner(key crypto.Signer) signer {
	return signer{key, make(chan struct{}, runtime.GOMAXPROCS(0))}
}

// Sign implements crypto.Signer.
func (s signer) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.slots <- struct{}{}
	defer func() { <-s.slots }()
	return s.Signer.Sign(random, digest, opts)
}
