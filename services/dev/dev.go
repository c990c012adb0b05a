// Package dev is what `make run` does: it starts a whole cell on this machine,
// every part a process of its own on real PostgreSQL, does what a customer does
// to get a KMIP for VMware instance, plays vCenter against both nodes, and
// proves where the keys lie and what opens them. Then it keeps the cell running
// until Ctrl-C. Everything that the cell keeps lies in its run folder.
package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

// Config says which stack to run.
type Config struct {
	RunDir   string // the run folder, made if there is none
	BasePort int    // the first of the hundred ports
	Programs string // folder with kmip-control, kmip-node and kmip-emulator
	// CheckInterval is the control plane's KMIP_CHECK_INTERVAL; 0: its default.
	CheckInterval time.Duration
	Out           io.Writer
}

// The patience with what other programs do.
const (
	remainsWithin = 10 * time.Second // of a killed stack until it is gone
	trustWithin   = 10 * time.Second // of a new certificate until both nodes know it
	playWithin    = time.Minute      // of the play and the proof
)

// stack is one running cell.
type stack struct {
	Config
	folder      folder
	ports       ports
	cast        cast
	server      serverFiles
	postgres    *postgres
	environment *environment
	supervisor  *supervisor
}

// Run starts the stack, plays and proves, and keeps it running until ctx ends.
// It returns nil only if the proof succeeded and everything stopped cleanly.
// Its error is a sentence for the person at the keyboard; the log of a program
// that failed may follow it.
func Run(ctx context.Context, config Config) error {
	began := time.Now()
	config.Out = &lines{out: config.Out}
	s := &stack{Config: config}
	var err error
	if s.ports, err = portsFrom(config.BasePort); err != nil {
		return err
	}
	if err := InstallPostgreSQL(config.Out); err != nil {
		return err
	}
	if s.folder, err = openFolder(config.RunDir); err != nil {
		return plain(err, config.RunDir)
	}
	held, err := s.folder.lock()
	if err != nil {
		return plain(err, config.RunDir)
	}
	s.environment = newEnvironment(s.folder)
	s.supervisor = newSupervisor(config.Out, func(program string, pid int) {
		if err := s.environment.started(program, pid); err != nil {
			s.say("%s could not be written: %v", stackEnv, plain(err, config.RunDir))
		}
	})
	err = s.run(ctx, began, held.unclean)
	// Nobody may find the file of a stack that stops.
	err = errors.Join(err, s.environment.remove(), s.supervisor.stop(), held.release())
	if err != nil {
		return plain(err, config.RunDir)
	}
	s.say("Everything is stopped; the state stays in %s.", string(s.folder))
	return nil
}

func (s *stack) run(ctx context.Context, began time.Time, unclean bool) error {
	tenants, err := s.raise(ctx, unclean)
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted before the stack was ready: everything is stopped")
	}
	if err != nil {
		return err
	}
	if err := s.environment.publish(s.variables(tenants)); err != nil {
		return err
	}
	s.announce(time.Since(began), tenants)
	select {
	case <-ctx.Done():
		s.say("\nStopping.")
		return nil
	case err := <-s.supervisor.failed:
		return err
	}
}

// raise brings the stack up to the point where everything is proved.
func (s *stack) raise(ctx context.Context, unclean bool) (tenants [2]*tenantSetup, err error) {
	if err := s.prepare(ctx, unclean); err != nil {
		return tenants, err
	}
	s.say("Starting a cell in %s, on ports %d to %d.", string(s.folder), s.BasePort, s.BasePort+99)
	if err := s.startAll(ctx); err != nil {
		return tenants, err
	}
	for n, who := range s.cast.customers {
		s.say("\nTenant %d, on %s", who.number, who.product())
		if tenants[n], err = provision(ctx, s.folder, s.ports, s.server.ca, who, s.row); err != nil {
			return tenants, fmt.Errorf("setting up the instance of customer %d: %w", who.number, err)
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, playWithin, fmt.Errorf("the play took longer than %s", playWithin))
	defer cancel()
	var keys [2]kmip.ObjectID
	for n, t := range tenants {
		if t.suspended {
			s.say("\nTenant %d is suspended: its clients are refused. Nothing more is played.", t.number)
			return tenants, nil
		}
		if keys[n], err = s.playAndProve(ctx, t); err != nil {
			return tenants, fmt.Errorf("the main job does not work for tenant %d: %w", t.number, err)
		}
	}
	if err := proveApart(ctx, s.Out, tenants, keys); err != nil {
		return tenants, fmt.Errorf("the tenants are not kept apart: %w", err)
	}
	return tenants, nil
}

// prepare checks what can be checked beforehand and makes the files.
func (s *stack) prepare(ctx context.Context, unclean bool) error {
	if err := s.environment.remove(); err != nil {
		return err
	}
	patience := time.Duration(0)
	if unclean {
		patience = remainsWithin
	}
	if err := s.ports.checkFree(ctx, patience); err != nil {
		return err
	}
	for _, name := range []string{programFile(programEmulator), programFile(programControl), programFile(programNode1)} {
		if _, err := os.Stat(filepath.Join(s.Programs, name)); err != nil {
			return fmt.Errorf("the program %s is not in %s: build it with `make build`", name, s.Programs)
		}
	}
	if err := s.folder.makeFolders(); err != nil {
		return err
	}
	var err error
	if s.cast, err = castFrom(s.folder); err != nil {
		return err
	}
	if s.server, err = serverCertificates(s.folder, time.Now()); err != nil {
		return err
	}
	if err := s.makeSealingKey(); err != nil {
		return err
	}
	if err := writeFile(s.folder.path(serviceKey), []byte(s.cast.serviceAPIKey+"\n"), 0o600); err != nil {
		return err
	}
	s.postgres, err = newPostgres(s.folder, s.ports.postgres)
	return err
}

// playAndProve returns a key that it has left.
func (s *stack) playAndProve(ctx context.Context, t *tenantSetup) (kmip.ObjectID, error) {
	s.say("\nTenant %d: vCenter at %s", t.number, t.reached())
	scene := &stage{out: s.Out, servers: t.servers}
	began := time.Now()
	if err := scene.awaitTrust(ctx, trustWithin); err != nil {
		return "", err
	}
	s.row("known to both nodes", "in "+seconds(time.Since(began)))
	keys, _, err := t.service.list(ctx)
	if err != nil {
		return "", err
	}
	if err := scene.earlier(ctx, keys); err != nil {
		return "", err
	}
	got, err := scene.play(ctx)
	if err != nil {
		return "", err
	}
	defer got.wipe()
	return got.vm.ID, (&proof{
		out: s.Out, nodes: [2]string{t.servers[0].Address, t.servers[1].Address}, tenant: t, dump: s.postgres.dump,
		logs: []string{s.folder.path(logsDir), filepath.Join(s.postgres.latest().Folder(), "server.log")},
	}).run(ctx, got)
}

// announce tells what is up and where.
func (s *stack) announce(took time.Duration, tenants [2]*tenantSetup) {
	s.say("\nReady in %s. Ctrl-C stops everything.", seconds(took))
	for _, t := range tenants {
		s.row(fmt.Sprintf("KMIP, tenant %d", t.number), t.servers[0].Address+" and "+t.servers[1].Address)
	}
	for _, line := range [][2]string{
		{"API", baseURL(s.ports.api)},
		{"Key Protect", baseURL(s.ports.keyProtect)},
		{"HPCS", baseURL(s.ports.hpcs)},
		{"IAM", baseURL(s.ports.iam)},
		{"for scripts", "source " + s.folder.path(stackEnv)},
		{"logs", s.folder.path(logsDir)},
	} {
		s.row(line[0], line[1])
	}
}

func (s *stack) say(format string, args ...any) { fmt.Fprintf(s.Out, format+"\n", args...) }

func (s *stack) row(what, value string) { s.say("  %-22s %s", what, value) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// lines makes a writer safe for concurrent use; each write is whole lines.
type lines struct {
	mu  sync.Mutex
	out io.Writer
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

// diskFull recognizes ENOSPC also where another program tells of it.
func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || strings.Contains(strings.ToLower(err.Error()), "no space left on device")
}

// plain turns errors that every part can meet into a sentence with a remedy.
func plain(err error, runDir string) error {
	if diskFull(err) {
		return fmt.Errorf("the disk with %s is full: free some space and start again", runDir)
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("this user may not do that: choose a folder of your own with RUN_DIR=<folder> (%w)", err)
	}
	return err
}
