package message

import (
	"errors"
	"io"
	"slices"
)

// firstRead is what a message is given before more of it has come; vSphere's
// requests fit.
const firstRead = 512

// Read returns the next message, head included, of at most limit bytes. It
// reads not one byte more than that. The head is checked before anything is
// allocated for the rest, and memory grows with the bytes that have come, so
// a claimed length costs the sender as much as it costs us.
//
// Errors: io.EOF for an end before the first byte, io.ErrUnexpectedEOF for one
// inside, ErrNotKMIP, ErrTooLarge, and r's own.
func Read(r io.Reader, limit int) ([]byte, error) {
	buf := make([]byte, headSize, firstRead)
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, err
	}
	tag, typ, length := head(buf)
	if !isMessage(tag, typ) {
		return nil, ErrNotKMIP
	}
	size := headSize + length
	if size > limit {
		return nil, ErrTooLarge
	}
	for len(buf) < size {
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, min(len(buf), size-len(buf)))
		}
		have := len(buf)
		buf = buf[:min(size, cap(buf))]
		if _, err := io.ReadFull(r, buf[have:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return buf, nil
}
