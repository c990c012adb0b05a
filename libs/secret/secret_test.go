package secret_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/secret"
)

const canary = "canary-key-bytes-0123456789abcde"

func TestNothingPrintsASecret(t *testing.T) {
	s := secret.Of([]byte(canary))
	var out bytes.Buffer
	holder := struct{ Key *secret.Bytes }{s}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+"\n", s)
	}
	fmt.Fprintf(&out, "%v %+v", holder, holder)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", s, "holder", holder)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", s)
	if document, err := json.Marshal(holder); err == nil {
		t.Errorf("a secret was encoded: %s", document)
	}
	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), base64.StdEncoding.EncodeToString([]byte(canary))} {
		if strings.Contains(out.String(), form) {
			t.Errorf("printed as %s", form)
		}
	}
}

func TestWipe(t *testing.T) {
	b := []byte(canary)
	s := secret.Of(b)
	c := s.Clone()
	if !s.Equal(c) {
		t.Error("a clone differs")
	}
	s.Wipe()
	s.Wipe()
	if s.Len() != 0 || !bytes.Equal(b, make([]byte, len(canary))) {
		t.Errorf("after Wipe: %d bytes, %q", s.Len(), b)
	}
	if string(c.Reveal()) != canary {
		t.Error("wiping wiped the clone as well")
	}
	var none *secret.Bytes
	none.Wipe()
	if none.Len() != 0 {
		t.Error("nil has bytes")
	}
}

func key(b byte) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)) }

func TestKeyring(t *testing.T) {
	parse := func(text string) *secret.Keyring {
		t.Helper()
		r, err := secret.ParseKeyring(text)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	before := parse("# first\n" + key(1) + "\n")
	rotated := parse(key(2) + "\n" + key(1))
	after := parse(key(2))

	sealed, err := before.Seal("api-key", "tenant", secret.Of([]byte(canary)))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte(canary)) {
		t.Fatal("the sealed value shows the secret")
	}
	opened, err := rotated.Open("api-key", "tenant", sealed)
	if err != nil || string(opened.Reveal()) != canary {
		t.Fatalf("the rotated set does not open it: %v", err)
	}
	if again, _ := before.Seal("api-key", "tenant", secret.Of([]byte(canary))); bytes.Equal(again, sealed) {
		t.Error("sealing twice gives the same bytes")
	}
	fresh, err := rotated.Seal("api-key", "tenant", opened)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := after.Open("api-key", "tenant", fresh); err != nil {
		t.Errorf("the first key of the set did not seal: %v", err)
	}

	damaged := bytes.Clone(sealed)
	damaged[len(damaged)-1] ^= 1
	for name, open := range map[string]func() (*secret.Bytes, error){
		"another purpose": func() (*secret.Bytes, error) { return before.Open("snapshot", "tenant", sealed) },
		"another owner":   func() (*secret.Bytes, error) { return before.Open("api-key", "other", sealed) },
		"another key":     func() (*secret.Bytes, error) { return after.Open("api-key", "tenant", sealed) },
		"damaged":         func() (*secret.Bytes, error) { return before.Open("api-key", "tenant", damaged) },
		"empty":           func() (*secret.Bytes, error) { return before.Open("api-key", "tenant", nil) },
		"head alone":      func() (*secret.Bytes, error) { return before.Open("api-key", "tenant", sealed[:9]) },
	} {
		if _, err := open(); !errors.Is(err, secret.ErrSeal) {
			t.Errorf("%s: %v, want ErrSeal", name, err)
		}
	}
	for _, text := range []string{"", "# only a comment", "short", base64.StdEncoding.EncodeToString([]byte("short"))} {
		if _, err := secret.ParseKeyring(text); err == nil || !strings.Contains(err.Error(), "openssl rand") {
			t.Errorf("ParseKeyring(%q): %v, want an error that names the remedy", text, err)
		}
	}
}
