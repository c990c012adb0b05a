package oasis

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gemalto/kmip-go/kmip14"
)

// Evidence is what a test saw a server do. It is kept in a file, so that the
// statement can be written where the cases and the clients are not at hand.
type Evidence struct {
	Source  string                      `json:"source"`          // who asked
	Answers map[string]map[string]int   `json:"answers"`         // operation, version: batch items answered as expected
	Cases   map[string]map[string]Score `json:"cases,omitempty"` // class, version
}

// Score counts cases: those that went as they are written, and those whose
// answers were all ones that a client can go on from.
type Score struct {
	Passed int `json:"passed"`
	Clean  int `json:"clean"`
	All    int `json:"all"`
}

// Saw counts a batch item that was answered as expected.
func (e *Evidence) Saw(operation kmip14.Operation, version string) {
	name, ok := kmip14.OperationEnum.CanonicalName(uint32(operation))
	if !ok {
		return
	}
	if e.Answers == nil {
		e.Answers = make(map[string]map[string]int)
	}
	if e.Answers[name] == nil {
		e.Answers[name] = make(map[string]int)
	}
	e.Answers[name][version]++
}

// Played counts a case of a class.
func (e *Evidence) Played(class, version string, r Report) {
	if e.Cases == nil {
		e.Cases = make(map[string]map[string]Score)
	}
	if e.Cases[class] == nil {
		e.Cases[class] = make(map[string]Score)
	}
	s := e.Cases[class][version]
	s.All++
	if len(r.Different) == 0 {
		s.Passed++
	}
	if len(r.Unclean) == 0 {
		s.Clean++
	}
	e.Cases[class][version] = s
}

// Kept reads a file of evidence.
func Kept(file string) (e Evidence, err error) {
	text, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		return e, err
	}
	return e, json.Unmarshal(text, &e)
}

// Count returns how many cases of some classes were played.
func (e *Evidence) Count(classes ...string) (n int) {
	for _, class := range classes {
		for _, s := range e.Cases[class] {
			n += s.All
		}
	}
	return n
}

// Keep writes evidence to the file that keeps it if update is set; else it
// fails unless it is what the file has.
func (e *Evidence) Keep(file string, update bool) error {
	now, err := json.MarshalIndent(e, "", "\t")
	if err != nil {
		return err
	}
	now = append(now, '\n')
	if update {
		return os.WriteFile(file, now, 0o644) //nolint:gosec // part of the repository
	}
	kept, err := os.ReadFile(filepath.Clean(file))
	if err == nil && !bytes.Equal(kept, now) {
		err = fmt.Errorf("%s is not current: run the test with -update, and TestStatement after it. It should be\n%s", file, now)
	}
	return err
}
