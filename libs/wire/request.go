package wire

import (
	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// request is a parsed Request Message (KMIP 1.4, 7.1). It aliases the frame.
type request struct {
	decoding
	version     version
	maxResponse int            // Maximum Response Size in bytes
	goOn        bool           // Batch Error Continuation Option is Continue
	count       int32          // Batch Count
	items       message.Cursor // what follows the header
	credential  presented
}

// parse reads a request's header and counts its batch items. An error means
// that the request fails as a whole; what is known of it by then is kept
// (KMIP 1.4, 11.1).
func (q *request) parse(frame []byte) error {
	if err := message.Validate(frame, message.DefaultLimits()); err != nil {
		return err
	}
	q.room = max(minRoom, roomFactor*len(frame))
	top := message.Open(frame)
	top.Next()
	if top.Tag() != kmip14.TagRequestMessage {
		return fault.New(fault.Malformed, "The message is not a request.")
	}
	parts, err := top.Children()
	if err != nil {
		return err
	}
	if !parts.Next() || parts.Tag() != kmip14.TagRequestHeader {
		return fault.New(fault.Malformed, "The message does not begin with a request header.")
	}
	if err := q.parseHeader(parts); err != nil {
		return err
	}
	q.items = parts
	return q.checkBatch()
}

// parseHeader reads a Request Header (KMIP 1.4, 7.2). The version is judged
// before the other fields: of another major version, we don't know them.
//
// Fields that are read but not heeded: items run in order and at once, whatever
// order and asynchrony are allowed; clients' clocks may be wrong.
func (q *request) parseHeader(c message.Cursor) error {
	f := fields{repeatable: kmip14.TagAttestationType}
	if f.open(c); !f.next() || f.Tag() != kmip14.TagProtocolVersion {
		return fault.New(fault.Malformed, "The request header does not begin with a protocol version.")
	}
	q.version, f.err = q.parseVersion(f.Cursor)
	if f.err == nil && !q.version.known() {
		f.err = errVersion
	}
	q.maxResponse, q.later = maxResponse, q.version.later()
	f.later = q.later
	for f.next() {
		switch f.Tag() {
		case kmip14.TagMaximumResponseSize:
			var n int32
			n, f.err = f.Int32()
			q.maxResponse = min(maxResponse, int(n))
		case kmip14.TagBatchCount:
			q.count, f.err = f.Int32()
		case kmip14.TagBatchErrorContinuationOption:
			q.goOn, f.err = parseContinuation(&f)
		case kmip14.TagAsynchronousIndicator, kmip14.TagAttestationCapableIndicator, kmip14.TagBatchOrderOption:
			_, f.err = f.Bool()
		case kmip14.TagAuthentication:
			f.err = q.credential.parseAuthentication(f.Cursor)
		case kmip14.TagTimeStamp:
			_, f.err = f.Time()
		case kmip14.TagAttestationType:
			_, f.err = f.Enum()
		case kmip14.TagClientCorrelationValue, kmip14.TagServerCorrelationValue:
			_, f.err = f.RawText()
		default:
			f.unknown()
		}
	}
	return f.done()
}

// parseContinuation reports whether the batch goes on after a failed item;
// Undo is not built (KMIP 1.4, 6.13).
func parseContinuation(f *fields) (bool, error) {
	option, err := enum[kmip14.BatchErrorContinuationOption](f)
	if err != nil {
		return false, err
	}
	switch option {
	case kmip14.BatchErrorContinuationOptionContinue:
		return true, nil
	case kmip14.BatchErrorContinuationOptionStop:
		return false, nil
	case kmip14.BatchErrorContinuationOptionUndo:
		return false, fault.New(fault.FeatureMissing, "Undoing a batch is not supported.")
	default:
		return false, fault.New(fault.Invalid, "The batch error continuation option is not known.")
	}
}

// checkBatch holds the batch against its header (KMIP 1.4, 6.4 and 6.14).
func (q *request) checkBatch() error {
	n := int32(0)
	for items := q.items; items.Next(); {
		switch {
		case items.Tag() == kmip14.TagBatchItem:
			n++
		case !q.later:
			return fault.Newf(fault.Malformed, "The field %v stands where a batch item is expected.", items.Tag())
		}
		if n > maxBatchItems {
			return fault.Newf(fault.Malformed, "A request can have at most %d batch items.", maxBatchItems)
		}
		if q.count > 1 && items.Tag() == kmip14.TagBatchItem && echoed(items).id == nil {
			return fault.New(fault.Malformed, "Every item of a batch needs a unique batch item id.")
		}
	}
	if q.count != n || n == 0 {
		return fault.Newf(fault.Malformed, "The batch count is %d; the request has %d batch items.", q.count, n)
	}
	return nil
}

// nextItem steps on the next batch item and reports whether there is one.
func nextItem(items *message.Cursor) bool {
	for items.Next() {
		if items.Tag() == kmip14.TagBatchItem {
			return true
		}
	}
	return false
}

// batchItem is one Batch Item (KMIP 1.4, 6.15 and 7.2).
type batchItem struct {
	operation kmip14.Operation // 0 if it has none
	id        []byte           // Unique Batch Item ID; nil if it has none
	payload   message.Cursor   // stands on the Request Payload
}

// parseItem reads the batch item on which c stands. With an error it returns
// what echoed does.
func (d *decoding) parseItem(c message.Cursor) (it batchItem, err error) {
	f := fields{later: d.later, repeatable: kmip14.TagMessageExtension}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagOperation:
			it.operation, f.err = enum[kmip14.Operation](&f)
		case kmip14.TagUniqueBatchItemID:
			it.id, f.err = f.Bytes()
		case kmip14.TagRequestPayload:
			it.payload = f.Cursor
		case kmip14.TagMessageExtension:
			f.err = d.parseExtension(f.Cursor)
		default:
			f.unknown()
		}
	}
	if err := f.done(kmip14.TagOperation, kmip14.TagRequestPayload); err != nil {
		return echoed(c), malformed(err)
	}
	return it, nil
}

// echoed returns what the answer to a batch item repeats, whatever else may be
// wrong with the item.
func echoed(c message.Cursor) (it batchItem) {
	fields, _ := c.Children()
	for fields.Next() {
		if fields.Tag() == kmip14.TagOperation {
			code, _ := fields.Enum()
			it.operation = kmip14.Operation(code)
		}
		if fields.Tag() == kmip14.TagUniqueBatchItemID {
			it.id, _ = fields.Bytes()
		}
	}
	return it
}

// parseExtension refuses extensions that have to be understood: none is
// (KMIP 1.4, 6.16 and 11.1).
func (d *decoding) parseExtension(c message.Cursor) error {
	var critical bool
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagVendorIdentification:
			_, f.err = f.RawText()
		case kmip14.TagCriticalityIndicator:
			critical, f.err = f.Bool()
		case kmip14.TagVendorExtension:
			_, f.err = f.Children()
		default:
			f.unknown()
		}
	}
	if f.err == nil && critical {
		return fault.New(fault.FeatureMissing, "The request depends on a message extension that is not known.")
	}
	return f.err
}
