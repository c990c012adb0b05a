package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/kmip-for-vmware/kmip/libs/pgcluster"
)

// The database and the roles that the migrations make: the services own nothing.
const (
	database    = "kmip"
	ownerRole   = "kmip_owner"
	controlRole = "kmip_control"
	nodeRole    = "kmip_node"
)

// postgres is the stack's database server; it is the same one after a restart.
type postgres struct {
	config pgcluster.Config

	mu      sync.Mutex
	cluster *pgcluster.Cluster // the latest
}

func newPostgres(f folder, port int) (*postgres, error) {
	password, err := onlyOnce(f.path(dbPassword), func() ([]byte, error) { return []byte(randomHex(16)), nil })
	if err != nil {
		return nil, err
	}
	return &postgres{config: pgcluster.Config{
		Dir: f.path(postgresDir), Port: port, Password: string(password), Durable: true,
	}}, nil
}

// start is program.start; the server is ready when it returns.
func (p *postgres) start(ctx context.Context) (process, error) {
	cluster, err := pgcluster.Start(ctx, p.config)
	if err != nil {
		return process{}, err
	}
	p.mu.Lock()
	p.cluster = cluster
	p.mu.Unlock()
	return process{
		pid: cluster.PID(), ended: cluster.Ended(), stop: cluster.Stop,
		how: func() string {
			// A server that has ended by itself still holds its folders.
			return errors.Join(errors.New("ended"), cluster.Stop(context.Background())).Error()
		},
	}, nil
}

func (p *postgres) latest() *pgcluster.Cluster {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cluster
}

func (p *postgres) url(role string) string { return p.latest().URL(database, role) }

// dump returns every table of the database as the owner sees it within an
// account and a tenant: row-level security hides the others' rows.
func (p *postgres) dump(ctx context.Context, account, tenant string) ([]byte, error) {
	bin, err := pgcluster.Find()
	if err != nil {
		return nil, err
	}
	program := filepath.Join(bin, "pg_dump")
	if _, err := os.Stat(program); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s does not exist: install PostgreSQL's client programs of the same version", program)
	}
	where := p.config
	cmd := exec.CommandContext(ctx, program, //nolint:gosec // beside the server's own programs
		"--data-only", "--enable-row-security", "--no-password",
		"--host=127.0.0.1", "--port="+strconv.Itoa(where.Port), "--username="+ownerRole, "--dbname="+database)
	cmd.Env = []string{"LC_ALL=C", "PGPASSWORD=" + where.Password, "PGOPTIONS=-c kmip.account=" + account + " -c kmip.tenant=" + tenant}
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("pg_dump: %w: %s", err, bytes.TrimSpace(problems.Bytes()))
	}
	return out.Bytes(), nil
}

// Debian's file with the defaults of new clusters, and what to do by hand
// where this program may not install.
const (
	createCluster  = "/etc/postgresql-common/createcluster.conf"
	installCommand = "sudo apt-get update && sudo apt-get install --yes --no-install-recommends postgresql-common && " +
		"echo 'create_main_cluster = false' | sudo tee -a " + createCluster + " && " +
		"sudo apt-get install --yes --no-install-recommends postgresql"
)

// InstallPostgreSQL makes sure that this machine has a PostgreSQL server. On
// Debian and Ubuntu, as root, it installs the package if there is none, without
// leaving a cluster running. It never touches a server that runs.
func InstallPostgreSQL(out io.Writer) error {
	_, err := pgcluster.Find()
	if !errors.Is(err, pgcluster.ErrNotInstalled) {
		return err
	}
	if _, aptErr := exec.LookPath("apt-get"); aptErr != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("there is no PostgreSQL on this machine and only root can install it; run: " + installCommand)
	}
	fmt.Fprintln(out, "There is no PostgreSQL on this machine: installing the package postgresql.")
	for _, args := range [][]string{
		{"update"},
		{"install", "--yes", "--no-install-recommends", "postgresql-common"}, // brings createCluster
	} {
		if err := aptGet(args...); err != nil {
			return err
		}
	}
	if err := withoutMainCluster(func() error {
		return aptGet("install", "--yes", "--no-install-recommends", "postgresql")
	}); err != nil {
		return err
	}
	_, err = pgcluster.Find()
	return err
}

// withoutMainCluster runs do while Debian's packages are told to make no
// cluster, and puts the former settings back.
func withoutMainCluster(do func() error) (err error) {
	former, err := os.ReadFile(createCluster)
	if err != nil {
		return err
	}
	setting := append(bytes.Clone(former), "\ncreate_main_cluster = false\n"...)
	if err := os.WriteFile(createCluster, setting, 0o644); err != nil { //nolint:gosec // the package's own mode
		return err
	}
	defer func() { err = errors.Join(err, os.WriteFile(createCluster, former, 0o644)) }() //nolint:gosec // the package's own mode
	return do()
}

// aptGet runs to its end even when Ctrl-C is pressed: half an installation
// helps nobody.
func aptGet(args ...string) error {
	cmd := exec.Command("apt-get", append([]string{"--quiet=2"}, args...)...) //nolint:noctx,gosec // see above; fixed arguments
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s; install PostgreSQL by hand: %s", args[0], err, bytes.TrimSpace(out[max(0, len(out)-logTail):]), installCommand)
	}
	return nil
}
