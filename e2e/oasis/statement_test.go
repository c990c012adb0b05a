package oasis

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"
)

var update = flag.Bool("update", false, "write the evidence and docs/kmip.md")

// evidence keeps what tests saw, a file for each who asked.
const evidence = "testdata"

// TestEvidence counts what the cases show.
func TestEvidence(t *testing.T) {
	classes := []string{"core", "ext", "ext2", "alg-legacy"}
	e := Evidence{Source: "OASIS cases"}
	for _, c := range append(readCases(t, true, classes...), readCases(t, false, classes...)...) {
		r := play(t, newPlayer(t), c.Amend())
		e.Played(c.Class, c.Version(), r)
		for _, a := range r.Answers {
			if a.Expected && spoken(c.Steps[0].Request) {
				e.Saw(a.Operation, c.Version())
			}
		}
	}
	for is, n := range encodings(t) {
		for range n {
			e.Played("codec", "", is.report())
		}
	}
	if err := e.Keep(filepath.Join(evidence, "oasis.json"), *update); err != nil {
		t.Error(err)
	}
}

// TestStatement holds docs/kmip.md against the evidence, the tables of
// exceptions, and what the server answers to Query.
func TestStatement(t *testing.T) {
	now := statement(t)
	file := filepath.Join("..", "..", "docs", "kmip.md")
	if *update {
		if err := os.WriteFile(file, []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(kept) != now {
		t.Errorf("docs/kmip.md is not current: make generate writes it. It should be\n%s", now)
	}
}

// spokenVersions are those that the statement has a column for.
var spokenVersions = []string{"1.0", "1.1", "1.2", "1.3", "1.4"}

func statement(t *testing.T) string {
	t.Helper()
	var s strings.Builder
	s.WriteString(introduction)
	operations := queried(t, kmip14.QueryFunctionQueryOperations, kmip14.TagOperation)
	s.WriteString("\n## Operations\n\nAn x stands for each version whose Query lists the operation.\n\n")
	table(&s, "operation", spokenVersions)
	for _, name := range operations.names {
		row(&s, name, spokenVersions, func(v string) string { return mark(operations.in[v][name]) })
	}
	s.WriteString("\nEverything else is answered Operation Not Supported.\n")
	objects := queried(t, kmip14.QueryFunctionQueryObjects, kmip14.TagObjectType)
	s.WriteString("\n## Objects\n\n")
	table(&s, "object", spokenVersions)
	for _, name := range objects.names {
		row(&s, name, spokenVersions, func(v string) string { return mark(objects.in[v][name]) })
	}
	all := readEvidence(t)
	s.WriteString(casesHead)
	for _, e := range all {
		if e.Cases != nil {
			scores(&s, e.Cases)
		}
	}
	exceptions(&s)
	s.WriteString(evidenceHead)
	for _, e := range all {
		fmt.Fprintf(&s, "\n### %s\n\n", e.Source)
		table(&s, "operation", spokenVersions)
		for _, name := range slices.Sorted(maps.Keys(e.Answers)) {
			row(&s, name, spokenVersions, func(v string) string {
				if n := e.Answers[name][v]; n > 0 {
					return fmt.Sprint(n)
				}
				return ""
			})
		}
	}
	return s.String()
}

func table(s *strings.Builder, first string, columns []string) {
	fmt.Fprintf(s, "| %s | %s |\n|---%s|\n", first, strings.Join(columns, " | "), strings.Repeat("|---", len(columns)))
}

func row(s *strings.Builder, first string, columns []string, cell func(string) string) {
	cells := make([]string, len(columns))
	for n, c := range columns {
		cells[n] = cell(c)
	}
	fmt.Fprintf(s, "| %s | %s |\n", first, strings.Join(cells, " | "))
}

func mark(yes bool) string {
	if yes {
		return "x"
	}
	return ""
}

// scores lists cases by class and version, and the encodings.
func scores(s *strings.Builder, cases map[string]map[string]Score) {
	passed := func(s Score) int { return s.Passed }
	clean := func(s Score) int { return s.Clean }
	for _, line := range []struct {
		name, class string
		count       func(Score) int
	}{
		{"core: passed", "core", passed},
		{"ext: passed", "ext", passed},
		{"ext2: passed", "ext2", passed},
		{"ext2: clean", "ext2", clean},
		{"alg-legacy: clean", "alg-legacy", clean},
	} {
		row(s, line.name, append(slices.Clone(spokenVersions), "2.0", "2.1"), func(v string) string {
			score := cases[line.class][v]
			if score.All == 0 {
				return ""
			}
			return fmt.Sprintf("%d of %d", line.count(score), score.All)
		})
	}
	codec := cases["codec"][""]
	fmt.Fprintf(s, "\nOf %d encodings from the tests of other libraries, %d are the same byte for byte when they were\n"+
		"decoded and encoded again; the others are not well formed, or of KMIP 2.0.\n", codec.All, codec.Passed)
}

// exceptions lists the cases that fail, and those that are amended.
func exceptions(s *strings.Builder) {
	s.WriteString("\n| cases that do not pass | for want of |\n|---|---|\n")
	for _, why := range slices.Sorted(maps.Keys(Refused)) {
		fmt.Fprintf(s, "| %s | %s |\n", strings.Join(Refused[why], ", "), why)
	}
	s.WriteString("\n| case | as it is played |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(Amended)) {
		fmt.Fprintf(s, "| %s | %s |\n", name, Amended[name].Why)
	}
}

func readEvidence(t *testing.T) (all []Evidence) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(evidence, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no evidence: %v", err)
	}
	for _, file := range files {
		e, err := Kept(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// listed is what Query says in each version: names, by version.
type listed struct {
	names []string // all, in the order of the highest version
	in    map[string]map[string]bool
}

func queried(t *testing.T, function kmip14.QueryFunction, tag ttlv.Tag) (l listed) {
	t.Helper()
	p := newPlayer(t)
	l.in = make(map[string]map[string]bool)
	for minor, version := range spokenVersions {
		request, err := query(minor, function).Encode()
		if err != nil {
			t.Fatal(err)
		}
		frame, _, err := p.Send(request)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := Decode(frame)
		if err != nil {
			t.Fatal(err)
		}
		l.in[version], l.names = make(map[string]bool), nil
		for _, i := range answer.find(kmip14.TagBatchItem, kmip14.TagResponsePayload, tag) {
			name, _ := names.EnumForTag(tag).CanonicalName(uint32(i.Value.(ttlv.EnumValue)))
			l.in[version][name] = true
			l.names = append(l.names, name)
		}
	}
	if len(l.names) == 0 {
		t.Fatalf("Query lists nothing for %v", function)
	}
	return l
}

func query(minor int, function kmip14.QueryFunction) Item {
	structure := func(tag ttlv.Tag, items ...Item) Item { return Item{Tag: tag, Items: items, structure: true} }
	return structure(kmip14.TagRequestMessage,
		structure(kmip14.TagRequestHeader,
			structure(kmip14.TagProtocolVersion,
				Item{Tag: kmip14.TagProtocolVersionMajor, Value: int32(1)}, Item{Tag: kmip14.TagProtocolVersionMinor, Value: int32(minor)}),
			Item{Tag: kmip14.TagBatchCount, Value: int32(1)}),
		structure(kmip14.TagBatchItem,
			Item{Tag: kmip14.TagOperation, Value: ttlv.EnumValue(kmip14.OperationQuery)},
			structure(kmip14.TagRequestPayload, Item{Tag: kmip14.TagQueryFunction, Value: ttlv.EnumValue(function)})))
}

const introduction = `# KMIP: conformance statement

Written by the tests (` + "`make generate`" + `), which fail when it is not current.

The nodes speak KMIP 1.0 to 1.4 in TTLV over TLS, and answer in the version that they are asked in.
Requests of another major version are refused as a whole with Invalid Message, in version 1.4;
requests of a later minor version are carried out without the fields that version 1.4 doesn't know.
`

const casesHead = `
## OASIS cases

Cases of OASIS's profiles and test cases, by class and version. A case has passed if every answer is
as the case has it, but for what OASIS's profiles let vary: identifiers, key bytes and dates that the
server chooses, the order of attributes, further ones where all are asked for, the text of a failure,
and what a server says of itself in Query. A case is clean if every answer is one that a client can go
on from: the request's version, its operation and batch item id, a reason and a message with every
failure, never General Failure or the end of the connection.

Cases of class core (symmetric keys) and ext (Register, Modify and Delete Attribute too) have to pass,
but for those listed below. Class ext2 needs optional features, and alg-legacy other algorithms than
AES: they have to be clean. Cases of version 2.x pass if every request is refused as above.

| class | 1.0 | 1.1 | 1.2 | 1.3 | 1.4 | 2.0 | 2.1 |
|---|---|---|---|---|---|---|---|
`

const evidenceHead = `
## Evidence

Batch items that were answered as expected, by who asked, operation and version. A refusal is
counted where it is what has to be answered.
`
