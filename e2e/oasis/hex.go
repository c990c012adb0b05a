package oasis

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/gemalto/kmip-go/kmip14"
)

// Line is one message, or a part of one, in a file of JSON lines.
type Line struct {
	Kind       string `json:"kind"` // request or response
	Name       string `json:"name"`
	Hex        string `json:"hex"`
	WellFormed bool   `json:"wellformed"`
}

// ReadLines reads a file of JSON lines.
func ReadLines(file string) (lines []Line, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s := bufio.NewScanner(bytes.NewReader(text))
	for s.Buffer(nil, len(text)+1); s.Scan(); {
		var l Line
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		lines = append(lines, l)
	}
	return lines, s.Err()
}

// ReadHex reads a case of alternating requests and responses in TTLV. Unique
// identifiers of the responses are placeholders, wherever they stand.
func ReadHex(file string) (Case, error) {
	c := Case{Name: strings.TrimSuffix(filepath.Base(file), ".jsonl")}
	lines, err := ReadLines(file)
	if err != nil {
		return c, err
	}
	messages := make([]Item, len(lines))
	chosen := make(map[any]bool)
	for n, l := range lines {
		b, err := hex.DecodeString(l.Hex)
		if err == nil {
			messages[n], err = Decode(b)
		}
		if err != nil {
			return c, fmt.Errorf("%s:%d: %w", file, n+1, err)
		}
		for _, id := range messages[n].find(kmip14.TagBatchItem, kmip14.TagResponsePayload, kmip14.TagUniqueIdentifier) {
			chosen[id.Value] = true
		}
	}
	for n := range messages {
		messages[n].each(func(i *Item) {
			if text, ok := i.Value.(string); ok && chosen[text] {
				i.Placeholder, i.Value = text, nil
			}
		})
	}
	if c.Steps, err = pair(messages); err != nil {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return c, err
}
