//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// verify checks what was promised and returns what does not hold: keys that
// were answered after the given numbers of them, on every node, and all settings
// at every control plane and on every node. What takes longer than patience counts
// as lost.
func (tr *traffic) verify(ctx context.Context, since []int, patience time.Duration) []violation {
	tr.quiet.Lock()
	defer tr.quiet.Unlock()
	var mu sync.Mutex
	var found []violation
	report := func(lost, format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		found = append(found, violation{lost, fmt.Sprintf(format, args...)})
	}
	var checking sync.WaitGroup
	for n, x := range tr.tenants {
		all := x.keys.since(since[n])
		for node := range tr.nodes {
			checking.Go(func() { tr.verifyKeys(ctx, x, node, all, patience, report) })
			checking.Go(func() { tr.verifyAdmission(ctx, x, node, patience, report) })
		}
		for control := range tr.controls {
			checking.Go(func() { tr.verifySettings(ctx, x, control, patience, report) })
		}
	}
	checking.Wait()
	found = append(found, tr.violations()...)
	slices.SortFunc(found, func(a, b violation) int { return strings.Compare(a.text, b.text) })
	return found
}

// verifyKeys reads keys on one node.
func (tr *traffic) verifyKeys(ctx context.Context, x *tenant, node int, all []*key, patience time.Duration, report func(lost, format string, args ...any)) {
	p := tr.provider(x)
	defer p.close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, k := range all {
		err := await(ctx, patience, func(context.Context) error {
			return p.at(context.WithoutCancel(ctx), node, func(ctx context.Context, conn *client.Conn) error {
				got, err := conn.Get(ctx, k.id)
				if err == nil && !k.same(got) {
					report(string(k.id), "%s: key %s has other bytes on node-%d", x.name, k.id, node+1)
				}
				return err
			})
		})
		if err != nil {
			report(string(k.id), "%s: key %s can't be read on node-%d: %v", x.name, k.id, node+1, err)
		}
	}
}

// verifySettings compares what a control plane shows with what was acknowledged.
func (tr *traffic) verifySettings(ctx context.Context, x *tenant, control int, patience time.Duration, report func(lost, format string, args ...any)) {
	name, certificates := x.settings.copy()
	err := await(ctx, patience, func(ctx context.Context) error {
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
			report(x.instance, "%s: control-%d shows the name %q, which is not one of %v", x.name, control+1, instance.JSON200.Name, name)
		}
		present := make(map[string]bool)
		for _, c := range list.JSON200.ClientCertificates {
			present[c.ID] = true
		}
		for id, state := range certificates {
			if !state.unknown && present[id] == state.removed {
				report(id, "%s: control-%d has certificate %s: %v; acknowledged as removed: %v", x.name, control+1, id, present[id], state.removed)
			}
		}
		return nil
	})
	if err != nil {
		report(x.instance, "%s: settings can't be read at control-%d: %v", x.name, control+1, err)
	}
}

// verifyAdmission tries certificates on a node: those that are allowed, and the
// removed ones.
func (tr *traffic) verifyAdmission(ctx context.Context, x *tenant, node int, patience time.Duration, report func(lost, format string, args ...any)) {
	_, certificates := x.settings.copy()
	for id, state := range certificates {
		if state.unknown {
			continue
		}
		state.removed = state.removed || time.Now().After(state.certificate.Leaf.NotAfter)
		admitted := false
		err := await(ctx, patience, func(ctx context.Context) error {
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
			report(id, "%s: certificate %s, at its end: %v, on node-%d: %v", x.name, id, state.removed, node+1, err)
		case admitted == state.removed:
			report(id, "%s: certificate %s is admitted on node-%d after its end", x.name, id, node+1)
		}
	}
}

// refused tells whether a node turned a client away in the handshake.
func refused(err error) bool {
	var alert *net.OpError
	return errors.As(err, &alert) && alert.Op == "remote error" // crypto/tls: an alert
}

// selfCheck loses a key and exchanges two others behind the suite's back, and
// wants the verification to find these and nothing else. It returns what that
// reported.
func (tr *traffic) selfCheck(t *testing.T) []string {
	t.Helper()
	ctx := t.Context()
	x := tr.tenants[0]
	since := make([]int, len(tr.tenants))
	for n, y := range tr.tenants {
		since[n] = max(0, len(y.keys.since(0))-10)
	}
	if found := tr.verify(ctx, since, recoveryTime); len(found) > 0 {
		t.Fatalf("before anything is broken: %v", found)
	}
	broken := x.keys.since(since[0])[:3]
	var refs []string
	for _, k := range broken {
		ref, err := tr.standardKey(ctx, x, k.id)
		must(t, err)
		refs = append(refs, ref)
	}
	must(t, x.cloud(ctx, tr.cell, http.MethodDelete, tr.keys[x.service], "/api/v2/keys/"+refs[0], nil, nil))
	must(t, tr.database.exec(ctx, "UPDATE objects SET key_ref = CASE id WHEN $2 THEN $5 ELSE $4 END WHERE tenant = $1 AND id IN ($2, $3)",
		x.instance, broken[1].id, broken[2].id, refs[1], refs[2]))

	found := tr.verify(ctx, since, 5*time.Second)
	if len(found) != len(broken)*nodeCount {
		t.Errorf("%d things are reported, want %d", len(found), len(broken)*nodeCount)
	}
	for _, k := range broken {
		for node := range tr.nodes {
			want := fmt.Sprintf("key %s can't be read on node-%d", k.id, node+1)
			if !slices.ContainsFunc(found, func(v violation) bool { return strings.Contains(v.text, want) }) {
				t.Errorf("not reported: %s", want)
			}
		}
	}
	reported := make([]string, 0, len(found))
	for _, v := range found {
		reported = append(reported, v.text)
	}
	return reported
}

// standardKey returns the identifier of an object's standard key.
func (c *cell) standardKey(ctx context.Context, x *tenant, id kmip.ObjectID) (ref string, err error) {
	err = c.database.servers[c.database.primary].connected(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT key_ref FROM objects WHERE tenant = $1 AND id = $2", x.instance, id).Scan(&ref)
	})
	return ref, err
}
