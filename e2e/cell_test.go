package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// bin is the folder with the programs under test, built by TestMain.
var bin string

// shared is the cell that most tests use; sharedCell starts it.
var shared struct {
	once sync.Once
	cell *cell
	err  error
}

func TestMain(m *testing.M) {
	// A folder that any user can reach: PostgreSQL runs as another one.
	folder, err := os.MkdirTemp("", "kmip-e2e-")
	if err != nil {
		panic(err)
	}
	if err := os.Chmod(folder, 0o755); err != nil {
		panic(err)
	}
	bin = filepath.Join(folder, "bin")
	build := exec.Command("go", "build", "-o", bin+"/", "./services/cmd/...")
	build.Dir, build.Stdout, build.Stderr = "..", os.Stderr, os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	if shared.cell != nil {
		if err := shared.cell.remove(); err != nil {
			fmt.Fprintln(os.Stderr, "stopping the shared cell:", err)
			code = 1
		}
	}
	os.RemoveAll(folder)
	os.Exit(code)
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("BASE_PORT", strconv.Itoa(freeBasePort()))
			env.Setenv("OTHER_PORT", strconv.Itoa(freeBasePort()))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"await": await},
	})
}

// await waits for files to appear.
func await(ts *testscript.TestScript, neg bool, files []string) {
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, file := range files {
		for {
			if _, err := os.Stat(ts.MkAbs(file)); (err == nil) != neg {
				break
			}
			if (<-tick.C).After(deadline) {
				ts.Fatalf("%s did not appear within two minutes", file)
			}
		}
	}
}

// cell is a stack that `kmip-dev run` started.
type cell struct {
	dir      string // the run folder
	basePort int
	command  *exec.Cmd
	printed  *bytes.Buffer
	ended    chan error
}

// readyLine is what kmip-dev prints once stack.env is there.
var readyLine = regexp.MustCompile(`^Ready in `)

// startCell runs kmip-dev and waits until it is ready, or fails.
func startCell(dir string, basePort int, more ...string) (*cell, error) {
	c := &cell{dir: dir, basePort: basePort, printed: new(bytes.Buffer), ended: make(chan error, 1)}
	c.command = exec.Command(filepath.Join(bin, "kmip-dev"), append([]string{"run", "--run-dir", dir, "--base-port", strconv.Itoa(basePort)}, more...)...)
	out, err := c.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.command.Stderr = c.command.Stdout
	if err := c.command.Start(); err != nil {
		return nil, err
	}
	ready := make(chan struct{})
	go func() {
		var once sync.Once
		for s := bufio.NewScanner(out); s.Scan(); {
			fmt.Fprintln(c.printed, s.Text())
			if readyLine.MatchString(s.Text()) {
				once.Do(func() { close(ready) })
			}
		}
		c.ended <- c.command.Wait()
	}()
	select {
	case <-ready:
		return c, nil
	case err := <-c.ended:
		return nil, fmt.Errorf("kmip-dev ended (%w) after printing\n%s", err, c.printed)
	case <-time.After(4 * time.Minute):
		_ = c.command.Process.Kill()
		return nil, fmt.Errorf("kmip-dev was not ready in four minutes; it printed\n%s", c.printed)
	}
}

// remove stops the cell and cleans up after it.
func (c *cell) remove() error {
	err := c.stop()
	clean := exec.Command(filepath.Join(bin, "kmip-dev"), "clean", "--run-dir", c.dir)
	clean.Stdout, clean.Stderr = os.Stderr, os.Stderr
	return errors.Join(err, clean.Run())
}

// stop ends the cell as Ctrl-C does.
func (c *cell) stop() error {
	if err := c.command.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	select {
	case err := <-c.ended:
		return err
	case <-time.After(time.Minute):
		_ = c.command.Process.Kill()
		return fmt.Errorf("kmip-dev did not stop within a minute")
	}
}

// env reads stack.env as a shell would.
func (c *cell) env(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, "stack.env"))
	if err != nil {
		t.Fatal(err)
	}
	env := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		value, quoted := strings.CutPrefix(value, "'")
		value, closed := strings.CutSuffix(value, "'")
		if !ok || !quoted || !closed || strings.Contains(value, "'") {
			t.Fatalf("stack.env has the line %q; want NAME='value'", line)
		}
		env[name] = value
	}
	return env
}

// sharedCell returns the cell that tests share; they must not stop it.
func sharedCell(t *testing.T) *cell {
	t.Helper()
	shared.once.Do(func() {
		shared.cell, shared.err = startCell(filepath.Join(filepath.Dir(bin), "run"), freeBasePort())
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cell
}

// ownCell starts a cell for one test, with more arguments to kmip-dev.
func ownCell(t *testing.T, more ...string) *cell {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(bin), "run-") //nolint:usetesting // PostgreSQL's user has to reach it
	if err != nil {
		t.Fatal(err)
	}
	return runCell(t, dir, freeBasePort(), more...)
}

// runCell starts a cell in a given folder and stops it with the test.
func runCell(t *testing.T, dir string, basePort int, more ...string) *cell {
	t.Helper()
	c, err := startCell(dir, basePort, more...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.command.ProcessState != nil {
			return // the test has ended it
		}
		if err := c.remove(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// freeBasePort finds a hundred ports of which none is in use.
func freeBasePort() int {
next:
	for {
		base := 20000 + 100*rand.IntN(120)
		for port := base; port < base+100; port++ {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if err != nil {
				continue next
			}
			l.Close()
		}
		return base
	}
}

// eventually polls until f returns nil.
func eventually(t *testing.T, f func(ctx context.Context) error) {
	t.Helper()
	within(t, 30*time.Second, f)
}

// within polls until f returns nil, for so long.
func within(t *testing.T, long time.Duration, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within %s: %v", long, err)
		}
	}
}
