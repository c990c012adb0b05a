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
	"github.com/kmip-for-vmware/kmip/services/emulator/resourcecontroller"
)

// dataFile is the name of the emulator's only file in its data directory.
const dataFile = "emulator.db"

// openData opens the data file in dir, with the buckets of all services.
func openData(dir string) (*bbolt.DB, error) {
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
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range slices.Concat(iam.Buckets, resourcecontroller.Buckets, kms.Buckets) {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}
