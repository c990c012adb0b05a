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
// Writing is Writer's. A kmip.Value of any type is written by Writer.Value and
// read by Cursor.Value.
package message

import (
	"encoding/binary"

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
	h := binary.BigEndian.Uint64(b)
	return ttlv.Tag(h >> 40), ttlv.Type(h >> 32), int(uint32(h)) //nolint:gosec // cut on purpose
}

// isMessage reports whether a head begins a request or a response
// (KMIP 1.4, 7.1).
func isMessage(tag ttlv.Tag, typ ttlv.Type) bool {
	return typ == ttlv.TypeStructure && (tag == kmip14.TagRequestMessage || tag == kmip14.TagResponseMessage)
}

// padded rounds a value's length up to whole groups of 8 bytes
// (KMIP 1.4, 9.1.1.3).
func padded(n int) int { return (n + 7) &^ 7 }
