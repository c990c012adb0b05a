//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// restartPause is what a supervisor waits before it starts again what died
// (systemd, RestartSec).
const restartPause = 200 * time.Millisecond

// process is a program that is started again whenever it ends, as systemd does
// with Restart=always, until the test ends.
type process struct {
	name  string
	start func() (*exec.Cmd, error)

	mu     sync.Mutex
	pid    int
	starts int
	over   bool          // it is not started again
	halted chan struct{} // not nil: it is not started again before this is closed
	ended  chan struct{}
}

// supervise starts a process and keeps it running.
func supervise(t testing.TB, name string, start func() (*exec.Cmd, error)) *process {
	t.Helper()
	p := &process{name: name, start: start, ended: make(chan struct{})}
	first := make(chan error, 1)
	go p.keep(first)
	if err := <-first; err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	t.Cleanup(func() {
		p.mu.Lock()
		p.over = true
		p.mu.Unlock()
		p.resume()
		p.signal(syscall.SIGCONT)
		p.signal(syscall.SIGKILL)
		<-p.ended
	})
	return p
}

// keep runs on a thread of its own: the kernel kills the program when that ends.
func (p *process) keep(first chan<- error) {
	runtime.LockOSThread()
	defer close(p.ended)
	for {
		cmd, err := p.start()
		if err == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
			err = cmd.Start()
			closeOutput(cmd)
		}
		if first != nil {
			first <- err
			first = nil
		}
		if err == nil {
			p.mu.Lock()
			p.pid = cmd.Process.Pid
			p.starts++
			if p.over {
				_ = cmd.Process.Kill()
			}
			p.mu.Unlock()
			_ = cmd.Wait() // killed, as a rule
		}
		p.mu.Lock()
		p.pid = 0
		over, halted := p.over, p.halted
		p.mu.Unlock()
		if over {
			return
		}
		if halted != nil {
			<-halted
			continue
		}
		<-time.After(restartPause)
	}
}

// closeOutput closes the log, of which the program has its own descriptor.
func closeOutput(cmd *exec.Cmd) {
	if log, ok := cmd.Stdout.(*os.File); ok {
		log.Close()
	}
}

// signal sends a signal to the process if it runs.
func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid != 0 {
		_ = syscall.Kill(p.pid, s)
	}
}

// halt kills the process and keeps it away until resume.
func (p *process) halt() {
	p.mu.Lock()
	p.halted = make(chan struct{})
	p.mu.Unlock()
	p.signal(syscall.SIGKILL)
}

func (p *process) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.halted != nil {
		close(p.halted)
		p.halted = nil
	}
}

// startedAgain waits until the process has been started more often than before.
func (p *process) startedAgain(ctx context.Context, before int) error {
	return await(ctx, time.Minute, func(context.Context) error {
		if p.started() <= before {
			return errors.New(p.name + " is not started again")
		}
		return nil
	})
}

func (p *process) started() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.starts
}

// program returns how one of our programs is started, with its output added to a
// log of its own.
func program(binary, log string, env []string, args ...string) func() (*exec.Cmd, error) {
	return func() (*exec.Cmd, error) {
		out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(binary, args...)
		cmd.Env, cmd.Stdout, cmd.Stderr = env, out, out
		return cmd, nil
	}
}

// tree returns a process and all that it has started.
func tree(pid int) (pids []int) {
	pids = []int{pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // none of one that is gone
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for word := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				pids = append(pids, tree(child)...)
			}
		}
	}
	return pids
}

// freePorts returns the first of n ports in a row that nobody listens on.
func freePorts(t testing.TB, n int) int {
	t.Helper()
next:
	for range 1000 {
		first := 20000 + rand.IntN(12000-n)
		for port := first; port < first+n; port++ {
			l, err := net.Listen("tcp", address(port))
			if err != nil {
				continue next
			}
			l.Close()
		}
		return first
	}
	t.Fatal("no free ports")
	return 0
}

// ready asks a health address.
func ready(ctx context.Context, port int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address(port)+"/readyz", nil)
	if err != nil {
		return err
	}
	req.Close = true
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("port %d: not ready, %s", port, answer.Status)
	}
	return nil
}

// await polls until f returns nil, for so long.
func await(ctx context.Context, long time.Duration, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", long, err)
		}
	}
}
