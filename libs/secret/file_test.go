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
