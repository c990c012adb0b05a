package dev

import (
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// starts collects what a supervisor reports.
type starts struct {
	mu    sync.Mutex
	names []string
	pids  []int
}

func (s *starts) add(name string, pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names, s.pids = append(s.names, name), append(s.pids, pid)
}

func (s *starts) all() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.pids)
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func answers(address string) bool {
	resp, err := http.Get("http://" + address)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return true
}

func TestKilledProgramComesBack(t *testing.T) {
	var out output
	var seen starts
	s := newSupervisor(&out, seen.add)
	log, at := filepath.Join(t.TempDir(), "log"), freeAddress(t)
	if err := s.add(t.Context(), playing("node 1", log, "serve", at)); err != nil {
		t.Fatal(err)
	}
	first := seen.all()[0]
	if group, err := syscall.Getpgid(first); err != nil || group != first {
		t.Errorf("the program is in group %d, %v: Ctrl-C would reach it", group, err)
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a second process", func() bool { return len(seen.all()) == 2 && answers(at) })
	second := seen.all()[1]
	if second == first || !alive(second) {
		t.Errorf("process %d came after %d", second, first)
	}
	eventually(t, "the lines about it", func() bool {
		text := out.String()
		return strings.Contains(text, "node 1 (process "+strconv.Itoa(first)+") was killed by signal 9") &&
			strings.Contains(text, "node 1 runs again as process "+strconv.Itoa(second))
	})
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if alive(second) || answers(at) {
		t.Error("the program runs after stop")
	}
}

func TestProgramThatKeepsDyingIsGivenUp(t *testing.T) {
	var out output
	s := newSupervisor(&out, func(string, int) {})
	log := filepath.Join(t.TempDir(), "log")
	err := s.add(t.Context(), playing("node 2", log, "die", freeAddress(t)))
	if err == nil {
		t.Fatal("it was accepted")
	}
	for _, want := range []string{"node 2 failed 5 times in a row", "ended with status 3", log, "nothing works today"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

// TestStopsInReverseOrder also has a program that does not want to end.
func TestStopsInReverseOrder(t *testing.T) {
	var out output
	var seen starts
	s := newSupervisor(&out, seen.add)
	s.grace = 1 // a nanosecond: nobody is that quick, the stubborn one least of all
	dir := t.TempDir()
	for _, p := range []program{
		playing("first", filepath.Join(dir, "1"), "stubborn", freeAddress(t)),
		playing("last", filepath.Join(dir, "2"), "stubborn", freeAddress(t)),
	} {
		if err := s.add(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	err := s.stop()
	if err == nil {
		t.Fatal("nobody was told of the kill")
	}
	if last, first := strings.Index(err.Error(), "last: "), strings.Index(err.Error(), "first: "); last < 0 || first < last {
		t.Errorf("the order in %v", err)
	}
	for _, pid := range seen.all() {
		if alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
}

// TestNothingOutlivesAKilledSupervisor kills the process that supervises.
func TestNothingOutlivesAKilledSupervisor(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the kernel offers nothing for it")
	}
	at := freeAddress(t)
	supervisor, out := player(t, "supervise "+at)
	eventually(t, "a supervised program", func() bool {
		_, err := strconv.Atoi(strings.TrimSpace(out.String()))
		return err == nil && answers(at)
	})
	if err := supervisor.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of its program", func() bool { return !answers(at) })
}
