package kms

import (
	"encoding/json"

	"go.etcd.io/bbolt"
)

// Keys counts the keys of an instance that are not destroyed.
func Keys(tx *bbolt.Tx, guid string) (n int, err error) {
	b := tx.Bucket([]byte(bucketKeys)).Bucket([]byte(guid))
	if b == nil {
		return 0, nil
	}
	err = b.ForEach(func(_, raw []byte) error {
		var k key
		if err := json.Unmarshal(raw, &k); err != nil {
			return err
		}
		if k.State != stateDestroyed {
			n++
		}
		return nil
	})
	return n, err
}
