// Command kmip-emulator runs a stand-in for the IBM Cloud services that KMIP for VMware talks to.
// Every flag can be given as an environment variable too: --iam-addr as KMIP_EMULATOR_IAM_ADDR. A
// flag wins.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/caarlos0/env/v11"

	"github.com/kmip-for-vmware/kmip/services/emulator"
	"github.com/kmip-for-vmware/kmip/services/emulator/knobs"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "kmip-emulator:", err)
		os.Exit(1)
	}
}

func run() error {
	var cfg emulator.Config
	if err := env.ParseWithOptions(&cfg, env.Options{Prefix: "KMIP_EMULATOR_"}); err != nil {
		return err
	}
	flag.StringVar(&cfg.DataDir, "data-dir", cfg.DataDir, "`directory` that holds the emulator's data (required)")
	flag.StringVar(&cfg.SeedFile, "seed", cfg.SeedFile, "JSON `file` with accounts, instances, users and service IDs")
	flag.StringVar(&cfg.IAMAddr, "iam-addr", cfg.IAMAddr, "`host:port` of IAM (required)")
	flag.StringVar(&cfg.ResourceControllerAddr, "resource-controller-addr", cfg.ResourceControllerAddr, "`host:port` of the resource controller (required)")
	flag.StringVar(&cfg.KeyProtectAddr, "key-protect-addr", cfg.KeyProtectAddr, "`host:port` of Key Protect (required)")
	flag.StringVar(&cfg.HPCSAddr, "hpcs-addr", cfg.HPCSAddr, "`host:port` of Hyper Protect Crypto Services (required)")
	flag.StringVar(&cfg.AdminAddr, "admin-addr", cfg.AdminAddr, "`host:port` of health and the knobs (required)")
	flag.StringVar(&cfg.Issuer, "issuer", cfg.Issuer, "iss claim of tokens (default "+emulator.DefaultIssuer+")")
	flag.DurationVar(&cfg.TokenLifetime, "token-lifetime", cfg.TokenLifetime, "of access tokens (default 1h)")
	cfg.Knobs = map[string]string{}
	for _, name := range knobs.Names() {
		if body, set := os.LookupEnv("KMIP_EMULATOR_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))); set {
			cfg.Knobs[name] = body
		}
		flag.Func(name, "`JSON` to set the knob with at the start, as PUT /emulator/v1/"+name+" takes it", func(body string) error {
			cfg.Knobs[name] = body
			return nil
		})
	}
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("%q is not a flag: see --help", flag.Arg(0))
	}
	cfg.Log = slog.New(slog.NewJSONHandler(os.Stderr, nil))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	e, err := emulator.New(cfg)
	if err != nil {
		return err
	}
	return e.Run(ctx)
}
