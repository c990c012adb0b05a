package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// clientCertificate is what the REST API says of one.
type clientCertificate struct {
	ID           string `json:"id"`
	Certificate  string `json:"certificate"`
	Authority    string `json:"authority_certificate"`
	PrivateKey   string `json:"private_key"`
	FirstUsedAt  string `json:"first_used_at"`
	LastUsedFrom string `json:"last_used_from"`
	ReplacedBy   string `json:"replaced_by"`
	RemovedWhen  string `json:"removed_when"`
}

// certify posts below the instance's client certificates and wants one made.
func (i *instance) certify(t *testing.T, way string, body map[string]any) (made clientCertificate) {
	t.Helper()
	a := i.api(t, http.MethodPost, "/v1/instances/"+i.id+"/client_certificates"+way, body)
	a.decode(t, &made)
	if a.status != http.StatusCreated || made.ID == "" || made.Certificate == "" {
		t.Fatalf("POST %s: status %d, %s", way, a.status, a.body)
	}
	if got := a.header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("POST %s may be stored: Cache-Control %q", way, got)
	}
	return made
}

func (i *instance) shownCertificate(t *testing.T, id string) (shown clientCertificate) {
	t.Helper()
	i.api(t, http.MethodGet, "/v1/instances/"+i.id+"/client_certificates/"+id, nil).decode(t, &shown)
	return shown
}

// pair joins a certificate and its private key, both in PEM.
func pair(t *testing.T, certificate, key string) *tls.Certificate {
	t.Helper()
	p, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return &p
}

// signed lets the instance sign a request as vCenter makes it, and returns the
// private key, which stays with vCenter.
func (i *instance) signed(t *testing.T) (made clientCertificate, key string) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "kmipClient"}}, private)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})
	made = i.certify(t, "/sign", map[string]any{"name": "signed", "csr": string(text)})
	return made, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// TestWaysToTrustVCenter takes each of vCenter's three ways for two tenants:
// with each certificate a key is made on one node and read on the other, at the
// tenant's own endpoint alone, and the API shows who has used it.
func TestWaysToTrustVCenter(t *testing.T) {
	t.Parallel()
	c := sharedCell(t)
	one, two := newInstance(t, c), newDedicated(t, c)
	for _, tenants := range [][2]*instance{{one, two}, {two, one}} {
		i, other := tenants[0], tenants[1]
		signed, key := i.signed(t)
		issued := i.certify(t, "/issue", map[string]any{"name": "issued"})
		self, selfID := i.addCertificate(t)
		ways := map[string]struct {
			id          string
			certificate *tls.Certificate
		}{
			"vCenter certificate":                 {selfID, self},
			"new certificate signing request":     {signed.ID, pair(t, signed.Certificate, key)},
			"KMS certificate and its private key": {issued.ID, pair(t, issued.Certificate, issued.PrivateKey)},
		}
		for way, w := range ways {
			i.awaitAdmission(t, w.certificate)
			maker, err := discover(t.Context(), i.config(t, nodes[0], w.certificate))
			if err != nil {
				t.Fatal(err)
			}
			id, err := maker.Create(t.Context(), vSphere...)
			maker.Close()
			if err != nil {
				t.Fatalf("%s: %v", way, err)
			}
			reader, err := discover(t.Context(), i.config(t, nodes[1], w.certificate))
			if err != nil {
				t.Fatal(err)
			}
			if key, err := reader.Get(t.Context(), id); err != nil || key.Len() != 32 {
				t.Errorf("%s: Get on the other node: %v", way, err)
			}
			reader.Close()
			// At the other tenant's own name it is a stranger's; at the shared
			// endpoints the certificate itself leads home.
			if other.own != nil {
				turnedAway(t, other.config(t, nodes[0], w.certificate), way+" at the other tenant's endpoint")
			}
			eventually(t, func(context.Context) error {
				if shown := i.shownCertificate(t, w.id); shown.FirstUsedAt == "" || !strings.HasPrefix(shown.LastUsedFrom, "127.") {
					return fmt.Errorf("%s was used and is shown as %+v", way, shown)
				}
				return nil
			})
			if a := other.api(t, http.MethodGet, "/v1/instances/"+i.id+"/client_certificates/"+w.id, nil); a.status != http.StatusNotFound {
				t.Errorf("%s: the other account reads it: status %d", way, a.status)
			}
		}

		// vCenter's fourth way: the authority in place of a certificate.
		for _, text := range []string{signed.Authority, signed.Certificate + signed.Authority} {
			a := i.api(t, http.MethodPost, "/v1/instances/"+i.id+"/client_certificates", map[string]any{"name": "root", "certificate": text})
			if a.status != http.StatusBadRequest || !strings.Contains(string(a.body), "Use one of the other three") {
				t.Errorf("an authority: status %d, %s", a.status, a.body)
			}
		}
		// The authority's signature lets nobody in: the leaf is pinned.
		if a := i.api(t, http.MethodDelete, "/v1/instances/"+i.id+"/client_certificates/"+signed.ID, nil); a.status != http.StatusNoContent {
			t.Fatalf("removing: status %d, %s", a.status, a.body)
		}
		for _, node := range nodes {
			eventuallyRefused(t, i.config(t, node, pair(t, signed.Certificate, key)))
			served(t, i.config(t, node, self), "the one that stays")
		}
	}
}

// TestRotatedCertificates changes vCenter's certificate without a gap. A week
// later, which the test makes of one tenant's, the older one is removed; the
// other tenant's stays.
func TestRotatedCertificates(t *testing.T) {
	t.Parallel()
	c := ownCell(t, "--check-interval", checks.String())
	one, two := newInstance(t, c), newDedicated(t, c)
	for _, i := range []*instance{one, two} {
		next, text := newCertificate(t)
		made := i.certify(t, "/"+i.certificateID+"/rotate", map[string]any{"name": "next", "certificate": text})
		if old := i.shownCertificate(t, i.certificateID); old.ReplacedBy != made.ID || !strings.HasPrefix(old.RemovedWhen, "Once the certificate that replaces it has been used") {
			t.Errorf("replaced: %+v", old)
		}
		i.awaitAdmission(t, next)
		for _, node := range nodes {
			served(t, i.config(t, node, i.certificate), "the replaced certificate on "+node)
		}
		eventually(t, func(context.Context) error {
			if old := i.shownCertificate(t, i.certificateID); !strings.HasPrefix(old.RemovedWhen, "After 20") {
				return fmt.Errorf("removed when: %q", old.RemovedWhen)
			}
			return nil
		})
	}
	c.sql(t, "UPDATE client_certificates SET replaced_at = now() - interval '8 days', last_used_at = now() - interval '8 days' WHERE id = '"+one.certificateID+"'")
	eventually(t, func(context.Context) error {
		if a := one.api(t, http.MethodGet, "/v1/instances/"+one.id+"/client_certificates/"+one.certificateID, nil); a.status != http.StatusNotFound {
			return fmt.Errorf("a certificate that nobody used for a week: status %d", a.status)
		}
		return nil
	})
	for _, node := range nodes {
		eventuallyRefused(t, one.config(t, node, one.certificate))
		served(t, two.config(t, node, two.certificate), "the other tenant's replaced certificate on "+node)
	}
}

// forms are the ways in which bytes could stand in a log or a database.
func forms(b []byte) (all [][]byte) {
	all = [][]byte{b, []byte(hex.EncodeToString(b)), []byte(strings.ToUpper(hex.EncodeToString(b)))}
	for shift := range 3 { // base64 at each alignment in a longer text, without what a neighbour reaches into
		text := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), b...))
		all = append(all, []byte(text[(shift*8+5)/6:(len(b)+shift)*8/6]))
	}
	return all
}

// TestFormsAreFound keeps the search itself honest.
func TestFormsAreFound(t *testing.T) {
	key := make([]byte, 192)
	rand.Read(key)
	for name, text := range map[string][]byte{
		"raw": append([]byte("x"), key...), "hex": []byte(hex.EncodeToString(key)), "bytea": fmt.Appendf(nil, "\\x%x", key), "%X": fmt.Appendf(nil, "%X", key),
		"base64": []byte(base64.StdEncoding.EncodeToString(key)), "base64 behind one": []byte(base64.StdEncoding.EncodeToString(append([]byte("a"), key...))),
		"base64 between": []byte(base64.StdEncoding.EncodeToString(slices.Concat([]byte("ab"), key, []byte("c")))),
	} {
		found := slices.ContainsFunc(forms(key), func(form []byte) bool { return bytes.Contains(text, form) })
		if !found {
			t.Errorf("%s is not found", name)
		}
	}
}

// kept is everything that the cell has written: its logs and its database.
func (c *cell) kept(t *testing.T, i *instance) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	logs, err := filepath.Glob(filepath.Join(c.dir, "logs", "*"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("no logs: %v", err)
	}
	for _, log := range logs {
		if all[log], err = os.ReadFile(log); err != nil {
			t.Fatal(err)
		}
	}
	db, err := pgx.Connect(t.Context(), c.env(t)["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	if _, err := db.Exec(t.Context(), "SELECT set_config('kmip.tenant', $1, false)", i.id); err != nil {
		t.Fatal(err)
	}
	rows, err := db.Query(t.Context(), `SELECT tablename, format('SELECT r::text FROM %I r', tablename) FROM pg_tables WHERE schemaname = 'public'`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (table [2]string, err error) {
		return table, row.Scan(&table[0], &table[1])
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		rows, err := db.Query(t.Context(), table[1])
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		all["table "+table[0]] = []byte(strings.Join(lines, "\n"))
	}
	return all
}

// TestPrivateKeysAreNotKept looks for the private key that was issued, for that
// of the instance's authority, and for vCenter's own, which never left it: none
// is in a log or in the database.
func TestPrivateKeysAreNotKept(t *testing.T) {
	t.Parallel()
	c := sharedCell(t)
	for _, i := range []*instance{newInstance(t, c), newDedicated(t, c)} {
		issued := i.certify(t, "/issue", map[string]any{"name": "canary"})
		signed, vCenters := i.signed(t)
		i.awaitAdmission(t, pair(t, issued.Certificate, issued.PrivateKey))
		canaries := map[string][]byte{"issued": decodeKey(t, issued.PrivateKey), "vCenter's": decodeKey(t, vCenters), "authority's": c.authorityKey(t, i, signed.Authority)}
		kept := c.kept(t, i)
		var found []string
		for place, content := range kept {
			if bytes.Contains(content, []byte(issued.ID)) {
				found = append(found, place) // the search does search
			}
			for whose, der := range canaries {
				for n, form := range forms(primeOf(t, der)) {
					if bytes.Contains(content, form) {
						t.Errorf("%s holds the %s private key in form %d", place, whose, n)
					}
				}
			}
			if bytes.Contains(content, []byte("PRIVATE KEY")) {
				t.Errorf("%s holds a private key", place)
			}
		}
		if len(found) < 3 { // the table, and both nodes' logs
			t.Errorf("the certificate's id is in %v alone", found)
		}
	}
}

func decodeKey(t *testing.T, text string) []byte {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("no private key in PEM")
	}
	return block.Bytes
}

// primeOf returns a part of an RSA key in PKCS #8 that any copy of it holds.
func primeOf(t *testing.T, der []byte) []byte {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal("no private key in PKCS #8")
	}
	return key.(*rsa.PrivateKey).Primes[0].Bytes()
}

// authorityKey opens the key of an instance's authority as only the operator's
// secret can.
func (c *cell) authorityKey(t *testing.T, i *instance, authority string) []byte {
	t.Helper()
	db, err := pgx.Connect(t.Context(), i.env["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	var certificate, sealed []byte
	if err := db.QueryRow(t.Context(), "SELECT certificate, sealed_key FROM client_authorities WHERE instance_id = $1", i.id).Scan(&certificate, &sealed); err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode([]byte(authority)); block == nil || !bytes.Equal(block.Bytes, certificate) {
		t.Error("the answer shows another authority than is stored")
	}
	keys, err := os.ReadFile(filepath.Join(c.dir, "sealing-keys"))
	if err != nil {
		t.Fatal(err)
	}
	ring, err := secret.ParseKeyring(string(keys))
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range [][2]string{{"tenant-api-key", i.id}, {"client-authority-key", i.rootKey}} {
		if _, err := ring.Open(wrong[0], wrong[1], sealed); !errors.Is(err, secret.ErrSeal) {
			t.Errorf("the authority's key opens as %q: %v", wrong, err)
		}
	}
	key, err := ring.Open("client-authority-key", i.id, sealed)
	if err != nil {
		t.Fatal(err)
	}
	return key.Reveal()
}
