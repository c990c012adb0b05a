//go:build linux

package faults

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// report is what the suite found out.
type report struct {
	rows        []row
	violations  []string // what failed
	selfCheck   []string // what it reported of what was broken on purpose
	propagation []propagation
	rolling     *row
	static      []static
	skipped     []string
}

// row is a line of the table of faults.
type row struct {
	fault    string
	lasted   time.Duration
	recovery time.Duration // from the end of the fault until every client works everywhere
	summary
}

// columns of the table of faults.
var columns = []string{"fault", "lasted", "requests", "failed", "unserved", "gap Get", "gap Create", "gap REST", "recovery", "REST changes", "served late", "lost", "foreign"}

func (r row) cells() []string {
	return []string{
		r.fault, seconds(r.lasted), fmt.Sprint(r.Requests), fmt.Sprint(r.Failed), fmt.Sprint(r.Unserved),
		seconds(r.gap("Get")), seconds(r.gap("Create")), seconds(r.gap("REST")), seconds(r.recovery),
		fmt.Sprint(r.Changes), milliseconds(r.Late), fmt.Sprint(r.Lost), fmt.Sprint(r.Foreign),
	}
}

func seconds(d time.Duration) string      { return fmt.Sprintf("%.1f s", d.Seconds()) }
func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", max(0, d.Milliseconds())) }

// print writes the tables for a terminal.
func (r *report) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	line := func(cells ...string) { fmt.Fprintln(t, strings.Join(cells, "\t")) }
	line(columns...)
	for _, row := range r.rows {
		line(row.cells()...)
	}
	if r.rolling != nil {
		line(r.rolling.cells()...)
	}
	t.Flush()
	for _, p := range r.propagation {
		fmt.Fprintln(w, p)
	}
	for _, s := range r.static {
		fmt.Fprintln(w, s)
	}
	for _, s := range r.skipped {
		fmt.Fprintln(w, "not tried, as it takes root:", s)
	}
	for _, s := range r.selfCheck {
		fmt.Fprintln(w, "self-check:", s)
	}
}

// write writes docs/reliability.md.
func (r *report) write(name string) error {
	var out bytes.Buffer
	table := func(head []string, rows [][]string) {
		fmt.Fprintf(&out, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
		for _, cells := range rows {
			fmt.Fprintf(&out, "| %s |\n", strings.Join(cells, " | "))
		}
		fmt.Fprintln(&out)
	}
	out.WriteString(introduction)
	fmt.Fprintf(&out, "The figures below are of one run on a machine with %d cores (%s, Linux, %s), on %s, with everything on it: three nodes, two\ncontrol planes, two PostgreSQL servers, the emulator and all clients.\n\n",
		runtime.NumCPU(), processor(), runtime.Version(), time.Now().UTC().Format(time.DateOnly))
	if testing.Short() {
		out.WriteString("It was the short form: few of the faults, and few changes.\n\n")
	}
	out.WriteString(faultsText)
	if len(r.violations) > 0 {
		out.WriteString("**In this run something that was promised did not hold:**\n\n")
		for _, v := range r.violations {
			fmt.Fprintf(&out, "- %s\n", v)
		}
		out.WriteString("\n")
	}
	rows := make([][]string, 0, len(r.rows))
	for _, row := range r.rows {
		rows = append(rows, row.cells())
	}
	table(columns, rows)
	var errors [][]string
	for _, row := range r.rows {
		if row.Failed > 0 {
			errors = append(errors, []string{row.fault, row.errorsByKind()})
		}
	}
	out.WriteString("What the failed requests were answered:\n\n")
	table([]string{"fault", "requests"}, errors)
	for _, s := range r.skipped {
		fmt.Fprintf(&out, "Not tried in this run, as it takes root: %s.\n\n", s)
	}
	if len(r.selfCheck) > 0 {
		out.WriteString(selfCheckText)
		for _, s := range r.selfCheck {
			fmt.Fprintf(&out, "- %s\n", s)
		}
		out.WriteString("\n")
	}
	if len(r.propagation) > 0 {
		out.WriteString(propagationText)
		var rows [][]string
		for _, p := range r.propagation {
			rows = append(rows, p.cells())
		}
		table([]string{"when", "changes", "p50", "p99", "longest"}, rows)
	}
	if r.rolling != nil {
		fmt.Fprintf(&out, rollingText, r.rolling.Requests, r.rolling.Unserved, r.rolling.Failed)
	}
	if len(r.static) > 0 {
		out.WriteString(staticText)
		var rows [][]string
		for _, s := range r.static {
			rows = append(rows, s.cells())
		}
		table([]string{"what is away", "Get and State asked", "answered", "longest"}, rows)
	}
	return os.WriteFile(name, append(bytes.TrimSpace(out.Bytes()), '\n'), 0o644)
}

// processor names this machine's.
func processor() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer file.Close()
	for s := bufio.NewScanner(file); s.Scan(); {
		if name, found := strings.CutPrefix(s.Text(), "model name"); found {
			return strings.Trim(name, "\t :")
		}
	}
	return runtime.GOARCH
}

// percentile returns one of sorted durations: the smallest that so many percent
// do not exceed.
func percentile(sorted []time.Duration, percent float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, int(math.Ceil(percent/100*float64(len(sorted))))-1)]
}

// propagation is how long changes took from the answer to a node.
type propagation struct {
	when    string
	changes int
	times   []time.Duration // one for each change and node
}

func (p propagation) cells() []string {
	slices.Sort(p.times)
	return []string{p.when, fmt.Sprint(p.changes), milliseconds(percentile(p.times, 50)), milliseconds(percentile(p.times, 99)), milliseconds(percentile(p.times, 100))}
}

func (p propagation) String() string {
	c := p.cells()
	return fmt.Sprintf("propagation, %s: %s changes, p50 %s, p99 %s, longest %s", c[0], c[1], c[2], c[3], c[4])
}

// static is what existing keys' clients saw while something was away.
type static struct {
	away            string
	asked, answered int
	longest         time.Duration
}

func (s static) cells() []string {
	return []string{s.away, fmt.Sprint(s.asked), fmt.Sprint(s.answered), milliseconds(s.longest)}
}

func (s static) String() string {
	return fmt.Sprintf("%s away: %d of %d Get and State answered, longest %s", s.away, s.answered, s.asked, milliseconds(s.longest))
}

const introduction = `<!-- Written by the fault suite (make faults); do not edit. -->
# Reliability, as measured

` + "`e2e/faults`" + ` runs a whole cell, breaks one thing after the other under load, and checks after each fault:

- every key whose Create was answered can be read on every node, byte for byte;
- no key of one tenant was given to another, which another client asks for all the time;
- no change that the REST API acknowledged is missing, at either control plane and on every node;
- no request with a removed certificate succeeded more than one second after the REST answer, on nodes
  that could hear of it; where a fault kept a node from hearing of it, the second begins with its end;
- everything works again within a minute without a human.

The cell: three nodes, two control planes, PostgreSQL with a synchronous standby, the emulator with its
knobs, two tenants in two accounts, one on Key Protect at the shared endpoints, one on HPCS under a service
authorization at an endpoint of its own. Every process is started again 200 ms after it died, as systemd
does. Nodes and control planes know both PostgreSQL servers:
` + "`postgres://…@host-1,host-2/kmip?target_session_attrs=read-write`" + `; the suite promotes the standby as an
operator's software does, and lets commits wait for a new standby once it follows. Partitions and delays are
made by TCP proxies between each pair of processes, which hold, reset or delay; clocks that are wrong by a build
tag that reads an offset from a file, and processes that start again with it.

## How to run it

` + "```sh" + `
make faults                              # everything; writes this page
make faults-random SEED=1 DURATION=1h    # faults and pairs of faults in random order
go test -short ./e2e/faults              # the short form that make test runs
` + "```" + `

It takes Linux and a PostgreSQL server; full disks are tried by root alone.

`

const faultsText = `## Faults

For each tenant two clients make keys and read each on another node, two read keys of any age, one asks for
the other tenant's keys, and an administrator renames the instance and adds and removes certificates; each KMIP
client tries node after node, and waits five seconds for an answer. *Failed* are requests that one node
did not carry out, *unserved* operations that no node did. The gaps are the longest times of a tenant between
two successes, from before the fault until everything works again. *Served late* is how long after it could know
better a node has served a removed certificate at most; 1000 ms are allowed. *Lost* counts keys and settings, on any node or
control plane.

A Create or change that is not answered may have happened; a client that tries again makes another key.
After an older backup was restored, changes over REST that are younger than it are gone by nature, and
customers have to make them again: the suite wants those and only those to be gone. Keys younger than the
backup are not lost: their rows come back from the key manager.

`

const selfCheckText = `## The suite finds what is lost

After the last fault one standard key is deleted in the key manager and two rows of the ledger
exchange their standard keys. The same verification has to report these three keys on every node and nothing
else. It reported:

`

const propagationText = `## Propagation of configuration

From the REST answer to the first request that a node accepts with a new certificate, refuses with a removed
one, and likewise for a tenant that is suspended and let in again; on three nodes, the slowest included. Nodes
are asked every 10 ms.

`

const rollingText = `## Rolling restart

Each node in turn was told to end (SIGTERM) and started again, under the load above: %d requests, %d operations
that no node carried out, %d requests that were repeated on another node. On each node a request was in flight when the node was
told to end: it has to be answered.

`

const staticText = `## Static stability

With control planes, PostgreSQL, or both away, and one node restarted meanwhile, existing keys were asked
for on every node: Get, and the attribute State.

`
