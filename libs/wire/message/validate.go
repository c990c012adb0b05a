package message

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// Validate checks that frame is exactly one KMIP message whose every item is
// well formed: tag, type, length, padding, text, booleans (KMIP 1.4, 9.1.1),
// within l. It visits each item once and allocates nothing. Errors have kind
// Malformed. What padding bytes hold is not checked.
func Validate(frame []byte, l Limits) error {
	if len(frame) > l.Frame {
		return ErrTooLarge
	}
	if len(frame) < headSize {
		return errTruncated
	}
	if tag, typ, _ := head(frame); !isMessage(tag, typ) {
		return ErrNotKMIP
	}
	w := walk{items: l.Items, text: l.Text}
	n, err := w.item(frame, min(l.Depth, MaxDepth), false)
	if err != nil {
		return err
	}
	if n != len(frame) {
		return errTrailing
	}
	return nil
}

// The complaints of Validate.
var (
	errTruncated = fault.New(fault.Malformed, "The message ends inside an item.")
	errTrailing  = fault.New(fault.Malformed, "The message is followed by more bytes.")
	errTag       = fault.New(fault.Malformed, "The message holds a tag outside the ranges of KMIP.")
	errType      = fault.New(fault.Malformed, "The message holds an item of unknown type.")
	errLength    = fault.New(fault.Malformed, "The message holds an item whose length does not fit its type.")
	errBoolean   = fault.New(fault.Malformed, "The message holds a Boolean that is neither 0 nor 1.")
	errText      = fault.New(fault.Malformed, "The message holds a Text String that is not UTF-8.")
	errLongText  = fault.New(fault.Malformed, "The message holds a Text String that is too long.")
	errDeep      = fault.New(fault.Malformed, "The message is nested too deeply.")
	errMany      = fault.New(fault.Malformed, "The message holds too many items.")
)

type walk struct {
	items int // how many more may come
	text  int // longest Text String
}

// item checks the item at the start of b and returns its size with padding.
// foreign is set below Vendor Extension, where vendors number tags as they
// like (KMIP 1.4, 6.16).
func (w *walk) item(b []byte, depth int, foreign bool) (int, error) {
	if len(b) < headSize {
		return 0, errTruncated
	}
	if w.items--; w.items < 0 {
		return 0, errMany
	}
	tag, typ, length := head(b)
	if b[0] != 0x42 && b[0] != 0x54 && !foreign {
		return 0, errTag
	}
	size := padded(length)
	if size > len(b)-headSize {
		return 0, errTruncated
	}
	value := b[headSize : headSize+length]
	size += headSize

	switch typ {
	case ttlv.TypeStructure:
		if length%8 != 0 {
			return 0, errLength
		}
		if depth--; depth < 0 {
			return 0, errDeep
		}
		foreign = foreign || tag == kmip14.TagVendorExtension
		for len(value) > 0 {
			n, err := w.item(value, depth, foreign)
			if err != nil {
				return 0, err
			}
			value = value[n:]
		}
		return size, nil
	case ttlv.TypeTextString:
		return size, w.checkText(value)
	case ttlv.TypeByteString:
		return size, nil
	default:
		return size, checkFixed(typ, value)
	}
}

// checkText refuses NUL as well: the standard forbids it at the end
// (KMIP 1.4, 9.1.1.4), and elsewhere it only serves to fool a reader.
func (w *walk) checkText(value []byte) error {
	switch {
	case len(value) > w.text:
		return errLongText
	case !utf8.Valid(value), bytes.IndexByte(value, 0) >= 0:
		return errText
	}
	return nil
}

// checkFixed checks the types whose length KMIP 1.4, 9.1.1.3, fixes.
func checkFixed(typ ttlv.Type, value []byte) error {
	want := 8
	switch typ {
	case ttlv.TypeInteger, ttlv.TypeEnumeration, ttlv.TypeInterval:
		want = 4
	case ttlv.TypeLongInteger, ttlv.TypeBoolean, ttlv.TypeDateTime:
	case ttlv.TypeBigInteger:
		if len(value) == 0 || len(value)%8 != 0 {
			return errLength
		}
		return nil
	default:
		return errType
	}
	if len(value) != want {
		return errLength
	}
	if typ == ttlv.TypeBoolean && binary.BigEndian.Uint64(value) > 1 {
		return errBoolean
	}
	return nil
}
