//go:build linux

package faults

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// circumstance is what a change meets.
type circumstance struct {
	when  string
	nodes []int
	// before and after are called around each change; after returns since when
	// the nodes may know of it.
	before func()
	after  func(acknowledged time.Time) time.Time
}

// propagate makes n changes of one tenant, one after the other, and measures when
// nodes follow: a certificate is added, the tenant is suspended (as the operator
// does, in the database), let in again, and the certificate removed.
func propagate(t *testing.T, c *cell, at circumstance, n int) propagation {
	t.Helper()
	ctx := t.Context()
	x := c.tenants[0]
	r := x.rest(c, 0)
	p := propagation{when: at.when}
	var certificate *tls.Certificate
	var text, id string
	for i := range n {
		at.before()
		admitted := i%4 == 0 || i%4 == 2
		if i%4 == 0 {
			certificate, text = clientCertificate(time.Now().AddDate(1, 0, 0))
		}
		once := uuid.NewString()
		// A node that is stopped in the middle of a transaction is in the way for
		// up to ten seconds: then the change is asked for again.
		err := await(ctx, recoveryTime, func(ctx context.Context) error {
			switch i % 4 {
			case 0:
				got, err := r.CreateInstanceClientCertificateWithResponse(ctx, x.instance,
					&api.CreateInstanceClientCertificateParams{IdempotencyKey: &once}, api.ClientCertificatePrototype{Name: "measured", Certificate: text})
				if err != nil {
					return err
				}
				if got.JSON201 != nil {
					id = got.JSON201.ID
				}
				return answered("POST client_certificates", got.HTTPResponse, got.Body, http.StatusCreated)
			case 3:
				got, err := r.DeleteInstanceClientCertificateWithResponse(ctx, x.instance, id)
				if err != nil || got.StatusCode() == http.StatusNotFound {
					return err
				}
				return answered("DELETE client_certificate", got.HTTPResponse, got.Body, http.StatusNoContent)
			}
			return c.database.exec(ctx, "UPDATE instances SET suspended = $1 WHERE id = $2", !admitted, x.instance)
		})
		since := at.after(time.Now())
		must(t, err)
		times, err := c.follow(ctx, x, at.nodes, certificate, admitted, since)
		must(t, err)
		p.times = append(p.times, times...)
		p.changes++
	}
	return p
}

// follow returns how long each node took to admit or refuse a certificate.
func (c *cell) follow(ctx context.Context, x *tenant, nodes []int, certificate *tls.Certificate, admitted bool, since time.Time) ([]time.Duration, error) {
	times := make([]time.Duration, len(nodes))
	errs := make([]error, len(nodes))
	var asking sync.WaitGroup
	for i, node := range nodes {
		server := x.servers[node]
		server.Certificate, server.LocalAddress = certificate, newSource()
		asking.Go(func() { times[i], errs[i] = follows(ctx, server, admitted, since) })
	}
	asking.Wait()
	return times, errors.Join(errs...)
}

// follows asks a node every 10 ms until it admits or refuses as it should, and
// returns how long that took.
func follows(ctx context.Context, server client.Config, admitted bool, since time.Time) (time.Duration, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(ctx, recoveryTime)
	defer cancel()
	for {
		err := discoverOnce(ctx, server)
		if err == nil == admitted && (err == nil || refused(err)) {
			return time.Since(since), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("%s has not followed: %w", server.Address, err)
		}
	}
}

// silence makes changes notify nobody until it is called off: nodes have to find
// them by asking.
func (d *database) silence(ctx context.Context) (restore func(ctx context.Context) error, err error) {
	var original string
	err = d.servers[d.primary].connected(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT pg_get_functiondef('configuration_changed'::regproc)").Scan(&original)
	})
	silent := strings.ReplaceAll(original, "pg_notify(", "concat(")
	if err == nil && silent == original {
		err = errors.New("configuration_changed does not notify")
	}
	if err == nil {
		err = d.exec(ctx, silent)
	}
	return func(ctx context.Context) error { return d.exec(ctx, original) }, err
}

// measure makes so many changes in each circumstance.
func (r *report) measure(t *testing.T, c *cell, changes int) {
	ctx := t.Context()
	add := func(p propagation) {
		r.propagation = append(r.propagation, p)
		if longest := slices.Max(p.times); longest > servedAfter {
			t.Errorf("%s: a change took %s to a node", p.when, longest)
		}
	}
	nothing := func() {}
	atOnce := func(acknowledged time.Time) time.Time { return acknowledged }
	add(propagate(t, c, circumstance{"all is well", allNodes, nothing, atOnce}, changes))

	restore, err := c.database.silence(ctx)
	must(t, err)
	add(propagate(t, c, circumstance{"notifications are lost", allNodes, nothing, atOnce}, changes))
	must(t, restore(ctx))

	add(propagate(t, c, circumstance{
		"a node was stopped, from when it goes on",
		[]int{1},
		func() { c.nodes[1].signal(syscall.SIGSTOP) },
		func(time.Time) time.Time {
			resumed := time.Now()
			c.nodes[1].signal(syscall.SIGCONT)
			return resumed
		},
	}, changes))
	add(r.afterRestore(t, c, max(1, changes/20)))
}

// afterRestore adds a certificate, restores a backup that does not have it, and
// measures from when the database answers again until nodes refuse it.
func (r *report) afterRestore(t *testing.T, c *cell, n int) propagation {
	ctx := t.Context()
	x := c.tenants[0]
	p := propagation{when: "an older backup was restored, from when PostgreSQL answers"}
	for range n {
		backup, err := c.database.backUp(ctx)
		must(t, err)
		certificate, text := clientCertificate(time.Now().AddDate(1, 0, 0))
		got, err := x.rest(c, 0).CreateInstanceClientCertificateWithResponse(ctx, x.instance, nil, api.ClientCertificatePrototype{Name: "younger", Certificate: text})
		must(t, err)
		must(t, answered("POST client_certificates", got.HTTPResponse, got.Body, http.StatusCreated))
		_, err = c.follow(ctx, x, allNodes, certificate, true, time.Now())
		must(t, err)
		must(t, c.database.restore(ctx, backup))
		times, err := c.follow(ctx, x, allNodes, certificate, false, time.Now())
		must(t, err)
		p.times = append(p.times, times...)
		p.changes++
		must(t, c.database.rebuild(ctx))
		must(t, await(ctx, recoveryTime, c.ready))
	}
	return p
}

// inFlight has a request under way on a node while that is told to end: it has to
// be answered.
func (tr *traffic) inFlight(t *testing.T, node int) {
	t.Helper()
	ctx := t.Context()
	x := tr.tenants[0]
	conn, err := client.Dial(ctx, x.servers[node])
	must(t, err)
	defer conn.Close()
	id, err := conn.Create(ctx, vSphere...) // nobody else asks for this key
	must(t, err)
	ref, err := tr.standardKey(ctx, x, id)
	must(t, err)
	must(t, tr.knob(ctx, "latency", keyManagers(map[string]any{"median_ms": 1500})...))
	answer := make(chan error, 1)
	go func() {
		key, err := conn.Get(ctx, id)
		if err == nil {
			key.Wipe()
		}
		answer <- err
	}()
	must(t, tr.awaitCall(ctx, "GET", "/api/v2/keys/"+ref))
	tr.nodes[node].signal(syscall.SIGTERM)
	if err := <-answer; err != nil {
		t.Errorf("a request in flight when node-%d was told to end: %v", node+1, err)
	}
	must(t, tr.knob(ctx, "latency"))
}

// awaitCall waits until a service is asked something.
func (c *cell) awaitCall(ctx context.Context, method, path string) error {
	query := url.Values{"method": {method}, "path": {path}, "wait_s": {"10"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address(c.knobs)+"/emulator/v1/calls?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	var found struct {
		Calls []json.RawMessage `json:"calls"`
	}
	err = ask(req, &found)
	if err == nil && len(found.Calls) == 0 {
		err = fmt.Errorf("nobody asked for %s %s", method, path)
	}
	return err
}

// rollingRestart tells each node in turn to end. A client that tries the next
// node sees no error.
func (tr *traffic) rollingRestart(t *testing.T) *row {
	t.Helper()
	ctx := t.Context()
	tr.begin()
	tr.awaitWatchers(t, "before the restart", 2)
	began := time.Now()
	for node, n := range tr.nodes {
		before := n.started()
		tr.inFlight(t, node)
		must(t, n.startedAgain(ctx, before))
		must(t, await(ctx, recoveryTime, func(ctx context.Context) error { return ready(ctx, n.admin) }))
		tr.reset()
		tr.awaitWatchers(t, "after the restart of a node", 2)
	}
	r := &row{fault: "rolling restart of the nodes", lasted: time.Since(began), summary: tr.recorder.end()}
	if r.Unserved > 0 {
		t.Errorf("%d operations failed on all nodes: %s", r.Unserved, r.errorsByKind())
	}
	return r
}

// staticStability takes things away, restarts a node, and asks every node for
// existing keys.
func (r *report) staticStability(t *testing.T, c *cell) {
	ctx := t.Context()
	controls := func(halt bool) {
		for _, p := range c.controls {
			if halt {
				p.halt()
			} else {
				p.resume()
			}
		}
	}
	database := func(halt bool) {
		for _, s := range []*server{c.database.servers[c.database.primary], c.database.servers[1-c.database.primary]} {
			if halt {
				s.fence()
			} else {
				must(t, s.run(context.WithoutCancel(ctx)))
			}
		}
	}
	for _, away := range []struct {
		what string
		take []func(halt bool)
	}{
		{"both control planes", []func(bool){controls}},
		{"PostgreSQL", []func(bool){database}},
		{"PostgreSQL and both control planes", []func(bool){controls, database}},
	} {
		for _, take := range away.take {
			take(true)
		}
		before := c.nodes[2].started()
		c.nodes[2].signal(syscall.SIGKILL)
		must(t, c.nodes[2].startedAgain(ctx, before))
		s := static{away: away.what}
		for node := range c.nodes {
			must(t, await(ctx, recoveryTime, func(ctx context.Context) error { return discoverOnce(ctx, c.tenants[0].servers[node]) }))
			for _, x := range c.tenants {
				for _, k := range x.keys.since(max(0, len(x.keys.since(0))-20)) {
					s.ask(ctx, t, x, node, k)
				}
			}
		}
		r.static = append(r.static, s)
		for _, take := range slices.Backward(away.take) {
			take(false)
		}
		must(t, await(ctx, recoveryTime, c.ready))
	}
}

// ask reads a key and its state on one node.
func (s *static) ask(ctx context.Context, t *testing.T, x *tenant, node int, k *key) {
	t.Helper()
	s.asked++
	began := time.Now()
	conn, err := client.Dial(ctx, x.servers[node])
	if err == nil {
		defer conn.Close()
		got, getErr := conn.Get(ctx, k.id)
		if getErr == nil && !k.same(got) {
			getErr = errors.New("other bytes")
		}
		state, stateErr := conn.GetAttributes(ctx, k.id, kmip.AttributeState)
		if stateErr == nil && len(state) != 1 {
			stateErr = errors.New("no state")
		}
		err = errors.Join(getErr, stateErr)
	}
	if err != nil {
		t.Errorf("%s away: %s, key %s on node-%d: %v", s.away, x.name, k.id, node+1, err)
		return
	}
	s.answered++
	s.longest = max(s.longest, time.Since(began))
}
