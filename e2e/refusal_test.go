package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// eventuallyRefused waits until a node serves a certificate no longer.
func eventuallyRefused(t *testing.T, cfg client.Config) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		if conn, err := discover(ctx, cfg); err == nil {
			conn.Close()
			return errors.New("it is still served")
		}
		return nil
	})
}

// TestRefusals sends what a node must turn away: it stays up, answers nothing,
// and serves the tenant before and after.
func TestRefusals(t *testing.T) {
	t.Parallel()
	i := newInstance(t, sharedCell(t))
	id := i.create(t, nodes[0])
	unknown, _ := newCertificate(t)
	for _, node := range nodes {
		address := i.env["KMIP_HOST"] + ":" + i.env[node]
		for name, certificate := range map[string]*tls.Certificate{"an unknown certificate": unknown, "no certificate": nil} {
			for _, most := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				cfg := i.config(t, node, certificate)
				cfg.TLSMax = most
				if conn, err := discover(t.Context(), cfg); err == nil {
					conn.Close()
					t.Errorf("%s: served with %s", name, tls.VersionName(most))
				}
			}
			// First contact must show the server's certificate all the same.
			chain, err := client.FetchCertificates(t.Context(), i.config(t, node, certificate))
			if err != nil || len(chain) < 2 || chain[0].Subject.CommonName != i.env["KMIP_SNI"] {
				t.Errorf("%s: certificate chain %v, %v", name, chain, err)
			}
		}
		for name, bytes := range map[string]string{
			"garbage":            strings.Repeat("\x00\xff\x17garbage", 100),
			"plain HTTP":         "GET / HTTP/1.1\r\nHost: kmip\r\n\r\n",
			"KMIP without TLS":   "\x42\x00\x78\x01\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00",
			"half a TLS record":  "\x16\x03\x01\x02\x00\x01",
			"nothing, then gone": "",
		} {
			if got := exchange(t, address, bytes); strings.Contains(got, "kmip") || len(got) > 64 {
				t.Errorf("%s was answered with %q", name, got)
			}
		}
		if _, err := i.get(t, node, id); err != nil {
			t.Errorf("the tenant afterwards on %s: %v", node, err)
		}
	}
}

// exchange writes bytes to an address, ends its side and reads to the end.
func exchange(t *testing.T, address, bytes string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// The node may have hung up by now, which is as good as an answer.
	_, _ = io.WriteString(conn, bytes)
	_ = conn.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(conn)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatal(err)
	}
	return string(got)
}

// TestGarbageInsideTLS sends nonsense over an admitted connection: the answer
// is one clean failure or the end of the connection, and the node lives.
func TestGarbageInsideTLS(t *testing.T) {
	t.Parallel()
	i := newInstance(t, sharedCell(t))
	cfg := i.config(t, nodes[0], i.certificate)
	for name, bytes := range map[string]string{
		"plain HTTP":       "GET / HTTP/1.1\r\nHost: kmip\r\n\r\n",
		"a huge length":    "\x42\x00\x78\x01\xff\xff\xff\xf8",
		"over the limit":   "\x42\x00\x78\x01\x00\x10\x00\x00",
		"an empty message": "\x42\x00\x78\x01\x00\x00\x00\x00",
		"half a header":    "\x42\x00\x78",
	} {
		conn, err := tls.Dial("tcp", cfg.Address, &tls.Config{
			RootCAs: cfg.RootCAs, ServerName: cfg.VerifyName, Certificates: []tls.Certificate{*cfg.Certificate}, MinVersion: tls.VersionTLS12,
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprint(conn, bytes)
		_ = conn.CloseWrite()
		first, err := bufio.NewReader(conn).Peek(3)
		if err == nil && string(first) != "\x42\x00\x7b" {
			t.Errorf("%s: answered with %x", name, first)
		}
		conn.Close()
	}
	if _, err := i.get(t, nodes[0], i.create(t, nodes[0])); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestTokens calls the REST API with tokens that must not pass.
func TestTokens(t *testing.T) {
	t.Parallel()
	i := newInstance(t, sharedCell(t))
	parts := strings.Split(i.bearer, ".")
	for name, bearer := range map[string]string{
		"no token":              "",
		"not a token":           "abc",
		"another's signature":   parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])),
		"no signature":          parts[0] + "." + parts[1] + ".",
		"the algorithm is none": "eyJhbGciOiJub25lIn0." + parts[1] + ".",
	} {
		for _, path := range []string{"/v1/instances", "/v1/instances/" + i.id} {
			header := map[string]string{"Authorization": "Bearer " + bearer}
			a := call(t, http.MethodGet, i.env["API_URL"]+path, header, nil)
			checkContract(t, http.MethodGet, path, header, nil, a)
			if a.status != http.StatusUnauthorized || a.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s: GET %s answered %d, %s", name, path, a.status, a.body)
			}
		}
	}
}
