package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/e2e/oasis"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// captured is one message that somebody recorded. Sessions are connections.
type captured struct {
	Session string `json:"session"`
	Seq     int    `json:"seq"`
	Name    string `json:"name"`
	Request string `json:"request"`
	Hex     string `json:"hex"`
}

// readCaptured returns a file of recorded messages, or skips the test where
// these are not kept.
func readCaptured(t *testing.T, file string) []captured {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(vectorsFolder(), "captured", file))
	if err != nil {
		t.Skipf("SKIPPED 1 file: %s is not in $KMIP_VECTORS/captured", file)
	}
	var all []captured
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		var c captured
		if err := json.Unmarshal(s.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		if c.Request == "" {
			c.Request = c.Hex
		}
		all = append(all, c)
	}
	return all
}

// isRequest says whether a message begins with the tag of a request.
func (c captured) isRequest() bool { return strings.HasPrefix(c.Request, "420078") }

func (c captured) parse(t *testing.T) kmip.Value {
	t.Helper()
	frame, err := hex.DecodeString(c.Request)
	if err != nil {
		t.Fatal(err)
	}
	return parseMessage(t, frame)
}

// readRequests returns the requests of a file.
func readRequests(t *testing.T, file string) []captured {
	t.Helper()
	return slices.DeleteFunc(readCaptured(t, file), func(c captured) bool { return !c.isRequest() })
}

// replay sends recorded requests to a node over connections of its own. It
// puts its own identifiers in place of the recorded ones, and compares each
// answer with what vCenter needs. It collects what differs.
type replay struct {
	t         *testing.T
	i         *instance
	conn      *tls.Conn
	session   string
	ids       map[string]string          // recorded identifier -> ours
	set       map[string]map[string]bool // attributes that were added, by our identifier
	versions  string                     // what Discover Versions has to answer
	different []string
	fine      []kmip14.Operation // what was answered as it has to be
}

func newReplay(t *testing.T, i *instance) *replay {
	return &replay{
		t: t, i: i, ids: make(map[string]string), set: make(map[string]map[string]bool),
		versions: "1.4 1.3 1.2 1.1 1.0",
	}
}

func (r *replay) run(requests []captured) {
	for _, c := range requests {
		if r.conn == nil || c.Session != r.session || c.Session == "" {
			r.connect()
			r.session = c.Session
		}
		asked := r.own(c.parse(r.t))
		r.compare(c, asked, r.exchange(asked))
	}
}

func (r *replay) connect() {
	r.t.Helper()
	cfg := r.i.config(r.t, nodes[0], r.i.certificate)
	conn, err := tls.Dial("tcp", cfg.Address, &tls.Config{
		RootCAs: cfg.RootCAs, ServerName: cfg.VerifyName, Certificates: []tls.Certificate{*cfg.Certificate}, MinVersion: tls.VersionTLS12,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		r.t.Fatal(err)
	}
	r.conn = conn
}

func (r *replay) exchange(asked kmip.Value) kmip.Value {
	r.t.Helper()
	var w message.Writer
	if err := w.Value(kmip14.TagRequestMessage, asked); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.conn.Write(w.Frame()); err != nil {
		r.t.Fatal(err)
	}
	answer, err := message.Read(r.conn, 1<<20)
	if err != nil {
		r.t.Fatal(err)
	}
	return parseMessage(r.t, answer)
}

func parseMessage(t *testing.T, frame []byte) kmip.Value {
	t.Helper()
	if err := message.Validate(frame, message.DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	c := message.Open(frame)
	c.Next()
	v, err := c.Value()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// own replaces recorded identifiers. One whose Create was not recorded stands
// for a key that is made now.
func (r *replay) own(v kmip.Value) kmip.Value {
	fields := make([]kmip.Field, len(v.Fields))
	for n, f := range v.Fields {
		if ttlv.Tag(f.Tag) == kmip14.TagUniqueIdentifier {
			if r.ids[f.Value.Text] == "" {
				r.ids[f.Value.Text] = string(r.i.create(r.t, nodes[1]))
			}
			f.Value.Text = r.ids[f.Value.Text]
		}
		f.Value = r.own(f.Value)
		fields[n] = f
	}
	v.Fields = fields
	return v
}

// find returns the values at a path of tags.
func find(v kmip.Value, path ...ttlv.Tag) (found []kmip.Value) {
	if len(path) == 0 {
		return []kmip.Value{v}
	}
	for _, f := range v.Fields {
		if ttlv.Tag(f.Tag) == path[0] {
			found = append(found, find(f.Value, path[1:]...)...)
		}
	}
	return found
}

// first value at a path, or the zero Value.
func at(v kmip.Value, path ...ttlv.Tag) kmip.Value {
	if found := find(v, path...); len(found) > 0 {
		return found[0]
	}
	return kmip.Value{}
}

func versionOf(v kmip.Value) string {
	return fmt.Sprintf("%d.%d", at(v, kmip14.TagProtocolVersionMajor).Number, at(v, kmip14.TagProtocolVersionMinor).Number)
}

// compare checks header, item by item identity, and the payloads.
func (r *replay) compare(c captured, asked, answer kmip.Value) {
	differs := func(format string, args ...any) {
		r.different = append(r.different, fmt.Sprintf("%s%s/%d: ", c.Name, c.Session, c.Seq)+fmt.Sprintf(format, args...))
	}
	want := versionOf(at(asked, kmip14.TagRequestHeader, kmip14.TagProtocolVersion))
	if got := versionOf(at(answer, kmip14.TagResponseHeader, kmip14.TagProtocolVersion)); got != want {
		differs("answered in version %s, asked in %s", got, want)
	}
	if at(answer, kmip14.TagResponseHeader, kmip14.TagTimeStamp).Type != kmip.DateTime {
		differs("no time stamp")
	}
	requests, results := find(asked, kmip14.TagBatchItem), find(answer, kmip14.TagBatchItem)
	if len(results) != len(requests) {
		differs("%d items answered with %d", len(requests), len(results))
		return
	}
	for n, q := range requests {
		a := results[n]
		operation := kmip14.Operation(at(q, kmip14.TagOperation).Number)
		if at(a, kmip14.TagOperation).Number != int64(operation) || !bytes.Equal(at(a, kmip14.TagUniqueBatchItemID).Bytes, at(q, kmip14.TagUniqueBatchItemID).Bytes) {
			differs("%v: operation or batch item id is not repeated", operation)
		}
		if status := at(a, kmip14.TagResultStatus); status.Type != kmip.Enumeration || status.Number != 0 {
			differs("%v failed: %s", operation, at(a, kmip14.TagResultMessage).Text)
			continue
		}
		if why := r.payload(operation, at(q, kmip14.TagRequestPayload), at(a, kmip14.TagResponsePayload)); why != "" {
			differs("%v: %s", operation, why)
		} else {
			r.fine = append(r.fine, operation)
		}
	}
}

// payload says what is wrong with the answer to one operation, or "".
func (r *replay) payload(operation kmip14.Operation, q, a kmip.Value) string {
	id := at(a, kmip14.TagUniqueIdentifier).Text
	if named := at(q, kmip14.TagUniqueIdentifier).Text; named != "" && id != named {
		return fmt.Sprintf("about %q, answered about %q", named, id)
	}
	switch operation {
	case kmip14.OperationDiscoverVersions:
		var got []string
		for _, v := range find(a, kmip14.TagProtocolVersion) {
			got = append(got, versionOf(v))
		}
		if asked := find(q, kmip14.TagProtocolVersion); len(asked) == 0 && strings.Join(got, " ") != r.versions {
			return fmt.Sprintf("versions %v, want %s", got, r.versions)
		}
	case kmip14.OperationQuery:
		if at(a, kmip14.TagVendorIdentification).Text == "" {
			return "no vendor identification"
		}
	case kmip14.OperationCreate:
		if id == "" || at(a, kmip14.TagObjectType).Number != int64(kmip.SymmetricKey) {
			return "no identifier or another object type"
		}
	case kmip14.OperationGet:
		block := at(a, kmip14.TagSymmetricKey, kmip14.TagKeyBlock)
		switch {
		case at(block, kmip14.TagKeyFormatType).Number != 1, at(block, kmip14.TagCryptographicAlgorithm).Number != int64(kmip.AES),
			at(block, kmip14.TagCryptographicLength).Number != 256:
			return "not a raw AES key of 256 bits"
		case len(at(block, kmip14.TagKeyValue, kmip14.TagKeyMaterial).Bytes) != 32, len(at(block, kmip14.TagKeyValue).Fields) != 1:
			return "the key value is not 32 bytes alone"
		}
	case kmip14.OperationGetAttributes:
		return r.attributes(id, q, a)
	case kmip14.OperationAddAttribute:
		name := at(q, kmip14.TagAttribute, kmip14.TagAttributeName).Text
		if r.set[id] == nil {
			r.set[id] = make(map[string]bool)
		}
		r.set[id][name] = true
		if at(a, kmip14.TagAttribute, kmip14.TagAttributeName).Text != name ||
			at(a, kmip14.TagAttribute, kmip14.TagAttributeValue).Text != at(q, kmip14.TagAttribute, kmip14.TagAttributeValue).Text {
			return "the attribute is not repeated"
		}
	case kmip14.OperationActivate:
	default:
		return "vCenter was never seen to ask for this"
	}
	return ""
}

// attributes checks State, and that a name that was never set is left out.
func (r *replay) attributes(id string, q, a kmip.Value) string {
	name, got := at(q, kmip14.TagAttributeName).Text, find(a, kmip14.TagAttribute)
	switch state := at(a, kmip14.TagAttribute, kmip14.TagAttributeValue).Number; {
	case name == "State" && state != int64(kmip.PreActive) && state != int64(kmip.Active):
		return fmt.Sprintf("state %d", state)
	case name != "State" && !r.set[id][name] && len(got) != 0:
		return name + " was never set and has a value"
	case name != "State" && r.set[id][name] && len(got) == 0:
		return name + " was set and has no value"
	}
	return ""
}

// TestCapturedMessages replays what vCenter 7.0.3 sent.
func TestCapturedMessages(t *testing.T) {
	t.Parallel()
	e := oasis.Evidence{Source: "vCenter 7.0.3, as recorded"}
	for _, file := range []string{"vcenter-7.0.3-trust-and-health.jsonl", "vcenter-7.0.3-vm-encrypt.jsonl", "vcenter-7.0.3-constants.jsonl"} {
		requests := readRequests(t, file)
		r := newReplay(t, newInstance(t, sharedCell(t)))
		r.run(requests)
		for _, d := range r.different {
			t.Errorf("%s: %s", file, d)
		}
		t.Logf("%s: %d requests replayed", file, len(requests))
		if len(requests) < 5 {
			t.Errorf("%s holds %d requests only", file, len(requests))
		}
		for _, operation := range r.fine {
			e.Saw(operation, "1.1")
		}
	}
	keep(t, e, "vcenter.json")
}

// TestCapturedNotFound replays what another library recorded of vCenter in 2020:
// Discover Versions, and a Get of an unknown key, of which only the answer is
// there. It says what was asked, and ours has to be like it in every field. The
// file's other messages are from OASIS's test cases: their answers are of 2012.
func TestCapturedNotFound(t *testing.T) {
	t.Parallel()
	all := readCaptured(t, "tesco-real-and-conformance.jsonl")
	r := newReplay(t, newInstance(t, sharedCell(t)))
	recorded := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	var replayed []kmip14.Operation
	for n, c := range all {
		if c.isRequest() {
			continue
		}
		want := c.parse(t)
		if at(want, kmip14.TagResponseHeader, kmip14.TagTimeStamp).Number < recorded.Unix() {
			continue
		}
		replayed = append(replayed, kmip14.Operation(at(want, kmip14.TagBatchItem, kmip14.TagOperation).Number))
		if n > 0 && all[n-1].isRequest() {
			r.run(all[n-1 : n])
			continue
		}
		id := quotedID.FindString(at(want, kmip14.TagBatchItem, kmip14.TagResultMessage).Text)
		if why := unlike(want, r.exchange(getLike(want, id))); why != "" {
			t.Errorf("%s: %s", c.Name, why)
		}
		if unlike(want, r.exchange(getLike(want, string(r.i.create(t, nodes[0]))))) == "" {
			t.Errorf("%s: a key that exists is answered alike", c.Name)
		}
	}
	for _, d := range r.different {
		t.Error(d)
	}
	if want := []kmip14.Operation{kmip14.OperationDiscoverVersions, kmip14.OperationGet}; !slices.Equal(replayed, want) {
		t.Errorf("replayed %v, want %v", replayed, want)
	}
}

// quotedID is the unique identifier in the message of a recorded answer.
var quotedID = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// getLike is the Get that an answer belongs to, but of another object.
func getLike(answer kmip.Value, id string) kmip.Value {
	field := func(tag ttlv.Tag, v kmip.Value) kmip.Field { return kmip.Field{Tag: uint32(tag), Value: v} }
	item := func(tag ttlv.Tag) kmip.Field { return field(tag, at(answer, kmip14.TagBatchItem, tag)) }
	header := func(tag ttlv.Tag) kmip.Field { return field(tag, at(answer, kmip14.TagResponseHeader, tag)) }
	return kmip.Struct(
		field(kmip14.TagRequestHeader, kmip.Struct(header(kmip14.TagProtocolVersion), header(kmip14.TagBatchCount))),
		field(kmip14.TagBatchItem, kmip.Struct(item(kmip14.TagOperation), item(kmip14.TagUniqueBatchItemID),
			field(kmip14.TagRequestPayload, kmip.Struct(field(kmip14.TagUniqueIdentifier, kmip.Text(id)))))),
	)
}

// unlike says where an answer has another form or other values than a recorded
// one, or "". Times and texts may differ, which no client reads.
func unlike(want, got kmip.Value) string {
	switch {
	case want.Type != got.Type || len(want.Fields) != len(got.Fields):
		return fmt.Sprintf("type %v with %d fields, want %v with %d", ttlv.Type(got.Type), len(got.Fields), ttlv.Type(want.Type), len(want.Fields))
	case want.Type != kmip.DateTime && want.Number != got.Number, !bytes.Equal(want.Bytes, got.Bytes):
		return fmt.Sprintf("%d %x, want %d %x", got.Number, got.Bytes, want.Number, want.Bytes)
	case (want.Text == "") != (got.Text == ""):
		return fmt.Sprintf("text %q, want %q", got.Text, want.Text)
	}
	for n, f := range want.Fields {
		tag := ttlv.Tag(f.Tag)
		if is := ttlv.Tag(got.Fields[n].Tag); is != tag {
			return fmt.Sprintf("%v where %v is expected", is, tag)
		}
		if why := unlike(f.Value, got.Fields[n].Value); why != "" {
			return fmt.Sprintf("%v: %s", tag, why)
		}
	}
	return ""
}

// TestCapturedRegister sends what MongoDB's client library was recorded sending,
// a secret of 96 bytes, and reads the secret back.
func TestCapturedRegister(t *testing.T) {
	t.Parallel()
	requests := readRequests(t, "mongodb-register.jsonl")
	e := oasis.Evidence{Source: "MongoDB, as recorded"}
	r := newReplay(t, newInstance(t, sharedCell(t)))
	for _, c := range requests {
		r.connect()
		asked := c.parse(t)
		made := r.succeeds(kmip14.OperationRegister, asked)
		header := at(asked, kmip14.TagRequestHeader)
		got := r.succeeds(kmip14.OperationGet, kmip.Struct(
			kmip.Field{Tag: uint32(kmip14.TagRequestHeader), Value: header},
			kmip.Field{Tag: uint32(kmip14.TagBatchItem), Value: kmip.Struct(
				kmip.Field{Tag: uint32(kmip14.TagOperation), Value: kmip.Enum(kmip14.OperationGet)},
				kmip.Field{Tag: uint32(kmip14.TagRequestPayload), Value: kmip.Struct(
					kmip.Field{Tag: uint32(kmip14.TagUniqueIdentifier), Value: at(made, kmip14.TagUniqueIdentifier)})})}))
		sent := at(asked, kmip14.TagBatchItem, kmip14.TagRequestPayload, kmip14.TagSecretData)
		if want := at(got, kmip14.TagSecretData); sent.Type != kmip.Structure || !reflect.DeepEqual(sent, want) {
			t.Errorf("the secret is read back as another one than was sent")
		}
		e.Saw(kmip14.OperationRegister, versionOf(at(header, kmip14.TagProtocolVersion)))
	}
	if len(requests) != 1 {
		t.Errorf("%d requests, want 1", len(requests))
	}
	keep(t, e, "mongodb.json")
}

// succeeds sends a request with one item and returns the Response Payload.
func (r *replay) succeeds(operation kmip14.Operation, asked kmip.Value) kmip.Value {
	r.t.Helper()
	answer := r.exchange(asked)
	version := versionOf(at(asked, kmip14.TagRequestHeader, kmip14.TagProtocolVersion))
	if got := versionOf(at(answer, kmip14.TagResponseHeader, kmip14.TagProtocolVersion)); got != version {
		r.t.Errorf("%v: answered in version %s, asked in %s", operation, got, version)
	}
	item := at(answer, kmip14.TagBatchItem)
	status := kmip14.ResultStatus(at(item, kmip14.TagResultStatus).Number)
	if got := kmip14.Operation(at(item, kmip14.TagOperation).Number); got != operation || status != kmip14.ResultStatusSuccess {
		r.t.Fatalf("%v: %v of %v, %s", operation, status, got, at(item, kmip14.TagResultMessage).Text)
	}
	return at(item, kmip14.TagResponsePayload)
}

// TestReplayCanFail spoils one expectation: the replay has to notice.
func TestReplayCanFail(t *testing.T) {
	t.Parallel()
	requests := readRequests(t, "vcenter-7.0.3-trust-and-health.jsonl")
	r := newReplay(t, newInstance(t, sharedCell(t)))
	r.versions = "2.0 " + r.versions
	r.run(requests)
	if len(r.different) == 0 {
		t.Error("a wrong list of versions went unnoticed")
	}
}
