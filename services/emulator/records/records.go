// Package records keeps values as JSON in bbolt buckets, one record for each id.
package records

import (
	"encoding/json"
	"errors"

	"go.etcd.io/bbolt"
)

// ErrNone means that a bucket has no such record.
var ErrNone = errors.New("no such record")

// Put writes v as the record of id.
func Put(b *bbolt.Bucket, id string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put([]byte(id), raw)
}

// Get reads one record; ErrNone when there is none.
func Get[T any](b *bbolt.Bucket, id string) (T, error) {
	var v T
	raw := b.Get([]byte(id))
	if raw == nil {
		return v, ErrNone
	}
	err := json.Unmarshal(raw, &v)
	return v, err
}

// Each calls f with every record of b in the order of their ids. An error of f ends it.
func Each[T any](b *bbolt.Bucket, f func(T) error) error {
	return b.ForEach(func(_, raw []byte) error {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return err
		}
		return f(v)
	})
}
