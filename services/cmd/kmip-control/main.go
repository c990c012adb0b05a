// Command kmip-control runs the control plane. It is configured by environment
// variables alone; started without any, it lists what is missing.
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
	"github.com/kmip-for-vmware/kmip/services/control"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "kmip-control:\n  %s\n", strings.ReplaceAll(err.Error(), "\n", "\n  "))
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	config, err := control.ReadConfig(env.ToMap(os.Environ()))
	if err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	events := audit.NewLog(os.Stdout, name, obs.Boot, obs.Now)
	config.Events = events.Record
	c, err := control.New(ctx, config, obs.NewLogger(os.Stderr, "kmip-control"))
	if err != nil {
		return err
	}
	return errors.Join(events.Begin(), c.Run(ctx), events.End())
}
