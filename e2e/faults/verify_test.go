//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// verifyTime is how long a key or a setting may take to be there again after a
// fault before it counts as lost.
const verifyTime = 30 * time.Second

// verify checks what was promised and returns what does not hold: keys that
// were answered after the given numbers of them, on every node, and all settings
// at every control plane and on every node.
func (tr *traffic) verify(ctx context.Context, since []int) []string {
	tr.quiet.Lock()
	defer tr.quiet.Unlock()
	var mu sync.Mutex
	var found []string
	report := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		found = append(found, fmt.Sprintf(format, args...))
	}
	var checking sync.WaitGroup
	for n, x := range tr.tenants {
		all := x.keys.since(since[n])
		for node := range tr.nodes {
			checking.Go(func() { tr.verifyKeys(ctx, x, node, all, report) })
			checking.Go(func() { tr.verifyAdmission(ctx, x, node, report) })
		}
		for control := range tr.controls {
			checking.Go(func() { tr.verifySettings(ctx, x, control, report) })
		}
	}
	checking.Wait()
	found = append(found, tr.violations()...)
	slices.Sort(found)
	return found
}

// verifyKeys reads keys on one node.
func (tr *traffic) verifyKeys(ctx context.Context, x *tenant, node int, all []*key, report func(string, ...any)) {
	p := tr.provider(x)
	defer p.close()
	deadline := time.Now().Add(verifyTime)
	for _, k := range all {
		for {
			err := p.at(ctx, node, func(ctx context.Context, conn *client.Conn) error {
				got, err := conn.Get(ctx, k.id)
				if err == nil && !k.same(got) {
					report("%s: key %s has other bytes on node-%d", x.name, k.id, node+1)
				}
				return err
			})
			if err == nil {
				break
			}
			if time.Now().After(deadline) || ctx.Err() != nil {
				report("%s: key %s can't be read on node-%d: %v", x.name, k.id, node+1, err)
				break
			}
		}
	}
}

// verifySettings compares what a control plane shows with what was acknowledged.
func (tr *traffic) verifySettings(ctx context.Context, x *tenant, control int, report func(string, ...any)) {
	name, certificates := x.settings.copy()
	err := await(ctx, verifyTime, func(ctx context.Context) error {
		r := x.rest(tr.cell, control)
		instance, err := r.GetInstanceWithResponse(ctx, x.instance)
		if err != nil {
			return err
		}
		list, err := r.ListInstanceClientCertificatesWithResponse(ctx, x.instance)
		if err != nil {
			return err
		}
		if instance.JSON200 == nil || list.JSON200 == nil {
			return fmt.Errorf("it answers %s, %s", instance.Status(), list.Status())
		}
		if !name[instance.JSON200.Name] {
			report("%s: control-%d shows the name %q, which is not one of %v", x.name, control+1, instance.JSON200.Name, name)
		}
		present := make(map[string]bool)
		for _, c := range list.JSON200.ClientCertificates {
			present[c.ID] = true
		}
		for id, state := range certificates {
			if !state.unknown && present[id] == state.removed {
				report("%s: control-%d has certificate %s: %v; acknowledged as removed: %v", x.name, control+1, id, present[id], state.removed)
			}
		}
		return nil
	})
	if err != nil {
		report("%s: settings can't be read at control-%d: %v", x.name, control+1, err)
	}
}

// verifyAdmission tries certificates on a node: those that are allowed, and the
// removed ones.
func (tr *traffic) verifyAdmission(ctx context.Context, x *tenant, node int, report func(string, ...any)) {
	_, certificates := x.settings.copy()
	for id, state := range certificates {
		if state.unknown || time.Now().After(state.certificate.Leaf.NotAfter) {
			continue
		}
		admitted := false
		err := await(ctx, verifyTime, func(ctx context.Context) error {
			server := x.servers[node]
			server.Certificate, server.LocalAddress = state.certificate, newSource()
			err := discoverOnce(ctx, server)
			if admitted = err == nil; !admitted && state.removed && refused(err) {
				return nil
			}
			return err
		})
		switch {
		case err != nil:
			report("%s: certificate %s, removed: %v, on node-%d: %v", x.name, id, state.removed, node+1, err)
		case admitted == state.removed:
			report("%s: certificate %s is admitted on node-%d after its removal", x.name, id, node+1)
		}
	}
}

// refused tells whether a node turned a client away in the handshake.
func refused(err error) bool {
	var alert *net.OpError
	return errors.As(err, &alert) && alert.Op == "remote error" // crypto/tls: an alert
}
