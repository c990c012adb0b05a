// Package tenant holds what a cell knows about its tenants: an immutable
// snapshot of all of them, the changes between two revisions, and routing of a
// connection to one of them as a pure function.
package tenant

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"slices"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/crn"
)

// ServiceName is the name under which IBM Cloud knows this service: in the
// CRNs of instances, and as the source of service authorizations.
const ServiceName = "vmware-solutions"

// ID is an instance's GUID, lower case.
type ID string

// Fingerprint is the SHA-256 of a client leaf certificate's DER encoding.
type Fingerprint [sha256.Size]byte

// FingerprintOf returns the fingerprint of a certificate in DER.
func FingerprintOf(der []byte) Fingerprint { return sha256.Sum256(der) }

// String returns the fingerprint in lower-case hexadecimal.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// Revision names one configuration change of a cell: a number that grows by
// one in commit order, and a random id that tells two histories apart after
// the database was restored. The zero Revision is a cell without any change.
type Revision struct {
	Number int64
	ID     string
}

// KeyManagerType is the product that holds a tenant's root key.
type KeyManagerType string

// The key managers.
const (
	KeyProtect KeyManagerType = "key_protect"
	HPCS       KeyManagerType = "hpcs"
)

// KeyManager says where a tenant's root key is and how to reach it. Its
// address is not here: it follows from the CRN and the operator's table.
type KeyManager struct {
	Type        KeyManagerType
	InstanceCRN string // CRN of the Key Protect or HPCS instance
	KeyRing     string // ring of the root key and of the standard keys
	RootKeyID   string // UUID
	// SealedAPIKey opens with the operator's keyring for purpose
	// APIKeyPurpose and the tenant's id as owner. Empty: no API key given; the
	// key manager is called under an IAM service authorization.
	SealedAPIKey []byte
}

// Equal reports whether two settings are the same, the credential included.
func (k KeyManager) Equal(o KeyManager) bool {
	return k.Type == o.Type && k.InstanceCRN == o.InstanceCRN && k.KeyRing == o.KeyRing && k.RootKeyID == o.RootKeyID &&
		bytes.Equal(k.SealedAPIKey, o.SealedAPIKey)
}

// APIKeyPurpose is the sealing purpose of tenants' API keys.
const APIKeyPurpose = "tenant-api-key" //nolint:gosec // a purpose, not a credential

// Credential is the user name and password that a tenant's clients have to send
// besides showing their certificate (KMIP 1.4, 2.1.2).
type Credential struct {
	UserName string
	// Digest is the SHA-256 of user name, a zero byte and password. That is
	// enough for passwords that are random: nobody chooses them.
	Digest [sha256.Size]byte
}

// NewCredential returns the credential with a user name and a random password.
func NewCredential(userName string, password []byte) Credential {
	return Credential{userName, digestOf([]byte(userName), password)}
}

// Is reports whether a client has sent the credential.
func (c *Credential) Is(userName, password []byte) bool {
	digest := digestOf(userName, password)
	return subtle.ConstantTimeCompare(digest[:], c.Digest[:]) == 1
}

func digestOf(userName, password []byte) (digest [sha256.Size]byte) {
	h := sha256.New()
	h.Write(userName)
	h.Write([]byte{0})
	h.Write(password)
	h.Sum(digest[:0])
	return digest
}

// Client is one client certificate of a tenant.
type Client struct {
	ID          string // UUID of the certificate's record
	Name        string
	Fingerprint Fingerprint
	NotAfter    time.Time // end of validity in the certificate itself
}

// Tenant is one customer's KMIP for VMware instance as the data plane sees it.
type Tenant struct {
	ID        ID
	Account   string // IBM Cloud account, 32 hexadecimal digits
	Name      string
	Suspended bool
	Shared    bool     // reached at the cell's shared endpoints
	Names     []string // own host names, lower case
	Ports     []uint16 // own dedicated ports, as advertised
	// ServerCertificates are the leaves, in DER, to show for Names; a name
	// without one is shown the shared leaf.
	ServerCertificates map[string][]byte
	Clients            []Client
	// Credential is nil unless clients have to send one.
	Credential *Credential
	// KeyManager is nil until the customer has configured one.
	KeyManager *KeyManager
	// Former are the settings before KeyManager that some keys still need,
	// until they have been moved.
	Former []KeyManager
	// Withheld are the unique identifiers, sorted, that must not be served
	// while the ledger can't be read. WithheldAll stands for a list that is too
	// long to be here.
	Withheld    []string
	WithheldAll bool
	// Cache is how long a node may serve a key without asking the key manager,
	// OutageGrace how long while the key manager can't be reached; both since it
	// was asked last and gave the key. So long a revocation may take to be in
	// force.
	Cache       time.Duration
	OutageGrace time.Duration
}

// At returns the tenant with the settings, present or former, that reach a key
// which lies in the key manager instance with a CRN, wrapped by a root key; the
// tenant as it is if no former ones do better.
func (t *Tenant) At(instanceCRN, rootKeyID string) *Tenant {
	if t.KeyManager == nil || t.KeyManager.InstanceCRN == instanceCRN && t.KeyManager.RootKeyID == rootKeyID {
		return t
	}
	var best *KeyManager
	for i, k := range t.Former {
		if k.InstanceCRN == instanceCRN && (k.RootKeyID == rootKeyID || best == nil && t.KeyManager.InstanceCRN != instanceCRN) {
			best = &t.Former[i]
		}
	}
	if best == nil {
		return t
	}
	there := *t
	there.KeyManager = best
	return &there
}

// KeyManagers returns the tenant with each of its settings that lead to another
// key manager instance, the present ones first.
func (t *Tenant) KeyManagers() []*Tenant {
	all := []*Tenant{t}
	seen := make(map[string]bool)
	if t.KeyManager != nil {
		seen[t.KeyManager.InstanceCRN] = true
	}
	for i, k := range t.Former {
		if !seen[k.InstanceCRN] {
			seen[k.InstanceCRN] = true
			there := *t
			there.KeyManager = &t.Former[i]
			all = append(all, &there)
		}
	}
	return all
}

// Withholds reports whether an object must not be served while the ledger can't
// be read.
func (t *Tenant) Withholds(id string) bool {
	if t.WithheldAll {
		return true
	}
	_, listed := slices.BinarySearch(t.Withheld, id)
	return listed
}

// CRN returns the tenant's IBM Cloud resource name in a location (region). IAM
// knows the instance by it.
func (t *Tenant) CRN(location string) string {
	return crn.CRN{
		Name: "bluemix", Type: "public", Service: ServiceName, Location: location,
		Scope: "a/" + t.Account, Instance: string(t.ID),
	}.String()
}

// Delta leads from revision After to revision To: the tenants that are new or
// changed, as they are at To, and those that are gone. After may equal To.
type Delta struct {
	After   Revision
	To      Revision
	Changed []Tenant
	Removed []ID
	// Unreadable are tenants whose stored configuration this version can't
	// read: they are quarantined, and the revision advances.
	Unreadable []Quarantined
}

// Quarantined is a tenant that can't be served because its configuration
// contradicts another's or is not understood.
type Quarantined struct {
	ID     ID
	Reason string
}
