package secret

import (
	"bytes"
	"errors"
	"fmt"
	"os"
)

// ReadFile returns the one word that a file holds, such as an API key, without
// the white space around it.
func ReadFile(path string) (*Bytes, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	word := bytes.TrimSpace(text)
	if len(word) == 0 || bytes.ContainsAny(word, " \t\r\n") {
		return nil, fmt.Errorf("%s: %w", path, errNotOneWord)
	}
	return Of(bytes.Clone(word)), nil
}

// ReadKeyring returns the set of ParseKeyring that a file holds now.
func ReadKeyring(path string) (*Keyring, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	ring, err := ParseKeyring(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ring, nil
}

var errNotOneWord = errors.New("the file holds no secret, or more than one")
