package emulator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/iam"
	"github.com/kmip-for-vmware/kmip/services/emulator/knobs"
)

// Config is everything an emulator can be told. The five addresses and DataDir are required; every
// other field has a working zero value. An address is host:port; without a host it is 127.0.0.1.
type Config struct {
	DataDir                string        `env:"DATA_DIR"`
	SeedFile               string        `env:"SEED"` // empty: serve what the data directory holds
	IAMAddr                string        `env:"IAM_ADDR"`
	ResourceControllerAddr string        `env:"RESOURCE_CONTROLLER_ADDR"`
	KeyProtectAddr         string        `env:"KEY_PROTECT_ADDR"`
	HPCSAddr               string        `env:"HPCS_ADDR"`
	AdminAddr              string        `env:"ADMIN_ADDR"`
	Issuer                 string        `env:"ISSUER"`         // of tokens; default DefaultIssuer
	TokenLifetime          time.Duration `env:"TOKEN_LIFETIME"` // whole seconds; default one hour

	Knobs map[string]string // by name, set as PUT would: see package knobs

	Now func() time.Time // default time.Now
	Log *slog.Logger     // default: nothing is logged
}

// DefaultIssuer is the iss claim of IBM Cloud's tokens (IAM identity, openid-configuration).
const DefaultIssuer = "https://iam.cloud.ibm.com/identity"

// Limits of every connection, whatever the service.
const (
	maxHeaderBytes  = 32 << 10
	requestTimeout  = 30 * time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 10 * time.Second
)

// Emulator is one running stand-in. Make it with New, then call Run once.
type Emulator struct {
	cfg   Config
	log   *slog.Logger
	now   func() time.Time
	db    *bbolt.DB
	iam   *iam.Service
	knobs *knobs.Knobs
}

// endpoint is one listener: the setting that names its address, and what it serves.
type endpoint struct {
	flag, addr string
	handler    http.Handler
}

// New checks cfg, opens the data file, makes the signing keys on first use and applies the seed. All
// problems of the settings are reported together, and so are all problems of the seed.
func New(cfg Config) (*Emulator, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	seed := &Seed{}
	if cfg.SeedFile != "" {
		var err error
		if seed, err = LoadSeed(cfg.SeedFile); err != nil {
			return nil, err
		}
	}
	db, err := openData(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	k := knobs.New(cfg.Now)
	e := &Emulator{cfg: cfg, log: cfg.Log, now: k.Now, db: db, knobs: k}
	if err := db.Update(func(tx *bbolt.Tx) error { return applySeed(tx, seed, e.now()) }); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	e.iam, err = iam.New(iam.Config{
		DB: db, Issuer: cfg.Issuer, TokenLifetime: cfg.TokenLifetime, Now: e.now, Log: e.log, Proved: knobs.SetCaller,
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	k.Connect(knobs.IAM{RollSigningKeys: e.iam.RollSigningKeys, RetireSigningKeys: e.iam.RetireSigningKeys, SetDecisionDelay: e.iam.SetDecisionDelay})
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(cfg.Knobs)) {
		if err := k.Set(name, cfg.Knobs[name]); err != nil {
			problems = append(problems, fmt.Errorf("--%s: %w", name, err))
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(append(problems, db.Close())...)
	}
	return e, nil
}

// complete fills in defaults and reports all problems of the settings at once.
func (c *Config) complete() error {
	if c.Issuer == "" {
		c.Issuer = DefaultIssuer
	}
	if c.TokenLifetime == 0 {
		c.TokenLifetime = time.Hour
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	var problems []error
	if c.DataDir == "" {
		problems = append(problems, errors.New("--data-dir is empty: name a directory for the emulator's data"))
	}
	if c.TokenLifetime < time.Second || c.TokenLifetime%time.Second != 0 {
		problems = append(problems, fmt.Errorf("--token-lifetime is %s: give whole seconds, at least one", c.TokenLifetime))
	}
	users := map[string]string{}
	for _, a := range []struct {
		flag string
		addr *string
	}{
		{"--iam-addr", &c.IAMAddr},
		{"--resource-controller-addr", &c.ResourceControllerAddr},
		{"--key-protect-addr", &c.KeyProtectAddr},
		{"--hpcs-addr", &c.HPCSAddr},
		{"--admin-addr", &c.AdminAddr},
	} {
		addr, err := listenAddress(*a.addr)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s is %q: %w", a.flag, *a.addr, err))
			continue
		}
		if other, taken := users[addr]; taken {
			problems = append(problems, fmt.Errorf("%s is %q, as %s is: give each its own port", a.flag, *a.addr, other))
		}
		users[addr], *a.addr = a.flag, addr
	}
	return errors.Join(problems...)
}

// listenAddress checks host:port and puts 127.0.0.1 where no host is given. Port 0 is refused:
// clients are configured with the address before the emulator runs.
func listenAddress(s string) (string, error) {
	if s == "" {
		return "", errors.New("give the address to listen on, for example 127.0.0.1:8080")
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", errors.New("write it as host:port, for example 127.0.0.1:8080")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", errors.New("give a port from 1 to 65535")
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

func (e *Emulator) endpoints() []endpoint {
	return []endpoint{
		{"--iam-addr", e.cfg.IAMAddr, e.knobs.Around("iam", e.iam.Handler())},
		{"--resource-controller-addr", e.cfg.ResourceControllerAddr, e.knobs.Around("resource-controller", e.resourceController())},
		{"--key-protect-addr", e.cfg.KeyProtectAddr, e.knobs.Around(serviceKMS, e.keyProtectHandler(serviceKMS))},
		{"--hpcs-addr", e.cfg.HPCSAddr, e.knobs.Around(serviceHPCS, e.keyProtectHandler(serviceHPCS))},
		{"--admin-addr", e.cfg.AdminAddr, e.adminHandler()},
	}
}

// Run listens on all addresses, serves until ctx ends, lets running requests finish for up to ten
// seconds and closes the data file. It returns nil after a clean stop.
func (e *Emulator) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, e.db.Close()) }()

	ends := e.endpoints()
	listeners := make([]net.Listener, 0, len(ends))
	for _, end := range ends {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", end.addr)
		if err != nil {
			for _, open := range listeners {
				err = errors.Join(err, open.Close())
			}
			return listenProblem(end, err)
		}
		listeners = append(listeners, l)
	}

	failed := make(chan error, len(ends))
	servers := make([]*http.Server, len(ends))
	for i, end := range ends {
		servers[i] = &http.Server{
			Handler:           end.handler,
			ReadHeaderTimeout: requestTimeout,
			ReadTimeout:       requestTimeout,
			WriteTimeout:      requestTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    maxHeaderBytes,
			ErrorLog:          slog.NewLogLogger(e.log.Handler(), slog.LevelWarn),
		}
		go func() { failed <- servers[i].Serve(listeners[i]) }()
	}
	e.log.Info("emulator started", "data_dir", e.cfg.DataDir, "iam", e.cfg.IAMAddr,
		"resource_controller", e.cfg.ResourceControllerAddr, "key_protect", e.cfg.KeyProtectAddr,
		"hpcs", e.cfg.HPCSAddr, "admin", e.cfg.AdminAddr)

	select {
	case <-ctx.Done():
	case err = <-failed: // a listener broke: stop the others too
	}
	err = errors.Join(err, e.knobs.Release())
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	for _, s := range servers {
		if s.Shutdown(stop) != nil {
			err = errors.Join(err, s.Close())
		}
	}
	e.log.Info("emulator stopped")
	return err
}

func listenProblem(end endpoint, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		_, port, _ := net.SplitHostPort(end.addr)
		return fmt.Errorf("port %s of %s (%s) is in use: stop the process that holds it or choose another port with %s",
			port, end.addr, strings.TrimPrefix(end.flag, "--"), end.flag)
	}
	return fmt.Errorf("cannot listen on %s: choose an address of this host with %s: %w", end.addr, end.flag, err)
}
