package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"slices"
	"time"
)

const (
	maxLine     = 1 << 20 // bytes of a line that is read
	maxProblems = 1000    // listed of one chain, and of lines that can't be read
)

// Kind is what is wrong with lines of a chain.
type Kind string

// The kinds.
const (
	Missing    Kind = "missing"      // lines that were written are not there
	Lost       Kind = "lost"         // lines that their program could not write
	Altered    Kind = "altered"      // the lines and what is written of them do not match
	Duplicate  Kind = "duplicate"    // a line is there again
	OutOfOrder Kind = "out_of_order" // a line stands after later ones
)

// Problem is what is wrong with the lines From to To of a chain. A line that
// does not match its successor's hash is altered, or its successor is: both are
// named.
type Problem struct {
	Kind Kind   `json:"kind"`
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// Chain is what was found of one start of a program.
type Chain struct {
	Node      string    `json:"node"`
	Boot      string    `json:"boot"`
	Lines     uint64    `json:"lines"`
	First     uint64    `json:"first"` // sequence number
	Last      uint64    `json:"last"`
	FirstTime time.Time `json:"first_time"`
	LastTime  time.Time `json:"last_time"`
	// Ended tells whether the last line says that it is the last.
	Ended    bool      `json:"ended"`
	Problems []Problem `json:"problems"` // at most 1,000
	More     uint64    `json:"more_problems,omitempty"`

	gaps []gap
}

// gap is a run of lines that have not been seen. The last one of a chain has no
// end.
type gap struct {
	from, to      uint64
	before, after string // hash of the line before it, and as the line after it says
}

// Unreadable is a line that is marked as one of a chain and can't be read.
type Unreadable struct {
	File string `json:"file"`
	Line uint64 `json:"line"`
}

// Report is what Verify found.
type Report struct {
	Chains         []*Chain     `json:"chains"`     // in the order of their first lines
	Unreadable     []Unreadable `json:"unreadable"` // at most 1,000
	MoreUnreadable uint64       `json:"more_unreadable,omitempty"`
}

// Whole tells whether there are lines, and none is missing, altered or out of
// place. A chain without an end is whole.
func (r *Report) Whole() bool {
	for _, c := range r.Chains {
		if len(c.Problems) > 0 {
			return false
		}
	}
	return len(r.Chains) > 0 && len(r.Unreadable) == 0
}

// Verifier reads logs and checks the chains in them. What it keeps grows with
// the number of chains and problems, not with that of lines. The zero Verifier
// has read nothing.
type Verifier struct {
	report Report
	chains map[[2]string]*Chain // by node and boot
}

// start is how the lines of a chain begin.
var start = []byte(`{"chain":`)

// Read reads a log, or the next part of one. Lines of no chain are left out.
func (v *Verifier) Read(name string, from io.Reader) error {
	in := bufio.NewReaderSize(from, maxLine)
	for number := uint64(1); ; number++ {
		line, err := in.ReadSlice('\n')
		text := bytes.TrimSuffix(line, []byte("\n"))
		if bytes.HasPrefix(text, start) && (errors.Is(err, bufio.ErrBufferFull) || !v.add(text)) {
			if len(v.report.Unreadable) < maxProblems {
				v.report.Unreadable = append(v.report.Unreadable, Unreadable{File: name, Line: number})
			} else {
				v.report.MoreUnreadable++
			}
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// add takes one line, or returns that it can't be read.
func (v *Verifier) add(text []byte) bool {
	var line struct {
		Chain     Link `json:"chain"`
		EventTime Time `json:"eventTime"`
	}
	if json.Unmarshal(text, &line) != nil || line.Chain.Node == "" || line.Chain.Boot == "" {
		return false
	}
	if n := line.Chain.Sequence; n == 0 || n == math.MaxUint64 {
		return false
	}
	key := [2]string{line.Chain.Node, line.Chain.Boot}
	c := v.chains[key]
	if c == nil {
		c = &Chain{Node: key[0], Boot: key[1], First: math.MaxUint64, Problems: []Problem{}, gaps: []gap{{from: 1, to: math.MaxUint64}}}
		if v.chains == nil {
			v.chains = make(map[[2]string]*Chain)
		}
		v.chains[key] = c
		v.report.Chains = append(v.report.Chains, c)
	}
	c.add(line.Chain, time.Time(line.EventTime), hashOf(text))
	return true
}

// add puts a line into the gap that it belongs to.
func (c *Chain) add(l Link, at time.Time, hash string) {
	c.Lines++
	n := l.Sequence
	i := len(c.gaps) - 1 // most lines come in order
	for i >= 0 && n < c.gaps[i].from {
		i--
	}
	if i < 0 || n > c.gaps[i].to {
		c.found(Duplicate, n, n)
		return
	}
	g := c.gaps[i]
	if i < len(c.gaps)-1 {
		c.found(OutOfOrder, n, n)
	}
	if n == g.from && l.Previous != g.before {
		c.found(Altered, max(n-1, 1), n)
	}
	if n == g.to && hash != g.after {
		c.found(Altered, n, n+1)
	}
	left := gap{from: g.from, to: n - 1, before: g.before, after: l.Previous}
	right := gap{from: n + 1, to: g.to, before: hash, after: g.after}
	parts := slices.DeleteFunc([]gap{left, right}, func(p gap) bool { return p.from > p.to })
	c.gaps = slices.Replace(c.gaps, i, i+1, parts...)
	if len(c.gaps) > maxProblems+1 { // nothing fills the oldest any more
		c.gaps[0].report(c)
		c.gaps = c.gaps[1:]
	}
	if n < c.First {
		c.First, c.FirstTime = n, at
	}
	if n > c.Last {
		c.Last, c.LastTime, c.Ended = n, at, l.Mark == End
	}
}

func (c *Chain) found(k Kind, from, to uint64) {
	if len(c.Problems) >= maxProblems {
		c.More++
		return
	}
	c.Problems = append(c.Problems, Problem{k, from, to})
}

// report tells a gap that stays. What comes after lines that were never written
// follows those before.
func (g gap) report(c *Chain) {
	kind := Missing
	if g.before == g.after {
		kind = Lost
	}
	c.found(kind, g.from, g.to)
}

// Report returns what was found in all that was read. Nothing is read after it.
func (v *Verifier) Report() *Report {
	for _, c := range v.report.Chains {
		for _, g := range c.gaps[:len(c.gaps)-1] {
			g.report(c)
		}
		c.gaps = nil
	}
	return &v.report
}
