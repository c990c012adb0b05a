//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
)

// ceph is a Ceph cluster of one monitor and one OSD that keeps its objects in
// memory. It lives in one folder, on loopback, and ends with the test, or with
// the test's process if that is killed.
type ceph struct {
	dir  string
	port int // the first of a hundred; those from 50 are for the user of the cluster
}

// cephConf is the configuration: no authentication, one copy of everything, and
// a monitor that does not gather changes for a second before it decides.
const cephConf = `[global]
fsid = %[1]s
mon host = v2:127.0.0.1:%[2]d
public addr = 127.0.0.1
ms bind port min = %[3]d
ms bind port max = %[4]d
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
mon allow pool size one = true
mon data = %[5]s/mon
paxos propose interval = 0.05
osd objectstore = memstore
osd data = %[5]s/osd
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
rgw data = %[5]s/rgw
log file = %[5]s/$name.log
err to stderr = false
run dir = %[5]s
crash dir = %[5]s
admin socket =

[mon]
public addrv = v2:127.0.0.1:%[2]d
`

// newCeph starts a cluster, or skips the test where Ceph is not installed.
func newCeph(t *testing.T) *ceph {
	t.Helper()
	for _, program := range []string{"ceph", "ceph-mon", "ceph-osd", "rados", "radosgw", "radosgw-admin"} {
		if _, err := exec.LookPath(program); err != nil {
			notInstalled(t, program)
		}
	}
	c := &ceph{dir: t.TempDir(), port: freeBasePort()}
	conf := fmt.Sprintf(cephConf, uuid.NewString(), c.port, c.port+1, c.port+49, c.dir)
	if err := os.WriteFile(filepath.Join(c.dir, "ceph.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"mon", "osd", "rgw"} {
		if err := os.Mkdir(filepath.Join(c.dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c.run(t, "ceph-mon", "--mkfs", "-i", "a")
	c.start(t, "mon.a", "ceph-mon")
	c.run(t, "ceph", "osd", "create") // the first is number 0
	c.run(t, "ceph-osd", "--mkfs", "-i", "0")
	c.start(t, "osd.0", "ceph-osd")
	return c
}

// run runs one of Ceph's programs and returns what it printed. One that waits
// for a daemon is given a minute.
func (c *ceph) run(t *testing.T, program string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Stderr = c.environ(), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v, %s", program, args, err, &stderr)
	}
	return out
}

// start starts a daemon, known as name to Ceph, and kills it at the end of the
// test. If that failed, it shows the end of the daemon's log.
func (c *ceph) start(t *testing.T, name, daemon string, args ...string) {
	t.Helper()
	path := filepath.Join(c.dir, name+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the daemon has its own descriptor
	cmd := exec.Command(daemon, append([]string{"-f", "-n", name}, args...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = c.environ(), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // for Pdeathsig: the thread ends with the daemon
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it was killed
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			text, err := os.ReadFile(path)
			t.Logf("the end of %s: %s %v", path, text[max(0, len(text)-4000):], err)
		}
	})
}

func (c *ceph) environ() []string {
	return append(os.Environ(), "CEPH_CONF="+filepath.Join(c.dir, "ceph.conf"))
}
