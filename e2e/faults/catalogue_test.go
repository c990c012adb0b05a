//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// usual is how long most faults last.
const usual = 5 * time.Second

var allNodes = []int{0, 1, 2}

// byItself heals what is over already.
func byItself(context.Context) error { return nil }

// catalogue has the faults, each on its own.
var catalogue = []fault{
	{name: "a node is killed", short: true, long: 2 * time.Second, uninformed: []int{0}, inject: kill(nodeN(0))},
	{name: "all nodes are killed", long: 2 * time.Second, uninformed: allNodes, inject: kill(nodeN(0), nodeN(1), nodeN(2))},
	{name: "a control plane is killed", short: true, long: 2 * time.Second, inject: kill(controlN(0))},
	{name: "both control planes are killed", long: 2 * time.Second, inject: kill(controlN(0), controlN(1))},
	{name: "IBM Cloud (the emulator) is killed", long: 2 * time.Second, inject: kill(emulatorOf)},
	{name: "a node is stopped", long: usual, uninformed: []int{1}, inject: stop(nodeN(1))},
	{name: "a control plane is stopped", long: usual, inject: stop(controlN(1))},
	{name: "IBM Cloud (the emulator) is stopped", long: usual, inject: stop(emulatorOf)},

	{name: "PostgreSQL is killed", long: 2 * time.Second, uninformed: allNodes, alone: true, inject: signalPrimary(syscall.SIGKILL)},
	{name: "PostgreSQL restarts", long: 2 * time.Second, uninformed: allNodes, alone: true, inject: signalPrimary(syscall.SIGINT)},
	{name: "PostgreSQL is stopped", long: usual, uninformed: allNodes, alone: true, inject: stopServer(false)},
	{name: "the standby is killed", long: 2 * time.Second, alone: true, inject: killStandby, restore: whole},
	{name: "the standby is stopped", long: usual, alone: true, inject: stopServer(true), restore: whole},
	{name: "fail-over to the standby", short: true, uninformed: allNodes, alone: true, inject: failOver, restore: rebuild},
	{name: "fail-over from a primary that hangs", long: 3 * time.Second, uninformed: allNodes, alone: true, inject: failOverFromHung, restore: rebuild},
	{name: "fail-over after the standby was cut off for 15 s", uninformed: allNodes, alone: true, inject: failOverAfterPartition, restore: rebuild},
	{name: "an older backup is restored", uninformed: allNodes, alone: true, inject: restoreOlder, restore: rebuild},
	{name: "all sessions of PostgreSQL are ended, again and again", long: usual, inject: terminateSessions},
	{name: "PostgreSQL has no connection left", long: usual, uninformed: allNodes, alone: true, inject: noConnections},

	{name: "the disk of PostgreSQL is full", long: usual, uninformed: allNodes, alone: true, root: true, inject: fullDatabase, restore: whole},
	{name: "the disk of a node is full, and it restarts", long: usual, uninformed: []int{0}, root: true, inject: fullNode},
	{name: "the disk of all logs is full", long: usual, root: true, inject: full("logs")},

	{name: "partition: node, PostgreSQL", short: true, long: 8 * time.Second, uninformed: []int{1}, inject: links(hold, 0, nodeToDatabase(1))},
	{name: "partition: all nodes, PostgreSQL", long: 8 * time.Second, uninformed: allNodes, inject: links(hold, 0, nodeToDatabase(0), nodeToDatabase(1), nodeToDatabase(2))},
	{name: "reset: node, PostgreSQL", long: usual, uninformed: []int{1}, inject: links(refuse, 0, nodeToDatabase(1))},
	{name: "partition: node, key managers", long: usual, inject: links(hold, 0, nodeToKeys(0))},
	{name: "partition: node, IAM", long: 20 * time.Second, inject: links(hold, 0, func(c *cell) []*link { return []*link{c.nodes[0].iam} })},
	{name: "partition: clients, node", long: 8 * time.Second, inject: links(hold, 0, clientsToNode(2))},
	{name: "reset: clients, node", long: usual, inject: links(refuse, 0, clientsToNode(2))},
	{name: "partition: control plane, PostgreSQL", long: 8 * time.Second, inject: links(hold, 0, func(c *cell) []*link { return c.controls[0].database[:] })},
	{name: "partition: control plane, key managers and IAM", long: usual, inject: links(hold, 0, func(c *cell) []*link { return c.controls[0].all()[2:] })},
	{name: "partition: primary, standby", long: 8 * time.Second, alone: true, inject: links(hold, 0, func(c *cell) []*link { return c.database.follow[:] }), restore: whole},
	{name: "delay of 50 ms: nodes, PostgreSQL", long: usual, inject: links(pass, 50*time.Millisecond, nodeToDatabase(0), nodeToDatabase(1), nodeToDatabase(2))},
	{name: "delay of 300 ms: nodes, key managers", long: usual, inject: links(pass, 300*time.Millisecond, nodeToKeys(0), nodeToKeys(1), nodeToKeys(2))},
	{name: "delay of 300 ms: clients, nodes", long: usual, inject: links(pass, 300*time.Millisecond, clientsToNode(0), clientsToNode(1), clientsToNode(2))},

	{name: "a node's clock is an hour ahead", long: usual, uninformed: []int{0}, inject: clock("1h", nodeN(0))},
	{name: "a node's clock is an hour behind", long: tokenLife, uninformed: []int{0}, inject: clock("-1h", nodeN(0))},
	{name: "all nodes' clocks are five days ahead", long: usual, uninformed: allNodes, inject: clock("120h", nodeN(0), nodeN(1), nodeN(2))},
	{name: "a control plane's clock is an hour ahead", long: usual, inject: clock("1h", controlN(0))},
	{name: "a control plane's clock is an hour behind", long: tokenLife, inject: clock("-1h", controlN(0))},

	{name: "key managers are slow: 1 s, one in a hundred 4 s", long: 2 * usual, inject: turn("latency", map[string]any{"median_ms": 1000, "p99_ms": 4000})},
	{name: "key managers hang", short: true, long: 10 * time.Second, inject: turn("hangs", nil)},
	{name: "key managers hang when the call is done", long: 10 * time.Second, inject: turn("hangs", map[string]any{"takes_effect": true, "rate": 0.3})},
	{name: "key managers answer 500", long: usual, inject: turn("errors", nil)},
	{name: "key managers answer 500, one in three", long: usual, inject: turn("errors", map[string]any{"rate": 0.33})},
	{name: "key managers answer 429", long: usual, inject: turn("throttling", map[string]any{"retry_after": 1, "rate": 0.5})},
	{name: "key managers lie: done, and answered 503", short: true, long: usual, inject: turn("lost-answers", map[string]any{"status": 503, "rate": 0.5})},
	{name: "key managers lie: done, and the connection cut", long: usual, inject: turn("lost-answers", map[string]any{"rate": 0.5})},
	{name: "IAM is down, for less than a token lives", long: tokenLife / 3, inject: outageOfIAM},
	{name: "IAM is down, for longer", long: tokenLife + usual, inject: outageOfIAM},

	{name: "a client certificate expires", long: 8 * time.Second, alone: true, inject: expiry},
	{name: "the sealing secret is rotated", long: usual, alone: true, uninformed: allNodes, inject: rotateSealingKey},
}

func nodeN(n int) func(c *cell) *process { return func(c *cell) *process { return c.nodes[n].process } }

func controlN(n int) func(c *cell) *process {
	return func(c *cell) *process { return c.controls[n].process }
}
func emulatorOf(c *cell) *process { return c.emulator }

func nodeToDatabase(n int) func(c *cell) []*link {
	return func(c *cell) []*link { return c.nodes[n].database[:] }
}

func nodeToKeys(n int) func(c *cell) []*link {
	return func(c *cell) []*link { return []*link{c.nodes[n].kms, c.nodes[n].hpcs} }
}

func clientsToNode(n int) func(c *cell) []*link {
	return func(c *cell) []*link { return []*link{c.nodes[n].shared, c.nodes[n].own} }
}

// kill ends processes by SIGKILL; they are started again.
func kill(which ...func(c *cell) *process) injection {
	return func(_ context.Context, tr *traffic) (func(context.Context) error, error) {
		before := make([]int, len(which))
		for i, w := range which {
			before[i] = w(tr.cell).started()
			w(tr.cell).signal(syscall.SIGKILL)
		}
		return func(ctx context.Context) error {
			var errs []error
			for i, w := range which {
				errs = append(errs, w(tr.cell).startedAgain(ctx, before[i]))
			}
			return errors.Join(errs...)
		}, nil
	}
}

// stop freezes a process.
func stop(which func(c *cell) *process) injection {
	return func(_ context.Context, tr *traffic) (func(context.Context) error, error) {
		p := which(tr.cell)
		p.signal(syscall.SIGSTOP)
		return func(context.Context) error { p.signal(syscall.SIGCONT); return nil }, nil
	}
}

// links does the same to several links.
func links(m mode, delay time.Duration, which ...func(c *cell) []*link) injection {
	return func(_ context.Context, tr *traffic) (func(context.Context) error, error) {
		set := func(m mode, delay time.Duration) {
			for _, w := range which {
				for _, l := range w(tr.cell) {
					l.set(m, delay)
				}
			}
		}
		set(m, delay)
		return func(context.Context) error { set(pass, 0); return nil }, nil
	}
}

// clock starts processes again with clocks that are wrong. (While a process runs
// its intervals are measured by a clock that never jumps, Go's monotonic one.)
func clock(offset string, which ...func(c *cell) *process) injection {
	return func(ctx context.Context, tr *traffic) (func(context.Context) error, error) {
		restart := func(ctx context.Context, change func(file string) error) error {
			for _, w := range which {
				if err := change(tr.clockFile(w(tr.cell).name)); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
			}
			again, err := kill(which...)(ctx, tr)
			if err != nil {
				return err
			}
			return again(ctx)
		}
		return func(ctx context.Context) error { return restart(ctx, os.Remove) },
			restart(ctx, func(file string) error { return replaceFile(file, []byte(offset)) })
	}
}

// replaceFile gives a file another content at once.
func replaceFile(file string, content []byte) error {
	if err := os.WriteFile(file+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// turn sets a knob of the emulator for both key managers.
func turn(knob string, members map[string]any) injection {
	return func(ctx context.Context, tr *traffic) (func(context.Context) error, error) {
		return func(ctx context.Context) error { return tr.knob(ctx, knob) }, tr.knob(ctx, knob, keyManagers(members)...)
	}
}

func outageOfIAM(ctx context.Context, tr *traffic) (func(context.Context) error, error) {
	return func(ctx context.Context) error { return tr.knob(ctx, "outages") },
		tr.knob(ctx, "outages", map[string]any{"service": "iam", "status": 503})
}

// answers waits until the primary does.
func (d *database) answers(ctx context.Context) error {
	return await(ctx, time.Minute, func(ctx context.Context) error { return d.exec(ctx, "SELECT") })
}

func signalPrimary(s syscall.Signal) injection {
	return func(_ context.Context, tr *traffic) (func(context.Context) error, error) {
		primary := tr.database.servers[tr.database.primary]
		cluster, err := primary.running()
		if err != nil {
			return nil, err
		}
		if err := syscall.Kill(cluster.PID(), s); err != nil {
			return nil, err
		}
		return tr.database.answers, nil
	}
}

func stopServer(standby bool) injection {
	return func(_ context.Context, tr *traffic) (func(context.Context) error, error) {
		s := tr.database.servers[tr.database.primary]
		if standby {
			s = tr.database.servers[1-tr.database.primary]
		}
		s.signal(syscall.SIGSTOP)
		return func(ctx context.Context) error {
			s.signal(syscall.SIGCONT)
			return tr.database.answers(ctx)
		}, nil
	}
}

func killStandby(_ context.Context, tr *traffic) (func(context.Context) error, error) {
	tr.database.servers[1-tr.database.primary].signal(syscall.SIGKILL)
	return byItself, nil
}

func whole(ctx context.Context, tr *traffic) error   { return tr.database.whole(ctx) }
func rebuild(ctx context.Context, tr *traffic) error { return tr.database.rebuild(ctx) }

func failOver(ctx context.Context, tr *traffic) (func(context.Context) error, error) {
	tr.database.servers[tr.database.primary].fence()
	return byItself, tr.database.promote(ctx)
}

// failOverFromHung promotes the standby of a primary that does not answer and
// holds its connections; it is fenced in the end, as before a rejoining.
func failOverFromHung(ctx context.Context, tr *traffic) (func(context.Context) error, error) {
	old := tr.database.servers[tr.database.primary]
	old.signal(syscall.SIGSTOP)
	return func(context.Context) error { old.fence(); return nil }, tr.database.promote(ctx)
}

// failOverAfterPartition promotes a standby that has heard nothing for longer
// than any statement waits: what the primary committed meanwhile is gone, and
// must not have been acknowledged.
func failOverAfterPartition(ctx context.Context, tr *traffic) (func(context.Context) error, error) {
	const long = 15 * time.Second
	heal, err := links(hold, 0, func(c *cell) []*link { return c.database.follow[:] })(ctx, tr)
	if err != nil {
		return nil, err
	}
	var waiting sync.WaitGroup
	for _, x := range tr.tenants {
		for node := range tr.nodes {
			p := tr.provider(x)
			p.patience = 2 * long // others give up earlier
			waiting.Go(func() {
				defer p.close()
				_ = p.at(ctx, node, func(ctx context.Context, conn *client.Conn) error { // it may fail
					_, err := p.create(ctx, conn)
					return err
				})
			})
		}
	}
	select {
	case <-time.After(long):
	case <-ctx.Done():
	}
	tr.database.servers[tr.database.primary].fence()
	err = errors.Join(tr.database.promote(ctx), heal(ctx))
	return func(context.Context) error { waiting.Wait(); return nil }, err
}

// restoreOlder takes a backup, lets the customers work, and restores it. What was
// changed over REST in between is lost by nature: then that and nothing else has
// to be gone. Keys of that time come back from the key manager.
func restoreOlder(ctx context.Context, tr *traffic) (func(context.Context) error, error) {
	type state struct {
		name         map[string]bool
		certificates map[string]certificateState
	}
	before := make(map[*tenant]state)
	tr.quiet.Lock()
	for _, x := range tr.tenants {
		name, certificates := x.settings.copy()
		before[x] = state{name, certificates}
	}
	backup, err := tr.database.backUp(ctx)
	tr.quiet.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(2 * usual):
	case <-ctx.Done():
	}
	tr.quiet.Lock()
	defer tr.quiet.Unlock()
	for x, then := range before {
		_, certificates := x.settings.copy()
		for id, c := range certificates {
			if _, known := then.certificates[id]; !known {
				then.certificates[id] = certificateState{certificate: c.certificate, removed: true}
			}
		}
		x.settings.set(then.name, then.certificates)
	}
	return byItself, tr.database.restore(ctx, backup)
}

// terminateSessions ends everybody's sessions twice a second.
func terminateSessions(_ context.Context, tr *traffic) (func(context.Context) error, error) {
	ctx, cancel := context.WithCancel(context.Background())
	var ending sync.WaitGroup
	ending.Go(func() {
		for ctx.Err() == nil {
			_ = tr.database.endSessions(ctx) // the last one is called off
			<-time.After(500 * time.Millisecond)
		}
	})
	return func(context.Context) error { cancel(); ending.Wait(); return nil }, nil
}

func (d *database) endSessions(ctx context.Context) error {
	return d.exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ANY($1)", []string{nodeRole, controlRole})
}

// noConnections leaves no connection to nodes and control planes.
func noConnections(ctx context.Context, tr *traffic) (func(context.Context) error, error) {
	limit := func(ctx context.Context, n int) error {
		var errs []error
		for _, role := range []string{nodeRole, controlRole} {
			errs = append(errs, tr.database.exec(ctx, fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d", pgx.Identifier{role}.Sanitize(), n)))
		}
		return errors.Join(errs...)
	}
	return func(ctx context.Context) error { return limit(ctx, -1) }, errors.Join(limit(ctx, 0), tr.database.endSessions(ctx))
}

// fill writes into a folder until its file system is full.
func (c *cell) fill(folder string) (empty func() error, err error) {
	name := filepath.Join(folder, "filler")
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for _, size := range []int{1 << 20, 1 << 10, 1} {
		for err = nil; err == nil; {
			_, err = file.Write(make([]byte, size))
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return nil, err
	}
	return func() error { return os.Remove(name) }, nil
}

func full(name string) injection {
	return func(_ context.Context, tr *traffic) (func(context.Context) error, error) {
		empty, err := tr.fill(tr.path(name))
		return func(context.Context) error { return empty() }, err
	}
}

func fullNode(ctx context.Context, tr *traffic) (func(context.Context) error, error) {
	empty, err := tr.fill(tr.nodes[0].state)
	if err != nil {
		return nil, err
	}
	again, err := kill(nodeN(0))(ctx, tr)
	return func(ctx context.Context) error { return errors.Join(again(ctx), empty()) }, err
}

// fullDatabase fills the disk of both servers and has the primary begin new files
// of its log, so that it stops.
func fullDatabase(ctx context.Context, tr *traffic) (func(context.Context) error, error) {
	empty, err := tr.fill(tr.path("data"))
	if err != nil {
		return nil, err
	}
	for running := true; running; {
		running = tr.database.exec(ctx, "SELECT pg_switch_wal() FROM (SELECT pg_logical_emit_message(false, 'fill', 'fill')) AS written") == nil
	}
	return func(ctx context.Context) error { return errors.Join(empty(), tr.database.answers(ctx)) }, nil
}

// expiry lets a certificate of each tenant expire while it is used.
func expiry(ctx context.Context, tr *traffic) (func(context.Context) error, error) {
	ends := time.Now().Add(6 * time.Second).Truncate(time.Second)
	var using sync.WaitGroup
	for _, x := range tr.tenants {
		id := tr.addCertificate(ctx, x, 0, fmt.Sprint("expires ", ends.Unix()), ends)
		_, certificates := x.settings.copy()
		for node := range tr.nodes {
			end := make(chan time.Time, 1)
			using.Go(func() { tr.use(ctx, x, node, certificates[id].certificate, end) })
			time.AfterFunc(time.Until(ends), func() { end <- ends })
		}
	}
	return func(context.Context) error { using.Wait(); return nil }, nil
}

// rotateSealingKey puts a new key first, which seals; the old one still opens.
// API keys are given again, and the nodes start again one after the other.
func rotateSealingKey(ctx context.Context, tr *traffic) (func(context.Context) error, error) {
	old, err := os.ReadFile(tr.path("sealing-keys"))
	if err != nil {
		return nil, err
	}
	if err := replaceFile(tr.path("sealing-keys"), slices.Concat(sealingKey(), old)); err != nil {
		return nil, err
	}
	for _, x := range tr.tenants {
		if err := x.connect(ctx, tr.cell, 1); err != nil {
			return nil, err
		}
	}
	for _, n := range tr.nodes {
		before := n.started()
		n.signal(syscall.SIGTERM)
		if err := n.startedAgain(ctx, before); err != nil {
			return nil, err
		}
		if err := await(ctx, time.Minute, func(ctx context.Context) error { return ready(ctx, n.admin) }); err != nil {
			return nil, err
		}
	}
	return byItself, nil
}
