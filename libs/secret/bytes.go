// Package secret carries key bytes through the program: every type here hides
// its contents from logs, errors and encoders, and can be wiped.
package secret

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
)

// Redacted is what every formatting of a secret prints.
const Redacted = "[redacted]"

// errEncode refuses to write a secret into a document.
var errEncode = errors.New("secret: refusing to encode key bytes")

// Bytes is key material held for as short a time as possible. Its owner calls
// Wipe when done. The zero value and nil are empty. Not safe for concurrent
// use: give each reader its own Clone.
type Bytes struct {
	b []byte
}

// Of takes ownership of b: the caller neither keeps nor changes it.
func Of(b []byte) *Bytes {
	return &Bytes{b: b}
}

// Random returns n fresh bytes from the operating system's generator.
func Random(n int) *Bytes {
	b := make([]byte, n)
	rand.Read(b) // never fails: crypto/rand ends the process instead (Go 1.24)
	return Of(b)
}

// Reveal returns the bytes themselves, not a copy; they become zero at Wipe.
// Call it only where they are put on the wire or into a cipher.
func (s *Bytes) Reveal() []byte {
	if s == nil {
		return nil
	}
	return s.b
}

// Len returns the number of bytes.
func (s *Bytes) Len() int {
	return len(s.Reveal())
}

// Clone returns a copy with a life of its own.
func (s *Bytes) Clone() *Bytes {
	return Of(append([]byte(nil), s.Reveal()...))
}

// Equal compares in time that depends on the lengths alone.
func (s *Bytes) Equal(o *Bytes) bool {
	return subtle.ConstantTimeCompare(s.Reveal(), o.Reveal()) == 1
}

// Wipe zeroes the bytes and forgets them. It may be called more than once and
// on nil.
func (s *Bytes) Wipe() {
	if s == nil {
		return
	}
	clear(s.b)
	s.b = nil
}

// String returns Redacted.
func (s *Bytes) String() string { return Redacted }

// Format prints Redacted for every verb, so that %x and %v show nothing.
func (s *Bytes) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Redacted)) }

// LogValue makes slog print Redacted.
func (s *Bytes) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalJSON fails: a secret in a document is a mistake.
func (s *Bytes) MarshalJSON() ([]byte, error) { return nil, errEncode }

// MarshalText fails: a secret in a document is a mistake.
func (s *Bytes) MarshalText() ([]byte, error) { return nil, errEncode }
