// Package wire is the fence between KMIP on the wire and the engine: a
// request's bytes go in, a response's bytes come out, and every failure that
// the engine can name gets its result reason here. It speaks KMIP 1.0 to 1.4
// in TTLV (KMIP 1.4, section 9.1) and keeps no state between requests.
//
// One request goes through four steps: message.Validate and parse turn the
// frame into a request; run carries out its batch items in order through the
// table in operation.go; answer collects their encodings; finish puts the
// header in front and the key bytes where they belong.
package wire

import (
	"context"
	"errors"
	"time"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// The limits on one request and its answer, beside those of package message.
const (
	maxBatchItems = 64
	maxResponse   = 1 << 20 // bytes; a client may ask for less
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
}

// Respond carries out a request of a tenant that has been admitted. The
// request is one frame as message.Read returns it. Panics are not recovered.
func (r *Responder) Respond(ctx context.Context, t *tenant.Tenant, request []byte) Response {
	q, err := parse(request)
	if err != nil {
		return r.refuse(q, err)
	}
	b := batch{
		responder: r, tenant: t,
		version:  q.version.answered(),
		decoding: decoding{ignoreUnknown: q.version.later()},
		answer:   newAnswer(q.version.answered()),
	}
	defer b.answer.wipe()

	limit := maxResponse
	if q.maxResponse != nil {
		limit = min(limit, int(*q.maxResponse))
	}
	done := make([]Item, 0, len(q.items))
	for i := range q.items {
		outcome := b.run(ctx, &q.items[i])
		done = append(done, outcome)
		if outcome.Err != nil && !q.goOn || b.answer.items.Len() > limit {
			break
		}
	}
	frame, err := b.answer.finish(r.Now(), limit)
	if err != nil {
		refused := r.refuse(q, err)
		refused.Items = append(done, refused.Items...)
		return refused
	}
	return Response{Frame: frame, Items: done}
}

// Refuse answers a request as a whole with err, without carrying anything out
// (KMIP 1.4, 11.1). The request is only read for its version, operation and
// batch item id; it may be nil or not KMIP at all.
func (r *Responder) Refuse(request []byte, err error) Response {
	q, _ := parse(request)
	return r.refuse(q, err)
}

// refuse answers with one failed item. It names the operation and the batch
// item id if the request has a single item.
func (r *Responder) refuse(q request, err error) Response {
	var only batchItem
	if len(q.items) == 1 {
		only = q.items[0]
	}
	a := newAnswer(q.version.answered())
	a.fail(&only, err)
	frame, encodeErr := a.finish(r.Now(), maxResponse)
	if encodeErr != nil {
		err = errors.Join(err, encodeErr) // nothing to send: Frame is empty
	}
	return Response{
		Frame: frame,
		Close: fault.KindOf(err) == fault.Malformed && !errors.Is(err, errVersion),
		Items: []Item{{Reason: uint32(reasonOf(err)), Err: err}},
	}
}

// batch is the state of one request while its items are carried out.
type batch struct {
	responder   *Responder
	tenant      *tenant.Tenant
	version     version // of the answer
	decoding    decoding
	answer      *answer
	placeholder kmip.ObjectID // ID Placeholder (KMIP 1.4, section 4)
	object      kmip.ObjectID // the object of the current item
}

// run carries out one item and adds its result to the answer.
func (b *batch) run(ctx context.Context, it *batchItem) Item {
	b.object = ""
	p, err := b.execute(ctx, it)
	if err == nil {
		err = b.answer.succeed(it, p)
	}
	if err != nil {
		b.answer.fail(it, err)
	}
	return Item{Operation: nameOf(it.operation), Object: b.object, Reason: uint32(reasonOf(err)), Err: err}
}

func (b *batch) execute(ctx context.Context, it *batchItem) (payload, error) {
	if it.err != nil {
		return nil, it.err
	}
	for i := range operations {
		if operations[i].code == it.operation {
			return operations[i].run(b, ctx, it.payload)
		}
	}
	return nil, fault.Newf(fault.Unsupported, "The operation %v is not supported.", it.operation)
}

// target returns the object that an item is about: the one that it names, or
// else the one that this batch created. An identifier longer than any that
// exists is answered like one that does not.
func (b *batch) target(named *string) (kmip.ObjectID, error) {
	id := b.placeholder
	if named != nil {
		id = kmip.ObjectID(*named)
	}
	if id == "" || len(id) > kmip.MaxObjectID {
		return "", fault.New(fault.NotFound, "No object with this unique identifier exists.")
	}
	b.object = id
	return id, nil
}

// nameOf returns an operation's name for logs and metrics: one of a fixed set.
func nameOf(code kmip14.Operation) string {
	for i := range operations {
		if operations[i].code == code {
			return operations[i].name
		}
	}
	switch {
	case code == 0:
		return ""
	case code <= kmip14.OperationExport:
		return code.String()
	default:
		return "Unknown"
	}
}
