//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/pgcluster"
)

const (
	databaseName = "kmip"
	ownerRole    = "kmip_owner"
	controlRole  = "kmip_control"
	nodeRole     = "kmip_node"
	password     = "of the suite"
)

// database is a primary with a synchronous standby, and does what an operator's
// high-availability software does with them: it starts again what died, and
// promotes the standby when the primary is given up. While there is no standby
// the primary commits alone.
type database struct {
	dir     string // where data lies
	servers [2]*server
	follow  [2]*link // on which a standby reaches each of the servers
	primary int
	made    int // folders
}

// server is one PostgreSQL, always at the same port.
type server struct {
	port int

	mu      sync.Mutex
	config  pgcluster.Config
	cluster *pgcluster.Cluster // nil while there is none
	fenced  bool               // not to be started again
	over    chan struct{}      // closed when run has returned
}

// startDatabase makes a migrated database with a standby.
func startDatabase(t testing.TB, dir string) *database {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	d := &database{dir: dir}
	for n := range d.servers {
		d.servers[n] = &server{port: freePorts(t, 1)}
		d.follow[n] = newLink(t, d.servers[n].port)
	}
	t.Cleanup(func() {
		for _, s := range d.servers {
			s.fence()
		}
	})
	d.servers[0].config = pgcluster.Config{Dir: d.folder(), Port: d.servers[0].port, Password: password, Durable: true}
	if err := d.servers[0].run(ctx); err != nil {
		t.Fatal(err)
	}
	first, err := d.servers[0].running()
	must(t, err)
	must(t, first.EnsureDatabase(ctx, databaseName, ownerRole))
	must(t, pg.Migrate(ctx, first.URL(databaseName, ownerRole)))
	must(t, errors.Join(first.EnsureRole(ctx, controlRole), first.EnsureRole(ctx, nodeRole)))
	must(t, d.exec(ctx, "CREATE ROLE replicator LOGIN REPLICATION PASSWORD '"+password+"'"))
	// A standby that was away finds what it missed.
	must(t, d.exec(ctx, "ALTER SYSTEM SET wal_keep_size = '256MB'"))
	must(t, d.exec(ctx, "SELECT pg_reload_conf()"))
	must(t, d.rebuild(ctx))
	return d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// folder names a folder for data that nobody has used.
func (d *database) folder() string {
	d.made++
	return filepath.Join(d.dir, fmt.Sprint("data-", d.made))
}

// url is how a role reaches whichever server is the primary, at two ports.
func databaseURL(role string, ports [2]int) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(role, password), Host: address(ports[0]) + "," + address(ports[1]), Path: "/" + databaseName}
	u.RawQuery = url.Values{"sslmode": {"disable"}, "target_session_attrs": {"read-write"}}.Encode()
	return u.String()
}

// run starts a server and keeps it running until it is fenced.
func (s *server) run(ctx context.Context) error {
	s.mu.Lock()
	s.fenced, s.over = false, make(chan struct{})
	s.mu.Unlock()
	first := make(chan error, 1)
	go s.keep(context.WithoutCancel(ctx), first)
	return <-first
}

func (s *server) keep(ctx context.Context, first chan<- error) {
	defer close(s.over)
	for {
		starting, cancel := context.WithTimeout(ctx, time.Minute)
		s.mu.Lock()
		config := s.config
		s.mu.Unlock()
		cluster, err := pgcluster.Start(starting, config)
		cancel()
		if err == nil {
			s.mu.Lock()
			s.cluster = cluster
			fenced := s.fenced
			s.mu.Unlock()
			if fenced {
				_ = syscall.Kill(cluster.PID(), syscall.SIGKILL)
			}
		}
		if first != nil {
			first <- err
			first = nil
			if err != nil {
				return
			}
		}
		if err == nil {
			<-cluster.Ended()
			_ = cluster.Stop(ctx) // what is left of it
		}
		s.mu.Lock()
		s.cluster = nil
		fenced := s.fenced
		s.mu.Unlock()
		if fenced {
			return
		}
		<-time.After(restartPause)
	}
}

// signal sends a signal to the server and all its processes; the postmaster
// first, which then makes no more of them.
func (s *server) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster == nil {
		return
	}
	for _, pid := range tree(s.cluster.PID()) {
		_ = syscall.Kill(pid, sig)
	}
}

// fence makes sure that a server runs no more.
func (s *server) fence() {
	s.mu.Lock()
	s.fenced = true
	over := s.over
	s.mu.Unlock()
	s.signal(syscall.SIGKILL)
	if over != nil {
		<-over
	}
}

func (s *server) running() (*pgcluster.Cluster, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster == nil {
		return nil, errors.New("PostgreSQL is not running")
	}
	return s.cluster, nil
}

// exec runs a statement on the primary as its superuser.
func (d *database) exec(ctx context.Context, statement string, args ...any) error {
	return d.servers[d.primary].exec(ctx, statement, args...)
}

func (s *server) exec(ctx context.Context, statement string, args ...any) error {
	return s.connected(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, statement, args...)
		return err
	})
}

func (s *server) connected(ctx context.Context, do func(*pgx.Conn) error) error {
	cluster, err := s.running()
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, cluster.SuperuserURL(databaseName))
	if err != nil {
		return err
	}
	return errors.Join(do(conn), conn.Close(ctx))
}

// waitForStandby lets commits wait for any standby, or for none.
func (s *server) waitForStandby(ctx context.Context, wait bool) error {
	names := ""
	if wait {
		names = "*"
	}
	return errors.Join(
		s.exec(ctx, "ALTER SYSTEM SET synchronous_standby_names = '"+names+"'"),
		s.exec(ctx, "SELECT pg_reload_conf()"))
}

// promote makes the standby the primary, whatever the other one does.
func (d *database) promote(ctx context.Context) error {
	next := d.servers[1-d.primary]
	next.mu.Lock()
	next.config.StandbyOf = ""
	next.mu.Unlock()
	if err := next.waitForStandby(ctx, false); err != nil {
		return err
	}
	if err := next.exec(ctx, "SELECT pg_promote()"); err != nil {
		return err
	}
	d.primary = 1 - d.primary
	return nil
}

// rebuild replaces what is not the primary by a new standby, and lets commits
// wait for it once it follows.
func (d *database) rebuild(ctx context.Context) error {
	primary, standby := d.servers[d.primary], d.servers[1-d.primary]
	standby.fence()
	if standby.config.Dir != "" {
		if err := os.RemoveAll(standby.config.Dir); err != nil {
			return err
		}
	}
	standby.config = pgcluster.Config{
		Dir: d.folder(), Port: standby.port, Password: password, Durable: true,
		StandbyOf: fmt.Sprintf("host=127.0.0.1 port=%d user=replicator password='%s'", d.follow[d.primary].port(), password),
	}
	from, err := primary.running()
	if err != nil {
		return err
	}
	if err := from.CopyTo(ctx, standby.config.Dir); err != nil {
		return err
	}
	if err := standby.run(ctx); err != nil {
		return err
	}
	return d.whole(ctx)
}

// whole waits until the standby follows, and lets commits wait for it.
func (d *database) whole(ctx context.Context) error {
	err := await(ctx, time.Minute, func(ctx context.Context) error {
		return d.servers[d.primary].connected(ctx, func(conn *pgx.Conn) error {
			var n int
			err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND usename = 'replicator'").Scan(&n)
			if err == nil && n == 0 {
				err = errors.New("no standby follows")
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	return d.servers[d.primary].waitForStandby(ctx, true)
}

// backUp writes a backup of the primary and returns its folder.
func (d *database) backUp(ctx context.Context) (string, error) {
	dir := d.folder()
	from, err := d.servers[d.primary].running()
	if err != nil {
		return "", err
	}
	return dir, from.CopyTo(ctx, dir)
}

// restore gives up both servers and begins again with a backup.
func (d *database) restore(ctx context.Context, backup string) error {
	for _, s := range d.servers {
		s.fence()
	}
	s := d.servers[d.primary]
	if err := os.RemoveAll(s.config.Dir); err != nil {
		return err
	}
	s.config.Dir = backup
	if err := s.run(ctx); err != nil {
		return err
	}
	return s.waitForStandby(ctx, false)
}
