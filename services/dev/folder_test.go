package dev

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/pgcluster"
)

func TestOneStackInAFolder(t *testing.T) {
	f, err := openFolder(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(string(f)); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("the folder's mode: %v, %v", info.Mode(), err)
	}
	holder, out := player(t, "lock "+string(f))
	eventually(t, "the lock", func() bool { return strings.Contains(out.String(), "locked") })

	_, err = f.lock()
	if err == nil || !strings.Contains(err.Error(), "process "+strconv.Itoa(holder.Process.Pid)) || !strings.Contains(err.Error(), "RUN_DIR") {
		t.Errorf("a second lock: %v", err)
	}
	if err := Clean(string(f)); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("clean under a running stack: %v", err)
	}

	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait() // it says that it was killed
	held, err := f.lock()
	if err != nil {
		t.Fatalf("after kill -9: %v", err)
	}
	if !held.unclean {
		t.Error("nobody noticed that the holder was killed")
	}
	if err := held.release(); err != nil {
		t.Fatal(err)
	}
	if held, err = f.lock(); err != nil || held.unclean {
		t.Errorf("after a clean end: %+v, %v", held, err)
	}
}

func TestCleanRemovesWhatIsOurs(t *testing.T) {
	home, err := os.MkdirTemp("/var/tmp", "kmip-pg-") //nolint:usetesting // where pgcluster makes it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	f := runFolder(t)
	note(t, f, home)
	if err := Clean(string(f)); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{home, string(f)} {
		if _, err := os.Stat(gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", gone, err)
		}
	}
	if err := Clean(string(f)); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestCleanLeavesTheRest(t *testing.T) {
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Clean(foreign); err == nil || !strings.Contains(err.Error(), "RUN_DIR") {
		t.Errorf("a folder of somebody else: %v", err)
	}
	if _, err := openFolder(foreign); err == nil {
		t.Error("a folder of somebody else became a run folder")
	}
	for _, named := range []string{foreign, "/var/tmp/kmip-pg-x/../../../etc", "/var/tmp/kmip-pg-x/data", ""} {
		f := runFolder(t)
		note(t, f, named)
		if err := Clean(string(f)); err == nil {
			t.Errorf("clean accepted %q as the database's folder", named)
		}
	}
	if _, err := os.Stat(filepath.Join(foreign, "thesis.txt")); err != nil {
		t.Error(err)
	}
}

// runFolder makes a run folder without a stack.
func runFolder(t *testing.T) folder {
	t.Helper()
	f, err := openFolder(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	held, err := f.lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(held.release(), f.makeFolders()); err != nil {
		t.Fatal(err)
	}
	return f
}

func note(t *testing.T, f folder, home string) {
	t.Helper()
	if err := os.Mkdir(f.path(postgresDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.path(postgresDir, pgcluster.PathFile), []byte(home+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPorts(t *testing.T) {
	for _, base := range []int{0, minBasePort - 1, maxBasePort + 1, 70000} {
		if _, err := portsFrom(base); err == nil || !strings.Contains(err.Error(), "BASE_PORT") {
			t.Errorf("base %d: %v", base, err)
		}
	}
	for _, base := range []int{minBasePort, 25600, maxBasePort} {
		p, err := portsFrom(base)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(p.listened()); n != 14 {
			t.Errorf("%d ports, want 14: two are the same", n)
		}
		for port := range p.listened() {
			if port < base || port >= base+100 || port > 65535 {
				t.Errorf("port %d is not one of the hundred from %d", port, base)
			}
		}
	}
}

func TestBusyPortIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	busy := l.Addr().(*net.TCPAddr).Port
	p := ports{node: [2]int{busy, busy}}
	p.nodeAdmin, p.api, p.apiAdmin, p.postgres, p.iam, p.controller, p.keyProtect, p.hpcs, p.emulatorAdmin = p.node, busy, busy, busy, busy, busy, busy, busy, busy
	err = p.checkFree(t.Context(), 0)
	if err == nil || !strings.Contains(err.Error(), strconv.Itoa(busy)) || !strings.Contains(err.Error(), "BASE_PORT") {
		t.Errorf("a busy port: %v", err)
	}
}

func TestSeedIsKept(t *testing.T) {
	f := runFolder(t)
	first, err := castFrom(f)
	if err != nil {
		t.Fatal(err)
	}
	second, err := castFrom(f)
	if err != nil {
		t.Fatal(err)
	}
	if first != second {
		t.Error("a second run has another cast")
	}
	if info, err := os.Stat(f.path(seedFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the seed's mode: %v, %v", info.Mode(), err)
	}
	keys := map[string]bool{first.customers[0].apiKey: true, first.customers[0].serviceKey: true, first.customers[1].apiKey: true, first.supportAPIKey: true, first.serviceAPIKey: true}
	if len(keys) != 5 || keys[""] {
		t.Error("two identities share an API key")
	}
}
