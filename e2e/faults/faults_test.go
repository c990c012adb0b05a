//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fault is one way to break a cell.
type fault struct {
	name  string
	short bool // it is part of the short form
	// long is how long it lasts.
	long time.Duration
	// uninformed are nodes that can't hear of changes while it lasts.
	uninformed []int
	// inject breaks something and returns what heals it, which is what happens
	// without a human: a process that starts again, a network that works again.
	inject func(ctx context.Context, tr *traffic) (heal func(ctx context.Context) error, err error)
	// restore makes the cell whole for the next fault, after it was verified.
	restore func(ctx context.Context, tr *traffic) error
}

var (
	allNodes = []int{0, 1, 2}
	byItself = func(context.Context) error { return nil }
)

// kill ends a process by SIGKILL; it is started again.
func kill(which func(c *cell) *process) func(context.Context, *traffic) (func(context.Context) error, error) {
	return func(_ context.Context, tr *traffic) (func(context.Context) error, error) {
		p := which(tr.cell)
		before := p.started()
		p.signal(syscall.SIGKILL)
		return func(ctx context.Context) error {
			return await(ctx, time.Minute, func(context.Context) error {
				if p.started() == before {
					return errors.New(p.name + " is not started again")
				}
				return nil
			})
		}, nil
	}
}

// stop freezes a process.
func stop(which func(c *cell) *process) func(context.Context, *traffic) (func(context.Context) error, error) {
	return func(_ context.Context, tr *traffic) (func(context.Context) error, error) {
		p := which(tr.cell)
		p.signal(syscall.SIGSTOP)
		return func(context.Context) error { p.signal(syscall.SIGCONT); return nil }, nil
	}
}

// breakLinks does the same to several links.
func breakLinks(m mode, delay time.Duration, which func(c *cell) []*link) func(context.Context, *traffic) (func(context.Context) error, error) {
	return func(_ context.Context, tr *traffic) (func(context.Context) error, error) {
		all := which(tr.cell)
		for _, l := range all {
			l.set(m, delay)
		}
		return func(context.Context) error {
			for _, l := range all {
				l.set(pass, 0)
			}
			return nil
		}, nil
	}
}

// turn sets a knob of the emulator.
func turn(knob string, members map[string]any) func(context.Context, *traffic) (func(context.Context) error, error) {
	return func(ctx context.Context, tr *traffic) (func(context.Context) error, error) {
		return func(ctx context.Context) error { return tr.knob(ctx, knob) }, tr.knob(ctx, knob, keyManagers(members)...)
	}
}

func nodeN(n int) func(c *cell) *process { return func(c *cell) *process { return c.nodes[n].process } }
func controlN(n int) func(c *cell) *process {
	return func(c *cell) *process { return c.controls[n].process }
}

// all are the faults, each on its own.
var all = []fault{
	{name: "kill -9 of a node", short: true, long: 2 * time.Second, uninformed: []int{0}, inject: kill(nodeN(0))},
	{name: "kill -9 of a control plane", short: true, long: 2 * time.Second, inject: kill(controlN(0))},
	{
		name: "fail-over to the standby", short: true, uninformed: allNodes,
		inject: func(ctx context.Context, tr *traffic) (func(context.Context) error, error) {
			return byItself, tr.database.failOver(ctx)
		},
		restore: func(ctx context.Context, tr *traffic) error { return tr.database.rebuild(ctx) },
	},
	{name: "key manager hangs", short: true, long: 12 * time.Second, inject: turn("hangs", nil)},
	{
		name: "partition between a node and PostgreSQL", short: true, long: 8 * time.Second, uninformed: []int{1},
		inject: breakLinks(hold, 0, func(c *cell) []*link { return c.nodes[1].database[:] }),
	},
	{
		name: "key manager lies: done, then answered 503", short: true, long: 5 * time.Second,
		inject: turn("lost-answers", map[string]any{"status": 503, "rate": 0.5}),
	},
}

// recoveryTime is how long everything may take to work again by itself.
const recoveryTime = 60 * time.Second

// row is a line of the table.
type row struct {
	fault    string
	lasted   time.Duration
	recovery time.Duration // from the end of the fault until every client works everywhere
	summary
}

// try injects a fault under load, heals it, waits until all clients work again,
// and verifies what was promised.
func (tr *traffic) try(t *testing.T, f fault) row {
	t.Helper()
	ctx := t.Context()
	tr.begin()
	tr.awaitWatchers(t, "before the fault", 3)
	since := make([]int, len(tr.tenants))
	for n, x := range tr.tenants {
		since[n] = len(x.keys.since(0))
	}
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
	tr.awaitWatchers(t, "after the fault", 3)
	r := row{fault: f.name, lasted: healed.Sub(began), recovery: time.Since(healed)}
	found := tr.verify(ctx, since)
	r.summary = tr.recorder.end()
	for _, v := range found {
		t.Error(v)
		if strings.Contains(v, "key") {
			r.Lost++
		}
	}
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

func TestReliability(t *testing.T) {
	c := startCell(t)
	tr := startTraffic(t, c)
	var rows []row
	for _, f := range all {
		if testing.Short() && !f.short {
			continue
		}
		ok := t.Run(strings.ReplaceAll(f.name, " ", "_"), func(t *testing.T) { rows = append(rows, tr.try(t, f)) })
		if !ok {
			return // the next one would begin with what this one left
		}
	}
	for _, r := range rows {
		fmt.Printf("%+v\n", r)
	}
}
