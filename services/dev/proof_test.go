package dev

import (
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

func TestLeakIsNoticed(t *testing.T) {
	const id = "01a20b2d-1d04-7e48-a2d1-8f7709297241"
	key := client.Fetched{ID: id, Key: secret.Random(32)}
	written := hex.EncodeToString(key.Key.Reveal())
	for name, c := range map[string]struct {
		dump, list, log string
		want            string // in the error; empty for none
	}{
		"nowhere":          {dump: id, list: id},
		"in the database":  {dump: id + `\x` + written, list: id, want: "key is not in the database: it is there as lower-case hex"},
		"in the list":      {dump: id, list: id + written, want: "key manager's list"},
		"in a log":         {dump: id, list: id, log: written, want: "node-1.log holds the key"},
		"nothing searched": {dump: "", list: id, want: "does not even hold its unique identifier"},
	} {
		t.Run(name, func(t *testing.T) {
			logs := t.TempDir()
			if err := os.WriteFile(filepath.Join(logs, "node-1.log"), []byte(c.log), 0o600); err != nil {
				t.Fatal(err)
			}
			var out output
			p := &proof{out: &out, logs: []string{logs}}
			p.nowhere("host's", key, []byte(c.dump), []byte(c.list))
			err := errors.Join(p.failed...)
			if c.want == "" {
				if err != nil || strings.Contains(out.String(), "NO") {
					t.Errorf("%v, %s", err, out.String())
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(out.String(), "  NO   ") {
				t.Errorf("%v, want %q; printed %s", err, c.want, out.String())
			}
			if strings.Contains(out.String()+err.Error(), written) {
				t.Error("the key was printed")
			}
		})
	}
}

func TestOtherBytesAreNoticed(t *testing.T) {
	vm, host := secret.Random(32), secret.Random(32)
	fetched := func(id kmip.ObjectID, key *secret.Bytes) client.Fetched {
		return client.Fetched{ID: id, Key: key, Server: "b", Connection: readsHostKey}
	}
	good := func() *played {
		both := []client.Fetched{fetched("vm", vm), fetched("host", host)}
		return &played{vm: both[0], host: both[1], again: [2][]client.Fetched{both, both}, vSAN: [][]client.Fetched{both, both}, madeOn: "a"}
	}
	if err := sameBytes(good()); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*played){
		"another key on node 2": func(p *played) {
			p.again[1] = []client.Fetched{fetched("vm", vm), fetched("host", secret.Random(32))}
		},
		"another key on a host": func(p *played) {
			p.vSAN[1] = []client.Fetched{fetched("vm", secret.Random(32)), fetched("host", host)}
		},
		"one key on node 1":   func(p *played) { p.again[0] = p.again[0][:1] },
		"one key for both":    func(p *played) { p.host.Key = vm },
		"in the wrong order":  func(p *played) { p.again[0] = []client.Fetched{fetched("host", host), fetched("vm", vm)} },
		"a key without bytes": func(p *played) { p.vm.Key = nil },
	} {
		p := good()
		spoil(p)
		if sameBytes(p) == nil {
			t.Errorf("%s was not noticed", name)
		}
	}

	p := &proof{nodes: [2]string{"a", "b"}}
	if err := p.acrossNodes(good()); err != nil {
		t.Error(err)
	}
	same := good()
	same.host.Server = "a"
	if p.acrossNodes(same) == nil {
		t.Error("a key that was read where it was made was not noticed")
	}
}

// TestOnlyARefusedCiphertextStaysShut has a key manager that answers unwrap in
// one way: only 422 says that the ciphertext does not open.
func TestOnlyARefusedCiphertextStaysShut(t *testing.T) {
	for status, shut := range map[int]bool{
		http.StatusUnprocessableEntity: true,
		http.StatusOK:                  false,
		http.StatusUnauthorized:        false,
		http.StatusNotFound:            false,
		http.StatusServiceUnavailable:  false,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"plaintext":"AAAA"}`))
		}))
		p := &proof{tenant: &tenantSetup{service: keyProtect{web: newWeb(), base: server.URL}}}
		err := p.stays(t.Context(), "root-key", engine.Envelope{}, nil)
		server.Close()
		if (err == nil) != shut {
			t.Errorf("after status %d: %v", status, err)
		}
	}
}
