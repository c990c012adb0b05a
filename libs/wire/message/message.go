// Package message reads, checks and steps over KMIP messages as bytes: one
// frame off a connection, one validating pass, then a cursor that needs no
// checks of its own. Nothing here knows an operation. Rules are those of
// KMIP 1.4, section 9.1 (TTLV encoding).
//
// Reading:
//
//	frame, err := message.Read(conn, message.MaxFrame)
//	err = message.Validate(frame, message.DefaultLimits())
//	c := message.Open(frame)
//	for c.Next() { // the message itself
//		fields, err := c.Children()
//		for fields.Next() {
//			switch fields.Tag() {
//			case kmip14.TagRequestHeader:
//				…
//
// Writing is ttlv.Encoder's; it needs no reflection and no allocation as long
// as its typed methods are used. Structures nest, and Flush hands the finished
// message to the writer:
//
//	enc := ttlv.NewEncoder(conn)
//	err := enc.EncodeStructure(kmip14.TagRequestMessage, func(e *ttlv.Encoder) error {
//		return e.EncodeStructure(kmip14.TagRequestHeader, func(e *ttlv.Encoder) error {
//			e.EncodeInteger(kmip14.TagBatchCount, 1)
//			return nil
//		})
//	})
//	err = enc.Flush()
//
// A kmip.Value of any type is written by PutValue and read by Cursor.Value.
package message

import (
	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// The limits on one message. KMIP sets none but the 32-bit length; a vSphere
// Create has 312 bytes, depth 5 and 26 items.
const (
	MaxFrame = 256 << 10 // bytes with the head
	MaxDepth = 32        // structures in one another, the message being the first
	MaxItems = 8192      // items of every type
	MaxText  = 4 << 10   // bytes of one Text String
)

// Limits bounds what Validate accepts; the units are those of the constants.
// Depth never exceeds MaxDepth, whatever is asked for.
type Limits struct {
	Frame, Depth, Items, Text int
}

// DefaultLimits returns the constants as Limits.
func DefaultLimits() Limits {
	return Limits{Frame: MaxFrame, Depth: MaxDepth, Items: MaxItems, Text: MaxText}
}

// The errors of Read, to compare with errors.Is.
var (
	// ErrNotKMIP says that the bytes don't begin a KMIP message: plain HTTP,
	// a port scan.
	ErrNotKMIP = fault.New(fault.Malformed, "The data is not a KMIP message.")
	// ErrTooLarge says that the message's head claims more than the limit.
	ErrTooLarge = fault.New(fault.Malformed, "The message is larger than this server accepts.")
)

const headSize = 8 // tag, type, length

// head reads an item's head, of which all 8 bytes must be there.
func head(b []byte) (tag ttlv.Tag, typ ttlv.Type, length int) {
	_ = b[headSize-1]
	tag = ttlv.Tag(uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]))
	return tag, ttlv.Type(b[3]), int(b[4])<<24 | int(b[5])<<16 | int(b[6])<<8 | int(b[7])
}

// isMessage reports whether a head begins a request or a response
// (KMIP 1.4, 7.1).
func isMessage(tag ttlv.Tag, typ ttlv.Type) bool {
	return typ == ttlv.TypeStructure && (tag == kmip14.TagRequestMessage || tag == kmip14.TagResponseMessage)
}

// padded rounds a value's length up to whole groups of 8 bytes
// (KMIP 1.4, 9.1.1.3).
func padded(n int) int { return (n + 7) &^ 7 }
