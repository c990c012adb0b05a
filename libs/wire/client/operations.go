package client

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// The methods of this file send one request, of one item unless they say
// otherwise, and compare the answer with it. Their errors are those of Do, a
// *ResultError if the server reports a failure, or have ErrAnswer in their
// chain.

// one sends one item and returns its result if that succeeded.
func (c *Conn) one(ctx context.Context, op Operation, payload ...kmip.Field) (Result, error) {
	results, err := c.Do(ctx, Item{Operation: op, Payload: payload})
	if err != nil {
		return Result{}, err
	}
	return results[0], results[0].Err
}

// onID is one for an operation on one object, whose answer begins with its
// unique identifier; it returns what follows.
func (c *Conn) onID(ctx context.Context, op Operation, id kmip.ObjectID, more ...kmip.Field) (fields, error) {
	payload := append([]kmip.Field{identifier(id)}, more...)
	result, err := c.one(ctx, op, payload...)
	if err != nil {
		return fields{}, err
	}
	answer := fields{rest: result.Payload}
	answer.identifies(id)
	return answer, answer.err
}

// bare is onID for an answer that holds the unique identifier alone.
func (c *Conn) bare(ctx context.Context, op Operation, id kmip.ObjectID, more ...kmip.Field) error {
	answer, err := c.onID(ctx, op, id, more...)
	if err != nil {
		return err
	}
	return answer.end()
}

func identifier(id kmip.ObjectID) kmip.Field {
	return field(kmip14.TagUniqueIdentifier, kmip.Text(string(id)))
}

// identifies takes the unique identifier and compares it.
func (f *fields) identifies(id kmip.ObjectID) {
	if got := f.take(kmip14.TagUniqueIdentifier, kmip.TextString).Text; f.err == nil && got != string(id) {
		f.err = badAnswer("it is about object %q, not %q", got, id)
	}
}

// attribute takes one Attribute structure.
func (f *fields) attribute() kmip.Attribute {
	inner := fields{rest: f.take(kmip14.TagAttribute, kmip.Structure).Fields, err: f.err}
	a := kmip.Attribute{Name: inner.take(kmip14.TagAttributeName, kmip.TextString).Text}
	index, _ := inner.maybe(kmip14.TagAttributeIndex, kmip.Integer)
	a.Index = int32(index.Number) //nolint:gosec // an Integer has 32 bits
	if inner.err == nil && len(inner.rest) > 0 {
		a.Value = inner.take(kmip14.TagAttributeValue, inner.rest[0].Value.Type)
	} else if inner.err == nil {
		inner.err = badAnswer("attribute %q has no value", a.Name)
	}
	f.err = inner.end()
	return a
}

// DiscoverVersions returns the versions that the server speaks, in its order of
// preference. With versions given, it is asked for those among them.
func (c *Conn) DiscoverVersions(ctx context.Context, among ...Version) ([]Version, error) {
	var payload []kmip.Field
	for _, v := range among {
		payload = append(payload, field(kmip14.TagProtocolVersion, protocolVersion(v)))
	}
	result, err := c.one(ctx, OperationDiscoverVersions, payload...)
	if err != nil {
		return nil, err
	}
	answer := fields{rest: result.Payload}
	var versions []Version
	for len(answer.rest) > 0 && answer.err == nil {
		var v Version
		v, answer.err = decodeVersion(answer.take(kmip14.TagProtocolVersion, kmip.Structure))
		versions = append(versions, v)
	}
	return versions, answer.end()
}

// The functions of Query that this package knows (KMIP 1.4, 9.1.3.2.24).
const (
	QueryOperations        uint32 = 1
	QueryObjects           uint32 = 2
	QueryServerInformation uint32 = 3
)

// QueryResult is what the server said of itself; what was not asked for is
// empty. Further fields of the answer are left out.
type QueryResult struct {
	Operations           []Operation
	ObjectTypes          []kmip.ObjectType
	VendorIdentification string
}

// Query asks the server about itself.
func (c *Conn) Query(ctx context.Context, functions ...uint32) (QueryResult, error) {
	var payload []kmip.Field
	for _, f := range functions {
		payload = append(payload, field(kmip14.TagQueryFunction, kmip.Enum(f)))
	}
	result, err := c.one(ctx, OperationQuery, payload...)
	if err != nil {
		return QueryResult{}, err
	}
	answer := fields{rest: result.Payload}
	var out QueryResult
	for {
		v, ok := answer.maybe(kmip14.TagOperation, kmip.Enumeration)
		if !ok {
			break
		}
		out.Operations = append(out.Operations, Operation(v.Number)) //nolint:gosec // an Enumeration has 32 bits
	}
	for {
		v, ok := answer.maybe(kmip14.TagObjectType, kmip.Enumeration)
		if !ok {
			break
		}
		out.ObjectTypes = append(out.ObjectTypes, kmip.ObjectType(v.Number)) //nolint:gosec // an Enumeration has 32 bits
	}
	vendor, _ := answer.maybe(kmip14.TagVendorIdentification, kmip.TextString)
	out.VendorIdentification = vendor.Text
	return out, nil
}

// Create makes a symmetric key with the attributes and returns its unique
// identifier. Attributes in the answer are allowed and left out.
func (c *Conn) Create(ctx context.Context, template ...kmip.Attribute) (kmip.ObjectID, error) {
	result, err := c.one(ctx, OperationCreate,
		field(kmip14.TagObjectType, kmip.Enum(kmip.SymmetricKey)),
		field(kmip14.TagTemplateAttribute, kmip.Struct(attributes(template)...)))
	if err != nil {
		return "", err
	}
	answer := fields{rest: result.Payload}
	answer.symmetric()
	id := answer.take(kmip14.TagUniqueIdentifier, kmip.TextString).Text
	answer.maybe(kmip14.TagTemplateAttribute, kmip.Structure)
	if err := answer.end(); err != nil {
		return "", err
	}
	if id == "" {
		return "", badAnswer("the unique identifier is empty")
	}
	return kmip.ObjectID(id), nil
}

// symmetric takes the object type and wants a symmetric key.
func (f *fields) symmetric() {
	if got := f.take(kmip14.TagObjectType, kmip.Enumeration); f.err == nil && got.Number != int64(kmip.SymmetricKey) {
		f.err = badAnswer("the object has type %d, not symmetric key", got.Number)
	}
}

// Get returns the bytes of an AES key in the raw format, which is the default
// for a symmetric key (KMIP 1.4, 4.11). The caller wipes them.
func (c *Conn) Get(ctx context.Context, id kmip.ObjectID) (*secret.Bytes, error) {
	result, err := c.one(ctx, OperationGet, identifier(id))
	if err != nil {
		result.Key.Wipe()
		return nil, err
	}
	answer := fields{rest: result.Payload}
	answer.symmetric()
	answer.identifies(id)
	object := fields{rest: answer.take(kmip14.TagSymmetricKey, kmip.Structure).Fields, err: answer.err}
	answer.err = object.keyBlock(result.Key.Len())
	if err := answer.end(); err != nil {
		result.Key.Wipe()
		return nil, err
	}
	return result.Key, nil
}

// keyBlock checks the inside of a Symmetric Key whose material has that many
// bytes (KMIP 1.4, 2.1.3). The key value holds the material alone: clients fail
// on attributes there.
func (f *fields) keyBlock(bytes int) error {
	block := fields{rest: f.take(kmip14.TagKeyBlock, kmip.Structure).Fields, err: f.err}
	format := block.take(kmip14.TagKeyFormatType, kmip.Enumeration)
	value := fields{rest: block.take(kmip14.TagKeyValue, kmip.Structure).Fields, err: block.err}
	value.take(kmip14.TagKeyMaterial, kmip.ByteString)
	block.err = value.end()
	algorithm := block.take(kmip14.TagCryptographicAlgorithm, kmip.Enumeration)
	length := block.take(kmip14.TagCryptographicLength, kmip.Integer)
	if f.err = block.end(); f.err != nil {
		return f.err
	}
	switch {
	case format.Number != int64(kmip14.KeyFormatTypeRaw):
		return badAnswer("the key has format %d, not raw", format.Number)
	case algorithm.Number != int64(kmip.AES):
		return badAnswer("the key has algorithm %d, not AES", algorithm.Number)
	case length.Number != int64(bytes)*8 || bytes == 0:
		return badAnswer("the key says %d bits and has %d bytes", length.Number, bytes)
	}
	return f.end()
}

// GetAttributes returns the named attributes of an object, or all without a
// name, in the server's order. A name that is not set is not in the answer; one
// that was not asked for is an error.
func (c *Conn) GetAttributes(ctx context.Context, id kmip.ObjectID, names ...string) ([]kmip.Attribute, error) {
	asked := make(map[string]bool, len(names))
	var payload []kmip.Field
	for _, name := range names {
		asked[name] = true
		payload = append(payload, field(kmip14.TagAttributeName, kmip.Text(name)))
	}
	answer, err := c.onID(ctx, OperationGetAttributes, id, payload...)
	if err != nil {
		return nil, err
	}
	var out []kmip.Attribute
	for len(answer.rest) > 0 && answer.err == nil {
		a := answer.attribute()
		if answer.err == nil && len(names) > 0 && !asked[a.Name] {
			answer.err = badAnswer("it has attribute %q, which nobody asked for", a.Name)
		}
		out = append(out, a)
	}
	return out, answer.end()
}

// AddAttributes adds the attributes in one request, an item for each. The error
// joins those of the items that failed; after a failure the server may have
// left the rest undone.
func (c *Conn) AddAttributes(ctx context.Context, id kmip.ObjectID, list ...kmip.Attribute) error {
	structures := attributes(list)
	items := make([]Item, len(list))
	for n := range list {
		items[n] = Item{Operation: OperationAddAttribute, Payload: []kmip.Field{identifier(id), structures[n]}}
	}
	results, err := c.Do(ctx, items...)
	if err != nil {
		return err
	}
	var all []error
	for n, want := range list[:len(results)] { // a batch may end at a failure
		if err := added(results[n], id, want); err != nil {
			all = append(all, fmt.Errorf("%s: %w", want.Name, err))
		}
	}
	return errors.Join(all...)
}

// added checks one item of AddAttributes: the answer repeats the attribute. The
// server numbers its instance.
func added(result Result, id kmip.ObjectID, want kmip.Attribute) error {
	if result.Err != nil {
		return result.Err
	}
	answer := fields{rest: result.Payload}
	answer.identifies(id)
	got := answer.attribute()
	if err := answer.end(); err != nil {
		return err
	}
	if got.Name != want.Name || !reflect.DeepEqual(got.Value, want.Value) {
		return badAnswer("it repeats another attribute than was sent")
	}
	return nil
}

// Activate makes a Pre-Active object Active.
func (c *Conn) Activate(ctx context.Context, id kmip.ObjectID) error {
	return c.bare(ctx, OperationActivate, id)
}

// Destroy asks the server to destroy an object.
func (c *Conn) Destroy(ctx context.Context, id kmip.ObjectID) error {
	return c.bare(ctx, OperationDestroy, id)
}

// Reasons of Revoke (KMIP 1.4, 9.1.3.2.19).
const (
	RevokeUnspecified   uint32 = 1
	RevokeKeyCompromise uint32 = 2
)

// Revoke deactivates an object, or marks it compromised if that is the reason;
// then KMIP 1.x wants the time since when. The zero time is left out, as is an
// empty text.
func (c *Conn) Revoke(ctx context.Context, id kmip.ObjectID, reason uint32, text string, since time.Time) error {
	because := []kmip.Field{field(kmip14.TagRevocationReasonCode, kmip.Enum(reason))}
	if text != "" {
		because = append(because, field(kmip14.TagRevocationMessage, kmip.Text(text)))
	}
	payload := []kmip.Field{field(kmip14.TagRevocationReason, kmip.Struct(because...))}
	if !since.IsZero() {
		payload = append(payload, field(kmip14.TagCompromiseOccurrenceDate, kmip.Time(since)))
	}
	return c.bare(ctx, OperationRevoke, id, payload...)
}

// Locate returns the unique identifiers of the objects that have all the
// attributes, at most that many; a maximum of 0 leaves it to the server.
func (c *Conn) Locate(ctx context.Context, maximum int32, match ...kmip.Attribute) ([]kmip.ObjectID, error) {
	var payload []kmip.Field
	if maximum != 0 {
		payload = append(payload, field(kmip14.TagMaximumItems, kmip.Int(maximum)))
	}
	result, err := c.one(ctx, OperationLocate, append(payload, attributes(match)...)...)
	if err != nil {
		return nil, err
	}
	answer := fields{rest: result.Payload}
	answer.maybe(kmip14.TagLocatedItems, kmip.Integer) // since KMIP 1.3
	var ids []kmip.ObjectID
	for len(answer.rest) > 0 && answer.err == nil {
		ids = append(ids, kmip.ObjectID(answer.take(kmip14.TagUniqueIdentifier, kmip.TextString).Text))
	}
	return ids, answer.end()
}
