package pgcluster

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// remedies maps what PostgreSQL logs to a sentence for the person at the
// keyboard.
var remedies = []struct{ logged, sentence string }{
	{"Address already in use", "its port is in use: stop the program that uses it, or choose another port"},
	{"No space left on device", "the disk is full: free some space and start again"},
	{"not compatible with this version", "its data was made by another major version: set PG_BIN to that version's programs, or remove the data"},
	{"could not look up effective user ID", "this user has no entry in the password file: PostgreSQL needs one"},
	{"could not create shared memory", "the system has no shared memory left: stop other servers or raise its limit"},
}

// explain makes an error of what was attempted, the likely cause and the end
// of the log.
func explain(what string, err error, log string) error {
	for _, r := range remedies {
		if strings.Contains(log, r.logged) {
			what += ", " + r.sentence
			break
		}
	}
	if log = strings.TrimSpace(log); log == "" {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w; the end of its log:\n%s", what, err, log)
}

// tail returns the last part of a log, or nothing if it can't be read.
func tail(path string) string {
	const most = 2000
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return ""
	}
	return string(text)
}
