// Command kmipctl is the command line of those who operate KMIP for VMware.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/kmip-for-vmware/kmip/services/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
