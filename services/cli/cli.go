// Package cli is kmipctl, the command line of those who operate KMIP for VMware.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// The exit codes of kmipctl, beside 0.
const (
	exitFound = 1 // the command was carried out, and what it looked at is not in order
	exitError = 2 // the command could not be carried out
)

// errFound ends a command that has told on its output what is not in order.
var errFound = errors.New("not in order")

// Run carries out one command and returns the exit code: 0, 1 if what the
// command looked at is not in order, 2 if it could not be carried out.
func Run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	switch err := root.ExecuteContext(ctx); {
	case err == nil:
		return 0
	case errors.Is(err, errFound):
		return exitFound
	default:
		fmt.Fprintln(errs, "kmipctl:", err)
		return exitError
	}
}

// newRoot returns the whole tree of commands.
func newRoot() *cobra.Command {
	root := group("kmipctl", "Operate KMIP for VMware", newAdmin(), newAudit())
	root.Version = version()
	root.SilenceUsage, root.SilenceErrors = true, true
	return root
}

// group returns a command that only holds others, and refuses what it does not
// hold.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(commands...)
	return c
}

// version names the build.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
