package dev

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// playVariable makes the test binary play a program instead of testing.
const playVariable = "KMIP_DEV_TEST_PLAYS"

func TestMain(m *testing.M) {
	role, rest, _ := strings.Cut(os.Getenv(playVariable), " ")
	switch role {
	case "":
		os.Exit(m.Run())
	case "serve": // an address: healthy until SIGTERM
		serve(rest)
	case "stubborn": // an address: healthy whatever is asked of it
		serve(rest)
		select {}
	case "die":
		fmt.Println("nothing works today")
		os.Exit(3)
	case "supervise": // an address: runs "serve" under a supervisor
		supervise(rest)
	case "lock": // a folder: holds its lock
		if _, err := folder(rest).lock(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("locked")
		select {}
	}
}

func serve(address string) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	l, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go func() {
		fmt.Println(http.Serve(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	}()
	<-asked
}

func supervise(address string) {
	s := newSupervisor(os.Stdout, func(_ string, pid int) { fmt.Println(pid) })
	if err := s.add(context.Background(), playing("served", os.DevNull, "serve", address)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	select {}
}

// playing is a program that the test binary plays.
func playing(name, log, role, address string) program {
	c := command{path: os.Args[0], env: []string{playVariable + "=" + role + " " + address}, log: log}
	return program{name: name, log: log, start: c.start, ready: probe("http://" + address)}
}

// player starts the test binary in a role, and ends it with the test.
func player(t *testing.T, role string) (*exec.Cmd, *output) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{playVariable + "=" + role}
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	return cmd, out
}

// output collects what is written by several.
type output struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}

// eventually polls until holds does.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 20 seconds: %s", what)
		}
	}
}

// freeAddress returns an address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
