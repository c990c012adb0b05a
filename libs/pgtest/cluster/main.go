// Command cluster runs a command with a private PostgreSQL beside it, so that
// all tests of a run share one server:
//
//	go run ./libs/pgtest/cluster -- go test ./...
//
// It ends with the command's exit code. Without PostgreSQL on this machine it
// runs the command alone: the tests themselves say what is missing.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/pgcluster"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
)

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: cluster -- command [argument]...")
		os.Exit(2)
	}
	code, err := run(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
	}
	os.Exit(code)
}

// run returns the exit code of the command, and 1 for troubles of its own.
func run(args []string) (int, error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)

	environment := os.Environ()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := pgcluster.Start(ctx, pgcluster.Config{})
	switch {
	case err == nil:
		environment = append(environment, pgtest.Variable+"="+c.URL("postgres", "postgres"))
	case !errors.Is(err, pgcluster.ErrNotInstalled):
		return 1, err
	}
	code, err := command(args, environment, signals)
	if c == nil {
		return code, err
	}
	ctx, cancel = context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return code, errors.Join(err, c.Stop(ctx))
}

// command runs to the end and passes signals on.
func command(args, environment []string, signals <-chan os.Signal) (int, error) {
	cmd := exec.Command(args[0], args[1:]...) //nolint:gosec,noctx // the user's own command; it ends by their signals
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environment, os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s)
		case err := <-ended:
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				return cmd.ProcessState.ExitCode(), err
			}
			if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
				return 128 + int(status.Signal()), nil
			}
			return exit.ExitCode(), nil
		}
	}
}
