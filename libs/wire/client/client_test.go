package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

// vSphereCreate is the Create of vCenter 7.0.3, item by item.
var vSphereCreate = st(kmip14.TagRequestMessage,
	st(kmip14.TagRequestHeader, version(1, 1), in(kmip14.TagBatchCount, 1)),
	st(kmip14.TagBatchItem,
		en(kmip14.TagOperation, 1),
		bs(kmip14.TagUniqueBatchItemID, qlkc(1)),
		st(kmip14.TagRequestPayload,
			en(kmip14.TagObjectType, 2),
			st(kmip14.TagTemplateAttribute,
				attribute("Cryptographic Algorithm", en(kmip14.TagAttributeValue, 3)),
				attribute("Cryptographic Usage Mask", in(kmip14.TagAttributeValue, 12)),
				attribute("Cryptographic Length", in(kmip14.TagAttributeValue, 256))))))

func TestRequestsAreEncodedByTheBook(t *testing.T) {
	oneItem := func(op uint32, payload ...[]byte) []byte {
		return st(kmip14.TagRequestMessage,
			st(kmip14.TagRequestHeader, version(1, 1), in(kmip14.TagBatchCount, 1)),
			st(kmip14.TagBatchItem, en(kmip14.TagOperation, op), bs(kmip14.TagUniqueBatchItemID, qlkc(1)),
				st(kmip14.TagRequestPayload, payload...)))
	}
	greeting := st(kmip14.TagRequestMessage,
		st(kmip14.TagRequestHeader, version(1, 1), in(kmip14.TagBatchCount, 1)),
		st(kmip14.TagBatchItem, en(kmip14.TagOperation, 0x1e), st(kmip14.TagRequestPayload)))
	addItem := func(n byte, name, value string) []byte {
		return st(kmip14.TagBatchItem, en(kmip14.TagOperation, 0xd), bs(kmip14.TagUniqueBatchItemID, qlkc(n)),
			st(kmip14.TagRequestPayload, uid("7"), attribute(name, tx(kmip14.TagAttributeValue, value))))
	}
	since := time.Unix(1743675720, 0)

	ctx := t.Context()
	tests := []struct {
		name string
		ask  func(c *Conn) error
		want []byte
	}{
		{"create", func(c *Conn) error {
			_, err := c.Create(ctx,
				kmip.Attribute{Name: "Cryptographic Algorithm", Value: kmip.Enum(kmip.AES)},
				kmip.Attribute{Name: "Cryptographic Usage Mask", Value: kmip.Int(12)},
				kmip.Attribute{Name: "Cryptographic Length", Value: kmip.Int(256)})
			return err
		}, vSphereCreate},
		{"first discover versions", func(c *Conn) error { _, err := c.DiscoverVersions(ctx); return err }, greeting},
		{"discover versions among", func(c *Conn) error {
			c.greeted = true
			_, err := c.DiscoverVersions(ctx, Version{1, 4}, Version{1, 0})
			return err
		}, oneItem(0x1e, version(1, 4), version(1, 0))},
		{
			"query", func(c *Conn) error { _, err := c.Query(ctx, QueryServerInformation); return err },
			oneItem(0x18, en(kmip14.TagQueryFunction, 3)),
		},
		{"get", func(c *Conn) error { _, err := c.Get(ctx, "7"); return err }, oneItem(0xa, uid("7"))},
		{
			"get attributes", func(c *Conn) error { _, err := c.GetAttributes(ctx, "7", "State"); return err },
			oneItem(0xb, uid("7"), tx(kmip14.TagAttributeName, "State")),
		},
		{"add attributes", func(c *Conn) error {
			return c.AddAttributes(ctx, "7", kmip.Attribute{Name: "x-A", Value: kmip.Text("1")},
				kmip.Attribute{Name: "x-B", Value: kmip.Text("")})
		}, st(kmip14.TagRequestMessage,
			st(kmip14.TagRequestHeader, version(1, 1), in(kmip14.TagBatchCount, 2)),
			addItem(1, "x-A", "1"), addItem(2, "x-B", ""))},
		{"activate", func(c *Conn) error { return c.Activate(ctx, "7") }, oneItem(0x12, uid("7"))},
		{"destroy", func(c *Conn) error { return c.Destroy(ctx, "7") }, oneItem(0x14, uid("7"))},
		{
			"revoke", func(c *Conn) error { return c.Revoke(ctx, "7", RevokeKeyCompromise, "lost", since) },
			oneItem(0x13, uid("7"), st(kmip14.TagRevocationReason,
				en(kmip14.TagRevocationReasonCode, 2), tx(kmip14.TagRevocationMessage, "lost")),
				dt(kmip14.TagCompromiseOccurrenceDate, 1743675720)),
		},
		{"locate", func(c *Conn) error {
			_, err := c.Locate(ctx, 5, kmip.Attribute{Name: "x-A", Value: kmip.Text("1")})
			return err
		}, oneItem(8, in(kmip14.TagMaximumItems, 5), attribute("x-A", tx(kmip14.TagAttributeValue, "1")))},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			k := newKMS()
			conn := dial(t, serve(t, &tls.Config{}, k.talk("")))
			_ = test.ask(conn) // the request is compared, not the answer
			got := k.traffic[""][0]
			sameLines(t, test.name, lines(t, got), lines(t, test.want))
			if !bytes.Equal(got, test.want) {
				t.Errorf("bytes differ:\n%x\n%x", got, test.want)
			}
		})
	}
}

func dial(t testing.TB, cfg Config) *Conn {
	t.Helper()
	conn, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestSuccessfulAnswers(t *testing.T) {
	key := bytes.Repeat([]byte{0xa5}, 32)
	ctx := t.Context()
	v := version(1, 1)
	reply := func(op Operation, payload ...[]byte) []byte { return answer(v, 1, ok(op, qlkc(1), payload...)) }
	tests := []struct {
		name     string
		response []byte
		ask      func(c *Conn) (any, error)
		want     string
	}{
		{
			"discover versions", answer(v, 1, ok(OperationDiscoverVersions, nil, version(2, 0), version(1, 1))),
			func(c *Conn) (any, error) { return c.DiscoverVersions(ctx) }, "[2.0 1.1]",
		},
		{
			"query", reply(OperationQuery, en(kmip14.TagOperation, 10), en(kmip14.TagOperation, 1), en(kmip14.TagObjectType, 2),
				tx(kmip14.TagVendorIdentification, "us"), st(kmip14.TagServerInformation)),
			func(c *Conn) (any, error) { return c.Query(ctx, QueryOperations) }, "{[Get Create] [2] us}",
		},
		{
			"create", reply(OperationCreate, en(kmip14.TagObjectType, 2), uid("ä"), st(kmip14.TagTemplateAttribute)),
			func(c *Conn) (any, error) { return c.Create(ctx) }, "ä",
		},
		{
			"get", reply(OperationGet, en(kmip14.TagObjectType, 2), uid("7"), keyObject(1, key, 256)),
			func(c *Conn) (any, error) {
				got, err := c.Get(ctx, "7")
				return bytes.Equal(got.Reveal(), key), err
			}, "true",
		},
		{
			"get attributes, one unset", reply(OperationGetAttributes, uid("7"), attribute("State", en(kmip14.TagAttributeValue, 2))),
			func(c *Conn) (any, error) {
				list, err := c.GetAttributes(ctx, "7", "x-A", "State")
				return fmt.Sprintf("%d %s %d", len(list), list[0].Name, list[0].Value.Number), err
			}, "1 State 2",
		},
		{
			"get attributes, none", reply(OperationGetAttributes, uid("7")),
			func(c *Conn) (any, error) { return c.GetAttributes(ctx, "7", "x-A") }, "[]",
		},
		{
			"locate", reply(OperationLocate, uid("7"), uid("8")),
			func(c *Conn) (any, error) { return c.Locate(ctx, 0) }, "[7 8]",
		},
		{"locate nothing", reply(OperationLocate), func(c *Conn) (any, error) { return c.Locate(ctx, 0) }, "[]"},
		{
			"add", reply(OperationAddAttribute, uid("7"), st(kmip14.TagAttribute, tx(kmip14.TagAttributeName, "x-A"),
				in(kmip14.TagAttributeIndex, 0), tx(kmip14.TagAttributeValue, "1"))),
			func(c *Conn) (any, error) {
				return nil, c.AddAttributes(ctx, "7", kmip.Attribute{Name: "x-A", Value: kmip.Text("1")})
			}, "<nil>",
		},
		{"destroy", reply(OperationDestroy, uid("7")), func(c *Conn) (any, error) { return nil, c.Destroy(ctx, "7") }, "<nil>"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.ask(dial(t, script(t, test.response, false)))
			if err != nil || fmt.Sprint(got) != test.want {
				t.Errorf("got %v, %v; want %s", got, err, test.want)
			}
		})
	}
}

// badGets are answers to Get "7" that break the protocol.
func badGets() map[string][]byte {
	key := make([]byte, 32)
	v := version(1, 1)
	good := ok(OperationGet, qlkc(1), en(kmip14.TagObjectType, 2), uid("7"), keyObject(1, key, 256))
	payload := func(members ...[]byte) []byte { return answer(v, 1, ok(OperationGet, qlkc(1), members...)) }
	object := func(o []byte) []byte { return payload(en(kmip14.TagObjectType, 2), uid("7"), o) }
	return map[string][]byte{
		"other version":          answer(version(1, 0), 1, good),
		"id of another item":     answer(v, 1, ok(OperationGet, qlkc(2), en(kmip14.TagObjectType, 2), uid("7"), keyObject(1, key, 256))),
		"id left out":            answer(v, 1, ok(OperationGet, nil, en(kmip14.TagObjectType, 2), uid("7"), keyObject(1, key, 256))),
		"id shortened":           answer(v, 1, ok(OperationGet, qlkc(1)[:4], en(kmip14.TagObjectType, 2), uid("7"), keyObject(1, key, 256))),
		"other operation":        answer(v, 1, ok(OperationCreate, qlkc(1), en(kmip14.TagObjectType, 2), uid("7"), keyObject(1, key, 256))),
		"batch count":            answer(v, 2, good),
		"item too many":          answer(v, 2, good, good),
		"no item":                answer(v, 0),
		"a request":              vSphereCreate,
		"not KMIP":               []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"no time stamp":          st(kmip14.TagResponseMessage, st(kmip14.TagResponseHeader, v, in(kmip14.TagBatchCount, 1)), good),
		"no header":              st(kmip14.TagResponseMessage, good),
		"no payload":             answer(v, 1, st(kmip14.TagBatchItem, en(kmip14.TagOperation, 10), bs(kmip14.TagUniqueBatchItemID, qlkc(1)), en(kmip14.TagResultStatus, 0))),
		"failure without reason": answer(v, 1, st(kmip14.TagBatchItem, en(kmip14.TagOperation, 10), bs(kmip14.TagUniqueBatchItemID, qlkc(1)), en(kmip14.TagResultStatus, 1))),
		"other object":           payload(en(kmip14.TagObjectType, 2), uid("8"), keyObject(1, key, 256)),
		"other object type":      payload(en(kmip14.TagObjectType, 4), uid("7"), keyObject(1, key, 256)),
		"members in other order": payload(uid("7"), en(kmip14.TagObjectType, 2), keyObject(1, key, 256)),
		"no key":                 payload(en(kmip14.TagObjectType, 2), uid("7")),
		"two keys":               payload(en(kmip14.TagObjectType, 2), uid("7"), keyObject(1, key, 256), keyObject(1, key, 256)),
		"key shorter than said":  object(keyObject(1, key[:16], 256)),
		"empty key":              object(keyObject(1, nil, 0)),
		"opaque format":          object(keyObject(2, key, 256)),
		"other algorithm": object(bytes.Replace(keyObject(1, key, 256),
			en(kmip14.TagCryptographicAlgorithm, 3), en(kmip14.TagCryptographicAlgorithm, 2), 1)),
		"transparent key": object(st(kmip14.TagSymmetricKey, st(kmip14.TagKeyBlock, en(kmip14.TagKeyFormatType, 7),
			st(kmip14.TagKeyValue, st(kmip14.TagKeyMaterial, bs(kmip14.TagKey, key)))))),
		"attributes in key value": object(keyObject(1, key, 256, attribute("State", en(kmip14.TagAttributeValue, 1)))),
		"oversized":               answer(v, 1, ok(OperationGet, qlkc(1), tx(kmip14.TagUniqueIdentifier, strings.Repeat("7", 5000)))),
	}
}

func TestBrokenAnswersAreRefused(t *testing.T) {
	for name, response := range badGets() {
		t.Run(name, func(t *testing.T) {
			cfg := script(t, response, false)
			cfg.MaxResponse = 4096
			conn := dial(t, cfg)
			key, err := conn.Get(t.Context(), "7")
			if !errors.Is(err, ErrAnswer) || key != nil {
				t.Fatalf("got %v, %v; want ErrAnswer and no key", key, err)
			}
		})
	}
}

func TestAttributeNobodyAskedFor(t *testing.T) {
	conn := dial(t, script(t, answer(version(1, 1), 1, ok(OperationGetAttributes, qlkc(1), uid("7"),
		attribute("State", en(kmip14.TagAttributeValue, 1)))), false))
	if _, err := conn.GetAttributes(t.Context(), "7", "x-A"); !errors.Is(err, ErrAnswer) {
		t.Errorf("got %v", err)
	}
	if list, err := conn.GetAttributes(t.Context(), "7"); err != nil || len(list) != 1 {
		t.Errorf("all asked for: got %v, %v", list, err)
	}
}

func TestFailuresCarryTheirReason(t *testing.T) {
	refusal := func(ver []byte) []byte {
		return answer(ver, 1, st(kmip14.TagBatchItem, en(kmip14.TagResultStatus, 1), en(kmip14.TagResultReason, 4),
			tx(kmip14.TagResultMessage, "no")))
	}
	tests := []struct {
		name     string
		response []byte
		want     ResultError
	}{
		{"item", answer(version(1, 1), 1, failed(OperationGet, qlkc(1), 1, "gone")), ResultError{OperationGet, 1, 1, "gone"}},
		{"message", refusal(version(1, 1)), ResultError{0, 1, 4, "no"}},
		{"message in another version", refusal(version(1, 4)), ResultError{0, 1, 4, "no"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			conn := dial(t, script(t, test.response, false))
			for range 2 { // the connection stays of use
				_, err := conn.Get(t.Context(), "7")
				var got *ResultError
				if !errors.As(err, &got) || *got != test.want || errors.Is(err, ErrAnswer) {
					t.Fatalf("got %v, want %v", err, &test.want)
				}
			}
		})
	}
}

// A server stops at the first failure unless told otherwise (KMIP 1.4, 6.6).
func TestBatchMayEndAtAFailure(t *testing.T) {
	first := ok(OperationAddAttribute, qlkc(1), uid("7"), attribute("x-A", tx(kmip14.TagAttributeValue, "1")))
	second := failed(OperationAddAttribute, qlkc(2), 0xb, "there already")
	add := func(response []byte) error {
		return dial(t, script(t, response, false)).AddAttributes(t.Context(), "7",
			kmip.Attribute{Name: "x-A", Value: kmip.Text("1")},
			kmip.Attribute{Name: "x-B", Value: kmip.Text("2")},
			kmip.Attribute{Name: "x-C", Value: kmip.Text("3")})
	}
	var failure *ResultError
	if err := add(answer(version(1, 1), 2, first, second)); !errors.As(err, &failure) || failure.Reason != 0xb {
		t.Errorf("stopped at a failure: got %v", err)
	}
	if err := add(answer(version(1, 1), 1, first)); !errors.Is(err, ErrAnswer) {
		t.Errorf("stopped without a failure: got %v", err)
	}
	if err := add(answer(version(1, 1), 2, second, first)); !errors.Is(err, ErrAnswer) {
		t.Errorf("out of order: got %v", err)
	}
	other := ok(OperationAddAttribute, qlkc(1), uid("7"), attribute("x-A", tx(kmip14.TagAttributeValue, "9")))
	if err := add(answer(version(1, 1), 2, other, second)); !errors.Is(err, ErrAnswer) {
		t.Errorf("another value repeated: got %v", err)
	}
}

func TestTruncatedAnswer(t *testing.T) {
	whole := answer(version(1, 1), 1, ok(OperationActivate, qlkc(1), uid("7")))
	for _, length := range []int{0, 4, 8, len(whole) - 1} {
		conn := dial(t, script(t, whole[:length], true))
		if err := conn.Activate(t.Context(), "7"); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes: got %v", length, err)
		}
		if err := conn.Activate(t.Context(), "7"); err == nil || !strings.Contains(err.Error(), "of no use") {
			t.Errorf("%d bytes, used again: got %v", length, err)
		}
	}
}

func TestContextEndsAHangingRequest(t *testing.T) {
	arrived := make(chan struct{}, 1)
	cfg := serve(t, &tls.Config{}, func(conn *tls.Conn) {
		if _, err := io.ReadFull(conn, make([]byte, 8)); err == nil {
			arrived <- struct{}{}
		}
		_, _ = io.Copy(io.Discard, conn) // until the client closes
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err := dial(t, cfg).Get(ctx, "7"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := dial(t, cfg).Get(ctx, "7"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: got %v", err)
	}
}

func TestKeyBytesStayOutOfResults(t *testing.T) {
	key := bytes.Repeat([]byte{0xc3, 0x5a}, 16)
	frame := answer(version(1, 1), 1, ok(OperationGet, qlkc(1), en(kmip14.TagObjectType, 2), uid("7"), keyObject(1, key, 256)))
	asked := request{version: Version{1, 1}, items: []Item{{Operation: OperationGet}}, identified: true}
	results, err := asked.decode(frame)
	clear(frame) // as Do does
	if err != nil || !bytes.Equal(results[0].Key.Reveal(), key) {
		t.Fatalf("the key is lost with the frame: %v", err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%x", "%d"} {
		if text := fmt.Sprintf(format, results); strings.Contains(text, "c35a") || strings.Contains(text, "0xc3, 0x5a") ||
			strings.Contains(text, "195 90") {
			t.Errorf("%s shows the key: %s", format, text)
		}
	}
}

// Do leaves the payload to its caller, but not which of two keys is the one.
func TestTwoKeysInOneItem(t *testing.T) {
	key := keyObject(1, make([]byte, 32), 256)
	conn := dial(t, script(t, answer(version(1, 1), 1, ok(OperationGet, qlkc(1), key, key)), false))
	if results, err := conn.Do(t.Context(), Item{Operation: OperationGet}); !errors.Is(err, ErrAnswer) || results != nil {
		t.Errorf("got %v, %v", results, err)
	}
}

func TestLocalAddressAndServerName(t *testing.T) {
	type seen struct{ name, remote string }
	for _, name := range []string{"", "tenant.kmip.test"} {
		got := make(chan seen, 1)
		cfg := serve(t, &tls.Config{}, func(conn *tls.Conn) {
			got <- seen{conn.ConnectionState().ServerName, conn.RemoteAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Addr().String()}
		})
		cfg.ServerName = name
		want := seen{name, "127.0.0.1"}
		if runtime.GOOS == "linux" { // where all of 127/8 is the host's
			want.remote = "127.0.0.2"
			cfg.LocalAddress = netip.MustParseAddr(want.remote)
		}
		dial(t, cfg)
		if s := <-got; s != want {
			t.Errorf("the server saw %v, want %v", s, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, response := range badGets() {
		f.Add(response)
	}
	f.Add(answer(version(1, 1), 1, failed(OperationGet, qlkc(1), 1, "gone")))
	asked := request{version: Version{1, 1}, items: []Item{{Operation: OperationGet}}, identified: true}
	f.Fuzz(func(t *testing.T, frame []byte) {
		results, err := asked.decode(frame)
		if err == nil && len(results) != 1 {
			t.Fatalf("%d results and no error", len(results))
		}
		if err != nil && results != nil {
			t.Fatal("results beside an error")
		}
	})
}
