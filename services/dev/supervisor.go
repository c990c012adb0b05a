package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// The patience of a supervisor.
const (
	readyWithin  = 30 * time.Second // of a start until the program is ready
	stopWithin   = 15 * time.Second // of the request to stop until it is killed
	maxFailures  = 5                // deaths in a row before the program was ready
	firstBackoff = 100 * time.Millisecond
	quickDeath   = 2 * time.Second // after a start; then a restart waits a little
	logTail      = 2000            // bytes of a log that are shown
)

// process is a running program.
type process struct {
	pid   int
	ended <-chan struct{}
	how   func() string               // how it ended; call it after ended
	stop  func(context.Context) error // ask it to end, and kill it when the context ends
}

// program is one part of the stack.
type program struct {
	name  string // as printed
	log   string // path of its log file
	start func(context.Context) (process, error)
	// ready returns nil as soon as the program serves; it is asked again and
	// again until then.
	ready func(context.Context) error
}

// supervisor keeps programs running until it is stopped.
type supervisor struct {
	out     io.Writer                  // safe for concurrent use
	started func(name string, pid int) // called at every start, one at a time
	failed  chan error                 // a program that can't be kept running
	grace   time.Duration              // of the request to stop until a program is killed

	starting sync.Mutex // guards started
	kept     []*kept
}

// kept is one program under supervision.
type kept struct {
	program
	stopping context.CancelFunc
	done     chan struct{} // closed when nobody watches any more; then current is its last process
	current  process
}

func newSupervisor(out io.Writer, started func(string, int)) *supervisor {
	return &supervisor{out: out, started: started, failed: make(chan error, 1), grace: stopWithin}
}

// add starts a program, waits until it is ready and keeps it running. It gives
// up with the end of the log when the program dies again and again.
func (s *supervisor) add(ctx context.Context, p program) error {
	first, err := s.launch(ctx, p)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	k := &kept{program: p, stopping: cancel, done: make(chan struct{}), current: first}
	s.kept = append(s.kept, k)
	go s.keep(ctx, k)
	return nil
}

// keep restarts a program whenever it ends.
func (s *supervisor) keep(ctx context.Context, k *kept) {
	defer close(k.done)
	since := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.current.ended:
		}
		s.say("%s (process %d) %s; starting it again", k.name, k.current.pid, k.current.how())
		if time.Since(since) < quickDeath {
			pause(ctx, 5*firstBackoff)
		}
		next, err := s.launch(ctx, k.program)
		if err != nil {
			if ctx.Err() == nil {
				select {
				case s.failed <- err:
				default: // the stack stops already because of another
				}
			}
			return
		}
		k.current, since = next, time.Now()
		s.say("%s runs again as process %d", k.name, next.pid)
	}
}

// launch starts a program until it is ready, waiting longer after each death.
func (s *supervisor) launch(ctx context.Context, p program) (process, error) {
	backoff := firstBackoff
	for failures := 1; ; failures++ {
		proc, err := s.attempt(ctx, p)
		if err == nil || ctx.Err() != nil {
			return proc, err
		}
		if diskFull(err) {
			return process{}, err
		}
		if failures == maxFailures {
			return process{}, fmt.Errorf("%s failed %d times in a row: %w%s", p.name, failures, err, tailOf(p.log))
		}
		reason, _, _ := strings.Cut(err.Error(), "\n")
		s.say("%s %s; trying again", p.name, reason)
		if !pause(ctx, backoff) {
			return process{}, context.Cause(ctx)
		}
		backoff *= 2
	}
}

// pause waits, and reports false when the context ended first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// attempt starts a program once; with an error nothing runs.
func (s *supervisor) attempt(ctx context.Context, p program) (process, error) {
	proc, err := p.start(ctx)
	if err != nil {
		return process{}, err
	}
	s.starting.Lock()
	s.started(p.name, proc.pid)
	s.starting.Unlock()

	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, fmt.Errorf("was not ready within %s", readyWithin))
	defer cancel()
	for {
		asked := p.ready(ctx)
		if asked == nil {
			return proc, nil
		}
		select {
		case <-proc.ended:
			return process{}, errors.New(proc.how() + " before it was ready")
		case <-ctx.Done():
			return process{}, errors.Join(fmt.Errorf("%w: %w", context.Cause(ctx), asked), s.end(proc))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stop stops all programs, the last one first.
func (s *supervisor) stop() error {
	var problems []error
	for i := len(s.kept) - 1; i >= 0; i-- {
		k := s.kept[i]
		k.stopping()
		<-k.done
		if err := s.end(k.current); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", k.name, err))
		}
	}
	s.kept = nil
	return errors.Join(problems...)
}

func (s *supervisor) end(p process) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.grace)
	defer cancel()
	return p.stop(ctx)
}

func (s *supervisor) say(format string, args ...any) {
	fmt.Fprintf(s.out, format+"\n", args...)
}

// tailOf returns the last lines of a log, introduced, or nothing.
func tailOf(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	cut := text[max(0, len(text)-logTail):]
	if len(cut) < len(text) {
		_, after, _ := strings.Cut(string(cut), "\n") // begin with a whole line
		cut = []byte(after)
	}
	shown := strings.TrimSpace(string(cut))
	if shown == "" {
		return ""
	}
	return fmt.Sprintf("\nThe end of %s:\n%s", path, shown)
}
