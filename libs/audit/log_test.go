package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/audit"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// chain returns the lines of one start, without their newlines: begin, events
// and end.
func chain(t *testing.T, node, boot string, events int) []string {
	t.Helper()
	var out bytes.Buffer
	log := audit.NewLog(&out, node, boot, func() time.Time { return at })
	if err := log.Begin(); err != nil {
		t.Fatal(err)
	}
	for n := range events {
		if err := log.Record(audit.Event{EventTime: audit.Time(at), Action: fmt.Sprint("a.b.", n), RequestData: map[string]any{}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.End(); err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

// verify checks logs, one after the other.
func verify(t *testing.T, logs ...string) *audit.Report {
	t.Helper()
	var v audit.Verifier
	for n, log := range logs {
		if err := v.Read(fmt.Sprint("log", n), strings.NewReader(log)); err != nil {
			t.Fatal(err)
		}
	}
	return v.Report()
}

// A log that nobody touched is whole, with lines of others between, in several
// files, and with two programs in one.
func TestChainIsWhole(t *testing.T) {
	one, two := chain(t, "node-1", "b1", 5), chain(t, "node-2", "b2", 5)
	var mixed []string
	for n := range one {
		mixed = append(mixed, one[n], `{"time":"2026-01-02T03:04:05Z","level":"INFO","msg":"kmip"}`, "", two[n])
	}
	r := verify(t, strings.Join(mixed[:11], "\n"), strings.Join(mixed[11:], "\n")+"\n")
	if !r.Whole() || len(r.Chains) != 2 {
		t.Fatalf("%+v", r)
	}
	for n, c := range r.Chains {
		want := audit.Chain{
			Node: []string{"node-1", "node-2"}[n], Boot: []string{"b1", "b2"}[n], Lines: 7, First: 1, Last: 7,
			FirstTime: at, LastTime: at, Ended: true, Problems: []audit.Problem{},
		}
		if !reflect.DeepEqual(*c, want) {
			t.Errorf("%+v, want %+v", *c, want)
		}
	}
	if r := verify(t, strings.Join(one[:4], "\n")); !r.Whole() || r.Chains[0].Ended {
		t.Errorf("cut off: %+v", r.Chains[0])
	}
}

// Whatever byte of a line is changed, to whatever, it is found.
func TestEveryChangedByteIsFound(t *testing.T) {
	lines := chain(t, "node-1", "b1", 3)
	for i := range lines[2] {
		for _, other := range []byte{lines[2][i] ^ 1, lines[2][i] ^ 0x20, '\n', '0', '"'} {
			if other == lines[2][i] {
				continue
			}
			changed := []byte(lines[2])
			changed[i] = other
			all := slices.Clone(lines)
			all[2] = string(changed)
			if verify(t, strings.Join(all, "\n")+"\n").Whole() {
				t.Fatalf("not found: %s", changed)
			}
		}
	}
}

func TestProblemsAreNamed(t *testing.T) {
	lines := chain(t, "node-1", "b1", 4) // 1 begin, 2-5 events, 6 end
	changed := strings.Replace(lines[2], "a.b.1", "a.b.7", 1)
	for name, c := range map[string]struct {
		lines []string
		want  []audit.Problem
	}{
		"removed":            {[]string{lines[0], lines[3], lines[4], lines[5]}, []audit.Problem{{Kind: audit.Missing, From: 2, To: 3}}},
		"without its head":   {lines[2:], []audit.Problem{{Kind: audit.Missing, From: 1, To: 2}}},
		"altered":            {[]string{lines[0], lines[1], changed, lines[3], lines[4], lines[5]}, []audit.Problem{{Kind: audit.Altered, From: 3, To: 4}}},
		"swapped":            {[]string{lines[0], lines[1], lines[3], lines[2], lines[4], lines[5]}, []audit.Problem{{Kind: audit.OutOfOrder, From: 3, To: 3}}},
		"swapped, altered":   {[]string{lines[0], lines[1], lines[3], changed, lines[4], lines[5]}, []audit.Problem{{Kind: audit.OutOfOrder, From: 3, To: 3}, {Kind: audit.Altered, From: 3, To: 4}}},
		"twice":              {append(slices.Clone(lines), lines[2]), []audit.Problem{{Kind: audit.Duplicate, From: 3, To: 3}}},
		"in the wrong order": {append(slices.Clone(lines[3:]), lines[:3]...), []audit.Problem{{Kind: audit.OutOfOrder, From: 1, To: 1}, {Kind: audit.OutOfOrder, From: 2, To: 2}, {Kind: audit.OutOfOrder, From: 3, To: 3}}},
	} {
		r := verify(t, strings.Join(c.lines, "\n")+"\n")
		if r.Whole() || len(r.Chains) != 1 || !slices.Equal(r.Chains[0].Problems, c.want) {
			t.Errorf("%s: %+v, want %+v", name, r.Chains[0].Problems, c.want)
		}
	}
	for name, line := range map[string]string{
		"half a line": lines[2][:40], "two lines in one": lines[2] + lines[3], "no sequence": `{"chain":{"node":"n","boot":"b"}}`,
		"a line that is too long": lines[2][:40] + strings.Repeat("x", 1<<20),
	} {
		r := verify(t, lines[0]+"\n"+lines[1]+"\n"+line+"\n"+lines[2]+"\n"+strings.Join(lines[3:], "\n"))
		if want := []audit.Unreadable{{File: "log0", Line: 3}}; r.Whole() || !slices.Equal(r.Unreadable, want) || len(r.Chains[0].Problems) != 0 {
			t.Errorf("%s: %+v, %+v", name, r.Unreadable, r.Chains[0].Problems)
		}
	}
}

// Of many problems the first are listed, the others counted.
func TestManyProblemsAreCounted(t *testing.T) {
	var left []string
	for n, line := range chain(t, "node-1", "b1", 5000) {
		if n%2 == 0 {
			left = append(left, line)
		}
	}
	c := verify(t, strings.Join(left, "\n")).Chains[0]
	if len(c.Problems) != 1000 || len(c.Problems)+int(c.More) != 2500 || c.Problems[0] != (audit.Problem{Kind: audit.Missing, From: 2, To: 2}) {
		t.Errorf("%d and %d problems, first %+v", len(c.Problems), c.More, c.Problems[0])
	}
}

// failing writes a part of what it is given when it is told to fail.
type failing struct {
	bytes.Buffer
	fail bool
	part int
}

var errFull = errors.New("no space left on device")

func (f *failing) Write(p []byte) (int, error) {
	if !f.fail {
		return f.Buffer.Write(p)
	}
	n, _ := f.Buffer.Write(p[:min(f.part, len(p))])
	return n, errFull
}

// What could not be written is left out, told apart from what was removed, and
// takes nothing else with it.
func TestLostLinesAreTold(t *testing.T) {
	for _, part := range []int{0, 40} {
		w := &failing{part: part}
		log := audit.NewLog(w, "node-1", "b1", func() time.Time { return at })
		for n, want := range []error{nil, nil, errFull, errFull, nil, nil} {
			w.fail = want != nil
			if err := log.Record(audit.Event{Action: fmt.Sprint(n)}); !errors.Is(err, want) {
				t.Fatalf("event %d: %v", n, err)
			}
		}
		r := verify(t, w.String())
		if want := []audit.Problem{{Kind: audit.Lost, From: 3, To: 4}}; !slices.Equal(r.Chains[0].Problems, want) || r.Chains[0].Lines != 4 {
			t.Errorf("%d bytes of it are there: %+v\n%s", part, r.Chains[0], w.String())
		}
	}
}

// FuzzVerify reads anything.
func FuzzVerify(f *testing.F) {
	f.Add([]byte(`{"chain":{"node":"n","boot":"b","sequence":1,"previous":"","mark":"begin"},"eventTime":"2026-01-02T03:04:05.00+0000"}` + "\n"))
	f.Add([]byte(`{"chain":{"node":"n","boot":"b","sequence":18446744073709551614}}` + "\n" + `{"chain":{"node":"n","boot":"b","sequence":3}}`))
	f.Fuzz(func(_ *testing.T, log []byte) {
		var v audit.Verifier
		_ = v.Read("log", bytes.NewReader(log)) // a buffer has no errors
		v.Report()
	})
}

func BenchmarkLine(b *testing.B) {
	log := audit.NewLog(io.Discard, "node-1", "0b6f5f0e-6f0c-4a3d-8a4b-9d2b6a1c7e55", time.Now)
	crn := "crn:v1:bluemix:public:vmware-solutions:us-south:a/0123456789abcdef0123456789abcdef:6f1cf5a8-2f5b-4a0e-9a5e-0d8a8d1b2c3d:"
	e := audit.Event{
		EventTime: audit.Time(at), Action: "vmware-solutions.kmip-key.read", Outcome: audit.Success, Severity: audit.Normal, DataEvent: true,
		SaveServiceCopy: true, CorrelationID: "0b6f5f0e-6f0c-4a3d-8a4b-9d2b6a1c7e55", LogSourceCRN: crn + ":",
		Message: "VMware Solutions: read kmip-key 0198f3c2-5a7e-7c11-9d7e-0d8a8d1b2c3d", Observer: audit.ActivityTracker,
		Initiator: audit.Initiator{
			ID: "CertificateID-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", Name: "vcenter-1",
			Host: audit.Host{Address: "192.0.2.17", AddressType: "IPv4"},
		},
		Target:       audit.Target{ID: crn + "kmip-key:0198f3c2-5a7e-7c11-9d7e-0d8a8d1b2c3d", TypeURI: "vmware-solutions/kmip-key"},
		Reason:       audit.Reason{ReasonCode: 200, ReasonType: "OK"},
		RequestData:  map[string]any{"operation": "Get", "certificateId": "2b3c4d5e-6f70-4812-9a3b-4c5d6e7f8091"},
		ResponseData: map[string]any{},
	}
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := log.Record(e); err != nil {
				b.Fatal(err)
			}
		}
	})
}
