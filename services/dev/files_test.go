package dev

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/secret"
)

func TestShellReadsTheValuesBack(t *testing.T) {
	values := []variable{
		{"PLAIN", "http://127.0.0.1:25600"},
		{"QUOTED", `it's "quoted" 'twice'`},
		{"SHELL", "$(touch pwned) `id` ${HOME} \\ ; & | # ~ *"},
		{"EMPTY", ""},
	}
	text, err := encodeEnv(values)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "stack.env")
	if err := writeFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		script := fmt.Sprintf(`. %s; printf %%s "$%s"`, path, v.name)
		got, err := exec.Command("/bin/sh", "-euc", script).Output()
		if err != nil || string(got) != v.value {
			t.Errorf("%s: %q, %v", v.name, got, err)
		}
	}
	for _, bad := range []variable{{"lower", "x"}, {"X=Y", "x"}, {"", "x"}, {"X", "two\nlines"}, {"X", "a\x00b"}} {
		if text, err := encodeEnv([]variable{bad}); err == nil {
			t.Errorf("%q became %q", bad, text)
		}
	}
}

func TestEnvironmentFollowsTheProcesses(t *testing.T) {
	f := runFolder(t)
	e := newEnvironment(f)
	if err := e.started(programNode1, 11); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(e.path); err == nil {
		t.Error("the file is there before it is published")
	}
	if err := e.publish([]variable{{"A", "b"}}); err != nil {
		t.Fatal(err)
	}
	if err := e.started(programNode1, 12); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(e.path)
	if err != nil || !strings.Contains(string(text), "A='b'\n") || !strings.Contains(string(text), "NODE1_PID='12'\n") {
		t.Errorf("%s, %v", text, err)
	}
	if err := e.remove(); err != nil {
		t.Fatal(err)
	}
	if err := e.started(programNode1, 13); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(e.path); err == nil {
		t.Error("the file came back")
	}
	if left, err := filepath.Glob(f.path(".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestServerCertificates(t *testing.T) {
	f := runFolder(t)
	now := time.Now()
	files, err := serverCertificates(f, now)
	if err != nil {
		t.Fatal(err)
	}
	first, err := tls.LoadX509KeyPair(files.chain, files.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, key := first.Leaf, first.PrivateKey.(*rsa.PrivateKey)
	if leaf.Subject.CommonName != sharedNames[0] || key.N.BitLen() != keyBits || leaf.SignatureAlgorithm != x509.SHA256WithRSA {
		t.Errorf("CN %s, %d bits, %s", leaf.Subject.CommonName, key.N.BitLen(), leaf.SignatureAlgorithm)
	}
	if len(first.Certificate) != 2 {
		t.Errorf("the chain has %d certificates, want the authority's too", len(first.Certificate))
	}
	ca, err := os.ReadFile(files.ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	for _, name := range append([]string{"localhost", "127.0.0.1", "::1"}, sharedNames...) {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: now}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if strings.Contains(strings.Join(leaf.DNSNames, " "), "*") {
		t.Errorf("a wildcard: %v", leaf.DNSNames)
	}
	for _, secretFile := range []string{files.key, f.path(certificates, "ca-key.pem")} {
		if info, err := os.Stat(secretFile); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", secretFile, info.Mode(), err)
		}
	}

	if _, err := serverCertificates(f, now.AddDate(1, 0, 0)); err != nil {
		t.Fatal(err)
	}
	kept, err := tls.LoadX509KeyPair(files.chain, files.key)
	if err != nil || !kept.Leaf.Equal(leaf) {
		t.Errorf("after a year the certificate was made again: %v", err)
	}
	if _, err := serverCertificates(f, leaf.NotAfter.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	renewed, err := tls.LoadX509KeyPair(files.chain, files.key)
	if err != nil || renewed.Leaf.Equal(leaf) || !renewed.PrivateKey.(*rsa.PrivateKey).Equal(key) {
		t.Errorf("before its end it was not made again over the same key: %v", err)
	}
}

func TestClientCertificateIsKept(t *testing.T) {
	f := runFolder(t)
	now := time.Now()
	files, first, err := clientCertificate(f, 1, now)
	if err != nil {
		t.Fatal(err)
	}
	_, second, err := clientCertificate(f, 1, now)
	if err != nil || !second.Leaf.Equal(first.Leaf) {
		t.Errorf("a second run has another certificate: %v", err)
	}
	if info, err := os.Stat(files.key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode: %v, %v", info.Mode(), err)
	}
	// A run that was killed between the two files.
	if err := os.Remove(files.certificate); err != nil {
		t.Fatal(err)
	}
	if _, third, err := clientCertificate(f, 1, now); err != nil || third.Leaf.Equal(first.Leaf) {
		t.Errorf("without its certificate: %v", err)
	}
}

func TestKeyIsFoundInEverySpelling(t *testing.T) {
	key := secret.Random(32)
	spelled := spell(key)
	b := key.Reveal()
	numbers := make([]int, len(b))
	for i := range b {
		numbers[i] = int(b[i])
	}
	list, err := json.Marshal(numbers)
	if err != nil {
		t.Fatal(err)
	}
	texts := [][]byte{
		b, []byte(hex.EncodeToString(b)), fmt.Appendf(nil, "%X", b), fmt.Appendf(nil, `\x%x`, b),
		fmt.Appendf(nil, "% x", b), fmt.Append(nil, b), list,
	}
	for before := range 6 {
		for after := range 4 {
			longer := append(bytes.Repeat([]byte{0xa5}, before), b...)
			longer = append(longer, bytes.Repeat([]byte{0x5a}, after)...)
			for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
				texts = append(texts, []byte(encoding.EncodeToString(longer)))
			}
		}
	}
	for _, text := range texts {
		whole := append(append([]byte("before "), text...), " after"...)
		if spelled.in(whole) == "" {
			t.Errorf("not found in %d bytes of text", len(whole))
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "log"), whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if found, err := spelled.inFiles(dir); err != nil || !strings.Contains(found, filepath.Join(dir, "log")) {
			t.Errorf("in a file: %q, %v", found, err)
		}
	}
	other := secret.Random(32)
	for _, spelling := range spell(other) {
		if how := spelled.in(spelling); how != "" {
			t.Errorf("another key is taken for it, as %s", how)
		}
	}
}

func TestFullDiskIsOneSentence(t *testing.T) {
	const want = "the disk with .run is full: free some space and start again"
	for _, err := range []error{
		&os.PathError{Op: "write", Path: "seed.json", Err: syscall.ENOSPC},
		errors.New("PostgreSQL did not start; the end of its log:\nPANIC: could not write: No space left on device\nLOG: shutting down"),
	} {
		if got := plain(err, ".run").Error(); got != want {
			t.Errorf("%q became %q", err, got)
		}
	}
	if err := errors.New("something else"); plain(err, ".run").Error() != err.Error() {
		t.Error("another error was changed")
	}
}
