package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// Link is a line's place in its chain: the lines that one start of a program
// has written. It is the line's first member, under the name "chain".
type Link struct {
	Node     string `json:"node"`     // the program's name in its cell
	Boot     string `json:"boot"`     // UUID of its start
	Sequence uint64 `json:"sequence"` // from 1, without a gap
	// Previous is the SHA-256 of the line that was written before, without its
	// newline, in hexadecimal; empty in the first one.
	Previous string `json:"previous"`
	Mark     Mark   `json:"mark,omitempty"`
}

// Mark tells the lines that hold no event.
type Mark string

// The marks. A chain without an End was cut short: the program was killed, or
// lines at its end are missing.
const (
	Begin Mark = "begin"
	End   Mark = "end"
)

// Log writes a chain of lines: each event as one line of JSON with one call of
// Write, so that a log may share the writer. It is safe for concurrent use.
type Log struct {
	now    func() time.Time
	prefix []byte // of every line, up to the sequence number

	mu       sync.Mutex
	w        io.Writer
	sequence uint64
	previous string
	torn     bool // a part of a line may stand at the writer's end
}

// NewLog returns the log of one start of a program. Begin is to be called
// before the first event, End after the last one.
func NewLog(w io.Writer, node, boot string, now func() time.Time) *Log {
	name, _ := json.Marshal(node) // strings have a form
	start, _ := json.Marshal(boot)
	return &Log{w: w, now: now, prefix: fmt.Appendf(nil, `{"chain":{"node":%s,"boot":%s,"sequence":`, name, start)}
}

// Begin writes the first line.
func (l *Log) Begin() error { return l.mark(Begin) }

// End writes the last line.
func (l *Log) End() error { return l.mark(End) }

func (l *Log) mark(m Mark) error {
	at, err := json.Marshal(struct {
		EventTime Time `json:"eventTime"`
	}{Time(l.now())})
	if err != nil {
		return err
	}
	return l.append(m, at)
}

// Record is a Sink. It returns when the line was written, or an error if it was
// not: its number is then left out, and Verify tells so.
func (l *Log) Record(e Event) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return l.append("", text)
}

// append writes one line: its link, then the members of a JSON object.
func (l *Log) append(m Mark, object []byte) error {
	line := make([]byte, 1, len(l.prefix)+len(object)+160)
	line[0] = '\n'
	line = append(line, l.prefix...)

	l.mu.Lock()
	defer l.mu.Unlock()
	l.sequence++
	line = fmt.Appendf(line, `%d,"previous":"%s"`, l.sequence, l.previous)
	if m != "" {
		line = fmt.Appendf(line, `,"mark":"%s"`, m)
	}
	line = append(line, "},"...)
	line = append(append(line, object[1:]...), '\n')
	whole := line[1:]
	if !l.torn {
		line = whole
	}
	n, err := l.w.Write(line)
	if n < len(line) && err == nil {
		err = io.ErrShortWrite
	}
	l.torn = err != nil
	if err == nil {
		l.previous = hashOf(whole[:len(whole)-1])
	}
	return err
}

func hashOf(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}
