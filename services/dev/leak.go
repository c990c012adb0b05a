package dev

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// spellings are the ways in which key bytes could stand in a text, a database
// dump or a log.
type spellings map[string][]byte

// spell returns the spellings of a key: raw, hexadecimal (also PostgreSQL's
// bytea and Go's %x), base64 in both alphabets at each of its three alignments
// within a longer text, and Go's and JSON's lists of numbers.
func spell(key *secret.Bytes) spellings {
	b := key.Reveal()
	s := spellings{
		"raw":                 bytes.Clone(b),
		"lower-case hex":      []byte(hex.EncodeToString(b)),
		"upper-case hex":      []byte(strings.ToUpper(hex.EncodeToString(b))),
		"a list of numbers":   []byte(strings.Trim(fmt.Sprintf("%d", b), "[]")),
		"a JSON list":         []byte(strings.ReplaceAll(strings.Trim(fmt.Sprintf("%d", b), "[]"), " ", ",")),
		"bytes in hex, apart": []byte(strings.Trim(fmt.Sprintf("% x", b), " ")),
	}
	for shift := range 3 {
		shifted := append(make([]byte, shift), b...)
		// What a neighbour's bits reach into is left out at both ends.
		from, to := (shift*8+5)/6, len(shifted)*8/6
		s[fmt.Sprintf("base64 at %d", shift)] = []byte(base64.RawStdEncoding.EncodeToString(shifted)[from:to])
		s[fmt.Sprintf("URL base64 at %d", shift)] = []byte(base64.RawURLEncoding.EncodeToString(shifted)[from:to])
		clear(shifted)
	}
	return s
}

// in names the spelling that a text holds, or nothing.
func (s spellings) in(text []byte) string {
	for name, spelling := range s {
		if bytes.Contains(text, spelling) {
			return name
		}
	}
	return ""
}

// wipe forgets the spellings.
func (s spellings) wipe() {
	for _, spelling := range s {
		clear(spelling)
	}
}

// inFiles names the first file at or below a path that holds the key, and how.
func (s spellings) inFiles(root string) (found string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path) //nolint:gosec // a folder that only this user can enter
		if err != nil {
			return err
		}
		if how := s.in(text); how != "" {
			found = fmt.Sprintf("%s holds the key as %s", path, how)
			return fs.SkipAll
		}
		return nil
	})
	return found, err
}
