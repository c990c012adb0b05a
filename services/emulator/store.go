package emulator

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/kmip-for-vmware/kmip/services/emulator/kms"
)

// dataFile is the name of the emulator's only file in its data directory.
const dataFile = "emulator.db"

// Top-level buckets, besides those of the key managers.
const (
	bucketAccounts   = "accounts"   // account id → account
	bucketInstances  = "instances"  // GUID → instance
	bucketPrincipals = "principals" // IAM id → principal
	bucketAPIKeys    = "api_keys"   // SHA-256 of the API key, hex → apiKey
	bucketSigning    = "signing"    // kid → PKCS #8 RSA key
)

var topLevel = []string{bucketAccounts, bucketInstances, bucketPrincipals, bucketAPIKeys, bucketSigning}

// errNoRecord means that a bucket has no such entry.
var errNoRecord = errors.New("no such record")

type account struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// instance is a key manager instance. Service is serviceKMS or serviceHPCS.
type instance struct {
	GUID    string    `json:"guid"`
	Service string    `json:"service"`
	Account string    `json:"account"`
	Region  string    `json:"region"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
}

// crn is the instance's own name; resource adds what follows the instance, "key:<id>" or ":".
func (i instance) crn(resource string) string {
	return fmt.Sprintf("crn:v1:bluemix:public:%s:%s:a/%s:%s:%s", i.Service, i.Region, i.Account, i.GUID, resource)
}

// principal is a user or a service ID. Email is empty for a service ID.
type principal struct {
	IAMID   string   `json:"iam_id"`
	Account string   `json:"account"`
	Name    string   `json:"name"`
	Email   string   `json:"email,omitempty"`
	APIKey  string   `json:"api_key_hash"`
	Access  []access `json:"access"`
}

type access struct {
	Service  string   `json:"service"`
	Instance string   `json:"instance,omitempty"`
	Roles    []string `json:"roles"`
}

// apiKey is what is known of an API key besides its value, which is never stored.
type apiKey struct {
	ID      string    `json:"id"`
	IAMID   string    `json:"iam_id"`
	Created time.Time `json:"created"`
}

func hashAPIKey(value string) string {
	sum := sha256.Sum256([]byte(value))
	return hex.EncodeToString(sum[:])
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
		for _, name := range slices.Concat(topLevel, kms.Buckets) {
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

func put(b *bbolt.Bucket, id string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put([]byte(id), raw)
}

// load reads one record; errNoRecord when there is none.
func load[T any](b *bbolt.Bucket, id string) (T, error) {
	var v T
	raw := b.Get([]byte(id))
	if raw == nil {
		return v, errNoRecord
	}
	return v, json.Unmarshal(raw, &v)
}

// each calls f with every record of b in the order of their ids.
func each[T any](b *bbolt.Bucket, f func(T) error) error {
	return b.ForEach(func(_, raw []byte) error {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return err
		}
		return f(v)
	})
}

// signingKeys loads the RSA keys that sign tokens, made when the data directory is new.
func (s *store) signingKeys(issuer string, now func() time.Time) (*signer, error) {
	err := s.update(func(tx *txn) error {
		b := tx.bucket(bucketSigning)
		if k, _ := b.Cursor().First(); k != nil {
			return nil
		}
		made, err := newSigningKeys(now())
		if err != nil {
			return err
		}
		for kid, key := range made {
			raw, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				return err
			}
			if err := b.Put([]byte(kid), raw); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := &signer{issuer: issuer, now: now, keys: map[string]*rsa.PrivateKey{}}
	err = s.view(func(tx *txn) error {
		return tx.bucket(bucketSigning).ForEach(func(kid, raw []byte) error {
			key, err := x509.ParsePKCS8PrivateKey(raw)
			if err != nil {
				return err
			}
			rsaKey, ok := key.(*rsa.PrivateKey)
			if !ok {
				return fmt.Errorf("signing key %s is a %T", kid, key)
			}
			out.keys[string(kid)] = rsaKey
			out.current = max(out.current, string(kid))
			return nil
		})
	})
	return out, err
}
