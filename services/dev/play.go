package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// What vCenter says of the machines that it encrypts.
var (
	playedVM   = client.ForVM("50213d2c-7b33-4a5e-9d1f-0c6a2b7e8f90", "first-vm")
	playedHost = client.ForHost("4c4c4544-0044-5210-8051-b9c04f4b3532", "esx-1.example.com")
)

// The connections of client.VCenter.EncryptFirstVM that make the two keys, and
// the one that reads the host's.
const (
	makesHostKey = "C"
	readsHostKey = "D"
)

// earlierShown is how many keys of earlier runs are read again.
const earlierShown = 10

// stage plays vCenter against the two nodes and prints what happens.
type stage struct {
	out     io.Writer
	servers [2]client.Config

	mu    sync.Mutex
	steps []client.Step // of the act that is being played
}

// played is what the play leaves for the proof. The caller wipes it.
type played struct {
	vm, host client.Fetched      // as the spread conversation got them
	again    [2][]client.Fetched // by node: both keys once more, the virtual machine's first
	vSAN     [][]client.Fetched  // by host of a cluster: the same
	madeOn   string              // address of the node that made the host's key
}

func (p *played) wipe() {
	for _, keys := range append([][]client.Fetched{{p.vm, p.host}, p.again[0], p.again[1]}, p.vSAN...) {
		for _, key := range keys {
			key.Key.Wipe()
		}
	}
}

// at is vCenter towards one node.
func (s *stage) at(node int) *client.VCenter {
	return &client.VCenter{Server: client.Spread(s.servers[node]), Report: s.report}
}

func (s *stage) report(step client.Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, step)
}

// awaitTrust waits until both nodes know the client certificate. vCenter's
// user presses a button again; this asks a few times a second.
func (s *stage) awaitTrust(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for node := range s.servers {
		v := &client.VCenter{Server: client.Spread(s.servers[node])}
		for {
			err := v.HealthPoll(ctx)
			if err == nil {
				break
			}
			if !pause(ctx, 100*time.Millisecond) {
				return fmt.Errorf("node %d does not know vCenter's certificate after %s: %w", node+1, patience, err)
			}
		}
	}
	return nil
}

// play runs the conversation. Its steps are printed also when one fails.
func (s *stage) play(ctx context.Context) (result *played, err error) {
	p := &played{}
	defer func() {
		if err != nil {
			p.wipe()
		}
	}()
	for node := range s.servers {
		err := s.at(node).Trust(ctx)
		if s.print(fmt.Sprintf("vCenter and node %d trust each other", node+1)); err != nil {
			return nil, fmt.Errorf("trust with node %d: %w", node+1, err)
		}
	}

	// A goes to node 1, B to node 2, and so on.
	spread := &client.VCenter{Server: client.Spread(s.servers[1], s.servers[0]), Report: s.report}
	made, err := spread.EncryptFirstVM(ctx, playedVM, playedHost)
	for _, step := range s.steps {
		if step.Connection == makesHostKey && step.Name == "Create" {
			p.madeOn = step.Server
		}
	}
	if s.print("The first virtual machine of a host is encrypted, connections spread over both nodes"); err != nil {
		return nil, fmt.Errorf("encrypting the first virtual machine: %w", err)
	}
	p.vm, p.host = made.VM, made.Host

	for node := range s.servers {
		p.again[node], err = s.at(node).HostBoot(ctx, p.vm.ID, p.host.ID)
		if s.print(fmt.Sprintf("A host boots and gets both keys again from node %d", node+1)); err != nil {
			return nil, fmt.Errorf("reading the keys again from node %d: %w", node+1, err)
		}
	}
	return p, s.bootVSAN(ctx, p)
}

// vSANHosts is the size of the largest vSAN cluster (VMware, configuration
// maximums).
const vSANHosts = 64

// bootVSAN plays a vSAN cluster after a power loss, over both nodes: each host
// has an address of its own, which only Linux gives without further ado.
func (s *stage) bootVSAN(ctx context.Context, p *played) (err error) {
	hosts := make([]netip.Addr, 0, vSANHosts)
	for a := netip.MustParseAddr("127.0.1.1"); len(hosts) < vSANHosts; a = a.Next() {
		if runtime.GOOS != "linux" {
			a = netip.MustParseAddr("127.0.0.1")
		}
		hosts = append(hosts, a)
	}
	began := time.Now()
	p.vSAN, err = (&client.VCenter{Server: client.Spread(s.servers[0], s.servers[1])}).VSANBoot(ctx, hosts, p.vm.ID, p.host.ID)
	if err != nil {
		return fmt.Errorf("the boot of a vSAN cluster: %w", err)
	}
	fmt.Fprintf(s.out, "\nA vSAN cluster boots: %d hosts with one certificate, %s to %s, got both keys in %s\n",
		len(hosts), hosts[0], hosts[len(hosts)-1], milliseconds(time.Since(began)))
	return nil
}

// earlier reads the newest keys of earlier runs from both nodes. Somebody may
// have revoked them since, so one that can't be read is told, not an error;
// bytes that differ between the nodes are.
func (s *stage) earlier(ctx context.Context, keys []cloudKey) error {
	var ids []kmip.ObjectID
	for _, key := range keys {
		if id, ok := strings.CutPrefix(key.Name, engine.StandardKeyPrefix); ok && key.Extractable {
			ids = append(ids, kmip.ObjectID(id))
		}
	}
	if len(ids) == 0 {
		return nil
	}
	total := len(ids)
	slices.Sort(ids) // UUIDv7: by time
	slices.Reverse(ids)
	ids = ids[:min(len(ids), earlierShown)]
	var got [2][]client.Fetched
	var failed error
	for node := range s.servers {
		var err error
		got[node], err = (&client.VCenter{Server: client.Spread(s.servers[node])}).HostBoot(ctx, ids...)
		failed = errors.Join(failed, err)
	}
	p := played{again: got}
	defer p.wipe()
	same := 0
	for _, first := range got[0] {
		for _, second := range got[1] {
			if second.ID != first.ID {
				continue
			}
			if !second.Key.Equal(first.Key) {
				return fmt.Errorf("key %s of an earlier run has other bytes on node 2 than on node 1", first.ID)
			}
			same++
		}
	}
	fmt.Fprintf(s.out, "\n%d keys of earlier runs lie in the key manager; both nodes give %d of the newest %d, with the same bytes.\n", total, same, len(ids))
	if failed != nil {
		first, _, _ := strings.Cut(failed.Error(), "\n")
		fmt.Fprintf(s.out, "  %s\n", first)
	}
	return nil
}

// print shows the steps of an act, connection by connection, and forgets them.
func (s *stage) print(title string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, "\n%s\n%s", title, s.table())
	s.steps = nil
}

// table has a line for each request; the handshake stands beside the first.
func (s *stage) table() string {
	var b strings.Builder
	line := func(cells ...any) {
		text := fmt.Sprintf("  %-10s  %-4s  %9s  %-32s  %9s", cells...)
		b.WriteString(strings.TrimRight(text, " ") + "\n")
	}
	line("connection", "node", "TLS", "request", "time")
	slices.SortStableFunc(s.steps, func(x, y client.Step) int { return strings.Compare(x.Connection, y.Connection) })
	shown := map[string]bool{}
	for _, opened := range s.steps {
		at := opened.Connection + "@" + opened.Server
		if shown[at] {
			continue
		}
		shown[at] = true
		label, node, handshake := opened.Connection, s.node(opened.Server), milliseconds(opened.Duration)
		if opened.Err != nil {
			handshake = "failed"
		}
		requests := 0
		for _, step := range s.steps {
			if step.Connection+"@"+step.Server != at || step.Name == opened.Name {
				continue
			}
			took := milliseconds(step.Duration)
			if step.Err != nil {
				took = "failed"
			}
			line(label, node, handshake, step.Name, took)
			label, node, handshake = "", "", ""
			requests++
		}
		if requests == 0 {
			line(label, node, handshake, "closed without one", "")
		}
	}
	return b.String()
}

// node returns the number of the node at an address.
func (s *stage) node(server string) string {
	for i, config := range s.servers {
		if config.Address == server {
			return fmt.Sprint(i + 1)
		}
	}
	return server
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
