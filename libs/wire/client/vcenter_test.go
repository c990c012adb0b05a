package client

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

var (
	someVM   = ForVM("50127a3c-0000-4000-8000-000000000001", "vm ä")
	someHost = ForHost("4c4c4544-0000-4000-8000-000000000002", "192.0.2.7")
)

// transcript names the requests of a connection: operation, what it is about,
// and how many items it has.
func transcript(t *testing.T, requests [][]byte) string {
	t.Helper()
	var out []string
	for _, frame := range requests {
		items := find(frame, kmip14.TagBatchItem)
		words := []string{Operation(find(items[0], kmip14.TagOperation)[0].ValueEnumeration()).String()}
		for _, tag := range []ttlv.Tag{kmip14.TagUniqueIdentifier, kmip14.TagAttributeName} {
			if found := find(items[0], tag); len(found) > 0 && words[0] != "Create" {
				words = append(words, found[0].ValueTextString())
			}
		}
		if len(items) > 1 {
			words = append(words, fmt.Sprintf("x%d", len(items)))
		}
		out = append(out, strings.Join(words, " "))
	}
	return strings.Join(out, "; ")
}

// player returns a VCenter whose connections are known to k by their label, and
// the steps that it reported.
func player(t *testing.T, k *kms, labels ...string) (*VCenter, *[]Step) {
	steps := &[]Step{}
	return &VCenter{Server: k.listen(t, labels...), Report: func(s Step) { *steps = append(*steps, s) }}, steps
}

var encryptLabels = []string{"A", "B", "C", "D", "E", "F", "G", "H"}

func TestEncryptFirstVM(t *testing.T) {
	k := newKMS()
	v, steps := player(t, k, encryptLabels...)
	got, err := v.EncryptFirstVM(t.Context(), someVM, someHost)
	if err != nil {
		t.Fatal(err)
	}
	described := func(id string) string {
		return strings.ReplaceAll("DiscoverVersions; GetAttributes # x-Product_Version; GetAttributes # x-Vendor; "+
			"GetAttributes # x-Product; AddAttribute # x-Product_Version x3", "#", id)
	}
	used := func(id string) string {
		return strings.ReplaceAll("DiscoverVersions; GetAttributes # x-Identifier; GetAttributes # x-Component; "+
			"GetAttributes # x-Name; AddAttribute # x-Identifier x3", "#", id)
	}
	fetched := func(id string) string {
		return strings.ReplaceAll("DiscoverVersions; Get #; GetAttributes # State; Activate #", "#", id)
	}
	const created = "DiscoverVersions; Create"
	want := []string{created, described("1"), created, fetched("2"), described("2"), used("2"), fetched("1"), used("1")}
	for n, label := range encryptLabels {
		if is := transcript(t, k.traffic[label]); is != want[n] {
			t.Errorf("connection %s is\n%s\nand should be\n%s", label, is, want[n])
		}
	}
	for _, key := range []Fetched{got.VM, got.Host} {
		if !bytes.Equal(key.Key.Reveal(), k.keys[string(key.ID)]) || key.State != kmip.PreActive {
			t.Errorf("key %s: other bytes than the server's, or state %s", key.ID, key.State)
		}
	}
	if got.VM.ID != "1" || got.Host.ID != "2" || got.Host.Connection != "D" || got.Host.Server != v.Server("D").Address {
		t.Errorf("got %+v", got)
	}
	if k.noted["1 x-Name"] != someVM.Name || k.noted["2 x-Component"] != "ESXi Server" || k.noted["2 x-Vendor"] != "VMware, Inc." {
		t.Errorf("noted %v", k.noted)
	}
	requests := 0
	for _, label := range encryptLabels {
		requests += len(k.traffic[label])
	}
	if len(*steps) != requests+len(encryptLabels) {
		t.Errorf("%d steps for %d requests on %d connections", len(*steps), requests, len(encryptLabels))
	}
	for _, s := range *steps {
		if s.Err != nil || s.Server != v.Server(s.Connection).Address || s.Started.IsZero() || s.Duration <= 0 {
			t.Errorf("step %+v", s)
		}
	}
	if last := (*steps)[len(*steps)-1]; last.Name != "Add Attribute ×3" || last.ObjectID != "1" || last.Connection != "H" {
		t.Errorf("last step %+v", last)
	}
}

// Connections that vCenter has open at once are begun without waiting for each
// other: here each waits until its twin has begun.
func TestParallelConnections(t *testing.T) {
	k := newKMS()
	v, _ := player(t, k, append(encryptLabels, "trust-1", "trust-2", "trust-3", "trust-4", "trust-5", "trust-6")...)
	reach := v.Server
	twins := map[string]string{"B": "C", "C": "B", "D": "E", "E": "D", "trust-2": "trust-3", "trust-3": "trust-2"}
	begun := map[string]chan struct{}{}
	for label := range twins {
		begun[label] = make(chan struct{})
	}
	v.Server = func(connection string) Config {
		if twin, ok := twins[connection]; ok {
			close(begun[connection])
			select {
			case <-begun[twin]:
			case <-time.After(10 * time.Second):
				t.Errorf("%s began and %s did not", connection, twin)
			}
		}
		return reach(connection)
	}
	if _, err := v.EncryptFirstVM(t.Context(), someVM, someHost); err != nil {
		t.Error(err)
	}
	if err := v.Trust(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTrustAndHealthPoll(t *testing.T) {
	k := newKMS()
	v, steps := player(t, k, "trust-1", "trust-2", "trust-3", "trust-4", "trust-5", "trust-6", "poll-1", "poll-2")
	if err := v.Trust(t.Context()); err != nil {
		t.Error(err)
	}
	if err := v.HealthPoll(t.Context()); err != nil {
		t.Error(err)
	}
	const twice = "DiscoverVersions; DiscoverVersions"
	want := map[string]string{
		"trust-1": "", "trust-2": "", "trust-3": twice, "trust-4": "DiscoverVersions; Query", "trust-5": "",
		"trust-6": twice, "poll-1": "", "poll-2": twice,
	}
	connected := map[string]int{}
	for _, s := range *steps {
		if s.Name == "Connect" {
			connected[s.Connection]++
		}
	}
	for label, requests := range want {
		if is := transcript(t, k.traffic[label]); is != requests || connected[label] != 1 {
			t.Errorf("%s: connected %d times, sent %q, want %q", label, connected[label], is, requests)
		}
	}
}

func TestHostBoot(t *testing.T) {
	k := newKMS()
	k.keys["1"], k.keys["2"] = bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	k.active["1"], k.active["2"] = true, true
	k.twist = func(op Operation, id []byte, payload ttlv.TTLV) []byte {
		if op == OperationGet && find(payload, kmip14.TagUniqueIdentifier)[0].ValueTextString() == "lost" {
			return failed(op, id, 1, "no such object")
		}
		return nil
	}
	v, _ := player(t, k, "boot-1", "boot-2", "boot-3")
	keys, err := v.HostBoot(t.Context(), "1", "lost", "2")
	var problem *Problem
	if !errors.As(err, &problem) || problem.Shows != showsMissing {
		t.Errorf("got %v", err)
	}
	if len(keys) != 2 || !bytes.Equal(keys[1].Key.Reveal(), k.keys["2"]) || keys[1].State != kmip.Active {
		t.Errorf("got %v", keys)
	}
	if is := transcript(t, k.traffic["boot-3"]); is != "DiscoverVersions; Get 2; GetAttributes 2 State" {
		t.Errorf("boot-3 sent %s", is)
	}
}

// An Active key is not activated again.
func TestFetchOfAnActiveKey(t *testing.T) {
	k := newKMS()
	k.keys["1"], k.active["1"] = make([]byte, 32), true
	v, _ := player(t, k, "D")
	if _, err := v.FetchKey(t.Context(), "D", "1"); err != nil {
		t.Error(err)
	}
	if is := transcript(t, k.traffic["D"]); is != "DiscoverVersions; Get 1; GetAttributes 1 State" {
		t.Errorf("sent %s", is)
	}
}

func TestSurprises(t *testing.T) {
	state := func(n uint32) []byte { return attribute("State", en(kmip14.TagAttributeValue, n)) }
	tests := []struct {
		name  string
		op    Operation
		reply func(id []byte) []byte
		shows string
	}{
		{
			"no versions", OperationDiscoverVersions,
			func(id []byte) []byte { return ok(OperationDiscoverVersions, id) }, showsNotConnected,
		},
		{
			"create refused", OperationCreate,
			func(id []byte) []byte { return failed(OperationCreate, id, 0x100, "down") }, showsTaskFails,
		},
		{"set already, and a failed note", OperationGetAttributes, func(id []byte) []byte {
			return ok(OperationGetAttributes, id, uid("1"), attribute("x-Product_Version", tx(kmip14.TagAttributeValue, "old")))
		}, showsNothing},
		{
			"note refused", OperationAddAttribute,
			func(id []byte) []byte { return failed(OperationAddAttribute, id, 4, "no") }, showsNothing,
		},
		{"key missing", OperationGet, func(id []byte) []byte { return failed(OperationGet, id, 1, "no") }, showsMissing},
		{
			"key refused", OperationGet,
			func(id []byte) []byte { return failed(OperationGet, id, 0xc, "no") }, "Cannot get key 1 from KMS server",
		},
		{"key of 128 bits", OperationGet, func(id []byte) []byte {
			return ok(OperationGet, id, en(kmip14.TagObjectType, 2), uid("1"), keyObject(1, make([]byte, 16), 128))
		}, "Cannot get key 1 from KMS server"},
		{
			"deactivated", OperationGetAttributes,
			func(id []byte) []byte { return ok(OperationGetAttributes, id, uid("1"), state(3)) }, showsNotActive,
		},
		{
			"no state", OperationGetAttributes, func(id []byte) []byte { return ok(OperationGetAttributes, id, uid("1")) },
			"Get, Attributes, Id=1, Names=State failed; Cannot get key 1 from KMS server",
		},
		{
			"activate refused", OperationActivate,
			func(id []byte) []byte { return failed(OperationActivate, id, 0xc, "no") }, "Cannot get key 1 from KMS server",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			k := newKMS()
			k.twist = func(op Operation, id []byte, _ ttlv.TTLV) []byte {
				if op == test.op {
					return test.reply(id)
				}
				return nil
			}
			v, steps := player(t, k, "A", "B", "D")
			id, err := v.CreateKey(t.Context(), "A")
			if err == nil && test.shows == showsNothing {
				err = v.Describe(t.Context(), "B", id)
			}
			if err == nil {
				_, err = v.FetchKey(t.Context(), "D", id)
			}
			var problem *Problem
			if !errors.As(err, &problem) || problem.Shows != test.shows {
				t.Fatalf("got %v, want that vCenter shows %s", err, test.shows)
			}
			last := (*steps)[len(*steps)-1]
			if !errors.Is(err, last.Err) || last.Name != problem.Step {
				t.Errorf("the last step is %+v", last)
			}
		})
	}
}

// vCenter 7.0.3 makes the virtual machine although attributes are refused.
func TestRefusedAttributesDontStopTheEncryption(t *testing.T) {
	k := newKMS()
	k.twist = func(op Operation, id []byte, _ ttlv.TTLV) []byte {
		if op == OperationAddAttribute {
			return failed(op, id, 4, "no")
		}
		return nil
	}
	v, _ := player(t, k, encryptLabels...)
	got, err := v.EncryptFirstVM(t.Context(), someVM, someHost)
	if err == nil || got != (Encrypted{}) {
		t.Errorf("got %v, %v", got, err)
	}
	if !k.active["1"] || !k.active["2"] {
		t.Error("the keys were not activated")
	}
	for _, label := range encryptLabels {
		if len(k.traffic[label]) == 0 {
			t.Errorf("connection %s is missing", label)
		}
	}
}

func TestSpread(t *testing.T) {
	pick := Spread(Config{Address: "one"}, Config{Address: "two"}, Config{Address: "three"})
	var got []string
	for _, label := range []string{"A", "B", "C", "D", "A"} {
		got = append(got, pick(label).Address)
	}
	if want := []string{"three", "one", "two", "three", "three"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestRequestsEqualThoseCaptured compares the player with vCenter 7.0.3 itself.
// The captures are not part of the project.
func TestRequestsEqualThoseCaptured(t *testing.T) {
	folder := os.Getenv("KMIP_VECTORS")
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "..", "shared", "vectors") // beside the repository
	}
	file, err := os.Open(filepath.Join(folder, "captured", "vcenter-7.0.3-vm-encrypt.jsonl"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the captured messages are not here; KMIP_VECTORS names their folder")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	captured := map[string][][]byte{}
	for scan := bufio.NewScanner(file); scan.Scan(); {
		var line struct{ Session, Request string }
		if err := json.Unmarshal(scan.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		frame, err := hex.DecodeString(line.Request)
		if err != nil {
			t.Fatal(err)
		}
		captured[line.Session] = append(captured[line.Session], frame)
	}

	k := newKMS() // numbers its keys 1, 2 as the captured server did
	v, _ := player(t, k, append(encryptLabels, "trust-1", "trust-2", "trust-3", "trust-4", "trust-5", "trust-6", "poll-1", "poll-2")...)
	if err := errors.Join(v.Trust(t.Context()), v.HealthPoll(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, err := v.EncryptFirstVM(t.Context(), someVM, someHost); err != nil {
		t.Fatal(err)
	}
	sessions := map[string]string{
		"00000021": "trust-3", "00000022": "trust-4", "00000024": "trust-6", "00000027": "poll-2",
		"00000051": "A", "00000052": "B", "00000054": "D",
	}
	for session, label := range sessions {
		theirs, ours := captured[session], k.traffic[label]
		if len(theirs) == 0 || len(theirs) != len(ours) {
			t.Errorf("session %s has %d requests, connection %s %d", session, len(theirs), label, len(ours))
			continue
		}
		for n := range theirs {
			what := fmt.Sprintf("connection %s, request %d", label, n+1)
			sameLines(t, what, lines(t, ours[n]), lines(t, theirs[n]))
			if !bytes.Equal(ours[n], theirs[n]) {
				t.Errorf("%s has other bytes:\n%x\n%x", what, ours[n], theirs[n])
			}
		}
	}
}
