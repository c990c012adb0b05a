// Package kmip holds KMIP's objects, attributes and life cycle as values and
// pure functions; the encoding is libs/wire's. Numbers are those of KMIP 1.4.
package kmip

import (
	"time"
)

// ObjectID is a unique identifier as clients see it. Those made here are
// UUIDv7 text; vCenter stores them in every VM's configuration.
type ObjectID string

// MaxObjectID is the longest unique identifier accepted, in bytes: the name of
// its standard key, "vmware_kmip_" and the identifier, has at most 90.
const MaxObjectID = 78

// ObjectType is KMIP's Object Type enumeration (9.1.3.2.3).
type ObjectType uint32

// SymmetricKey is the object type of every KEK.
const SymmetricKey ObjectType = 2

// Algorithm is KMIP's Cryptographic Algorithm enumeration (9.1.3.2.13).
type Algorithm uint32

// AES is the algorithm of every KEK.
const AES Algorithm = 3

// UsageMask is KMIP's Cryptographic Usage Mask (9.1.3.3.1), a set of bits.
type UsageMask int32

// The bits that vSphere sets.
const (
	Encrypt UsageMask = 4
	Decrypt UsageMask = 8
)

// State is KMIP's State enumeration (3.22).
type State uint32

// The states.
const (
	PreActive            State = 1
	Active               State = 2
	Deactivated          State = 3
	Compromised          State = 4
	Destroyed            State = 5
	DestroyedCompromised State = 6
)

var stateNames = map[State]string{
	PreActive: "Pre-Active", Active: "Active", Deactivated: "Deactivated", Compromised: "Compromised",
	Destroyed: "Destroyed", DestroyedCompromised: "Destroyed Compromised",
}

// String returns the name that the specification gives the state.
func (s State) String() string { return stateNames[s] }

// Object is the metadata of one managed object: what KMIP knows of a key but
// its bytes. Times have second precision and are UTC; zero means not set.
type Object struct {
	ID               ObjectID   `json:"unique_identifier"`
	Type             ObjectType `json:"object_type"`
	Algorithm        Algorithm  `json:"cryptographic_algorithm"`
	Length           int32      `json:"cryptographic_length"` // bits
	UsageMask        UsageMask  `json:"cryptographic_usage_mask"`
	State            State      `json:"state"`
	InitialDate      time.Time  `json:"initial_date"`
	ActivationDate   time.Time  `json:"activation_date,omitzero"`
	DeactivationDate time.Time  `json:"deactivation_date,omitzero"`
	// CompromiseOccurrenceDate is when the client says that it happened,
	// CompromiseDate when it said so.
	CompromiseOccurrenceDate time.Time   `json:"compromise_occurrence_date,omitzero"`
	CompromiseDate           time.Time   `json:"compromise_date,omitzero"`
	Revocation               *Revocation `json:"revocation,omitempty"`
	DestroyDate              time.Time   `json:"destroy_date,omitzero"`
	LastChangeDate           time.Time   `json:"last_change_date"`
	Digest                   []byte      `json:"digest"` // SHA-256 of the key's raw bytes
	ClientAttributes         []Attribute `json:"client_attributes,omitempty"`
}
