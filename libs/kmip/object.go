// Package kmip holds KMIP's objects, attributes and life cycle as values and
// pure functions; the encoding is libs/wire's. Numbers are those of KMIP 1.4.
//
// What the standard says of each attribute stands in one table, in rules.go;
// operations ask it who may do what.
package kmip

import "time"

// ObjectID is a unique identifier as clients see it. Those made here are
// UUIDv7 text; vCenter stores them in every VM's configuration.
type ObjectID string

// MaxObjectID is the longest unique identifier accepted, in bytes: the name of
// its standard key, "vmware_kmip_" and the identifier, has at most 90.
const MaxObjectID = 78

// ObjectType is KMIP's Object Type enumeration (9.1.3.2.12).
type ObjectType uint32

// The object types that are kept.
const (
	SymmetricKey ObjectType = 2 // every KEK
	SecretData   ObjectType = 7 // a password or a seed
	OpaqueObject ObjectType = 8 // bytes that mean something to the client alone
)

// ObjectTypes lists them.
var ObjectTypes = [...]ObjectType{SymmetricKey, SecretData, OpaqueObject}

// Algorithm is KMIP's Cryptographic Algorithm enumeration (9.1.3.2.13).
type Algorithm uint32

// AES is the algorithm of every KEK.
const AES Algorithm = 3

// KeyFormat is KMIP's Key Format Type enumeration (9.1.3.2.3).
type KeyFormat uint32

// The formats in which bytes come and go.
const (
	Raw                     KeyFormat = 1
	Opaque                  KeyFormat = 2
	TransparentSymmetricKey KeyFormat = 7
)

// The Secret Data Types (9.1.3.2.9).
const (
	Password uint32 = 1
	Seed     uint32 = 2
)

// UsageMask is KMIP's Cryptographic Usage Mask (9.1.3.3.1), a set of bits.
type UsageMask int32

// The bits that vSphere sets.
const (
	Encrypt UsageMask = 4
	Decrypt UsageMask = 8
)

// Object is the metadata of one managed object: what KMIP knows of it but its
// bytes. Times have second precision and are UTC; zero means not set.
type Object struct {
	ID        ObjectID   `json:"unique_identifier"`
	Type      ObjectType `json:"object_type"`
	Algorithm Algorithm  `json:"cryptographic_algorithm"` // 0 but for keys
	Length    int32      `json:"cryptographic_length"`    // bits, of whatever type
	UsageMask UsageMask  `json:"cryptographic_usage_mask"`
	// Format is how a client encoded the bytes that it registered; 0 for keys
	// made here, which are Raw.
	Format KeyFormat `json:"key_format_type,omitempty"`
	// DataType is the Secret Data Type or Opaque Data Type.
	DataType uint32 `json:"data_type,omitempty"`
	State    State  `json:"state"` // as stored: see Current

	InitialDate time.Time `json:"initial_date"`
	// OriginalCreationDate is what a client said of an object that it
	// registered; those made here have their Initial Date.
	OriginalCreationDate time.Time `json:"original_creation_date,omitzero"`
	ActivationDate       time.Time `json:"activation_date,omitzero"`
	ProcessStartDate     time.Time `json:"process_start_date,omitzero"`
	ProtectStopDate      time.Time `json:"protect_stop_date,omitzero"`
	DeactivationDate     time.Time `json:"deactivation_date,omitzero"`
	// CompromiseOccurrenceDate is when the client says that it happened,
	// CompromiseDate when it said so.
	CompromiseOccurrenceDate time.Time   `json:"compromise_occurrence_date,omitzero"`
	CompromiseDate           time.Time   `json:"compromise_date,omitzero"`
	Revocation               *Revocation `json:"revocation,omitempty"`
	DestroyDate              time.Time   `json:"destroy_date,omitzero"`
	LastChangeDate           time.Time   `json:"last_change_date"`

	// Served says that a client has had the bytes: the object is not Fresh.
	Served bool `json:"served,omitempty"`
	// Sensitive bytes are never given out, nor are Unextractable ones. Exposed
	// and Extracted remember that they once could be.
	Sensitive     bool `json:"sensitive,omitempty"`
	Exposed       bool `json:"exposed,omitempty"`
	Unextractable bool `json:"unextractable,omitempty"`
	Extracted     bool `json:"extracted,omitempty"`
	// Generator is the Random Number Generator that made what a client
	// registered, if it said so.
	Generator *Value `json:"random_number_generator,omitempty"`

	Digest []byte `json:"digest"` // SHA-256 of the raw bytes
	// EncodedDigest is the SHA-256 of the Key Material as it was registered, if
	// that is not the raw bytes.
	EncodedDigest    []byte      `json:"encoded_digest,omitempty"`
	ClientAttributes []Attribute `json:"client_attributes,omitempty"`
}
