package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire"
)

// vendor is the Vendor Identification in answers to Query.
const vendor = "KMIP for VMware"

// Node is a KMIP node, ready to run.
type Node struct {
	server   *server
	pool     *pg.Pool
	log      *slog.Logger
	kmip     net.Listener
	admin    net.Listener
	adminAPI http.Handler
}

// New builds a node and opens its listeners. PostgreSQL and IAM may be away:
// the node becomes ready when it has read its configuration.
func New(ctx context.Context, c Config, log *slog.Logger) (_ *Node, err error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	port, err := c.port()
	if err != nil {
		return nil, err
	}
	certificate, err := tls.LoadX509KeyPair(c.CertificateFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("the server certificate of KMIP_TLS_CERTIFICATE_FILE and KMIP_TLS_KEY_FILE can't be used: %w", err)
	}
	keyManagers, err := keyManagers(c)
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
		return nil, err
	}
	if n.kmip, err = obs.Listen(ctx, "KMIP_LISTEN", c.Listen); err != nil {
		return nil, err
	}
	if n.admin, err = obs.Listen(ctx, "KMIP_ADMIN_ADDRESS", c.AdminAddress); err != nil {
		return nil, err
	}
	registry := obs.NewRegistry()
	m := newMetrics(registry)
	follow := &configuration{source: pg.NewSource(n.pool), log: n.log, metrics: m}
	respond := &wire.Responder{
		Engine: engine.New(engine.Config{Objects: pg.NewObjects(n.pool), KeyManagers: keyManagers, Now: time.Now}),
		Now:    time.Now, Vendor: vendor,
	}
	n.server = newServer(port, certificate, follow, respond, n.log, m, time.Now)
	follow.replaced = n.server.replaced
	n.adminAPI = obs.Admin(registry, func(context.Context) error { return n.server.ready() })
	return n, nil
}

// keyManagers reaches each tenant's key manager with the tenant's own API key.
func keyManagers(c Config) (engine.KeyManagers, error) {
	endpoints, err := keyprotect.ParseEndpoints(c.KeyManagerEndpoints)
	if err != nil {
		return nil, fmt.Errorf("KMIP_KEY_MANAGER_ENDPOINTS: %w", err)
	}
	text, err := os.ReadFile(c.SealingKeysFile)
	if err != nil {
		return nil, fmt.Errorf("KMIP_SEALING_KEYS_FILE: %w", err)
	}
	keyring, err := secret.ParseKeyring(string(text))
	if err != nil {
		return nil, fmt.Errorf("KMIP_SEALING_KEYS_FILE %s: %w", c.SealingKeysFile, err)
	}
	tokens, err := iam.NewTokens(iam.Config{URL: c.IAMURL})
	if err != nil {
		return nil, fmt.Errorf("KMIP_IAM_URL: %w", err)
	}
	factory := &keyprotect.Factory{
		Endpoints: endpoints, Keyring: keyring,
		Tokens: func(apiKey *secret.Bytes) keyprotect.Tokens { return tokens.ForAPIKey(apiKey) },
	}
	return func(t *tenant.Tenant) (engine.KeyManager, error) { return factory.For(t) }, nil
}

// Run serves until ctx ends; requests in flight then have ten seconds.
func (n *Node) Run(ctx context.Context) error {
	defer n.close()
	n.log.Info("listening", "kmip", n.kmip.Addr().String(), "advertised_port", n.server.port, "admin", n.admin.Addr().String())
	// The admin listener outlives the KMIP one, so that a probe sees the end.
	adminContext, endAdmin := context.WithCancel(context.WithoutCancel(ctx))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return obs.Serve(adminContext, n.log, n.admin, n.adminAPI) })
	group.Go(func() error { n.server.configuration.follow(ctx); return nil })
	group.Go(func() error {
		defer endAdmin()
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
	if n.pool != nil {
		n.pool.Close()
	}
}
