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
	tag, typ, length := head(frame)
	switch {
	case !isMessage(tag, typ):
		return ErrNotKMIP
	case headSize+length > len(frame):
		return errTruncated
	case headSize+length < len(frame):
		return errTrailing
	}
	w := walk{items: l.Items - 1, text: l.Text}
	return w.members(frame[headSize:], min(l.Depth, MaxDepth), false)
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

// members checks what a structure of a depth holds. foreign is set below
// Vendor Extension, where vendors number tags as they like (KMIP 1.4, 6.16).
func (w *walk) members(b []byte, depth int, foreign bool) error {
	if depth == 0 {
		return errDeep
	}
	for len(b) > 0 {
		if len(b) < headSize {
			return errTruncated
		}
		tag, typ, length := head(b)
		size := headSize + padded(length)
		if size > len(b) {
			return errTruncated
		}
		if w.items--; w.items < 0 {
			return errMany
		}
		if space := tag >> 16; space != 0x42 && space != 0x54 && !foreign {
			return errTag
		}
		value := b[headSize : headSize+length]
		var err error
		switch typ {
		case ttlv.TypeInteger, ttlv.TypeEnumeration, ttlv.TypeInterval:
			if length != 4 {
				err = errLength
			}
		case ttlv.TypeLongInteger, ttlv.TypeDateTime:
			if length != 8 {
				err = errLength
			}
		case ttlv.TypeStructure:
			if size != headSize+length {
				return errLength
			}
			err = w.members(value, depth-1, foreign || tag == kmip14.TagVendorExtension)
		case ttlv.TypeTextString:
			err = w.checkText(value)
		case ttlv.TypeByteString:
		case ttlv.TypeBoolean:
			err = checkBoolean(value)
		case ttlv.TypeBigInteger:
			if length == 0 || size != headSize+length {
				err = errLength
			}
		default:
			err = errType
		}
		if err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
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

func checkBoolean(value []byte) error {
	switch {
	case len(value) != 8:
		return errLength
	case binary.BigEndian.Uint64(value) > 1:
		return errBoolean
	}
	return nil
}
