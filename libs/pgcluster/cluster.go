package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// superuser owns every cluster made here. It has no password: it logs in over
// the private socket alone.
const superuser = "postgres"

// socketPort is in the name of the socket of a cluster without a TCP port.
const socketPort = 5432

// Config says what to start. The zero Config is a throwaway cluster on a
// private socket, for tests.
type Config struct {
	// Dir is where the cluster lies and is found again. Empty: it lies in a
	// temporary folder and ends with this process.
	Dir string
	// Port is the TCP port on 127.0.0.1. 0: a socket in a folder that only
	// this user can enter, without passwords.
	Port int
	// Password is that of every role made by EnsureRole and EnsureDatabase.
	// Port needs one.
	Password string
	// Durable keeps PostgreSQL's promise that a committed transaction survives
	// a crash. Without it everything is faster.
	Durable bool
	// StandbyOf makes a standby of what CopyTo left in Dir: it is how the
	// standby reaches its primary (PostgreSQL, primary_conninfo).
	StandbyOf string
}

// Cluster is a running server. Its methods are safe for concurrent use.
type Cluster struct {
	config Config
	home   string // holds data and server.log
	run    string // holds the socket
	locks  []*os.File
	server *exec.Cmd
	ended  chan struct{} // closed when the server has ended
	// attendant shuts the server down and removes run when leash closes,
	// which it does at the latest when this process ends.
	attendant *exec.Cmd
	leash     *os.File
	stopping  sync.Mutex
}

// Start makes the cluster if Config.Dir holds none, starts the server and
// returns when it answers queries. Its error is one sentence that names the
// remedy, followed by the end of the server's log.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	if config.Port != 0 && config.Password == "" {
		return nil, errors.New("a PostgreSQL that listens on a port needs a password")
	}
	bin, err := Find()
	if err != nil {
		return nil, err
	}
	as, err := serverAccount()
	if err != nil {
		return nil, err
	}
	c := &Cluster{config: config, ended: make(chan struct{})}
	for _, step := range []func(context.Context, string, account) error{c.prepare, c.launch, c.attend, c.ready} {
		if err := step(ctx, bin, as); err != nil {
			return nil, errors.Join(err, c.Stop(context.WithoutCancel(ctx)))
		}
	}
	return c, nil
}

// prepare makes and locks the folders.
func (c *Cluster) prepare(ctx context.Context, bin string, as account) error {
	run, held, err := makeRunFolder(ctx, as)
	if err != nil {
		return err
	}
	c.run, c.home, c.locks = run, run, []*os.File{held}
	if c.config.Dir != "" {
		if err := c.prepareLasting(ctx, as); err != nil {
			return err
		}
	}
	data, err := makeData(ctx, bin, c.home, c.config.Durable, as)
	if err != nil {
		return err
	}
	if err := awaitEnd(ctx, data); err != nil {
		return err
	}
	if c.config.StandbyOf != "" {
		if err := os.WriteFile(filepath.Join(data, standbyFile), nil, 0o600); err != nil {
			return err
		}
	}
	access := "local all,replication all trust\n" // the socket's folder keeps everybody else out
	if c.config.Port != 0 {
		access += "host all,replication all 127.0.0.1/32 scram-sha-256\n"
	}
	return os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(access), 0o600)
}

func (c *Cluster) prepareLasting(ctx context.Context, as account) error {
	dir, err := filepath.Abs(c.config.Dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the server's account passes through; data is private
		return err
	}
	held, err := lock(dir, os.O_CREATE)
	if errors.Is(err, errLocked) {
		return fmt.Errorf("the database in %s is in use by another process: stop that first", dir)
	}
	if err != nil {
		return err
	}
	c.locks = append(c.locks, held)
	c.home, err = home(ctx, dir, as)
	return err
}

// launch starts the server.
func (c *Cluster) launch(ctx context.Context, bin string, as account) error {
	log, err := os.Create(c.logPath())
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the server has its own descriptor
	c.server = as.command(context.WithoutCancel(ctx), filepath.Join(bin, "postgres"), c.arguments()...)
	c.server.Stdout, c.server.Stderr = log, log
	dieWithParent(c.server.SysProcAttr)
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // for dieWithParent; the thread ends with the server
		err := c.server.Start()
		started <- err
		if err == nil {
			_ = c.server.Wait()
			close(c.ended)
		}
	}()
	if err := <-started; err != nil {
		c.server = nil
		return err
	}
	return nil
}

func (c *Cluster) arguments() []string {
	args := []string{
		"-D", filepath.Join(c.home, "data"), "-k", c.run, "-p", strconv.Itoa(c.port()),
		"-c", "max_connections=300", "-c", "unix_socket_permissions=0700",
	}
	if c.config.Port != 0 {
		args = append(args, "-c", "listen_addresses=127.0.0.1", "-c", "password_encryption=scram-sha-256")
	} else {
		args = append(args, "-c", "listen_addresses=")
	}
	if !c.config.Durable {
		args = append(args, "-F", "-c", "full_page_writes=off", "-c", "synchronous_commit=off")
	}
	if c.config.StandbyOf != "" {
		args = append(args, "-c", "primary_conninfo="+c.config.StandbyOf)
	}
	return args
}

// attend starts a shell that waits for the end of its input, shuts the server
// down and removes the run folder. The input ends when this process does, even
// by kill -9.
func (c *Cluster) attend(ctx context.Context, _ string, as account) error {
	const script = `read -r line; kill -QUIT "$1" 2>/dev/null; n=0
while [ $n -lt 200 ] && kill -0 "$1" 2>/dev/null; do sleep 0.05; n=$((n + 1)); done; rm -rf "$2"`
	input, leash, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = input.Close() }()
	attendant := as.command(context.WithoutCancel(ctx), "/bin/sh", "-c", script, "sh", strconv.Itoa(c.PID()), c.run)
	attendant.Stdin = input
	if err := attendant.Start(); err != nil {
		return errors.Join(err, leash.Close())
	}
	c.attendant, c.leash = attendant, leash
	return nil
}

// ready waits for the first answer to a query.
func (c *Cluster) ready(ctx context.Context, _ string, _ account) error {
	for {
		err := c.asSuperuser(ctx, superuser, func(conn *pgx.Conn) error {
			return conn.Ping(ctx)
		})
		if err == nil {
			return nil
		}
		select {
		case <-c.ended:
			return explain("PostgreSQL did not start", errors.New("the server ended"), tail(c.logPath()))
		case <-ctx.Done():
			return explain("PostgreSQL did not become ready in time", err, tail(c.logPath()))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Stop ends all sessions, shuts the server down and removes its temporary
// folder. If ctx ends first the server is stopped without writing its caches;
// a durable cluster recovers at its next start. Stop may be called again.
func (c *Cluster) Stop(ctx context.Context) error {
	c.stopping.Lock()
	defer c.stopping.Unlock()
	var problems []error
	if c.server != nil {
		problems = append(problems, c.shutDown(ctx))
	}
	if c.leash != nil {
		problems = append(problems, c.leash.Close(), c.attendant.Wait())
		c.leash = nil
	}
	if c.run != "" {
		problems = append(problems, os.RemoveAll(c.run))
	}
	for _, held := range c.locks {
		problems = append(problems, held.Close())
	}
	c.locks = nil
	return errors.Join(problems...)
}

// shutDown returns when the server has ended.
func (c *Cluster) shutDown(ctx context.Context) error {
	err := c.server.Process.Signal(syscall.SIGINT)
	if err == nil {
		select {
		case <-c.ended:
			return nil
		case <-ctx.Done():
			err = c.server.Process.Signal(syscall.SIGQUIT)
		}
	}
	if err == nil || errors.Is(err, os.ErrProcessDone) {
		<-c.ended
		return nil
	}
	return err
}

// PID returns the process id of the server.
func (c *Cluster) PID() int { return c.server.Process.Pid }

// Ended is closed when the server has ended, whoever ended it.
func (c *Cluster) Ended() <-chan struct{} { return c.ended }

// Folder returns where data and log lie: Config.Dir, a folder under /var/tmp
// (see PathFile), or a temporary one.
func (c *Cluster) Folder() string { return c.home }

func (c *Cluster) logPath() string { return filepath.Join(c.home, "server.log") }

func (c *Cluster) port() int {
	if c.config.Port != 0 {
		return c.config.Port
	}
	return socketPort
}

// URL returns how a role reaches a database: over TCP with the password if
// there is a port, else over the socket.
func (c *Cluster) URL(database, role string) string {
	if c.config.Port == 0 {
		return c.socketURL(database, role)
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(role, c.config.Password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(c.config.Port)), Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// SuperuserURL returns how this user reaches a database as its superuser.
func (c *Cluster) SuperuserURL(database string) string { return c.socketURL(database, superuser) }

func (c *Cluster) socketURL(database, role string) string {
	query := url.Values{"host": {c.run}, "port": {strconv.Itoa(c.port())}, "sslmode": {"disable"}}
	u := url.URL{Scheme: "postgres", User: url.User(role), Path: "/" + database, RawQuery: query.Encode()}
	return u.String()
}
