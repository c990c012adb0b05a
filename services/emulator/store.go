package emulator

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/kmip-for-vmware/kmip/services/emulator/iam"
	"github.com/kmip-for-vmware/kmip/services/emulator/kms"
)

// dataFile is the name of the emulator's only file in its data directory.
const dataFile = "emulator.db"

// Top-level buckets, besides those of IAM and the key managers.
const (
	bucketAccounts  = "accounts"  // account id → account
	bucketInstances = "instances" // GUID → instance
)

type account struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// instance is a key manager instance. Service is serviceKMS or serviceHPCS.
type instance struct {
	GUID          string    `json:"guid"`
	Service       string    `json:"service"`
	Account       string    `json:"account"`
	Region        string    `json:"region"`
	Name          string    `json:"name"`
	Created       time.Time `json:"created"`
	Uninitialized bool      `json:"uninitialized,omitempty"` // the crypto units of an hs-crypto instance
}

// crn is the instance's own name; resource adds what follows the instance, "key:<id>" or ":".
func (i instance) crn(resource string) string {
	return fmt.Sprintf("crn:v1:bluemix:public:%s:%s:a/%s:%s:%s", i.Service, i.Region, i.Account, i.GUID, resource)
}

// store is the bbolt file. Its transactions are serializable; update returns after the change is on
// disk, or an error and no change.
type store struct{ db *bbolt.DB }

type txn struct{ tx *bbolt.Tx }

func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the data directory: %w", err)
	}
	path := filepath.Join(dir, dataFile)
	// The shortest timeout there is: one attempt at the lock, then an error.
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Nanosecond})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("the data file %s is in use by another emulator: stop that one or choose another --data-dir", path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the data file %s: %w", path, err)
	}
	s := &store{db}
	err = s.update(func(tx *txn) error {
		for _, name := range slices.Concat([]string{bucketAccounts, bucketInstances}, iam.Buckets, kms.Buckets) {
			if _, err := tx.tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

func (s *store) close() error { return s.db.Close() }

func (s *store) update(f func(*txn) error) error {
	return s.db.Update(func(tx *bbolt.Tx) error { return f(&txn{tx}) })
}

func (s *store) view(f func(*txn) error) error {
	return s.db.View(func(tx *bbolt.Tx) error { return f(&txn{tx}) })
}

func (t *txn) bucket(name string) *bbolt.Bucket { return t.tx.Bucket([]byte(name)) }
