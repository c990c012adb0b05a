package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// command is a program of this project to start.
type command struct {
	path string
	args []string
	env  []string // all of its environment
	log  string   // file to which its output is added
}

// start runs the command in a process group of its own, so that Ctrl-C at the
// terminal reaches kmip-dev alone. On Linux the kernel kills it when this
// process ends, however that happens.
func (c command) start(context.Context) (process, error) {
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return process{}, err
	}
	defer func() { _ = log.Close() }()                // the program has its own descriptor
	cmd := exec.Command(c.path, c.args...)            //nolint:noctx,gosec // stop ends it, in order; a program of ours
	cmd.Env, cmd.Stdout, cmd.Stderr = c.env, log, log // nothing of the caller's environment
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)

	ended := make(chan struct{})
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // for dieWithParent: the thread ends with the program
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // what it says is in ProcessState
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		return process{}, err
	}
	return process{
		pid: cmd.Process.Pid, ended: ended,
		how:  func() string { return how(cmd.ProcessState) },
		stop: func(ctx context.Context) error { return terminate(ctx, cmd.Process, ended) },
	}, nil
}

// how says in words how a program ended.
func how(state *os.ProcessState) string {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return fmt.Sprintf("was killed by signal %d (%s)", int(status.Signal()), status.Signal())
	}
	return fmt.Sprintf("ended with status %d", state.ExitCode())
}

// terminate asks a process to end and kills it when the context ends first.
func terminate(ctx context.Context, p *os.Process, ended <-chan struct{}) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-ended
	return fmt.Errorf("process %d did not end when asked to and was killed", p.Pid)
}

// probe asks a health address until it answers 200.
func probe(url string) func(context.Context) error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil) //nolint:gosec // an address of this stack
		if err != nil {
			return err
		}
		resp, err := client.Do(req) //nolint:gosec // an address of this stack
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1024))
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s answers %d: %s", url, resp.StatusCode, strings.TrimSpace(string(body)))
		}
		return err
	}
}
