package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// PathFile is the file in Config.Dir that names the folder under /var/tmp that
// holds the cluster when the server's account can't reach Config.Dir itself.
const PathFile = "data.path"

const (
	lockFile  = "lock"
	runPrefix = "kmip-pg-"
	// maxSocketFolder leaves room for the socket's name in the 104 bytes that
	// macOS allows its path.
	maxSocketFolder = 70
)

// errLocked means that another process holds a folder's lock.
var errLocked = errors.New("in use by another process")

// lock takes a folder's lock until the file is closed or the process ends.
func lock(folder string, flags int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(folder, lockFile), os.O_RDWR|flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, errLocked
	}
	return f, nil
}

// makeRunFolder makes the short private folder that holds the socket and, for
// a throwaway cluster, everything. Its lock is held by the process that uses
// it; folders without a holder are remains and are removed first.
func makeRunFolder(ctx context.Context, a account) (string, *os.File, error) {
	parent := "/tmp"
	if t := os.TempDir(); len(t) < maxSocketFolder && a.reaches(ctx, t) {
		parent = t
	}
	sweep(parent)
	folder, err := os.MkdirTemp(parent, runPrefix)
	if err != nil {
		return "", nil, err
	}
	held, err := lock(folder, os.O_CREATE)
	if err == nil {
		err = a.own(folder)
	}
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(folder))
	}
	return folder, held, nil
}

// sweep removes run folders whose process is gone. It leaves alone what it
// can't judge: other users' folders and those being made right now.
func sweep(parent string) {
	folders, err := filepath.Glob(filepath.Join(parent, runPrefix+"*"))
	if err != nil {
		return
	}
	for _, folder := range folders {
		held, err := lock(folder, 0)
		if err != nil {
			continue
		}
		_ = os.RemoveAll(folder)
		_ = held.Close()
	}
}

// home returns the folder in which a lasting cluster lies: the one that dir's
// PathFile names, else dir, else a new one under /var/tmp. A folder that was
// noted is never given up by itself: it holds the data.
func home(ctx context.Context, dir string, a account) (string, error) {
	note := filepath.Join(dir, PathFile)
	text, err := os.ReadFile(note)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if folder := strings.TrimSpace(string(text)); folder != "" {
		if !a.reaches(ctx, folder) {
			return "", fmt.Errorf("the database lay in %s, which is gone or out of reach: bring it back, or remove %s to begin with an empty one", folder, note)
		}
		return folder, nil
	}
	if a.reaches(ctx, dir) {
		return dir, nil
	}
	if ctx.Err() != nil {
		return "", ctx.Err() // who is called off has not looked
	}
	folder, err := os.MkdirTemp("/var/tmp", runPrefix)
	if err == nil {
		err = a.own(folder)
	}
	if err == nil {
		err = os.WriteFile(note, []byte(folder+"\n"), 0o600)
	}
	return folder, err
}

// makeData returns the data folder in a home, made by initdb unless it is
// there. A folder appears under its final name only when it is complete.
func makeData(ctx context.Context, bin, home string, durable bool, a account) (string, error) {
	data := filepath.Join(home, "data")
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err == nil {
		return data, nil
	}
	half := filepath.Join(home, "data.half")
	if err := os.RemoveAll(half); err != nil {
		return "", err
	}
	if err := os.Mkdir(half, 0o700); err != nil {
		return "", err
	}
	if err := a.own(half); err != nil {
		return "", err
	}
	args := []string{"-D", half, "-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=C"}
	if !durable {
		args = append(args, "--no-sync")
	}
	if out, err := a.command(ctx, filepath.Join(bin, "initdb"), args...).CombinedOutput(); err != nil {
		return "", explain("initdb could not make a database cluster in "+home, err, string(out))
	}
	return data, os.Rename(half, data)
}

// awaitEnd waits for a server that a killed process left in a data folder and
// that is shutting down, removes the mark of one that is gone, and names one
// that stays.
func awaitEnd(ctx context.Context, data string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	mark := filepath.Join(data, "postmaster.pid")
	for {
		text, err := os.ReadFile(mark)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		first, _, _ := strings.Cut(string(text), "\n")
		pid, err := strconv.Atoi(strings.TrimSpace(first))
		if err != nil || !isPostgres(ctx, pid) {
			return os.Remove(mark)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("a PostgreSQL server with process id %d already runs in %s: stop it (`kill -INT %d`)", pid, data, pid)
		}
	}
}

// isPostgres reports whether a process is, or may be, a PostgreSQL server; a
// process id in an old file may by now be anybody's.
func isPostgres(ctx context.Context, pid int) bool {
	if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
		return false
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		name, err = exec.CommandContext(ctx, "ps", "-o", "comm=", "-p", strconv.Itoa(pid)).Output() //nolint:gosec // a number
	}
	return err != nil || strings.Contains(string(name), "postgres")
}
