package wire

import (
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// decoding is what decoders share within one request.
type decoding struct {
	// later leaves out fields that are not known: the request is of a later
	// minor version.
	later bool
	// placeholder is the ID Placeholder (KMIP 1.4, section 4): the object of
	// an operation that names none.
	placeholder kmip.ObjectID
	// room is how many bytes attributes may still take in memory.
	room int
}

// fields steps over the members of a structure, which may come in any order.
// Every decoder has the same shape: it opens the structure on which its cursor
// stands, assigns each field together with err, which ends the loop, and names
// at the end what has to be there:
//
//	f := fields{later: d.later}
//	for f.open(c); f.next(); {
//		switch f.Tag() {
//		case kmip14.TagObjectType:
//			r.typ, f.err = enum[kmip.ObjectType](&f)
//		default:
//			f.unknown()
//		}
//	}
//	return r, f.done(kmip14.TagObjectType)
type fields struct {
	message.Cursor
	err        error
	seen       tagSet
	repeatable ttlv.Tag // may come more than once
	later      bool     // fields that are not known are left out
}

// open begins with the structure on which c stands.
func (f *fields) open(c message.Cursor) { f.Cursor, f.err = c.Children() }

// next steps on the next field; it ends at an error. A field that comes twice
// is an Invalid Message (KMIP 1.4, 11.1).
func (f *fields) next() bool {
	if f.err != nil || !f.Next() {
		return false
	}
	if tag := f.Tag(); f.seen.add(tag) && tag != f.repeatable {
		f.err = fault.Newf(fault.Malformed, "The field %v is given twice.", tag)
		return false
	}
	return true
}

// unknown is what a decoder does with a field that it does not know: an
// Invalid Field, unless the request is of a later version (KMIP 1.4, 11.1).
func (f *fields) unknown() {
	if !f.later {
		f.err = fault.Newf(fault.Invalid, "The field %v is not known here.", f.Tag())
	}
}

// done returns the error at which the loop ended, or else names the first of
// the fields required that has not come.
func (f *fields) done(required ...ttlv.Tag) error {
	if f.err != nil {
		return f.err
	}
	for _, tag := range required {
		if !f.seen.has(tag) {
			return fault.Newf(fault.Missing, "The field %v is missing.", tag)
		}
	}
	return nil
}

// malformed turns the complaint that a field is missing into an Invalid
// Message, as which a header or batch item counts that is incomplete.
func malformed(err error) error {
	if err != nil && fault.KindOf(err) == fault.Missing {
		return fault.Wrap(fault.Malformed, fault.Public(err), err)
	}
	return err
}

// enum returns an Enumeration.
func enum[T ~uint32](f *fields) (T, error) {
	n, err := f.Enum()
	return T(n), err
}

// identifier returns a Unique Identifier.
func identifier(f *fields) (kmip.ObjectID, error) {
	id, err := f.Text()
	return kmip.ObjectID(id), err
}

// tagSet holds tags of KMIP 1.x, whose last two bytes end at 0x0124
// (KMIP 1.4, 9.1.3.1); others it forgets.
type tagSet [5]uint64

// add adds a tag and reports whether it was there before.
func (s *tagSet) add(tag ttlv.Tag) bool {
	n := uint32(tag) - 0x420000
	if n >= uint32(len(s)*64) {
		return false
	}
	word, bit := &s[n/64], uint64(1)<<(n%64)
	had := *word&bit != 0
	*word |= bit
	return had
}

func (s *tagSet) has(tag ttlv.Tag) bool {
	n := uint32(tag) - 0x420000
	return n < uint32(len(s)*64) && s[n/64]&(1<<(n%64)) != 0
}
