package client

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// Result is one item of an answer.
type Result struct {
	Operation Operation
	Err       error // nil, or a *ResultError
	// Payload has the fields in the order received; Key Material is empty here.
	Payload []kmip.Field
	Key     *secret.Bytes // the Key Material, nil without one; the caller wipes it
}

// ResultError is a failure that the server reports, for one item or, with
// Operation 0, for the whole message. Status and Reason are KMIP's
// enumerations (KMIP 1.4, 9.1.3.2.28 and 9.1.3.2.29).
type ResultError struct {
	Operation      Operation
	Status, Reason uint32
	Message        string // may be empty
}

// Error returns operation, status, reason and message.
func (e *ResultError) Error() string {
	what := "message"
	if e.Operation != 0 {
		what = e.Operation.String()
	}
	text := fmt.Sprintf("%s: %s, %s", what, kmip14.ResultStatus(e.Status), kmip14.ResultReason(e.Reason))
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// badAnswer is an error with ErrAnswer in its chain.
func badAnswer(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrAnswer, fmt.Errorf(format, args...))
}

// fields takes values off a structure in the order of the specification. The
// first that does not fit is kept in err, and every later one is zero.
type fields struct {
	rest []kmip.Field
	err  error
}

func (f *fields) take(tag ttlv.Tag, typ kmip.ValueType) kmip.Value {
	if v, ok := f.maybe(tag, typ); ok || f.err != nil {
		return v
	}
	found := "the end"
	if len(f.rest) > 0 {
		found = fmt.Sprintf("%v (%v)", ttlv.Tag(f.rest[0].Tag), ttlv.Type(f.rest[0].Value.Type))
	}
	f.err = badAnswer("%v (%v) is expected where %s is", tag, ttlv.Type(typ), found)
	return kmip.Value{}
}

func (f *fields) maybe(tag ttlv.Tag, typ kmip.ValueType) (kmip.Value, bool) {
	if f.err != nil || len(f.rest) == 0 || f.rest[0].Tag != uint32(tag) || f.rest[0].Value.Type != typ {
		return kmip.Value{}, false
	}
	v := f.rest[0].Value
	f.rest = f.rest[1:]
	return v, true
}

// end returns the first error, or one for a field too many.
func (f *fields) end() error {
	if f.err == nil && len(f.rest) > 0 {
		f.err = badAnswer("%v is not expected", ttlv.Tag(f.rest[0].Tag))
	}
	return f.err
}

// decode reads the answer to r. Nothing in the results aliases the frame. On
// error no key is left behind.
func (r request) decode(frame []byte) (results []Result, err error) {
	defer func() {
		if err != nil {
			for _, result := range results {
				result.Key.Wipe()
			}
			results = nil
		}
	}()
	limits := message.Limits{Frame: len(frame), Depth: message.MaxDepth, Items: len(frame), Text: len(frame)}
	if err := message.Validate(frame, limits); err != nil {
		return nil, badAnswer("%w", err)
	}
	c := message.Open(frame)
	if !c.Next() || c.Tag() != kmip14.TagResponseMessage {
		return nil, badAnswer("it is not a response")
	}
	body, err := c.Children()
	if err != nil {
		return nil, badAnswer("%w", err)
	}
	version, count, err := decodeHeader(&body)
	if err != nil {
		return nil, err
	}
	for body.Next() {
		result, id, err := decodeItem(&body)
		results = append(results, result)
		if err != nil {
			return results, err
		}
		var failure *ResultError
		if errors.As(result.Err, &failure) && failure.Operation == 0 && count == 1 {
			return results, r.refused(version, failure)
		}
		if err := r.matches(len(results)-1, result, id); err != nil {
			return results, err
		}
	}
	return results, r.complete(version, count, results)
}

// refused reports that the server refused the whole message, which it may do
// in another version: its own highest, if it does not know the request's.
func (r request) refused(version Version, failure *ResultError) error {
	if version != r.version {
		return fmt.Errorf("%w (in version %s to a request of %s)", failure, version, r.version)
	}
	return failure
}

// matches compares a result with the item at its place (KMIP 1.4, 6.4).
func (r request) matches(n int, result Result, id []byte) error {
	if n >= len(r.items) {
		return badAnswer("it has more items than the request")
	}
	if want := r.items[n].Operation; result.Operation != want {
		return badAnswer("item %d is %s where %s was asked", n+1, result.Operation, want)
	}
	var want []byte
	if r.identified {
		want = batchItemID(n)
	}
	if !bytes.Equal(id, want) {
		return badAnswer("item %d has batch item id %x where %x was sent", n+1, id, want)
	}
	return nil
}

// complete checks what concerns the message as a whole. Fewer items than asked
// may come only after a failure (KMIP 1.4, 6.6, Stop).
func (r request) complete(version Version, count int32, results []Result) error {
	switch n := len(results); {
	case version != r.version:
		return badAnswer("it has version %s where the request has %s", version, r.version)
	case int(count) != n:
		return badAnswer("its batch count is %d and it has %d items", count, n)
	case n == 0, n < len(r.items) && results[n-1].Err == nil:
		return badAnswer("it has %d items where the request has %d", n, len(r.items))
	}
	return nil
}

// decodeHeader reads the header; a time stamp must be in it (KMIP 1.4, 7.2).
func decodeHeader(body *message.Cursor) (Version, int32, error) {
	if !body.Next() || body.Tag() != kmip14.TagResponseHeader {
		return Version{}, 0, badAnswer("it has no header")
	}
	v, err := body.Value()
	if err != nil {
		return Version{}, 0, badAnswer("%w", err)
	}
	header := fields{rest: v.Fields}
	version, err := decodeVersion(header.take(kmip14.TagProtocolVersion, kmip.Structure))
	header.take(kmip14.TagTimeStamp, kmip.DateTime)
	count := header.take(kmip14.TagBatchCount, kmip.Integer)
	if endErr := header.end(); endErr != nil {
		return Version{}, 0, endErr
	}
	return version, int32(count.Number), err //nolint:gosec // an Integer has 32 bits
}

func decodeVersion(v kmip.Value) (Version, error) {
	f := fields{rest: v.Fields}
	major := f.take(kmip14.TagProtocolVersionMajor, kmip.Integer)
	minor := f.take(kmip14.TagProtocolVersionMinor, kmip.Integer)
	return Version{Major: int32(major.Number), Minor: int32(minor.Number)}, f.end() //nolint:gosec // Integers have 32 bits
}

// decodeItem reads one batch item and its batch item id, nil if it has none. On
// error the result may hold a key.
func decodeItem(body *message.Cursor) (result Result, id []byte, err error) {
	if body.Tag() != kmip14.TagBatchItem {
		return Result{}, nil, badAnswer("%v stands where a batch item is expected", body.Tag())
	}
	item, err := decodeFields(body, &result)
	if err != nil {
		return result, nil, err
	}
	f := fields{rest: item}
	operation, _ := f.maybe(kmip14.TagOperation, kmip.Enumeration)
	result.Operation = Operation(operation.Number) //nolint:gosec // an Enumeration has 32 bits
	if v, ok := f.maybe(kmip14.TagUniqueBatchItemID, kmip.ByteString); ok {
		id = v.Bytes
	}
	status := f.take(kmip14.TagResultStatus, kmip.Enumeration)
	if status.Number == int64(kmip14.ResultStatusSuccess) {
		f.maybe(kmip14.TagResultMessage, kmip.TextString)
		result.Payload = f.take(kmip14.TagResponsePayload, kmip.Structure).Fields
		return result, id, f.end()
	}
	reason := f.take(kmip14.TagResultReason, kmip.Enumeration) // required here (KMIP 1.4, 6.10)
	text, _ := f.maybe(kmip14.TagResultMessage, kmip.TextString)
	payload, _ := f.maybe(kmip14.TagResponsePayload, kmip.Structure)
	result.Payload = payload.Fields
	result.Err = &ResultError{
		Operation: result.Operation, Message: text.Text,
		Status: uint32(status.Number), Reason: uint32(reason.Number), //nolint:gosec // Enumerations have 32 bits
	}
	return result, id, f.end()
}

// decodeFields copies the members of c's structure. Key Material goes to
// result.Key: a key's bytes are never in a kmip.Value. Validate has bounded the
// depth.
func decodeFields(c *message.Cursor, result *Result) ([]kmip.Field, error) {
	members, err := c.Children()
	if err != nil {
		return nil, badAnswer("%w", err)
	}
	var out []kmip.Field
	for members.Next() {
		v := kmip.Value{Type: kmip.ValueType(members.Type())}
		switch {
		case members.Tag() == kmip14.TagKeyMaterial:
			err = result.keep(&members)
		case v.Type == kmip.Structure:
			v.Fields, err = decodeFields(&members, result)
		default:
			v, err = members.Value()
		}
		if err != nil {
			return nil, err
		}
		out = append(out, field(members.Tag(), v))
	}
	return out, nil
}

// keep copies Key Material out of the frame. Transparent keys, which are
// structures, are not read.
func (r *Result) keep(c *message.Cursor) error {
	b, err := c.Bytes()
	if err != nil || r.Key != nil {
		return badAnswer("key material is not one Byte String")
	}
	r.Key = secret.Of(bytes.Clone(b))
	return nil
}
