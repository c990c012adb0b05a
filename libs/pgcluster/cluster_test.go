package pgcluster

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) {
	if os.Getenv(holdVariable) != "" {
		hold()
	}
	os.Exit(m.Run())
}

func TestDataSurvivesRestart(t *testing.T) {
	config := Config{Dir: t.TempDir(), Port: freePort(t), Password: "it's a 'password'", Durable: true}
	c := start(t, config)
	if err := c.EnsureDatabase(t.Context(), "app", "app_owner"); err != nil {
		t.Fatal(err)
	}
	query(t, c.URL("app", "app_owner"), "CREATE TABLE kept AS SELECT 42 AS answer")
	run := c.run
	stop(t, c)
	if _, err := os.Stat(run); !os.IsNotExist(err) {
		t.Errorf("the socket's folder is still there: %v", err)
	}

	c = start(t, config)
	if err := c.EnsureDatabase(t.Context(), "app", "app_owner"); err != nil {
		t.Fatalf("again: %v", err)
	}
	if got := query(t, c.URL("app", "app_owner"), "SELECT answer::text FROM kept"); got != "42" {
		t.Errorf("after a restart: %q", got)
	}
}

func TestPortNeedsThePassword(t *testing.T) {
	c := start(t, Config{Port: freePort(t), Password: "right"})
	if err := c.EnsureRole(t.Context(), "reader"); err != nil {
		t.Fatal(err)
	}
	if got := query(t, c.URL("postgres", "reader"), "SELECT current_user::text"); got != "reader" {
		t.Errorf("current_user is %q", got)
	}
	wrong := strings.Replace(c.URL("postgres", "reader"), "right", "wrong", 1)
	if conn, err := pgx.Connect(t.Context(), wrong); err == nil {
		_ = conn.Close(t.Context())
		t.Error("a wrong password was accepted")
	}
	super := c.URL("postgres", superuser)
	if conn, err := pgx.Connect(t.Context(), super); err == nil {
		_ = conn.Close(t.Context())
		t.Error("the superuser logs in over TCP")
	}
}

func TestHalfMadeClusterIsMadeAgain(t *testing.T) {
	dir := t.TempDir()
	c := start(t, Config{Dir: dir})
	home := c.Folder()
	stop(t, c)
	// What a killed initdb leaves: a folder that isn't complete.
	if err := os.Rename(filepath.Join(home, "data"), filepath.Join(home, "data.half")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(home, "data.half", "global", "pg_control")); err != nil {
		t.Fatal(err)
	}
	c = start(t, Config{Dir: dir})
	query(t, c.URL("postgres", superuser), "SELECT ''")
}

func TestStaleMarkIsRemovedAndLiveServerNamed(t *testing.T) {
	dir := t.TempDir()
	c := start(t, Config{Dir: dir})
	mark := filepath.Join(c.Folder(), "data", "postmaster.pid")
	live, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("while this process holds it: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := awaitEnd(ctx, filepath.Join(c.Folder(), "data")); err == nil || !strings.Contains(err.Error(), strconv.Itoa(c.PID())) {
		t.Errorf("a live server is not named: %v", err)
	}
	stop(t, c)

	// A mark with a process id that by now is another program's: this test.
	_, rest, _ := strings.Cut(string(live), "\n")
	if err := os.WriteFile(mark, []byte(strconv.Itoa(os.Getpid())+"\n"+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, Config{Dir: dir})
}

func TestFailuresNameTheRemedy(t *testing.T) {
	t.Run("busy port", func(t *testing.T) {
		needPostgreSQL(t)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		_, err = Start(t.Context(), Config{Port: l.Addr().(*net.TCPAddr).Port, Password: "x"})
		if err == nil || !strings.Contains(err.Error(), "its port is in use") || !strings.Contains(err.Error(), "FATAL") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no password", func(t *testing.T) {
		if _, err := Start(t.Context(), Config{Port: 1}); err == nil || !strings.Contains(err.Error(), "password") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("wrong PG_BIN", func(t *testing.T) {
		t.Setenv("PG_BIN", t.TempDir())
		if _, err := Start(t.Context(), Config{}); err == nil || !strings.Contains(err.Error(), "PG_BIN") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("full disk", func(t *testing.T) {
		err := explain("PostgreSQL did not start", context.Canceled, "FATAL:  could not write: No space left on device\n")
		if !strings.HasPrefix(err.Error(), "PostgreSQL did not start, the disk is full: free some space") {
			t.Errorf("got %v", err)
		}
	})
}

func TestUnreachableFolderMovesElsewhere(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the server runs as this user, who reaches every folder of theirs")
	}
	private := t.TempDir()
	if err := os.Chmod(private, 0o700); err != nil { //nolint:gosec // like a home folder
		t.Fatal(err)
	}
	dir := filepath.Join(private, "db")
	c := start(t, Config{Dir: dir})
	elsewhere := c.Folder()
	if !strings.HasPrefix(elsewhere, "/var/tmp/") {
		t.Fatalf("the cluster lies in %s", elsewhere)
	}
	note, err := os.ReadFile(filepath.Join(dir, PathFile))
	if err != nil || strings.TrimSpace(string(note)) != elsewhere {
		t.Errorf("%s holds %q, %v", PathFile, note, err)
	}
	query(t, c.URL("postgres", superuser), "CREATE TABLE kept AS SELECT 1")
	stop(t, c)
	c = start(t, Config{Dir: dir})
	if c.Folder() != elsewhere {
		t.Errorf("the second start uses %s instead of %s", c.Folder(), elsewhere)
	}
	query(t, c.URL("postgres", superuser), "SELECT count(*)::text FROM kept")
	stop(t, c)

	// Once the folder could be reached, the data is still elsewhere.
	if err := os.Chmod(private, 0o755); err != nil { //nolint:gosec // the point of it
		t.Fatal(err)
	}
	c = start(t, Config{Dir: dir})
	query(t, c.URL("postgres", superuser), "SELECT count(*)::text FROM kept")
	stop(t, c)

	// And when it is lost, nobody takes an empty database for it.
	if err := os.RemoveAll(elsewhere); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), elsewhere) {
		t.Errorf("without its data: %v", err)
	}
}

// holdVariable makes this test's binary a process that holds a cluster.
const holdVariable = "PGCLUSTER_TEST_HOLD"

func hold() {
	c, err := Start(context.Background(), Config{})
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
	println(c.PID(), c.run)
	select {}
}

func TestNothingOutlivesAKilledProcess(t *testing.T) {
	needPostgreSQL(t)
	holder := exec.CommandContext(t.Context(), os.Args[0])
	holder.Env = append(os.Environ(), holdVariable+"=1")
	output, err := holder.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	id, run, _ := strings.Cut(strings.TrimSpace(line), " ")
	pid, err := strconv.Atoi(id)
	if err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	eventually(t, "the server ends", func() bool { return syscall.Kill(pid, 0) != nil || !isPostgres(t.Context(), pid) })
	eventually(t, "its folder goes", func() bool { _, err := os.Stat(run); return os.IsNotExist(err) })
}

func TestSweepRemovesOnlyWhatNobodyHolds(t *testing.T) {
	parent := t.TempDir()
	held, stale, young := filepath.Join(parent, runPrefix+"held"), filepath.Join(parent, runPrefix+"stale"), filepath.Join(parent, runPrefix+"young")
	for _, folder := range []string{held, stale, young} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	holder, err := lock(held, os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Close() }()
	gone, err := lock(stale, os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	sweep(parent)
	for folder, want := range map[string]bool{held: true, stale: false, young: true} {
		if _, err := os.Stat(folder); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", filepath.Base(folder), err == nil, want)
		}
	}
}

func TestVersionsCompareAsNumbers(t *testing.T) {
	if version("/usr/lib/postgresql/9/bin") >= version("/usr/lib/postgresql/15/bin") {
		t.Error("9 counts as newer than 15")
	}
}

// needPostgreSQL skips a test where PostgreSQL is not installed, but not in CI.
func needPostgreSQL(t *testing.T) {
	t.Helper()
	if _, err := Find(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// start starts a cluster; after the test it is stopped and removed.
func start(t *testing.T, config Config) *Cluster {
	t.Helper()
	needPostgreSQL(t)
	c, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop(t, c)
		_ = os.RemoveAll(c.Folder()) // it may be under /var/tmp
	})
	return c
}

func stop(t *testing.T, c *Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// query returns the first column of the first row, or "" without rows.
func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 {
		return ""
	}
	return got[0]
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it did not happen that %s", what)
		}
	}
}
