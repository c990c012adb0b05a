package wire

import (
	"errors"

	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// errUnknownField is what a function given to eachField returns for a field
// that its structure does not have.
var errUnknownField = fault.New(fault.Invalid, "A field is not known here.")

// decoding is how eachField treats what a structure should not hold.
type decoding struct {
	// ignoreUnknown leaves out fields that are not known: the request is of a
	// later minor version.
	ignoreUnknown bool
	// repeatable may come more than once.
	repeatable [2]ttlv.Tag
}

// eachField calls take for every field of a structure. A field that comes
// twice is an Invalid Message, an unknown one an Invalid Field
// (KMIP 1.4, 11.1).
func eachField(fields message.Cursor, d decoding, take func(message.Cursor) error) error {
	var seen tagSet
	for fields.Next() {
		tag := fields.Tag()
		if seen.add(tag) && tag != d.repeatable[0] && tag != d.repeatable[1] {
			return fault.Newf(fault.Malformed, "The field %v is given twice.", tag)
		}
		switch err := take(fields); {
		case errors.Is(err, errUnknownField) && d.ignoreUnknown:
		case errors.Is(err, errUnknownField):
			return fault.Newf(fault.Invalid, "The field %v is not known here.", tag)
		case err != nil:
			return err
		}
	}
	return nil
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
