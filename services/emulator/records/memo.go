package records

import (
	"sync"

	"go.etcd.io/bbolt"
)

// maxMemo bounds how many records a Memo remembers.
const maxMemo = 10_000

// Memo reads records and remembers what they were decoded to, for as long as their text is the same.
// What it returns is shared: it must not be changed. The zero value is ready; it is safe for
// concurrent use.
type Memo[T any] struct {
	mu    sync.RWMutex
	known map[string]decoded[T]
}

type decoded[T any] struct {
	text  string
	value T
}

// Get is the function Get, faster.
func (m *Memo[T]) Get(b *bbolt.Bucket, id string) (T, error) {
	raw := b.Get([]byte(id))
	m.mu.RLock()
	known, ok := m.known[id]
	m.mu.RUnlock()
	if ok && known.text == string(raw) {
		return known.value, nil
	}
	v, err := Get[T](b, id)
	if err != nil {
		return v, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || len(m.known) >= maxMemo {
		m.known = map[string]decoded[T]{}
	}
	m.known[id] = decoded[T]{string(raw), v}
	return v, nil
}
