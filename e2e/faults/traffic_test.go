//go:build linux

package faults

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

const (
	// clientTime is what a KMIP client waits for an answer.
	clientTime = 5 * time.Second
	// servedAfter is how long a removed certificate may be served after the
	// answer of the REST API.
	servedAfter = time.Second
)

// vSphere is the template of vCenter's Create.
var vSphere = []kmip.Attribute{
	{Name: kmip.AttributeCryptographicAlgorithm, Value: kmip.Enum(kmip.AES)},
	{Name: kmip.AttributeCryptographicUsageMask, Value: kmip.Int(12)},
	{Name: kmip.AttributeCryptographicLength, Value: kmip.Int(256)},
}

// traffic is what customers do all the time.
type traffic struct {
	*cell
	*recorder
	watchers []string
	working  sync.WaitGroup
	stop     context.CancelFunc
	// quiet is held by who wants no changes over REST for a while.
	quiet sync.RWMutex
}

// startTraffic sets all clients of all tenants to work until the test ends.
func startTraffic(t testing.TB, c *cell) *traffic {
	t.Helper()
	tr := &traffic{cell: c, recorder: newRecorder()}
	var ctx context.Context
	ctx, tr.stop = context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(tr.end)
	for n, x := range c.tenants {
		stranger := c.tenants[1-n]
		for range 2 {
			tr.do(ctx, 300*time.Millisecond, tr.maker(x))
			tr.do(ctx, 50*time.Millisecond, tr.reader(x))
		}
		tr.do(ctx, 250*time.Millisecond, tr.intruder(x, stranger))
		for node := range c.nodes {
			name := fmt.Sprintf("%s on node-%d", x.name, node+1)
			tr.watchers = append(tr.watchers, name)
			tr.do(ctx, 700*time.Millisecond, tr.watcher(x, node, name))
		}
		tr.do(ctx, 200*time.Millisecond, tr.changer(x))
	}
	for control := range c.controls {
		name := fmt.Sprint("control-", control+1)
		tr.watchers = append(tr.watchers, name)
		tr.do(ctx, 500*time.Millisecond, tr.administrator(control, name))
	}
	return tr
}

// do calls f again and again, at most once in each interval.
func (tr *traffic) do(ctx context.Context, every time.Duration, f func(ctx context.Context)) {
	tr.working.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for ctx.Err() == nil {
			f(ctx)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
}

func (tr *traffic) end() {
	tr.stop()
	tr.working.Wait()
}

// sources counts the clients.
var sources atomic.Uint32

// newSource returns an address of this machine for one client alone: nodes limit
// what each source may open.
func newSource() netip.Addr {
	n := sources.Add(1)
	return netip.AddrFrom4([4]byte{127, 1, byte(n >> 8), byte(n)})
}

// provider is a KMIP client with the three nodes as its servers. It is not safe
// for concurrent use.
type provider struct {
	*recorder
	tenant   *tenant
	from     netip.Addr
	first    int // the node that is asked first
	patience time.Duration
	open     [nodeCount]*client.Conn
}

func (tr *traffic) provider(x *tenant) *provider {
	return &provider{recorder: tr.recorder, tenant: x, from: newSource(), first: rand.IntN(nodeCount), patience: clientTime}
}

// at carries out one request on one node.
func (p *provider) at(ctx context.Context, node int, do func(context.Context, *client.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.patience)
	defer cancel()
	var err error
	if p.open[node] == nil {
		server := p.tenant.servers[node]
		server.LocalAddress = p.from
		p.open[node], err = client.Dial(ctx, server)
	}
	if err == nil {
		err = do(ctx, p.open[node])
	}
	var refused *client.ResultError
	if err != nil && !errors.As(err, &refused) && p.open[node] != nil {
		p.open[node].Close()
		p.open[node] = nil
	}
	return err
}

// anywhere carries out an operation on the first node that does, and begins with
// that one the next time.
func (p *provider) anywhere(ctx context.Context, what string, do func(context.Context, *client.Conn) error) error {
	var err error
	for i := range nodeCount {
		node := (p.first + i) % nodeCount
		err = p.at(ctx, node, do)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.request(err)
		if err == nil {
			p.first = node
			break
		}
	}
	p.operation(p.tenant.name+" "+what, err)
	return err
}

// close ends all connections.
func (p *provider) close() {
	for _, conn := range p.open {
		if conn != nil {
			conn.Close()
		}
	}
}

// create makes a key and remembers it once it is answered.
func (p *provider) create(ctx context.Context, conn *client.Conn) (*key, error) {
	id, err := conn.Create(ctx, vSphere...)
	if err != nil {
		return nil, err
	}
	return p.tenant.keys.add(id), nil
}

// get reads a key and compares it. An answer that is final and wrong is a
// violation.
func (p *provider) get(ctx context.Context, conn *client.Conn, k *key) error {
	got, err := conn.Get(ctx, k.id)
	var refused *client.ResultError
	switch {
	case err == nil && !k.same(got):
		p.violation("%s: key %s has other bytes than it had first", p.tenant.name, k.id)
	case errors.As(err, &refused) && (refused.Reason == itemNotFound || refused.Reason == permissionDenied):
		p.violation("%s: Get of the answered key %s: %v", p.tenant.name, k.id, err)
	}
	return err
}

// maker makes keys and reads each on another node.
func (tr *traffic) maker(x *tenant) func(context.Context) {
	p := tr.provider(x)
	return func(ctx context.Context) {
		var made *key
		if err := p.anywhere(ctx, "Create", func(ctx context.Context, conn *client.Conn) (err error) {
			made, err = p.create(ctx, conn)
			return err
		}); err != nil {
			return
		}
		p.first = (p.first + 1) % nodeCount
		_ = p.anywhere(ctx, "Get", func(ctx context.Context, conn *client.Conn) error { return p.get(ctx, conn, made) }) // counted
	}
}

// reader reads keys, of any age, on all nodes in turn.
func (tr *traffic) reader(x *tenant) func(context.Context) {
	p := tr.provider(x)
	return func(ctx context.Context) {
		if k := x.keys.any(); k != nil {
			_ = p.anywhere(ctx, "Get", func(ctx context.Context, conn *client.Conn) error { return p.get(ctx, conn, k) }) // counted
			p.first = (p.first + 1) % nodeCount
		}
	}
}

// intruder asks for another tenant's keys.
func (tr *traffic) intruder(x, stranger *tenant) func(context.Context) {
	p := tr.provider(x)
	return func(ctx context.Context) {
		k := stranger.keys.any()
		if k == nil {
			return
		}
		p.first = (p.first + 1) % nodeCount
		_ = p.at(ctx, p.first, func(ctx context.Context, conn *client.Conn) error { // refused, as it should be
			got, err := conn.Get(ctx, k.id)
			if err == nil {
				got.Wipe()
				tr.foreign("%s was given key %s of %s", x.name, k.id, stranger.name)
			}
			return err
		})
	}
}

// watcher makes and reads a key on one node alone, whatever the others do.
func (tr *traffic) watcher(x *tenant, node int, name string) func(context.Context) {
	p := tr.provider(x)
	return func(ctx context.Context) {
		err := p.at(ctx, node, func(ctx context.Context, conn *client.Conn) error {
			made, err := p.create(ctx, conn)
			if err != nil {
				return err
			}
			return p.get(ctx, conn, made)
		})
		if err == nil {
			tr.worked(name)
		}
	}
}

// administrator looks at all instances through one control plane.
func (tr *traffic) administrator(control int, name string) func(context.Context) {
	return func(ctx context.Context) {
		for _, x := range tr.tenants {
			got, err := x.rest(tr.cell, control).GetInstanceWithResponse(ctx, x.instance)
			if err != nil || got.JSON200 == nil {
				return
			}
		}
		tr.worked(name)
	}
}

// changer changes an instance over REST, at one control plane or the other: its
// name, and a client certificate that is added or removed.
func (tr *traffic) changer(x *tenant) func(context.Context) {
	round := 0
	return func(ctx context.Context) {
		tr.quiet.RLock()
		defer tr.quiet.RUnlock()
		round++
		tr.rename(ctx, x, round)
		var present []string
		_, certificates := x.settings.copy()
		for id, c := range certificates {
			if !c.removed && !c.unknown {
				present = append(present, id)
			}
		}
		slices.Sort(present)
		if len(present) < 3 {
			tr.addCertificate(ctx, x, round, fmt.Sprint("certificate ", round), time.Now().AddDate(1, 0, 0))
			return
		}
		tr.removeCertificate(ctx, x, round, present[0], certificates[present[0]].certificate)
	}
}

// change asks for a change until it is acknowledged or refused, at one control
// plane after the other. Unsure tells whether an earlier try may have done it.
func (tr *traffic) change(ctx context.Context, x *tenant, round int, ask func(r *api.ClientWithResponses) error) (unsure bool, err error) {
	for try := 0; ; try++ {
		err = ask(x.rest(tr.cell, (round+try)%controlCount))
		if ctx.Err() != nil {
			return true, ctx.Err()
		}
		tr.request(err)
		var refused *statusError
		if err == nil {
			tr.operation(x.name+" REST", nil)
			tr.changed()
			return unsure, nil
		}
		if errors.As(err, &refused) && refused.status != http.StatusUnauthorized && refused.status/100 == 4 && refused.status != http.StatusTooManyRequests {
			return unsure, err
		}
		unsure = true
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return true, ctx.Err()
		}
	}
}

func (tr *traffic) rename(ctx context.Context, x *tenant, round int) {
	name := fmt.Sprint("renamed ", round)
	x.settings.named(name, false)
	_, err := tr.change(ctx, x, round, func(r *api.ClientWithResponses) error {
		got, err := r.UpdateInstanceWithApplicationMergePatchPlusJSONBodyWithResponse(ctx, x.instance,
			&api.UpdateInstanceParams{IfMatch: "*"}, api.InstancePatch{Name: &name})
		if err != nil {
			return err
		}
		return answered("PATCH instance", got.HTTPResponse, got.Body, http.StatusOK)
	})
	switch {
	case err == nil:
		x.settings.named(name, true)
	case ctx.Err() == nil:
		tr.violation("%s: renaming is refused: %v", x.name, err)
	}
}

// addCertificate returns its id, or "".
func (tr *traffic) addCertificate(ctx context.Context, x *tenant, round int, name string, ends time.Time) string {
	certificate, text := clientCertificate(ends)
	once := uuid.NewString()
	var id string
	_, err := tr.change(ctx, x, round, func(r *api.ClientWithResponses) error {
		got, err := r.CreateInstanceClientCertificateWithResponse(ctx, x.instance, &api.CreateInstanceClientCertificateParams{IdempotencyKey: &once},
			api.ClientCertificatePrototype{Name: name, Certificate: text})
		if err != nil {
			return err
		}
		if got.JSON201 != nil {
			id = got.JSON201.ID
		}
		return answered("POST client_certificates", got.HTTPResponse, got.Body, http.StatusCreated)
	})
	switch {
	case err == nil:
		x.settings.put(id, certificateState{certificate: certificate})
	case ctx.Err() == nil:
		tr.violation("%s: adding a certificate is refused: %v", x.name, err)
	}
	return id
}

// removeCertificate goes on using the certificate on every node.
func (tr *traffic) removeCertificate(ctx context.Context, x *tenant, round int, id string, certificate *tls.Certificate) {
	x.settings.put(id, certificateState{certificate: certificate, unknown: true})
	end := make(chan time.Time, nodeCount)
	var using sync.WaitGroup
	for node := range tr.nodes {
		using.Go(func() { tr.use(ctx, x, node, certificate, end) })
	}
	_, err := tr.change(ctx, x, round, func(r *api.ClientWithResponses) error {
		got, err := r.DeleteInstanceClientCertificateWithResponse(ctx, x.instance, id)
		if err != nil {
			return err
		}
		if got.StatusCode() == http.StatusNotFound {
			return nil // an earlier try whose answer was lost
		}
		return answered("DELETE client_certificate", got.HTTPResponse, got.Body, http.StatusNoContent)
	})
	at := time.Now()
	for range tr.nodes {
		end <- at
	}
	using.Wait()
	switch {
	case err == nil:
		x.settings.put(id, certificateState{certificate: certificate, removed: true})
	case ctx.Err() == nil:
		tr.violation("%s: removing a certificate is refused: %v", x.name, err)
	}
}

// use makes requests with a certificate on a node, over an open connection and
// over new ones, until a while after its end. A success too long after that is a
// violation, unless the node could not hear of it.
func (tr *traffic) use(ctx context.Context, x *tenant, node int, certificate *tls.Certificate, ends <-chan time.Time) {
	server := x.servers[node]
	server.Certificate = certificate
	server.LocalAddress = newSource()
	tick := time.NewTicker(40 * time.Millisecond)
	defer tick.Stop()
	var open *client.Conn
	defer func() {
		if open != nil {
			open.Close()
		}
	}()
	var last, end time.Time
	for round := 0; ctx.Err() == nil; round++ {
		sent := time.Now()
		if err := discover(ctx, server, &open, round%4 == 0); err == nil {
			last = sent
		}
		select {
		case end = <-ends:
			ends = nil // the others wait for theirs
		case <-tick.C:
		case <-ctx.Done():
		}
		if end.IsZero() {
			continue
		}
		since, informed := tr.informed(node, end)
		if informed && time.Since(since) > 2*servedAfter {
			break
		}
		if !informed && time.Since(end) > 2*servedAfter {
			return // what verifies finds it
		}
	}
	if ctx.Err() != nil || last.IsZero() {
		return
	}
	since, _ := tr.informed(node, end)
	by := last.Sub(since)
	tr.late(by)
	if by > servedAfter {
		tr.violation("%s: node-%d served a certificate %s after its end", x.name, node+1, by.Round(time.Millisecond))
	}
}

// discover makes a request over the open connection, or over a new one.
func discover(ctx context.Context, server client.Config, open **client.Conn, anew bool) error {
	ctx, cancel := context.WithTimeout(ctx, servedAfter)
	defer cancel()
	conn := *open
	if conn == nil || anew {
		var err error
		if conn, err = client.Dial(ctx, server); err != nil {
			return err
		}
	}
	_, err := conn.DiscoverVersions(ctx)
	switch {
	case err != nil:
		conn.Close()
		if conn == *open {
			*open = nil
		}
	case *open == nil:
		*open = conn
	case conn != *open:
		conn.Close()
	}
	return err
}
