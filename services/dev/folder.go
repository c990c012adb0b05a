package dev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/kmip-for-vmware/kmip/libs/pgcluster"
)

// folder is a run folder: everything that a stack keeps lies in it.
type folder string

// The files and folders of a run folder.
const (
	lockFile     = "kmip-dev.lock" // also the mark of a run folder
	stackEnv     = "stack.env"
	seedFile     = "seed.json"
	sealingKeys  = "sealing-keys"
	serviceKey   = "service-api-key"
	dbPassword   = "database-password"
	logsDir      = "logs"
	postgresDir  = "postgres"
	emulatorDir  = "emulator"
	nodeDir      = "node" // and a number
	certificates = "certificates"
)

func (f folder) path(names ...string) string {
	return filepath.Join(append([]string{string(f)}, names...)...)
}

// log is the log file of a program; its name may have spaces.
func (f folder) log(program string) string {
	return f.path(logsDir, strings.ReplaceAll(program, " ", "-")+".log")
}

// openFolder makes the run folder if there is none. A folder that holds other
// things is refused: everything in a run folder is removed by clean.
func openFolder(dir string) (folder, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	f := folder(abs)
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return "", err
	}
	if err := f.check(); err != nil {
		return "", err
	}
	// PostgreSQL's account passes through; all that is private is so by itself.
	return f, os.Chmod(abs, 0o711) //nolint:gosec // a folder
}

// check refuses a folder that is neither empty nor a run folder.
func (f folder) check() error {
	entries, err := os.ReadDir(string(f))
	if err != nil || len(entries) == 0 {
		return err
	}
	if _, err := os.Lstat(f.path(lockFile)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not empty and not a run folder: name a folder of its own with RUN_DIR=<folder>", string(f))
	}
	return nil
}

// makeFolders makes the folders of a run folder that a program doesn't make itself.
func (f folder) makeFolders() error {
	for _, name := range []string{logsDir, emulatorDir, certificates} {
		if err := os.MkdirAll(f.path(name), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// lock is held by the process that runs a stack in a folder. The kernel lets
// go of it however that process ends, so a stale one is no obstacle.
type lock struct {
	file *os.File
	// unclean is set when the last holder ended without release: programs
	// that it started may still be about to end.
	unclean bool
}

func (f folder) lock() (*lock, error) {
	file, err := os.OpenFile(f.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the run folder is the user's choice
	if err != nil {
		return nil, err
	}
	text := make([]byte, 20)
	n, _ := file.Read(text) // an empty file is one that was released
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("a stack runs already in %s (process %s): stop it, or choose another folder with RUN_DIR=<folder> and BASE_PORT=<port>",
				string(f), strings.TrimSpace(string(text[:n])))
		}
		return nil, err
	}
	l := &lock{file: file, unclean: n > 0}
	if err := file.Truncate(0); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if _, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return l, nil
}

// release lets go of the lock after a clean end.
func (l *lock) release() error {
	return errors.Join(l.file.Truncate(0), l.file.Close())
}

// Clean removes a run folder and what it names outside of itself, so that the
// next Run starts afresh. It refuses while a stack runs there.
func Clean(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	f := folder(abs)
	if err := f.check(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	held, err := f.lock()
	if err != nil {
		return err
	}
	defer func() { _ = held.file.Close() }()
	if err := f.removeCluster(); err != nil {
		return err
	}
	return os.RemoveAll(abs)
}

// clusterHome begins the name of the folder that holds the database when its
// server can't reach the run folder.
const clusterHome = "/var/tmp/kmip-pg-"

// removeCluster removes the folder noted by pgcluster, and no other.
func (f folder) removeCluster() error {
	note, err := os.ReadFile(f.path(postgresDir, pgcluster.PathFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	home := strings.TrimSpace(string(note))
	if filepath.Clean(home) != home || !strings.HasPrefix(home, clusterHome) || strings.Contains(home[len(clusterHome):], "/") {
		return fmt.Errorf("%s names %q, which is no database of a stack: remove that file by hand", f.path(postgresDir, pgcluster.PathFile), home)
	}
	return os.RemoveAll(home) //nolint:gosec // checked just above
}

// onlyOnce returns the content of a file, made by create if there is none yet.
func onlyOnce(path string, create func() ([]byte, error)) ([]byte, error) {
	content, err := os.ReadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return content, err
	}
	if content, err = create(); err != nil {
		return nil, err
	}
	return content, writeFile(path, content, 0o600)
}
