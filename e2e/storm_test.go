package e2e

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

var fullStorm = flag.Bool("storm", false, "TestBootStorm with 50 tenants and 5,000 connections")

// TestBootStorm plays a power loss of a region: the hosts of many tenants come
// back at once, each over a connection and from an address of its own, and all
// ask for two keys of their tenant, while a slow, and then a throttling key
// manager is behind the nodes. Every host gets its keys. A tenant that was up
// all the time goes on; how long its Gets take is printed.
func TestBootStorm(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux answers on all of 127.0.0.0/8")
	}
	tenants, hosts := 10, 20
	if *fullStorm {
		tenants, hosts = 50, 100
	}
	raiseFileLimit(t)
	c := ownCell(t)
	storm := make([]stormTenant, tenants)
	for n := range storm {
		storm[n] = newStormTenant(t, newInstance(t, c))
	}
	quiet := newStormTenant(t, newDedicated(t, c)) // its key manager is well
	cloud := &cloud{admin: quiet.env["EMULATOR_ADMIN_URL"]}
	cloud.turn(t, "calls", m{"kept": 200_000}) // to count them
	for _, mode := range []struct {
		name, knob string
		rule       m
	}{
		{"slow", "latency", m{"service": "kms", "path": "/api/v2/keys/", "median_ms": 200}},
		{"throttling", "throttling", m{"service": "kms", "path": "/api/v2/keys/", "rate": 0.3, "retry_after": 1}},
	} {
		cloud.rule(t, mode.knob, mode.rule)
		before := quiet.normal(t, func(gets int) bool { return gets < 200 })
		began := &calls{cloud: cloud}
		began.total(t)

		var during []time.Duration
		took := runStorm(t, storm, hosts, func(over <-chan struct{}) {
			during = quiet.normal(t, func(int) bool {
				select {
				case <-over:
					return false
				default:
					return true
				}
			})
		})
		asked := began.total(t)
		t.Logf("%s: %d tenants, %d connections: last key after %s; Get p50 %s, p99 %s; %d calls at the key manager for %d Gets",
			mode.name, tenants, tenants*hosts, took.last.Round(time.Millisecond), quantile(took.gets, .5), quantile(took.gets, .99), asked, len(took.gets))
		for _, q := range []float64{.5, .99} {
			was, is := quantile(before, q), quantile(during, q)
			t.Logf("%s: %d Gets of a tenant that was up, p%.0f: %s before and %s during the storm, ratio %.1f",
				mode.name, len(during), 100*q, was, is, is.Seconds()/was.Seconds())
		}
		for n, pid := range []string{"NODE1_PID", "NODE2_PID"} {
			t.Logf("%s: node %d's peak memory: %s", mode.name, n+1, peakMemory(t, quiet.env[pid]))
		}
		cloud.heal(t, mode.knob)
	}
}

// stormTenant is an instance with two keys.
type stormTenant struct {
	*instance
	ids  [2]kmip.ObjectID
	keys [2]*secret.Bytes
	at   [2]client.Config // the nodes
}

func newStormTenant(t *testing.T, i *instance) (s stormTenant) {
	t.Helper()
	s.instance = i
	for n := range s.ids {
		s.at[n] = s.config(t, nodes[n], s.certificate)
		s.ids[n] = s.create(t, nodes[n])
		key, err := s.get(t, nodes[n], s.ids[n])
		if err != nil {
			t.Fatal(err)
		}
		s.keys[n] = key
	}
	return s
}

// normal returns how long Gets over one connection take, one after the other
// while more says so.
func (s *stormTenant) normal(t *testing.T, more func(gets int) bool) (took []time.Duration) {
	conn, err := discover(t.Context(), s.at[0])
	if err != nil {
		t.Errorf("the tenant that was up: %v", err)
		return nil
	}
	defer conn.Close()
	for more(len(took)) {
		d, err := s.timed(t.Context(), conn, len(took)%2)
		if err != nil {
			t.Errorf("the tenant that was up: %v", err)
			return took
		}
		took = append(took, d)
	}
	return took
}

// timed is one Get, which has to return the right bytes.
func (s *stormTenant) timed(ctx context.Context, conn *client.Conn, n int) (time.Duration, error) {
	began := time.Now()
	key, err := conn.Get(ctx, s.ids[n])
	took := time.Since(began)
	if err != nil {
		return took, err
	}
	defer key.Wipe()
	if !key.Equal(s.keys[n]) {
		return took, fmt.Errorf("other bytes than this tenant's key %d has", n)
	}
	return took, nil
}

type stormTook struct {
	last time.Duration // from the beginning to the last key
	gets []time.Duration
}

// runStorm lets every host of every tenant get its keys; connections stay open
// until the last host has them. Beside runs until it is over.
func runStorm(t *testing.T, storm []stormTenant, hosts int, beside func(over <-chan struct{})) (took stormTook) {
	t.Helper()
	var (
		mu                     sync.Mutex
		getting, open, besides sync.WaitGroup
		all                    = make(chan struct{})
		refused                int
	)
	began, address := time.Now(), netip.MustParseAddr("127.1.0.1")
	for h := range hosts {
		for n := range storm {
			s, cfg := &storm[n], storm[n].at[h%2]
			cfg.LocalAddress = address
			address = address.Next()
			getting.Add(1)
			open.Go(func() {
				conn, err := discover(t.Context(), cfg)
				if err == nil {
					defer conn.Close()
					for k := range s.ids {
						var d time.Duration
						if d, err = s.timed(t.Context(), conn, k); err != nil {
							break
						}
						mu.Lock()
						took.gets = append(took.gets, d)
						took.last = max(took.last, time.Since(began))
						mu.Unlock()
					}
				}
				if err == nil && h == 0 {
					_, foreign := conn.Get(t.Context(), storm[(n+1)%len(storm)].ids[0])
					wantReason(t, foreign, itemNotFound, "Get of another tenant's key")
				}
				if err != nil {
					mu.Lock()
					if refused++; refused <= 10 {
						t.Errorf("host %d of tenant %d: %v", h, n, err)
					}
					mu.Unlock()
				}
				getting.Done()
				<-all
			})
		}
	}
	besides.Go(func() { beside(all) })
	getting.Wait()
	close(all)
	open.Wait()
	besides.Wait()
	if refused > 0 {
		t.Errorf("%d hosts did not get their keys", refused)
	}
	return took
}

func quantile(took []time.Duration, q float64) time.Duration {
	if len(took) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(took))
	return sorted[int(q*float64(len(sorted)-1))].Round(10 * time.Microsecond)
}

// total returns how many calls Key Protect has had since the last time.
func (k *calls) total(t *testing.T) (n int) {
	t.Helper()
	var log struct {
		Calls []struct{ Sequence uint64 } `json:"calls"`
	}
	call(t, http.MethodGet, fmt.Sprintf("%s/emulator/v1/calls?service=kms&since=%d", k.cloud.admin, k.since), nil, nil).decode(t, &log)
	for _, c := range log.Calls {
		k.since = c.Sequence
	}
	return len(log.Calls)
}

// peakMemory returns a process' largest resident set.
func peakMemory(t *testing.T, pid string) string {
	t.Helper()
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	peak, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(peak)
}

// raiseFileLimit lets this process and those it starts have as many connections
// as they are allowed.
func raiseFileLimit(t *testing.T) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
}
