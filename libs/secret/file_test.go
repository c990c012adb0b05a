package secret

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReadFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	for content, want := range map[string]string{" an-api-key\n": "an-api-key", "\n": "", "two words": "", "two\nlines\n": ""} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadFile(file)
		if (err == nil) != (want != "") || err == nil && string(got.Reveal()) != want {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
	if _, err := ReadFile(file + "-missing"); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestReadKeyring(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	for content, good := range map[string]bool{"ZW5naW5ldGVzdCdzIHJvb3Qga2V5IGlzIGZpeGVkLi4=\n": true, "short": false} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if ring, err := ReadKeyring(file); (err == nil) != good || (ring != nil) != good {
			t.Errorf("%q: %v", content, err)
		}
	}
	if _, err := ReadKeyring(file + "-missing"); err == nil {
		t.Error("a file that is not there was read")
	}
}
