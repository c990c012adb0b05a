// Command kmip-node is a KMIP node of the data plane. Its settings are
// environment variables, see node.Config.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/caarlos0/env/v11"

	"github.com/kmip-for-vmware/kmip/libs/audit"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/services/node"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "kmip-node:\n  %s\n", strings.ReplaceAll(err.Error(), "\n", "\n  "))
		os.Exit(1)
	}
}

func run() error {
	if err := node.ForbidCoreDumps(); err != nil {
		return err
	}
	config, err := env.ParseAs[node.Config]()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	events := audit.NewLog(os.Stdout, config.Name, obs.Boot, obs.Now)
	config.Events = events.Record
	n, err := node.New(ctx, config, obs.NewLogger(os.Stdout, "kmip-node"))
	if err != nil {
		return err
	}
	return errors.Join(events.Begin(), n.Run(ctx), events.End())
}
