package message_test

import (
	"bytes"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// FuzzValidate holds that a valid frame is walked to its last byte with every
// value readable, and that an invalid one causes no panic either way.
func FuzzValidate(f *testing.F) {
	f.Add(request())
	f.Add(request(everyType()))
	f.Add(nested(message.MaxDepth + 1))
	f.Add(request(structure(0x42009C, structure(0x014242))))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		err := message.Validate(frame, message.DefaultLimits())
		c := message.Open(frame)
		walked := walk(t, &c, err == nil, message.MaxDepth+1)
		if err == nil && walked != len(frame) {
			t.Errorf("walked %d of %d bytes", walked, len(frame))
		}
		if read, err := message.Read(bytes.NewReader(frame), message.MaxFrame); err == nil && len(read) > len(frame) {
			t.Error("Read returned more than there is")
		}
	})
}

// walk returns how many bytes the items below a cursor take.
func walk(t *testing.T, c *message.Cursor, valid bool, depth int) (n int) {
	for depth > 0 && c.Next() {
		if _, err := c.Value(); err != nil && valid {
			t.Errorf("%v can't be read: %v", c.Tag(), err)
		}
		n += 8
		if children, err := c.Children(); err == nil {
			n += walk(t, &children, valid, depth-1)
			continue
		}
		n += (c.Len() + 7) / 8 * 8
	}
	return n
}
