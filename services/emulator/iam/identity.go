package iam

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/iam/access"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// identity is a user or a service ID. Only a user has an e-mail address.
type identity struct {
	IAMID       string    `json:"iam_id"` // IBMid-…, iam-ServiceId-…
	Account     string    `json:"account"`
	Name        string    `json:"name"`
	Email       string    `json:"email,omitempty"`
	Service     string    `json:"service,omitempty"` // whose instances this service ID may act for
	Description string    `json:"description,omitempty"`
	Bound       []string  `json:"unique_instance_crns,omitempty"`
	Locked      bool      `json:"locked,omitempty"`
	Revision    int       `json:"revision"`
	Created     time.Time `json:"created"`
	CreatedBy   string    `json:"created_by"`
	Modified    time.Time `json:"modified"`
}

// isServiceID tells a service ID from a user.
func (i identity) isServiceID() bool { return strings.HasPrefix(i.IAMID, "iam-ServiceId-") }

// apiKey is an API key. Its value is kept only when that was asked for.
type apiKey struct {
	ID          string    `json:"id"` // ApiKey-…
	IAMID       string    `json:"iam_id"`
	Account     string    `json:"account"`
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Hash        string    `json:"hash"`
	Value       string    `json:"value,omitempty"`
	WhenLeaked  string    `json:"action_when_leaked"`
	Sessions    bool      `json:"support_sessions,omitempty"`
	Locked      bool      `json:"locked,omitempty"`
	Disabled    bool      `json:"disabled,omitempty"`
	Expires     time.Time `json:"expires,omitzero"`
	Revision    int       `json:"revision"`
	Created     time.Time `json:"created"`
	CreatedBy   string    `json:"created_by"`
	Modified    time.Time `json:"modified"`
}

// usable tells whether the key gets a token.
func (k apiKey) usable(now time.Time) bool {
	return !k.Disabled && (k.Expires.IsZero() || now.Before(k.Expires))
}

func hashAPIKey(value string) string {
	sum := sha256.Sum256([]byte(value))
	return hex.EncodeToString(sum[:])
}

// findAPIKey finds an API key by its value; records.ErrNone when there is none.
func findAPIKey(tx *bbolt.Tx, value string) (apiKey, error) {
	id := bucket(tx, bucketKeyHashes).Get([]byte(hashAPIKey(value)))
	if id == nil {
		return apiKey{}, records.ErrNone
	}
	return records.Get[apiKey](bucket(tx, bucketAPIKeys), string(id))
}

// errValueTaken means that another API key has the same value.
var errValueTaken = errors.New("the value belongs to another API key")

func putAPIKey(tx *bbolt.Tx, k apiKey) error {
	if id := bucket(tx, bucketKeyHashes).Get([]byte(k.Hash)); id != nil && string(id) != k.ID {
		return errValueTaken
	}
	if err := bucket(tx, bucketKeyHashes).Put([]byte(k.Hash), []byte(k.ID)); err != nil {
		return err
	}
	return records.Put(bucket(tx, bucketAPIKeys), k.ID, k)
}

func deleteAPIKey(tx *bbolt.Tx, k apiKey) error {
	if err := bucket(tx, bucketKeyHashes).Delete([]byte(k.Hash)); err != nil {
		return err
	}
	return bucket(tx, bucketAPIKeys).Delete([]byte(k.ID))
}

// Identity is a user or service ID as a seed gives it, with one API key and with roles on services.
type Identity struct {
	IAMID, Account, Name, Email string
	Service                     string // of a service ID that belongs to a service
	APIKey                      string
	Access                      []access.Grant
}

// seeded is the space of the ids that seeded API keys get, so that a later seed finds them.
var seeded = uuid.MustParse("5c7f0d3e-92a4-4c57-8e0f-2f1f6b0d5a12")

// Seed writes an identity, its API key, and its access as policies; its earlier seeded API key and
// policies go. Call it before New.
func Seed(tx *bbolt.Tx, in Identity, now time.Time) error {
	now = now.UTC()
	old, err := records.Get[identity](bucket(tx, bucketIdentities), in.IAMID)
	if err != nil && !errors.Is(err, records.ErrNone) {
		return err
	}
	who := identity{
		IAMID: in.IAMID, Account: in.Account, Name: in.Name, Email: in.Email, Service: in.Service,
		Description: old.Description, Bound: old.Bound, Locked: old.Locked,
		Revision: old.Revision + 1, Created: old.Created, CreatedBy: in.IAMID, Modified: now,
	}
	if who.Created.IsZero() {
		who.Created = now
	}
	if err := records.Put(bucket(tx, bucketIdentities), in.IAMID, who); err != nil {
		return err
	}
	if err := seedAPIKey(tx, in, now); err != nil {
		return err
	}
	return access.Seed(tx, in.IAMID, in.Access, now)
}

func seedAPIKey(tx *bbolt.Tx, in Identity, now time.Time) error {
	k := apiKey{
		ID: "ApiKey-" + uuid.NewSHA1(seeded, []byte(in.IAMID)).String(), IAMID: in.IAMID, Account: in.Account, Name: in.Name, Hash: hashAPIKey(in.APIKey),
		WhenLeaked: "none", Revision: 1, Created: now, CreatedBy: in.IAMID, Modified: now,
	}
	old, err := records.Get[apiKey](bucket(tx, bucketAPIKeys), k.ID)
	switch {
	case errors.Is(err, records.ErrNone):
	case err != nil:
		return err
	case old.Hash == k.Hash:
		return nil
	default:
		if err := deleteAPIKey(tx, old); err != nil {
			return err
		}
	}
	if err := putAPIKey(tx, k); errors.Is(err, errValueTaken) {
		return errors.New("the data directory holds the API key for another identity: give another")
	} else if err != nil {
		return err
	}
	return nil
}
