// Command kmip-dev runs a whole cell of KMIP for VMware on this machine, as
// `make run` does, and cleans up after it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/kmip-for-vmware/kmip/services/dev"
)

const usage = `usage: kmip-dev <command>

  run --run-dir <folder> --base-port <port>   start a cell, play vCenter against it, stay until Ctrl-C;
                                              --check-interval <duration>: key managers are checked so often
  clean --run-dir <folder>                    remove a run folder and everything that belongs to it
  install-postgresql                          install PostgreSQL if this machine has none`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kmip-dev:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	flags := flag.NewFlagSet("kmip-dev "+args[0], flag.ExitOnError)
	runDir := flags.String("run-dir", ".run", "`folder` that holds everything of a stack")
	basePort := flags.Int("base-port", 25600, "first `port` of the hundred that a stack uses")
	checkInterval := flags.Duration("check-interval", 0, "`duration` within which each key manager is checked; 0: the control plane's own")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is one argument too many\n%s", flags.Arg(0), usage)
	}
	switch args[0] {
	case "run":
		self, err := os.Executable()
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		return dev.Run(ctx, dev.Config{
			RunDir: *runDir, BasePort: *basePort, Programs: filepath.Dir(self), Out: os.Stdout, CheckInterval: *checkInterval,
		})
	case "clean":
		return dev.Clean(*runDir)
	case "install-postgresql":
		return dev.InstallPostgreSQL(os.Stdout)
	default:
		return errors.New(usage)
	}
}
