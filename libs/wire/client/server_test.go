package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// serverName stands in the test server's certificate.
const serverName = "kmip.test"

var serverLeaf = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "key server"}, DNSNames: []string{serverName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
})

// serve runs a TLS listener that hands every connection to talk, and returns
// the configuration that reaches it. The server's own certificate is the root,
// as vCenter pins it.
func serve(t testing.TB, settings *tls.Config, talk func(conn *tls.Conn)) Config {
	t.Helper()
	settings = settings.Clone()
	settings.Certificates = []tls.Certificate{serverLeaf()}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", settings)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			running.Go(func() {
				defer conn.Close()
				if tlsConn := conn.(*tls.Conn); tlsConn.Handshake() == nil {
					talk(tlsConn)
				}
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for conn := range open {
			conn.(*tls.Conn).NetConn().Close()
		}
		mu.Unlock()
		running.Wait()
	})
	roots := x509.NewCertPool()
	roots.AddCert(serverLeaf().Leaf)
	return Config{Address: listener.Addr().String(), RootCAs: roots, VerifyName: serverName}
}

// script answers every request with the same bytes and then closes if closes.
func script(t testing.TB, response []byte, closes bool) Config {
	return serve(t, &tls.Config{}, func(conn *tls.Conn) {
		for {
			if _, err := message.Read(conn, message.MaxFrame); err != nil {
				return
			}
			if _, err := conn.Write(response); err != nil || closes {
				return
			}
		}
	})
}

// kms is a small key server for the player: right answers only, unless twist
// changes them.
type kms struct {
	mu      sync.Mutex
	next    int
	keys    map[string][]byte
	active  map[string]bool
	noted   map[string]string   // "id name" -> value
	traffic map[string][][]byte // requests by the connection's label, in order
	// twist may replace the answer to one item; nil leaves it.
	twist func(op Operation, batchID []byte, payload ttlv.TTLV) []byte
}

func newKMS() *kms {
	return &kms{keys: map[string][]byte{}, active: map[string]bool{}, noted: map[string]string{}, traffic: map[string][][]byte{}}
}

// listen gives each label a listener of its own and returns the choice for
// VCenter.Server.
func (k *kms) listen(t testing.TB, labels ...string) func(connection string) Config {
	reach := map[string]Config{}
	for _, label := range labels {
		reach[label] = serve(t, &tls.Config{}, k.talk(label))
	}
	return func(connection string) Config { return reach[connection] }
}

func (k *kms) talk(label string) func(conn *tls.Conn) {
	return func(conn *tls.Conn) {
		for {
			frame, err := message.Read(conn, message.MaxFrame)
			if err != nil {
				return
			}
			k.mu.Lock()
			k.traffic[label] = append(k.traffic[label], frame)
			response := k.answer(frame)
			k.mu.Unlock()
			if _, err := conn.Write(response); err != nil {
				return
			}
		}
	}
}

func (k *kms) answer(frame ttlv.TTLV) []byte {
	var items [][]byte
	for _, item := range find(frame, kmip14.TagBatchItem) {
		var id []byte
		if found := find(item, kmip14.TagUniqueBatchItemID); len(found) > 0 {
			id = found[0].ValueByteString()
		}
		op := Operation(find(item, kmip14.TagOperation)[0].ValueEnumeration())
		payload := find(item, kmip14.TagRequestPayload)[0]
		if k.twist != nil {
			if twisted := k.twist(op, id, payload); twisted != nil {
				items = append(items, twisted)
				continue
			}
		}
		items = append(items, ok(op, id, k.do(op, payload)...))
	}
	return answer(version(1, 1), uint32(len(items)), items...)
}

func (k *kms) do(op Operation, payload ttlv.TTLV) [][]byte {
	text := func(tag ttlv.Tag) string {
		if found := find(payload, tag); len(found) > 0 {
			return found[0].ValueTextString()
		}
		return ""
	}
	id, name := text(kmip14.TagUniqueIdentifier), text(kmip14.TagAttributeName)
	switch op { //nolint:exhaustive // vCenter asks for no other
	case OperationDiscoverVersions:
		return [][]byte{version(1, 4), version(1, 1)}
	case OperationQuery:
		return [][]byte{tx(kmip14.TagVendorIdentification, "test")}
	case OperationCreate:
		k.next++
		id = strconv.Itoa(k.next)
		k.keys[id] = make([]byte, 32)
		rand.Read(k.keys[id])
		return [][]byte{en(kmip14.TagObjectType, 2), uid(id)}
	case OperationGet:
		return [][]byte{en(kmip14.TagObjectType, 2), uid(id), keyObject(1, k.keys[id], 256)}
	case OperationGetAttributes:
		if name == "State" {
			state := uint32(1)
			if k.active[id] {
				state = 2
			}
			return [][]byte{uid(id), attribute(name, en(kmip14.TagAttributeValue, state))}
		}
		if value, set := k.noted[id+" "+name]; set {
			return [][]byte{uid(id), attribute(name, tx(kmip14.TagAttributeValue, value))}
		}
		return [][]byte{uid(id)}
	case OperationAddAttribute:
		k.noted[id+" "+name] = text(kmip14.TagAttributeValue)
		return [][]byte{uid(id), find(payload, kmip14.TagAttribute)[0]}
	case OperationActivate:
		k.active[id] = true
		return [][]byte{uid(id)}
	}
	return nil
}
