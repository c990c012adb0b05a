package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire"
)

// vendor is the Vendor Identification in answers to Query.
const vendor = "KMIP for VMware"

// Node is a KMIP node, ready to run.
type Node struct {
	server   *server
	engine   *engine.Engine
	reporter *reporter
	pool     *pg.Pool
	log      *slog.Logger
	kmip     net.Listener
	admin    net.Listener
	adminAPI http.Handler
}

// New checks the whole configuration, builds a node and opens its listeners.
// Its error lists every problem of the configuration, one per line. PostgreSQL
// and IAM may be away: the node becomes ready when it has read its tenants.
func New(ctx context.Context, c Config, log *slog.Logger) (_ *Node, err error) {
	p, err := c.check()
	if err != nil {
		return nil, err
	}
	n := &Node{log: log.With("node", c.Name)}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if n.pool, err = pg.Open(ctx, pg.Config{URL: c.DatabaseURL, Log: n.log}); err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	if n.kmip, err = obs.Listen(ctx, "KMIP_LISTEN", c.Listen); err != nil {
		return nil, err
	}
	if n.admin, err = obs.Listen(ctx, "KMIP_ADMIN_ADDRESS", c.AdminAddress); err != nil {
		return nil, err
	}
	registry := obs.NewRegistry()
	m := newMetrics(registry)
	p.managers.log = n.log
	follow := &configuration{
		source: pg.NewSource(n.pool), ageLimit: p.ageLimit, now: obs.Now, log: n.log, metrics: m,
		complain: rate.Sometimes{Interval: complainEvery},
	}
	if c.StateFolder != "" {
		follow.disk = &diskCopy{path: filepath.Join(c.StateFolder, copyFile), keyring: p.managers.keyring}
	}
	newAge(registry, follow)
	used := &uses{tenants: make(map[tenant.ID]*use)}
	n.engine = engine.New(engine.Config{Objects: pg.NewObjects(n.pool), KeyManagers: counted(p.managers.open, m, used), Now: obs.Now})
	newHeldKeys(registry, n.engine)
	respond := &wire.Responder{Engine: n.engine, Now: obs.Now, Vendor: vendor}
	n.server = newServer(p.port, p.certificate, follow, respond, n.log, m, obs.Now)
	n.server.doors.host, n.server.doors.offset = p.host, c.DedicatedPortOffset
	n.server.drainDelay = c.DrainDelay
	follow.replaced = func() {
		n.engine.Obey(follow.current.Load())
		n.server.replaced()
	}
	reports := pg.NewReports(n.pool, c.Name)
	n.server.recorder = newRecorder(c.Region, c.Events, reports.RecordKMIPEvents, n.log, m, obs.Now)
	n.reporter = &reporter{reports: reports, server: n.server, uses: used, rival: rate.Sometimes{Interval: complainEvery}}
	n.adminAPI = obs.Admin(registry, func(context.Context) error { return n.server.ready() })
	return n, nil
}

// Run serves until ctx ends, and as long after it as DrainDelay says; requests
// in flight then have ten seconds.
func (n *Node) Run(ctx context.Context) error {
	defer n.close()
	n.log.Info("listening", "kmip", n.kmip.Addr().String(), "advertised_port", n.server.port, "admin", n.admin.Addr().String())
	// Everything else outlives the KMIP listeners: probes see the end, and while
	// the last requests are answered changes are still in force at once.
	others, end := context.WithCancel(context.WithoutCancel(ctx))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return obs.Serve(others, n.log, n.admin, n.adminAPI) })
	group.Go(func() error { n.server.configuration.follow(others); return nil })
	group.Go(func() error { n.reporter.run(others); return nil })
	requests, last := context.WithCancel(others)
	group.Go(func() error {
		defer end() // the node signs off when its events are stored
		n.server.recorder.backlog.run(requests)
		return nil
	})
	group.Go(func() error {
		defer last()
		return n.server.serve(ctx, n.kmip)
	})
	if err := group.Wait(); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	n.log.Info("stopped")
	return nil
}

func (n *Node) close() {
	for _, l := range []net.Listener{n.kmip, n.admin} {
		if l != nil {
			l.Close()
		}
	}
	if n.engine != nil {
		n.engine.Close()
	}
	if n.pool != nil {
		n.pool.Close()
	}
}
