// Package control is the control plane: the REST API with which customers
// create KMIP for VMware instances, connect them to their root keys and allow
// client certificates. It stores what it is told in PostgreSQL, where the
// nodes find it; it never talks to a node. Any number of control planes run
// side by side.
package control

//go:generate oapi-codegen -config server/oapi-codegen.yaml ../../api/openapi.yaml

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/audit"
	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/services/control/access"
	"github.com/kmip-for-vmware/kmip/services/control/events"
	"github.com/kmip-for-vmware/kmip/services/control/jobs"
	"github.com/kmip-for-vmware/kmip/services/control/limits"
)

// Control is a control plane that listens; Run makes it answer.
type Control struct {
	log                    *slog.Logger
	pool                   *pg.Pool
	queue                  *pg.Jobs
	api, admin             http.Handler
	apiListen, adminListen net.Listener
}

// New checks the whole configuration, connects to the database and takes both
// listeners. Its error lists every problem of the configuration, one per line,
// with variable and remedy. What it starts in the background ends with ctx.
func New(ctx context.Context, config Config, log *slog.Logger) (*Control, error) {
	p, err := config.check()
	if err != nil {
		return nil, err
	}
	verifier, err := iam.NewVerifier(ctx, p.iam)
	if err != nil {
		return nil, err
	}
	c := &Control{log: log}
	if c.pool, err = pg.Open(ctx, pg.Config{URL: config.DatabaseURL, Log: log}); err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	if c.apiListen, err = obs.Listen(ctx, "KMIP_API_ADDRESS", config.APIAddress); err == nil {
		c.adminListen, err = obs.Listen(ctx, "KMIP_ADMIN_ADDRESS", config.AdminAddress)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	reg := obs.NewRegistry()
	instances := pg.NewInstances(c.pool)
	recorder := &events.Recorder{
		Region: config.Region, Sink: config.Events, Instances: instances, Now: obs.Now,
		Failed: func(ctx context.Context, err error) {
			log.ErrorContext(ctx, "an event could not be recorded", "error", err)
		},
	}
	if recorder.Sink == nil {
		recorder.Sink = func(audit.Event) error { return nil }
	}
	ledger := pg.NewLedger(c.pool)
	h := &handlers{
		instances: instances, ledger: ledger, region: config.Region, public: p.public, endpoints: p.endpoints, authority: p.authority,
		dedicated: p.dedicated,
		manager:   p.manager, cloud: p.cloud, now: obs.Now,
		roles: access.New(access.Config{Policies: p.cloud.Policies, Region: config.Region, Now: obs.Now}),
	}
	c.api = newAPI(h, observe(log, newRequestSeconds(reg)),
		&gate{verify: verifier.Verify, authorize: h.authorize, limits: limits.New(obs.Now), once: instances.Once, witness: recorder.Record})
	c.queue = pg.NewJobs(c.pool, pg.Intervals{Check: config.CheckInterval, Reconcile: config.ReconcileInterval}, log)
	worker := &jobs.Worker{
		Instances: instances, Ledger: ledger, Open: p.manager.reach, Findings: jobs.NewFindings(reg), CheckDeadline: checkDeadline, Now: obs.Now, Log: log,
	}
	if p.dedicated != nil {
		worker.Certificate = p.dedicated.servers.Certificate
	}
	worker.Handle(c.queue)
	c.admin = newAdmin(obs.Admin(reg, c.ready))
	return c, nil
}

// API returns the address of the customer listener.
func (c *Control) API() net.Addr { return c.apiListen.Addr() }

// Admin returns the address of the admin listener.
func (c *Control) Admin() net.Addr { return c.adminListen.Addr() }

// Run answers on both listeners and works jobs until ctx ends or one of them
// fails. Then it takes no new request and no job, and returns when those it has
// are done.
func (c *Control) Run(ctx context.Context) error {
	defer c.close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 3)
	run := func(part func() error) {
		ended <- part()
		stop()
	}
	go run(func() error { return obs.Serve(ctx, c.log, c.apiListen, c.api) })
	go run(func() error { return obs.Serve(ctx, c.log, c.adminListen, c.admin) })
	go run(func() error { return c.queue.Run(ctx) })
	c.log.Info("control plane listens", "api", c.API().String(), "admin", c.Admin().String())
	err := errors.Join(<-ended, <-ended, <-ended)
	c.log.Info("control plane stopped")
	return err
}

// ready says whether requests can be served now.
func (c *Control) ready(ctx context.Context) error {
	if err := c.pool.Ping(ctx); err != nil {
		c.log.Warn("not ready", "error", err.Error())
		return errors.New("the database does not answer")
	}
	return nil
}

// close gives back what New took.
func (c *Control) close() {
	for _, l := range []net.Listener{c.apiListen, c.adminListen} {
		if l != nil {
			_ = l.Close() // closed already after Run
		}
	}
	c.pool.Close()
}

// adminRoutes are the routes of the admin listener that package obs answers.
var adminRoutes = []string{"GET /livez", "GET /readyz", "GET /metrics"}

// newAdmin returns the handler of the admin listener.
func newAdmin(health http.Handler) http.Handler {
	mux := http.NewServeMux()
	for _, pattern := range adminRoutes {
		mux.Handle(pattern, health)
	}
	mux.Handle(documentRoute, document(api.AdminDocument))
	return mux
}
