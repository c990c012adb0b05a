package wire

import (
	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// request is a parsed Request Message (KMIP 1.4, 7.1). It aliases the frame.
type request struct {
	version     version
	maxResponse *int32 // Maximum Response Size in bytes, if given
	goOn        bool   // Batch Error Continuation Option is Continue
	count       *int32 // Batch Count
	items       []batchItem
}

// batchItem is one Batch Item (KMIP 1.4, 6.15).
type batchItem struct {
	operation kmip14.Operation
	id        []byte // Unique Batch Item ID; nil if it has none
	payload   message.Cursor
	err       error // why it can't be carried out
}

// parse reads a request. An error means that the request fails as a whole;
// what is known of it by then is returned too. Errors inside one batch item
// are left in that item (KMIP 1.4, 11.1).
func parse(frame []byte) (q request, err error) {
	if err := message.Validate(frame, message.DefaultLimits()); err != nil {
		return q, err
	}
	top := message.Open(frame)
	top.Next()
	if top.Tag() != kmip14.TagRequestMessage {
		return q, fault.New(fault.Malformed, "The message is not a request.")
	}
	parts, err := top.Children()
	if err != nil {
		return q, err
	}
	if !parts.Next() || parts.Tag() != kmip14.TagRequestHeader {
		return q, fault.New(fault.Malformed, "The message does not begin with a request header.")
	}
	if err := q.parseHeader(parts); err != nil {
		return q, err
	}
	if q.items, err = parseItems(parts, q.version.later()); err != nil {
		return q, err
	}
	return q, q.checkBatch()
}

// parseHeader reads a Request Header (KMIP 1.4, 7.2). The version is judged
// before the other fields: of another major version, we don't know them.
func (q *request) parseHeader(c message.Cursor) error {
	fields, err := c.Children()
	if err != nil {
		return err
	}
	first := fields
	if !first.Next() || first.Tag() != kmip14.TagProtocolVersion {
		return fault.New(fault.Malformed, "The request header does not begin with a protocol version.")
	}
	if q.version, err = parseVersion(first); err != nil {
		return err
	}
	if !q.version.known() {
		return errVersion
	}
	d := decoding{ignoreUnknown: q.version.later(), repeatable: [2]ttlv.Tag{kmip14.TagAttestationType}}
	return eachField(fields, d, q.takeHeaderField)
}

// takeHeaderField reads one header field. Fields that are read but not heeded:
// the client certificate is the identity, so credentials decide nothing;
// items run in order and at once, whatever order and asynchrony are allowed;
// clients' clocks may be wrong.
func (q *request) takeHeaderField(f message.Cursor) (err error) {
	switch f.Tag() {
	case kmip14.TagProtocolVersion:
	case kmip14.TagMaximumResponseSize:
		var n int32
		n, err = f.Int32()
		q.maxResponse = &n
	case kmip14.TagBatchCount:
		var n int32
		n, err = f.Int32()
		q.count = &n
	case kmip14.TagBatchErrorContinuationOption:
		q.goOn, err = parseContinuation(f)
	case kmip14.TagAsynchronousIndicator, kmip14.TagAttestationCapableIndicator, kmip14.TagBatchOrderOption:
		_, err = f.Bool()
	case kmip14.TagAuthentication:
		_, err = f.Children()
	case kmip14.TagTimeStamp:
		_, err = f.Time()
	case kmip14.TagAttestationType:
		_, err = f.Enum()
	case kmip14.TagClientCorrelationValue, kmip14.TagServerCorrelationValue:
		_, err = f.Text()
	default:
		err = errUnknownField
	}
	return err
}

// parseContinuation reports whether the batch goes on after a failed item;
// Undo is not built (KMIP 1.4, 6.13).
func parseContinuation(f message.Cursor) (bool, error) {
	option, err := f.Enum()
	if err != nil {
		return false, err
	}
	switch kmip14.BatchErrorContinuationOption(option) {
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

// parseItems reads the batch items that follow the header.
func parseItems(parts message.Cursor, ignoreUnknown bool) ([]batchItem, error) {
	var items []batchItem
	for parts.Next() {
		if parts.Tag() != kmip14.TagBatchItem {
			if ignoreUnknown {
				continue
			}
			return nil, fault.Newf(fault.Malformed, "The field %v stands where a batch item is expected.", parts.Tag())
		}
		if len(items) == maxBatchItems {
			return nil, fault.Newf(fault.Malformed, "A request can have at most %d batch items.", maxBatchItems)
		}
		items = append(items, batchItem{})
		it := &items[len(items)-1]
		it.err = it.parse(parts, ignoreUnknown)
	}
	return items, nil
}

// parse reads one batch item (KMIP 1.4, 7.2).
func (it *batchItem) parse(c message.Cursor, ignoreUnknown bool) error {
	fields, err := c.Children()
	if err != nil {
		return err
	}
	it.parseEchoed(fields)
	d := decoding{ignoreUnknown: ignoreUnknown, repeatable: [2]ttlv.Tag{kmip14.TagMessageExtension}}
	var operation, body bool
	err = eachField(fields, d, func(f message.Cursor) (err error) {
		switch f.Tag() {
		case kmip14.TagOperation:
			_, err = f.Enum()
			operation = true
		case kmip14.TagUniqueBatchItemID:
			_, err = f.Bytes()
		case kmip14.TagRequestPayload:
			it.payload, err = f.Children()
			body = true
		case kmip14.TagMessageExtension:
			err = parseExtension(f)
		default:
			err = errUnknownField
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case !operation:
		return fault.New(fault.Malformed, "The batch item has no operation.")
	case !body:
		return fault.New(fault.Malformed, "The batch item has no request payload.")
	}
	return nil
}

// parseEchoed reads what the answer repeats, first and whatever else is wrong
// with the item.
func (it *batchItem) parseEchoed(fields message.Cursor) {
	for fields.Next() {
		if fields.Tag() == kmip14.TagOperation {
			code, _ := fields.Enum()
			it.operation = kmip14.Operation(code)
		}
		if fields.Tag() == kmip14.TagUniqueBatchItemID {
			it.id, _ = fields.Bytes()
		}
	}
}

// parseExtension refuses extensions that have to be understood: none is
// (KMIP 1.4, 6.16 and 11.1).
func parseExtension(c message.Cursor) error {
	fields, err := c.Children()
	if err != nil {
		return err
	}
	for fields.Next() {
		if fields.Tag() != kmip14.TagCriticalityIndicator {
			continue
		}
		critical, err := fields.Bool()
		if err != nil {
			return err
		}
		if critical {
			return fault.New(fault.FeatureMissing, "The request depends on a message extension that is not known.")
		}
	}
	return nil
}

// checkBatch holds the batch against its header (KMIP 1.4, 6.4 and 6.14).
func (q *request) checkBatch() error {
	switch {
	case q.count == nil:
		return fault.New(fault.Malformed, "The request header has no batch count.")
	case int64(*q.count) != int64(len(q.items)), len(q.items) == 0:
		return fault.Newf(fault.Malformed, "The batch count is %d; the request has %d batch items.", *q.count, len(q.items))
	}
	for i := range q.items {
		if it := &q.items[i]; len(q.items) > 1 && it.id == nil && it.err == nil {
			return fault.New(fault.Malformed, "Every item of a batch needs a unique batch item id.")
		}
	}
	return nil
}
