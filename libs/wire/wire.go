// Package wire is the fence between KMIP on the wire and the engine: a
// request's bytes go in, a response's bytes come out, and every failure that
// the engine can name gets its result reason here. It speaks KMIP 1.0 to 1.4
// in TTLV (KMIP 1.4, section 9.1) and keeps no state between requests but what
// a Session remembers of the credential.
//
// One request goes through three steps: parse checks the frame and reads its
// header; run decodes one batch item after the other, carries it out through
// the table in operation.go and writes its result; finish puts the header in
// front and the key bytes where they belong. No step makes anything of the
// frame's bytes but what the engine is given.
package wire

import (
	"context"
	"errors"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// The limits on one request and its answer, beside those of package message.
const (
	maxBatchItems = 64
	maxResponse   = 1 << 20 // bytes; a client may ask for less

	// The memory that the attributes of a request may take: four times that of
	// the frame; of a small one more, since a single value can be dense.
	roomFactor = 4
	minRoom    = 8 << 10 // bytes
)

// Responder answers requests for any tenant. Its fields are set once; it is
// safe for concurrent use.
type Responder struct {
	Engine *engine.Engine
	Now    func() time.Time // for Time Stamp
	Vendor string           // Vendor Identification in answers to Query
}

// Response is the answer to one request.
type Response struct {
	// Frame is the message to write. It may hold key bytes: its receiver
	// wipes it once it is written.
	Frame *secret.Bytes
	// Close says that the request broke the protocol, so that what follows on
	// the connection can't be trusted.
	Close bool
	// Items tells what was done, in order. When the whole answer had to be
	// replaced by a failure, the last entry says why, without an operation;
	// entries before it were carried out, but their results were not sent.
	Items []Item
}

// Item is what became of one batch item.
type Item struct {
	// Operation is the name that the specification gives it; "Unknown" for
	// a code without a name, empty when there is none.
	Operation string
	Object    kmip.ObjectID // the object it was about, if that is known
	Reason    uint32        // result reason sent (KMIP 1.4, 9.1.3.2.29); 0 for success
	Err       error         // nil for success; for the log alone
	Changes   bool          // the operation makes, changes or ends an object
	Window    engine.Window // by which a key was served without the key manager's word
}

// Respond carries out a request of a tenant that has been admitted; s is its
// connection's. The request is one frame as message.Read returns it. Panics are
// not recovered.
func (r *Responder) Respond(ctx context.Context, t *tenant.Tenant, s *Session, frame []byte) Response {
	var q request
	err := q.parse(frame)
	if err == nil {
		err = s.prove(t.Credential, &q.credential)
	}
	if err != nil {
		return r.refuse(&q, err)
	}
	b := batch{
		responder: r, tenant: t, session: s, operations: operations[:],
		version: q.version.answered(), decoding: q.decoding,
	}
	b.answer.open(b.version)
	defer b.answer.wipe()

	done := make([]Item, 0, q.count)
	for items := q.items; nextItem(&items); {
		outcome := b.run(ctx, items)
		done = append(done, outcome)
		if outcome.Err != nil && !q.goOn || b.answer.Len() > q.maxResponse {
			break
		}
	}
	answer, err := b.answer.finish(r.Now(), q.maxResponse)
	if err != nil {
		refused := r.refuse(&q, err)
		refused.Items = append(done, refused.Items...)
		return refused
	}
	return Response{Frame: answer, Items: done}
}

// Refuse answers a request as a whole with err, without carrying anything out
// (KMIP 1.4, 11.1). The request is only read for its version, operation and
// batch item id; it may be nil or not KMIP at all.
func (r *Responder) Refuse(frame []byte, err error) Response {
	var q request
	_ = q.parse(frame) // err stands for it
	return r.refuse(&q, err)
}

// refuse answers with one failed item. It names the operation and the batch
// item id if the request has a single item.
func (r *Responder) refuse(q *request, err error) Response {
	var only batchItem
	items := q.items
	if nextItem(&items) {
		only = echoed(items)
	}
	if nextItem(&items) {
		only = batchItem{}
	}
	var a answer
	a.open(q.version.answered())
	a.fail(a.begin(&only), err)
	frame, tooLarge := a.finish(r.Now(), maxResponse)
	if tooLarge != nil {
		err = errors.Join(err, tooLarge) // nothing to send: Frame is empty
	}
	return Response{
		Frame: frame,
		Close: fault.KindOf(err) == fault.Malformed && !errors.Is(err, errVersion),
		Items: []Item{{Reason: uint32(reasonOf(err, a.version)), Err: err}},
	}
}

// batch is the state of one request while its items are carried out.
type batch struct {
	decoding
	responder  *Responder
	tenant     *tenant.Tenant
	session    *Session
	operations []operation
	version    version // of the answer
	answer     answer
	object     kmip.ObjectID // the object of the current item
	window     engine.Window // by which its key was served
}

// run carries out the item on which c stands and adds its result to the
// answer.
func (b *batch) run(ctx context.Context, c message.Cursor) Item {
	b.object, b.window = "", ""
	it, err := b.parseItem(c)
	open := b.answer.begin(&it)
	if err == nil {
		err = b.execute(ctx, &it)
	}
	if err == nil {
		b.answer.succeed(open)
	} else {
		b.answer.fail(open, err)
	}
	o := built(it.operation)
	return Item{Operation: nameOf(it.operation), Changes: o != nil && o.changes, Object: b.object, Reason: uint32(reasonOf(err, b.version)), Err: err, Window: b.window}
}

func (b *batch) execute(ctx context.Context, it *batchItem) error {
	operation := built(it.operation)
	if operation == nil {
		return fault.Newf(fault.Unsupported, "The operation %v is not supported.", it.operation)
	}
	if err := b.session.allows(b.tenant.Credential, it.operation); err != nil {
		return err
	}
	return operation.run(b, ctx, it.payload)
}

// target notes the object that an item is about. An identifier longer than any
// that exists is answered like one that does not.
func (b *batch) target(id kmip.ObjectID) error {
	if id == "" || len(id) > kmip.MaxObjectID {
		return fault.New(fault.NotFound, "No object with this unique identifier exists.")
	}
	b.object = id
	return nil
}
