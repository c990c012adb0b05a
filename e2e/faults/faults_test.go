//go:build linux

package faults

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

// injection breaks something and returns what heals it.
type injection func(ctx context.Context, tr *traffic) (heal func(ctx context.Context) error, err error)

// fault is one way to break a cell.
type fault struct {
	name  string
	short bool // it is part of the short form
	// long is how long it lasts.
	long time.Duration
	// uninformed are nodes that can't hear of changes while it lasts.
	uninformed []int
	// alone keeps it out of pairs: it needs a whole database, or decides what is
	// allowed meanwhile.
	alone bool
	// root tells that it needs file systems of a given size.
	root bool
	// inject breaks something. What heals it happens without a human: a process
	// that starts again, a network that works again.
	inject injection
	// restore makes the cell whole for the next fault, after it was verified.
	restore func(ctx context.Context, tr *traffic) error
}

// recoveryTime is how long everything may take to work again by itself.
const recoveryTime = 60 * time.Second

// try injects a fault under load, heals it, waits until all clients work again,
// and verifies what was promised.
func (tr *traffic) try(t *testing.T, f fault) row {
	t.Helper()
	ctx := t.Context()
	since := make([]int, len(tr.tenants))
	for n, x := range tr.tenants {
		since[n] = len(x.keys.since(0))
	}
	tr.begin()
	tr.awaitWatchers(t, "before the fault", 2)
	tr.cutOff(f.uninformed, true)
	began := time.Now()
	heal, err := f.inject(ctx, tr)
	if err != nil {
		t.Fatalf("injecting it: %v", err)
	}
	select {
	case <-time.After(f.long):
	case <-ctx.Done():
	}
	if err := heal(ctx); err != nil {
		t.Fatalf("healing it: %v", err)
	}
	healed := time.Now()
	tr.cutOff(f.uninformed, false)
	tr.reset()
	tr.awaitWatchers(t, "after the fault", 2)
	r := row{fault: f.name, lasted: healed.Sub(began), recovery: time.Since(healed)}
	found := tr.verify(ctx, since, recoveryTime)
	r.summary = tr.recorder.end()
	lost := make(map[string]bool)
	for _, v := range found {
		t.Error(v.text)
		if v.lost != "" {
			lost[v.lost] = true
		}
	}
	r.Lost = len(lost)
	if f.restore != nil {
		if err := f.restore(ctx, tr); err != nil {
			t.Fatalf("making the cell whole again: %v", err)
		}
	}
	return r
}

// awaitWatchers waits until each tenant has worked n times on each node, and
// each control plane has answered as often.
func (tr *traffic) awaitWatchers(t *testing.T, when string, n int) {
	t.Helper()
	late := time.After(recoveryTime)
	for {
		missing, moved := tr.allWorked(tr.watchers, n)
		if len(missing) == 0 {
			return
		}
		select {
		case <-moved:
		case <-late:
			t.Fatalf("%s: not working within %s: %s", when, recoveryTime, strings.Join(missing, ", "))
		}
	}
}

var (
	writeReport = flag.Bool("write", false, "write docs/reliability.md")
	random      = flag.Duration("random", 0, "try faults and pairs of faults in random order, for so long")
	seed        = flag.Uint64("seed", 1, "of the random order")
)

// TestReliability tries every fault, one after the other, on one cell, and
// measures how changes spread, how nodes restart and what works without the rest.
// With -short it does less; with -random it tries faults in random order instead.
func TestReliability(t *testing.T) {
	c := startCell(t)
	tr := startTraffic(t, c)
	r := new(report)
	defer func() { r.print(os.Stdout) }()
	if *random > 0 {
		r.randomly(t, tr)
		return
	}
	for _, f := range catalogue {
		if !testing.Short() || f.short {
			r.try(t, tr, f)
		}
	}
	r.part(t, "rolling restart", func(t *testing.T) { r.rolling = tr.rollingRestart(t) })
	tr.end()
	r.part(t, "every key of the run", func(t *testing.T) {
		for _, v := range tr.verify(t.Context(), make([]int, len(tr.tenants)), recoveryTime) {
			t.Error(v.text)
		}
	})
	changes := 200
	if testing.Short() {
		changes = 20
	}
	r.part(t, "propagation", func(t *testing.T) { r.measure(t, c, changes) })
	r.part(t, "static stability", func(t *testing.T) { r.staticStability(t, c) })
	r.part(t, "self-check", func(t *testing.T) { r.selfCheck = tr.selfCheck(t) })
	if *writeReport {
		must(t, r.write("../../docs/reliability.md"))
	}
}

// try runs a fault as a test of its own. After one that left the cell broken
// there is nothing more to learn.
func (r *report) try(t *testing.T, tr *traffic, f fault) {
	t.Helper()
	if f.root && !canMount() {
		r.skipped = append(r.skipped, f.name)
		return
	}
	whole := false
	passed := r.part(t, f.name, func(t *testing.T) {
		r.rows = append(r.rows, tr.try(t, f))
		whole = true
	})
	if !passed && !whole {
		t.FailNow()
	}
}

// part runs a test of its own, and notes when it fails.
func (r *report) part(t *testing.T, name string, f func(t *testing.T)) bool {
	t.Helper()
	passed := t.Run(name, f)
	if !passed {
		r.violations = append(r.violations, name)
	}
	return passed
}

// randomly tries faults, and two at a time half the time.
func (r *report) randomly(t *testing.T, tr *traffic) {
	t.Logf("seed %d", *seed)
	dice := rand.New(rand.NewPCG(*seed, 0))
	var pairable []fault
	for _, f := range catalogue {
		if !f.alone {
			pairable = append(pairable, f)
		}
	}
	for end := time.Now().Add(*random); time.Now().Before(end); {
		f := catalogue[dice.IntN(len(catalogue))]
		if dice.IntN(2) == 0 {
			i := dice.Perm(len(pairable))
			f = both(pairable[i[0]], pairable[i[1]], time.Duration(dice.Int64N(int64(usual))))
		}
		r.try(t, tr, f)
	}
}

// both is one fault, and another that begins later, while the first lasts.
func both(a, b fault, later time.Duration) fault {
	f := fault{name: a.name + "; " + b.name, long: max(a.long, b.long), root: a.root || b.root}
	f.uninformed = append(append(f.uninformed, a.uninformed...), b.uninformed...)
	f.inject = func(ctx context.Context, tr *traffic) (func(context.Context) error, error) {
		healA, err := a.inject(ctx, tr)
		if err != nil {
			return nil, err
		}
		select {
		case <-time.After(later):
		case <-ctx.Done():
		}
		healB, err := b.inject(ctx, tr)
		if err != nil {
			return nil, errors.Join(err, healA(ctx))
		}
		return func(ctx context.Context) error { return errors.Join(healA(ctx), healB(ctx)) }, nil
	}
	return f
}
