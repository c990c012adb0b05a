// Package engine carries out KMIP operations for one tenant at a time, over
// the ports it needs: a ledger of managed objects and a key manager. It knows
// neither TTLV nor HTTP nor SQL.
package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// The errors of the ports, to compare with errors.Is. Adapters return them
// wrapped in or as a fault.Error of the same kind; everything else counts as
// internal.
var (
	ErrNotFound    = &fault.Error{Kind: fault.NotFound}
	ErrExists      = &fault.Error{Kind: fault.Exists}
	ErrConflict    = &fault.Error{Kind: fault.Conflict}
	ErrGone        = &fault.Error{Kind: fault.Gone}
	ErrDenied      = &fault.Error{Kind: fault.Denied}
	ErrUnavailable = &fault.Error{Kind: fault.Unavailable}
	ErrCorrupt     = &fault.Error{Kind: fault.Corrupt}
)

// ErrDestroyDenied is Check's when delete alone is refused: keys can be made
// and read, and Destroy fails. The error is of kind fault.Denied too, and its
// public sentence names the remedy.
var ErrDestroyDenied = errors.New("the key manager does not permit to delete standard keys")

// Phase is how far an object's row and its standard key have come.
type Phase string

// The phases. A row is pending until its standard key is stored, live while it
// can be read, destroying from the moment a client asked for Destroy until the
// standard key is deleted, and destroyed then; its metadata stays.
const (
	Pending    Phase = "pending"
	Live       Phase = "live"
	Destroying Phase = "destroying"
	Gone       Phase = "destroyed"
)

// Location says where an object's wrapped KEK lies and what opens it.
type Location struct {
	KeyManagerCRN  string `json:"key_manager"`      // CRN of the key manager instance
	KeyRing        string `json:"key_ring"`         // ring of the standard key
	RootKeyID      string `json:"root_key_id"`      // UUID
	RootKeyVersion string `json:"root_key_version"` // as the key manager named it at wrap
}

// Record is one row of the ledger.
type Record struct {
	Object   kmip.Object
	Phase    Phase
	Location Location
	KeyRef   KeyRef // empty while pending
	// Version counts the row's changes from 1. Replace succeeds only with the
	// version that is stored, and stores that plus one.
	Version int64
	// Recovered says that the row was lost and made again of the envelope.
	Recovered bool
	// PendingFor is how long a pending row may stay so, from now by the
	// database's clock. Read by Create alone.
	PendingFor time.Duration
}

// Withheld reports whether the object must not be served by a node that can't
// read the ledger: it was revoked or destroyed, or its bytes may not leave.
// Create and Replace of such a record make it known to every node in the same
// transaction.
func (r Record) Withheld() bool {
	return r.Phase == Destroying || r.Phase == Gone || r.Object.State >= kmip.Deactivated ||
		r.Object.Sensitive || r.Object.Unextractable
}

// HeldNames returns the names that the row holds against others of its tenant:
// those of an object that a client can use.
func (r Record) HeldNames() []string {
	if r.Phase != Live {
		return nil
	}
	return r.Object.Names()
}

// Objects is the ledger of managed objects. Every call names the tenant and
// sees its rows alone. Calls are durable when they return nil, and safe for
// concurrent use. A row holds its names (HeldNames) against the others of
// the tenant. Every implementation passes enginetest.Objects.
type Objects interface {
	// Create adds a row with Version 1. It returns ErrExists if the tenant has
	// that identifier already, in any phase, or if r is live and a name taken.
	Create(ctx context.Context, t tenant.ID, r Record) error
	// Get returns a row of any phase, or ErrNotFound.
	Get(ctx context.Context, t tenant.ID, id kmip.ObjectID) (Record, error)
	// Replace writes records over the rows with their identifiers, in this
	// order, all or none. It returns ErrConflict unless each stored version is
	// the record's, ErrNotFound without a row, and ErrExists when a name is
	// held by another object. ErrUnavailable leaves the outcome unknown.
	Replace(ctx context.Context, t tenant.ID, records ...Record) error
	// Locate returns the objects that match, those whose rows were made last
	// first; rows that are pending never match.
	Locate(ctx context.Context, t tenant.ID, q Query) (Located, error)
}

// MaxLocated is the most identifiers that one Locate returns: they fit into
// one answer.
const MaxLocated = 10_000

// Query says what to locate.
type Query struct {
	Filter  kmip.Filter
	Now     time.Time // states depend on it
	Offset  int       // of those that match, how many to skip
	Maximum int       // how many to return; at least 1
	Count   bool      // count all that match
	Oldest  bool      // those made first come first
}

// Page returns the part asked for of all that match, newest first.
func (q Query) Page(all []kmip.ObjectID) (found Located) {
	if q.Count {
		found.Total = len(all)
	}
	if q.Oldest {
		slices.Reverse(all)
	}
	all = all[min(q.Offset, len(all)):]
	found.IDs = all[:min(q.Maximum, len(all))]
	return found
}

// Located is what was found.
type Located struct {
	IDs   []kmip.ObjectID
	Total int // all that match, also beyond IDs; 0 unless it was to be counted
}

// KeyRef is the id that the key manager gave to a standard key (UUID).
type KeyRef string

// StoredKey is a standard key as the key manager's list shows it.
type StoredKey struct {
	Object  kmip.ObjectID // by its name; the envelope in it decides
	Ref     KeyRef
	Deleted bool // by the customer or by Destroy; restorable for 30 days
}

// Binding is authenticated with the wrapped KEK: a blob moved to another
// tenant or object does not open.
type Binding struct {
	Tenant tenant.ID
	Object kmip.ObjectID
}

// AdditionalData returns the strings that wrap and unwrap authenticate.
func (b Binding) AdditionalData() []string {
	return []string{"kmip-for-vmware/1", string(b.Tenant), string(b.Object)}
}

// Wrapped is a KEK wrapped by the root key.
type Wrapped struct {
	Ciphertext     string `json:"ciphertext"` // the key manager's own format; opaque
	RootKeyID      string `json:"root_key_id"`
	RootKeyVersion string `json:"root_key_version"`
}

// KeyManager is one tenant's root key and the home of its wrapped KEKs.
// Besides the errors named at each call all return ErrDenied (final: the root
// key is deleted or disabled, or permission is withdrawn) and ErrUnavailable
// (may pass). Safe for concurrent use. Every implementation passes
// enginetest.KeyManager.
type KeyManager interface {
	// Location returns where Store puts new keys and which root key wraps
	// them; RootKeyVersion is empty.
	Location() Location
	// Wrap encrypts a KEK under the root key.
	Wrap(ctx context.Context, kek *secret.Bytes, b Binding) (Wrapped, error)
	// Unwrap decrypts with the root key that w names. ErrCorrupt: it does not
	// open with this binding.
	Unwrap(ctx context.Context, w Wrapped, b Binding) (*secret.Bytes, error)
	// Store keeps an envelope as a standard key that the customer sees. It
	// never creates a second one: when the outcome of its one request is
	// unknown it looks the name up, and returns ErrUnavailable if that does
	// not tell either.
	Store(ctx context.Context, id kmip.ObjectID, e Envelope) (KeyRef, error)
	// Load returns a stored envelope; ErrGone when the customer deleted the
	// standard key; ErrCorrupt when its payload is not an envelope of id.
	Load(ctx context.Context, id kmip.ObjectID, ref KeyRef) (Envelope, error)
	// Find returns the standard key that keeps id's envelope when its KeyRef is
	// not known: of several the oldest, deleted ones included. It may read the
	// list of all keys, so callers bound how often they ask for identifiers
	// that may not exist. ErrNotFound: the key manager has none.
	Find(ctx context.Context, id kmip.ObjectID) (KeyRef, error)
	// FindSince returns the standard keys, not deleted, that were stored for id
	// since a time, and perhaps some from shortly before, the oldest first.
	FindSince(ctx context.Context, id kmip.ObjectID, since time.Time) ([]KeyRef, error)
	// List returns the standard keys that are named after objects, of whatever
	// tenant, the oldest first, with those deleted that the key manager still
	// knows. It reads the whole list, of at most 100,000 keys.
	List(ctx context.Context) ([]StoredKey, error)
	// Delete deletes a standard key; deleting a deleted one is no error.
	Delete(ctx context.Context, ref KeyRef) error
	// Check does each needed action once on a probe: wrap, store, load, list,
	// unwrap, delete. Its error names the action that failed and the remedy;
	// it is ErrDestroyDenied when only delete did. Then the probe stays, and
	// serves later checks again.
	Check(ctx context.Context) error
}

// KeyManagers returns the adapter for a tenant's current settings.
type KeyManagers func(t *tenant.Tenant) (KeyManager, error)
