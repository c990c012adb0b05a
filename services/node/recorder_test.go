package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/audit"
	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// noted is a sink that keeps what it gets.
type noted struct {
	mu     sync.Mutex
	events []audit.Event
}

func (n *noted) sink(e audit.Event) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
	return nil
}

func (n *noted) all() []audit.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.events)
}

// recordedRig is a rig whose events go to a sink.
func recordedRig(t *testing.T, sink audit.Sink) *rig {
	t.Helper()
	r := &rig{one: oneIdentity().must(t), two: twoIdentity().must(t), revision: 1}
	r.tenant = newTenant("one", r.one)
	r.tenant.Account, r.tenant.Names = "0123456789abcdef0123456789abcdef", []string{"one.example.com"}
	r.source = &fixedSource{first: []tenant.Tenant{r.tenant, newTenant("two", r.two)}, deltas: make(chan tenant.Delta)}
	r.cell = serveCell(t, ports{source: r.source, objects: enginetest.NewObjects(), events: sink})
	return r
}

// Each operation on an object is one event with who, what and how it ended;
// Query and Discover Versions are none unless they fail. Nothing of a key is in
// it.
func TestEventsOfRequests(t *testing.T) {
	var log noted
	r := recordedRig(t, log.sink)
	conn := r.mustConnect(t)
	if _, err := conn.Query(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	id, err := conn.Create(t.Context(), vSphere...)
	if err != nil {
		t.Fatal(err)
	}
	key, err := conn.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	foreign := r.mustConnectAs(t, r.two)
	if _, err := foreign.Get(t.Context(), id); err == nil {
		t.Fatal("a foreign key was given out")
	}
	if err := conn.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range log.all() {
		got = append(got, fmt.Sprint(e.LogSourceCRN, " ", e.Action, " ", e.Outcome, " ", e.Severity, " ", e.Reason.ReasonCode, " ", e.RequestData["certificateId"], " ", e.ResponseData["resultReason"]))
		text, err := json.Marshal(e)
		if err != nil || bytes.Contains(text, key.Reveal()) {
			t.Errorf("the key is in %s, %v", text, err)
		}
	}
	one := "crn:v1:bluemix:public:vmware-solutions:us-south:a/" + r.tenant.Account + ":one:: vmware-solutions.kmip-key."
	two := "crn:v1:bluemix:public:vmware-solutions:us-south:a/:two:: vmware-solutions.kmip-key."
	want := []string{one + "create success normal 200 c-one 0", one + "read success normal 200 c-one 0", two + "read failure normal 404 c-two 1", one + "destroy success critical 200 c-one 0"}
	if !slices.Equal(got, want) {
		t.Errorf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	e := log.all()[1]
	if e.Target.ID != strings.TrimSuffix(e.LogSourceCRN, "::")+":kmip-key:"+string(id) || e.Initiator.ID != "CertificateID-"+tenant.FingerprintOf(r.one.Certificate[0]).String() ||
		e.Initiator.Host != (audit.Host{Address: "127.0.0.1", AddressType: "IPv4"}) || uuid.Validate(e.CorrelationID) != nil || !e.DataEvent || e.RequestData["operation"] != "Get" {
		t.Errorf("%+v", e)
	}
}

// Connections and requests that are refused are events of the tenant that they
// lead to, and of nobody else.
func TestEventsOfRefusals(t *testing.T) {
	var log noted
	r := recordedRig(t, log.sink)
	conn := r.mustConnect(t)
	for _, name := range []string{"", "one.example.com"} {
		cfg := client.Config{Certificate: r.two, ServerName: name}
		if name == "" {
			cfg.Certificate = clientCertificate(t) // at a shared endpoint nobody knows whose it is
		}
		if _, err := r.connectBy(t.Context(), cfg); err == nil {
			t.Fatalf("a stranger is admitted at %q", name)
		}
	}
	r.change(r.removed())
	if _, err := conn.DiscoverVersions(t.Context()); err == nil {
		t.Fatal("a removed certificate is served")
	}
	r.stop()
	<-r.ended
	var got []string
	for _, e := range log.all() {
		got = append(got, fmt.Sprint(e.Target.Name, " ", e.Action, " ", e.Outcome, " ", e.Initiator.ID == "CertificateID-"+tenant.FingerprintOf(r.two.Certificate[0]).String(), " ", e.Reason.ReasonForFailure))
	}
	slices.Sort(got)
	got = slices.Compact(got) // one that lingers is closed once more by the change
	want := []string{
		"one vmware-solutions.kmip-connection.authenticate failure false unknown_certificate",
		"one vmware-solutions.kmip-connection.authenticate failure true foreign_certificate",
	}
	if !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// The line is written before the answer leaves: while it is not, no answer
// comes, and another tenant's does.
func TestNoAnswerBeforeItsEvent(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	r := recordedRig(t, func(e audit.Event) error {
		if e.Target.Name != "two" && strings.Contains(e.LogSourceCRN, ":one:") {
			close(entered)
			<-release
		}
		return nil
	})
	conn, other := r.mustConnect(t), r.mustConnectAs(t, r.two)
	answered := make(chan error, 1)
	go func() {
		_, err := conn.Create(t.Context(), vSphere...)
		answered <- err
	}()
	<-entered
	for range 20 {
		if _, err := other.Create(t.Context(), vSphere...); err != nil {
			t.Errorf("another tenant: %v", err)
		}
	}
	early := len(answered)
	close(release)
	if err := <-answered; err != nil || early != 0 {
		t.Errorf("%d answers before the event was written, %v", early, err)
	}
}

// A line that can't be written is counted, and holds nothing up.
func TestEventThatCantBeWritten(t *testing.T) {
	r := recordedRig(t, func(audit.Event) error { return errors.New("no space left on device") })
	conn := r.mustConnect(t)
	id, err := conn.Create(t.Context(), vSphere...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Get(t.Context(), id); err != nil {
		t.Error(err)
	}
	if lost := r.finalMetrics(t)["kmip_audit_lines_lost_total"]; lost != "2" {
		t.Errorf("%s lines were lost", lost)
	}
}

// While PostgreSQL is away a bounded number of events waits; a tenant's flood
// takes neither its own changes nor the other's events with it. Once PostgreSQL
// is back each finds its own, with the gap.
func TestEventsReachTheirTenant(t *testing.T) {
	const mine, theirs = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
	database := pgtest.Database(t)
	instances := pg.NewInstances(openAs(t, database, "kmip_control"))
	reports := pg.NewReports(openAs(t, database, "kmip_node"), "node-1")
	one, two := oneIdentity().must(t), twoIdentity().must(t)
	var tenants []tenant.Tenant
	for i, certificate := range []*tls.Certificate{one, two} {
		instance, err := instances.Create(t.Context(), pg.Instance{
			ID: tenant.ID(uuid.NewString()), Account: []string{mine, theirs}[i], Name: "i", Region: "us-south", Status: pg.Inactive, Shared: true, CreatedBy: "IBMid-1",
		})
		if err != nil {
			t.Fatal(err)
		}
		x := newTenant(instance.ID, certificate)
		x.Account = instance.Account
		tenants = append(tenants, x)
	}
	var away atomic.Bool
	away.Store(true)
	c := serveCell(t, ports{
		source: &fixedSource{first: tenants}, objects: enginetest.NewObjects(),
		stored: func(ctx context.Context, all []pg.KMIPEvents) error {
			if away.Load() {
				return engine.ErrUnavailable
			}
			return reports.RecordKMIPEvents(ctx, all)
		},
	})
	flooding, quiet := c.mustConnectAs(t, one), c.mustConnectAs(t, two)
	const flood = streamEvents + 200
	for range flood {
		if _, err := flooding.Get(t.Context(), "nothing"); err == nil {
			t.Fatal("got what does not exist")
		}
	}
	for _, conn := range []*client.Conn{flooding, quiet} {
		if _, err := conn.Create(t.Context(), vSphere...); err != nil {
			t.Fatal(err)
		}
	}
	b := &c.recorder.backlog
	if b.flush(t.Context()) || len(b.queue) != streamEvents+2 {
		t.Fatalf("%d events wait", len(b.queue))
	}
	away.Store(false)
	for b.flush(t.Context()) {
	}
	if len(b.queue) != 0 || len(b.streams) != 0 {
		t.Errorf("%d events and %d streams are left", len(b.queue), len(b.streams))
	}
	for i, x := range tenants {
		count := map[string]int{}
		var before int64
		for more := true; more; {
			found, err := instances.ListEvents(t.Context(), x.Account, x.ID, before, 500)
			if err != nil {
				t.Fatal(err)
			}
			more = len(found) > 0
			for _, f := range found {
				before = f.Number
				var e audit.Event
				if err := json.Unmarshal(f.JSON, &e); err != nil || e.LogSourceCRN != x.CRN("us-south") {
					t.Fatalf("%s: %v", f.JSON, err)
				}
				count[e.Action]++
				if e.Action == "vmware-solutions.event.list" && (e.ResponseData["events"] != 200.0 || e.ResponseData["node"] != "node-1" || e.ResponseData["from"] == "" || e.ResponseData["to"] == "") {
					t.Errorf("the gap: %+v", e)
				}
			}
		}
		want := []string{fmt.Sprint(map[string]int{"vmware-solutions.kmip-key.create": 1, "vmware-solutions.kmip-key.read": streamEvents, "vmware-solutions.event.list": 1}), fmt.Sprint(map[string]int{"vmware-solutions.kmip-key.create": 1})}[i]
		if fmt.Sprint(count) != want {
			t.Errorf("tenant %d finds %v, want %s", i+1, count, want)
		}
	}
	if missed := c.finalMetrics(t)[fmt.Sprintf("kmip_audit_events_missed_total{tenant=%q}", tenants[0].ID)]; missed != "200" {
		t.Errorf("%s events counted as missed", missed)
	}
}

// At the end what waits is stored, also when a batch is refused for good.
func TestBacklogAtTheEnd(t *testing.T) {
	var stored, refused int
	m := newMetrics(obs.NewRegistry())
	r := newRecorder("us-south", nil, func(_ context.Context, all []pg.KMIPEvents) error {
		if refused == 0 {
			refused = len(all[0].Events)
			return errors.New("the function does not exist")
		}
		for _, of := range all {
			stored += len(of.Events) + int(of.Missed)
		}
		return nil
	}, slog.New(slog.DiscardHandler), m, time.Now)
	x := tenant.Tenant{ID: "one"}
	for range eventBatch + 10 {
		r.backlog.add(&x, false, audit.Event{EventTime: audit.Time(time.Now())})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.backlog.run(ctx)
	if refused != eventBatch || stored != eventBatch+10 {
		t.Errorf("%d refused, %d stored or told", refused, stored)
	}
}
