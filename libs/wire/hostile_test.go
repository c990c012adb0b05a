package wire_test

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/wire"
	wiremessage "github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// survive responds to bytes of any kind and checks the answer's shape.
func survive(t testing.TB, b *bench, request []byte) wire.Response {
	t.Helper()
	r := b.Respond(t.Context(), b.tenant, &b.session, request)
	if a := decode(t, r); len(a.BatchItem) == 0 {
		t.Fatal("an answer without items")
	}
	return r
}

func TestEveryByteOfACreateFlipped(t *testing.T) {
	b := newBench()
	request := single(kmip14.OperationCreate, vSphere()...)
	for i := range request {
		for _, with := range []byte{0x01, 0x80, 0xFF} {
			damaged := append([]byte(nil), request...)
			damaged[i] ^= with
			survive(t, b, damaged)
		}
		if r := survive(t, b, request[:i]); !r.Close {
			t.Errorf("cut at %d: the connection stays open", i)
		}
	}
}

func TestAResponseIsNoRequest(t *testing.T) {
	b := newBench()
	first := survive(t, b, single(kmip14.OperationDiscoverVersions))
	if r := survive(t, b, first.Frame.Reveal()); !r.Close || r.Items[0].Err == nil {
		t.Errorf("%+v", r.Items)
	}
}

// FuzzRespond holds that no request makes Respond panic or answer with
// anything but a well-formed response. Random identifiers make coverage differ
// from run to run, on which the fuzzer spends a minute each unless it is given
// -fuzzminimizetime=10x.
func FuzzRespond(f *testing.F) {
	f.Add(single(kmip14.OperationCreate, vSphere(attr("x-Name", "vm"))...))
	f.Add(message(header(4, 2), numbered(1, kmip14.OperationCreate, vSphere()...), numbered(2, kmip14.OperationGet)))
	f.Add(message(header(1, 2), numbered(1, kmip14.OperationCreate, vSphere()...),
		numbered(2, kmip14.OperationAddAttribute, attr("x-Name", []byte{1}))))
	f.Add(message(header(3, 2), numbered(1, kmip14.OperationCreate, vSphere()...), numbered(2, kmip14.OperationGetAttributes)))
	f.Add(message(header(0, 1, v(kmip14.TagMaximumResponseSize, 100)), item(kmip14.OperationDiscoverVersions, protocol(1, 0))))
	f.Add(single(kmip14.OperationQuery, v(kmip14.TagQueryFunction, kmip14.QueryFunctionQueryOperations)))
	f.Add(message(header(1, 2), numbered(1, kmip14.OperationCreate, vSphere()...), numbered(2, kmip14.OperationDestroy)))
	f.Fuzz(func(t *testing.T, request []byte) {
		b := newBench()
		survive(t, b, request).Frame.Wipe()
		b.Refuse(request, wiremessage.ErrTooLarge).Frame.Wipe()
	})
}

// TestVectors runs recorded and published messages, where they are at hand,
// through Validate and Respond, whole and damaged.
func TestVectors(t *testing.T) {
	dir := os.Getenv("KMIP_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "vectors")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no KMIP messages at %s; KMIP_VECTORS names another directory", dir)
	}
	b := newBench()
	requests := 0
	for _, pattern := range []string{"captured/*.jsonl", "hex/*.jsonl", "hex/*/*.jsonl"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			for _, m := range readVectors(t, file) {
				requests += m.check(t, b, file)
			}
		}
	}
	if requests < 100 {
		t.Errorf("only %d requests found in %s", requests, dir)
	}
}

// vector is one line of a file of messages.
type vector struct {
	Request    string `json:"request"`
	Hex        string `json:"hex"`
	Wellformed *bool  `json:"wellformed"`
}

// check returns 1 for a well-formed request. One that a strict check of
// others failed (a vendor's tag below Vendor Extension) may be either.
func (m vector) check(t *testing.T, b *bench, file string) int {
	t.Helper()
	frame, err := hex.DecodeString(m.Request + m.Hex)
	if err != nil || len(frame) < 8 {
		return 0
	}
	whole := strings.HasPrefix(m.Request+m.Hex, "42007801") && m.Wellformed != nil && *m.Wellformed
	if err := wiremessage.Validate(frame, wiremessage.DefaultLimits()); err != nil && whole {
		t.Errorf("%s: %v\n%x", filepath.Base(file), err, frame)
	}
	survive(t, b, frame)
	for i := 0; i < len(frame); i += 3 {
		damaged := append([]byte(nil), frame...)
		damaged[i] ^= 0xFF
		survive(t, b, damaged)
	}
	if whole {
		return 1
	}
	return 0
}

func readVectors(t *testing.T, file string) (all []vector) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var m vector
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, m)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}
