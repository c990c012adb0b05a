package kmip

import (
	"math/big"
	"slices"
	"strings"
	"time"
)

// Names of the attributes that the server itself knows (KMIP 1.4, section 3).
const (
	AttributeUniqueIdentifier        = "Unique Identifier"
	AttributeName                    = "Name"
	AttributeObjectType              = "Object Type"
	AttributeCryptographicAlgorithm  = "Cryptographic Algorithm"
	AttributeCryptographicLength     = "Cryptographic Length"
	AttributeCryptographicParameters = "Cryptographic Parameters"
	AttributeDigest                  = "Digest"
	AttributeOperationPolicyName     = "Operation Policy Name"
	AttributeCryptographicUsageMask  = "Cryptographic Usage Mask"
	AttributeLeaseTime               = "Lease Time"
	AttributeUsageLimits             = "Usage Limits"
	AttributeState                   = "State"
	AttributeInitialDate             = "Initial Date"
	AttributeActivationDate          = "Activation Date"
	AttributeProcessStartDate        = "Process Start Date"
	AttributeProtectStopDate         = "Protect Stop Date"
	AttributeDeactivationDate        = "Deactivation Date"
	AttributeDestroyDate             = "Destroy Date"
	AttributeCompromiseOccurrence    = "Compromise Occurrence Date"
	AttributeCompromiseDate          = "Compromise Date"
	AttributeRevocationReason        = "Revocation Reason"
	AttributeObjectGroup             = "Object Group"
	AttributeFresh                   = "Fresh"
	AttributeLink                    = "Link"
	AttributeApplicationSpecific     = "Application Specific Information"
	AttributeContactInformation      = "Contact Information"
	AttributeLastChangeDate          = "Last Change Date"
	AttributeAlternativeName         = "Alternative Name"
	AttributeOriginalCreationDate    = "Original Creation Date"
	AttributeRandomNumberGenerator   = "Random Number Generator"
	AttributeDescription             = "Description"
	AttributeComment                 = "Comment"
	AttributeSensitive               = "Sensitive"
	AttributeAlwaysSensitive         = "Always Sensitive"
	AttributeExtractable             = "Extractable"
	AttributeNeverExtractable        = "Never Extractable"
)

// ValueType is the type of an attribute's value, numbered as TTLV's item types
// (KMIP 1.4, 9.1.1.2).
type ValueType uint8

// The value types.
const (
	Structure   ValueType = 1
	Integer     ValueType = 2
	LongInteger ValueType = 3
	BigInteger  ValueType = 4
	Enumeration ValueType = 5
	Boolean     ValueType = 6
	TextString  ValueType = 7
	ByteString  ValueType = 8
	DateTime    ValueType = 9
	Interval    ValueType = 10
)

// Value is an attribute's value: Type says which one field counts.
type Value struct {
	Type ValueType `json:"type"`
	Text string    `json:"text,omitempty"` // Text String
	// Number is an Integer, Long Integer, Enumeration, Boolean (0 or 1),
	// Interval in seconds, or Date-Time in seconds since 1970 UTC.
	Number int64    `json:"number,omitempty"`
	Big    *big.Int `json:"big,omitempty"`    // Big Integer
	Bytes  []byte   `json:"bytes,omitempty"`  // Byte String
	Fields []Field  `json:"fields,omitempty"` // Structure
}

// Field is one member of a structure.
type Field struct {
	Tag   uint32 `json:"tag"` // three bytes, 0x42.... for the standard's
	Value Value  `json:"value"`
}

// Attribute is a name, the index of the instance among those of one name, and
// a value.
type Attribute struct {
	Name  string `json:"name"`
	Index int32  `json:"index,omitempty"`
	Value Value  `json:"value"`
}

// Text returns a Text String value.
func Text(s string) Value { return Value{Type: TextString, Text: s} }

// Int returns an Integer value.
func Int(n int32) Value { return Value{Type: Integer, Number: int64(n)} }

// Enum returns an Enumeration value.
func Enum[T ~uint32](n T) Value { return Value{Type: Enumeration, Number: int64(n)} }

// Bool returns a Boolean value.
func Bool(b bool) Value {
	v := Value{Type: Boolean}
	if b {
		v.Number = 1
	}
	return v
}

// Time returns a Date-Time value, cut to seconds.
func Time(t time.Time) Value { return Value{Type: DateTime, Number: t.Unix()} }

// Struct returns a Structure value.
func Struct(fields ...Field) Value { return Value{Type: Structure, Fields: fields} }

// member returns the first member with a tag, or the zero Value.
func (v Value) member(tag uint32) Value {
	for _, f := range v.Fields {
		if f.Tag == tag {
			return f.Value
		}
	}
	return Value{}
}

// hasNUL tells whether a text inside holds the one character that PostgreSQL
// can't store.
func (v Value) hasNUL() bool {
	return strings.ContainsRune(v.Text, 0) || slices.ContainsFunc(v.Fields, func(f Field) bool { return f.Value.hasNUL() })
}

// size is about how many bytes the value takes.
func (v Value) size() int {
	n := len(v.Text) + len(v.Bytes)
	if v.Big != nil {
		n += len(v.Big.Bits()) * 8
	}
	for _, f := range v.Fields {
		n += 8 + f.Value.size()
	}
	return n
}
