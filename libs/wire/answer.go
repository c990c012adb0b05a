package wire

import (
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// answer is a Response Message (KMIP 1.4, 7.1) under construction. Keys are
// written as zeros; finish copies the key bytes over them, so that no buffer
// but the finished frame ever holds them.
type answer struct {
	message.Writer
	version version
	count   int32 // of batch items
	keys    []placedKey
	first   [1]placedKey // where keys begins: most answers that hold any hold one
}

// placedKey is a key and where its bytes belong in the frame.
type placedKey struct {
	at       int
	material *secret.Bytes
}

// usualAnswer is the room for an answer at first, in bytes: that of a Get of
// one key fits.
const usualAnswer = 352

// headerSize is the length of the message's own head and its header.
const headerSize = 88

// open begins an answer without items. Its header is left out until finish
// knows what belongs there.
func (a *answer) open(v version) {
	a.Writer, a.version, a.keys = message.NewWriter(usualAnswer), v, a.first[:0]
	a.Skip(headerSize)
}

// putKey writes a Byte String of key bytes and takes ownership of them.
func (a *answer) putKey(tag ttlv.Tag, material *secret.Bytes) {
	a.keys = append(a.keys, placedKey{at: a.Room(tag, material.Len()), material: material})
}

// putIdentifier writes a Unique Identifier.
func (a *answer) putIdentifier(id kmip.ObjectID) {
	a.Text(kmip14.TagUniqueIdentifier, string(id))
}

// wipe zeroes the keys; the frame has its own copy.
func (a *answer) wipe() {
	for _, k := range a.keys {
		k.material.Wipe()
	}
}

// openItem is a batch item of the answer whose outcome is not known yet. Its
// fields are where its parts begin, and how many keys came before it.
type openItem struct {
	item, result, payload, keys int
}

// begin begins the answer to a batch item as if it succeeded; what is written
// until succeed or fail is its Response Payload.
func (a *answer) begin(it *batchItem) (o openItem) {
	o.item = a.Begin(kmip14.TagBatchItem)
	if it.operation != 0 {
		a.Enum(kmip14.TagOperation, uint32(it.operation))
	}
	if it.id != nil {
		a.Bytes(kmip14.TagUniqueBatchItemID, it.id)
	}
	o.result, o.keys = a.Len(), len(a.keys)
	a.Enum(kmip14.TagResultStatus, uint32(kmip14.ResultStatusSuccess))
	o.payload = a.Begin(kmip14.TagResponsePayload)
	return o
}

// succeed ends the answer to a batch item that was carried out.
func (a *answer) succeed(o openItem) {
	a.End(o.payload)
	a.End(o.item)
	a.count++
}

// fail ends the answer to a batch item that failed, without what was written
// since it began. Every failure has a Result Message (KMIP 1.4, 6.11): PyKMIP's
// client does not survive one without.
func (a *answer) fail(o openItem, err error) {
	for _, k := range a.keys[o.keys:] {
		k.material.Wipe()
	}
	a.keys = a.keys[:o.keys]
	a.Truncate(o.result)
	a.Enum(kmip14.TagResultStatus, uint32(kmip14.ResultStatusOperationFailed))
	a.Enum(kmip14.TagResultReason, uint32(reasonOf(err, a.version)))
	a.Text(kmip14.TagResultMessage, fault.Public(err))
	a.End(o.item)
	a.count++
}

// finish returns the whole message, or an error of kind TooLarge if it is
// longer than limit bytes (KMIP 1.4, 6.3).
func (a *answer) finish(now time.Time, limit int) (*secret.Bytes, error) {
	if a.Len() > limit {
		return nil, fault.Newf(fault.TooLarge, "The response would have %d bytes; at most %d are allowed.", a.Len(), limit)
	}
	a.putHeader(now)
	for _, k := range a.keys {
		copy(a.Frame()[k.at:], k.material.Reveal())
	}
	return secret.Of(a.Frame()), nil
}

// putHeader begins the message and writes its Response Header (KMIP 1.4, 7.2).
func (a *answer) putHeader(now time.Time) {
	w := a.Over(0)
	whole := w.Begin(kmip14.TagResponseMessage)
	header := w.Begin(kmip14.TagResponseHeader)
	putVersion(&w, a.version)
	w.Time(kmip14.TagTimeStamp, now)
	w.Int32(kmip14.TagBatchCount, a.count)
	w.End(header)
	a.End(whole)
}
