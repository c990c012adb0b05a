package keyprotect

import (
	"errors"
	"io"
	"sync"
)

// body is a request's bytes. They may hold a key, so they are zeroed as soon
// as the call ends; net/http may still be reading them then, and gets an error.
type body struct {
	mu    sync.Mutex
	bytes []byte
	wiped bool
}

var errWiped = errors.New("the request has ended")

// reader returns a reader from the beginning.
func (b *body) reader() io.ReadCloser { return &bodyReader{body: b} }

// wipe zeroes the bytes.
func (b *body) wipe() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.bytes)
	b.wiped = true
}

type bodyReader struct {
	*body
	next int
}

// Read implements io.Reader.
func (r *bodyReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wiped {
		return 0, errWiped
	}
	if r.next == len(r.bytes) {
		return 0, io.EOF
	}
	n := copy(p, r.bytes[r.next:])
	r.next += n
	return n, nil
}

// Close implements io.Closer.
func (r *bodyReader) Close() error { return nil }

var errTooLong = errors.New("the answer is longer than its limit")

// readAll reads at most limit bytes and leaves no copy of them behind: a
// buffer that was outgrown is zeroed. The caller clears what it returns.
func readAll(r io.Reader, limit int) ([]byte, error) {
	buf := make([]byte, 0, min(4096, limit+1))
	for {
		if len(buf) == cap(buf) {
			grown := make([]byte, len(buf), min(2*cap(buf), limit+1))
			copy(grown, buf)
			clear(buf)
			buf = grown
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > limit:
			clear(buf)
			return nil, errTooLong
		case errors.Is(err, io.EOF):
			return buf, nil
		case err != nil:
			clear(buf)
			return nil, err
		}
	}
}
