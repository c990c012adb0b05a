package wire

import (
	"bytes"
	"errors"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// answer collects the batch items of a Response Message (KMIP 1.4, 7.1). Keys
// are encoded as zeros; finish copies the key bytes into the finished frame,
// so that no buffer but that one ever holds them.
type answer struct {
	version version
	items   bytes.Buffer // encoded batch items
	enc     *ttlv.Encoder
	count   int32
	keys    []placedKey
}

// placedKey is a key that belongs into a batch item.
type placedKey struct {
	item     int32 // counted from 0
	material *secret.Bytes
}

func newAnswer(v version) *answer {
	a := &answer{version: v}
	a.enc = ttlv.NewEncoder(&a.items)
	return a
}

// keep takes ownership of key bytes that belong into the item that is written
// next.
func (a *answer) keep(material *secret.Bytes) {
	a.keys = append(a.keys, placedKey{item: a.count, material: material})
}

// wipe zeroes the keys; the frame has its own copy.
func (a *answer) wipe() {
	for _, k := range a.keys {
		k.material.Wipe()
	}
}

// succeed adds the result of an item that was carried out. After an error
// nothing has been added.
func (a *answer) succeed(it *batchItem, p payload) error {
	return a.item(it, func(e *ttlv.Encoder) error {
		e.EncodeEnumeration(kmip14.TagResultStatus, uint32(kmip14.ResultStatusSuccess))
		return e.EncodeStructure(kmip14.TagResponsePayload, func(e *ttlv.Encoder) error {
			return p.put(e, a.version)
		})
	})
}

// fail adds the result of an item that failed. Every failure has a Result
// Message (KMIP 1.4, 6.11): PyKMIP's client does not survive one without.
func (a *answer) fail(it *batchItem, err error) {
	// Only a payload can fail to be encoded.
	_ = a.item(it, func(e *ttlv.Encoder) error {
		e.EncodeEnumeration(kmip14.TagResultStatus, uint32(kmip14.ResultStatusOperationFailed))
		e.EncodeEnumeration(kmip14.TagResultReason, uint32(reasonOf(err)))
		e.EncodeTextString(kmip14.TagResultMessage, fault.Public(err))
		return nil
	})
}

// item adds a batch item: what it repeats of the request, then result.
func (a *answer) item(it *batchItem, result func(*ttlv.Encoder) error) error {
	before := a.items.Len()
	err := a.enc.EncodeStructure(kmip14.TagBatchItem, func(e *ttlv.Encoder) error {
		if it.operation != 0 {
			e.EncodeEnumeration(kmip14.TagOperation, uint32(it.operation))
		}
		if it.id != nil {
			message.PutBytes(e, kmip14.TagUniqueBatchItemID, it.id)
		}
		return result(e)
	})
	if err = errors.Join(err, a.enc.Flush()); err != nil {
		a.items.Truncate(before)
		return err
	}
	a.count++
	return nil
}

// finish returns the whole message, or an error of kind TooLarge if it is
// longer than limit bytes (KMIP 1.4, 6.3).
func (a *answer) finish(now time.Time, limit int) (*secret.Bytes, error) {
	var frame bytes.Buffer
	frame.Grow(a.items.Len() + headerSize)
	enc := ttlv.NewEncoder(&frame)
	err := enc.EncodeStructure(kmip14.TagResponseMessage, func(e *ttlv.Encoder) error {
		if err := a.putHeader(e, now); err != nil {
			return err
		}
		return e.Encode(ttlv.TTLV(a.items.Bytes()))
	})
	if err = errors.Join(err, enc.Flush()); err != nil {
		return nil, err
	}
	if frame.Len() > limit {
		return nil, fault.Newf(fault.TooLarge, "The response would have %d bytes; at most %d are allowed.", frame.Len(), limit)
	}
	whole := secret.Of(frame.Bytes())
	if err := a.place(frame.Bytes()); err != nil {
		whole.Wipe()
		return nil, err
	}
	return whole, nil
}

// headerSize is the length of the message's own head and its header.
const headerSize = 88

// putHeader writes a Response Header (KMIP 1.4, 7.2).
func (a *answer) putHeader(e *ttlv.Encoder, now time.Time) error {
	return e.EncodeStructure(kmip14.TagResponseHeader, func(e *ttlv.Encoder) error {
		if err := putVersion(e, a.version); err != nil {
			return err
		}
		e.EncodeDateTime(kmip14.TagTimeStamp, now)
		e.EncodeInteger(kmip14.TagBatchCount, a.count)
		return nil
	})
}

// keyPath leads from a batch item to the bytes of a symmetric key
// (KMIP 1.4, 4.11, 2.2.2, 2.1.3, 2.1.4).
var keyPath = [...]ttlv.Tag{
	kmip14.TagResponsePayload, kmip14.TagSymmetricKey, kmip14.TagKeyBlock, kmip14.TagKeyValue, kmip14.TagKeyMaterial,
}

// place copies the keys over the zeros that stand for them in a frame.
func (a *answer) place(frame []byte) error {
	if len(a.keys) == 0 {
		return nil
	}
	c := message.Open(frame)
	c.Next()
	items, err := c.Children()
	if err != nil {
		return err
	}
	items.Next() // the header
	keys := a.keys
	for n := int32(0); len(keys) > 0 && items.Next(); n++ {
		if keys[0].item != n {
			continue
		}
		zeros, err := keyBytes(items)
		if err != nil || len(zeros) != keys[0].material.Len() {
			return errors.Join(errors.New("wire: no room for the key in its batch item"), err)
		}
		copy(zeros, keys[0].material.Reveal())
		keys = keys[1:]
	}
	return nil
}

// keyBytes returns the key bytes of a batch item, aliasing it.
func keyBytes(c message.Cursor) ([]byte, error) {
	for _, tag := range keyPath {
		children, err := c.Children()
		if err != nil {
			return nil, err
		}
		for children.Next() && children.Tag() != tag {
		}
		c = children
	}
	return c.Bytes()
}
