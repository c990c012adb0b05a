// Package resourcecontroller plays IBM Cloud's resource controller API v2 for instances of Key Protect
// and Hyper Protect Crypto Services, and keeps the accounts they belong to.
//
// Each account has one resource group. An instance that is deleted waits seven days for reclamation,
// out of reach of its own API, and is then removed; reclamations themselves are not served. Where
// IBM's catalog ids are not public they are made up, and stable.
package resourcecontroller

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/iam/access"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// Services whose instances there can be, by their names in CRNs.
const (
	KeyProtect = "kms"
	HPCS       = "hs-crypto"
)

const (
	bucketAccounts  = "accounts"  // account id → Account
	bucketInstances = "instances" // GUID → Instance
)

// Buckets are the top-level buckets that Config.DB must have.
var Buckets = []string{bucketAccounts, bucketInstances}

func instances(tx *bbolt.Tx) *bbolt.Bucket { return tx.Bucket([]byte(bucketInstances)) }

// Account is an IBM Cloud account; ID has 32 hexadecimal digits.
type Account struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// ResourceGroup is the id of an account's only resource group.
func ResourceGroup(account string) string {
	return strings.ReplaceAll(madeID("resource group of "+account), "-", "")
}

// madeID is a stable id where IBM's is not public.
func madeID(name string) string {
	return uuid.NewHash(sha256.New(), uuid.NameSpaceOID, []byte(name), 8).String()
}

// Instance is a key manager instance.
type Instance struct {
	GUID         string         `json:"guid"`
	Service      string         `json:"service"` // KeyProtect or HPCS
	Account      string         `json:"account"`
	Region       string         `json:"region"`
	Name         string         `json:"name"`
	Plan         string         `json:"plan,omitempty"` // empty: the service's first
	Parameters   map[string]any `json:"parameters,omitempty"`
	AllowCleanup bool           `json:"allow_cleanup,omitempty"`
	Locked       bool           `json:"locked,omitempty"`
	Created      time.Time      `json:"created"`
	CreatedBy    string         `json:"created_by,omitempty"`
	Updated      time.Time      `json:"updated,omitzero"` // zero: as created
	UpdatedBy    string         `json:"updated_by,omitempty"`
	Deleted      time.Time      `json:"deleted,omitzero"`
	DeletedBy    string         `json:"deleted_by,omitempty"`
	Operation    string         `json:"operation,omitempty"` // the last: create, update, delete
	// Uninitialized says that nobody has initialized the crypto units of an HPCS instance.
	Uninitialized bool `json:"uninitialized,omitempty"`
}

// CRN is the instance's cloud resource name, and its id.
func (i Instance) CRN() string {
	return fmt.Sprintf("crn:v1:bluemix:public:%s:%s:a/%s:%s::", i.Service, i.Region, i.Account, i.GUID)
}

// Attributes are the instance's for decisions of IAM.
func (i Instance) Attributes() access.Attributes {
	a := access.OnInstance(i.Account, i.Service, i.Region, i.GUID)
	a["resourceGroupId"] = ResourceGroup(i.Account)
	return a
}

// States of an instance.
const (
	stateActive  = "active"
	statePending = "pending_reclamation"
	stateRemoved = "removed"
)

// reclaimAfter is how long a deleted instance waits for its reclamation.
const reclaimAfter = 7 * 24 * time.Hour

func (i Instance) state(now time.Time) string {
	switch {
	case i.Deleted.IsZero():
		return stateActive
	case now.Before(i.Deleted.Add(reclaimAfter)):
		return statePending
	}
	return stateRemoved
}

func (i Instance) updated() time.Time {
	if i.Updated.IsZero() {
		return i.Created
	}
	return i.Updated
}

// ErrNoInstance means that a GUID names no instance that is in use.
var ErrNoInstance = errors.New("no such instance")

// Find finds an instance that is in use, or ErrNoInstance.
func Find(tx *bbolt.Tx, guid string) (Instance, error) {
	in, err := records.Get[Instance](instances(tx), guid)
	if errors.Is(err, records.ErrNone) || err == nil && !in.Deleted.IsZero() {
		return Instance{}, ErrNoInstance
	}
	return in, err
}

// SeedAccount writes an account.
func SeedAccount(tx *bbolt.Tx, a Account) error {
	return records.Put(tx.Bucket([]byte(bucketAccounts)), a.ID, a)
}

// Seed writes an instance as in use. One that exists keeps its service, account and region, because
// the CRNs of its keys hold them: an error says that they differ.
func Seed(tx *bbolt.Tx, in Instance) error {
	have, err := records.Get[Instance](instances(tx), in.GUID)
	switch {
	case errors.Is(err, records.ErrNone):
	case err != nil:
		return err
	case have.Service != in.Service || have.Account != in.Account || have.Region != in.Region:
		return fmt.Errorf("the data directory holds %s as %s of account %s in %s: use another guid or another --data-dir",
			in.GUID, have.Service, have.Account, have.Region)
	default:
		have.Name, have.Uninitialized, have.Deleted, have.DeletedBy = in.Name, in.Uninitialized, time.Time{}, ""
		in = have
	}
	return records.Put(instances(tx), in.GUID, in)
}
