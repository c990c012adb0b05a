package node

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"github.com/kmip-for-vmware/kmip/libs/audit"
	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire"
)

// action is an operation's name in the record.
type action struct{ object, verb string }

// actions are the operations that are recorded also when they succeed. IBM
// publishes those of Create, Get, Get Attributes, Activate, Revoke and Destroy
// (VMware Solutions, Activity Tracker events); the others follow their form.
var actions = map[string]action{
	"Create":             {"kmip-key", "create"},
	"Register":           {"kmip-key", "register"},
	"Re-key":             {"kmip-key", "rotate"},
	"Locate":             {"kmip-key", "list"},
	"Check":              {"kmip-key", "check"},
	"Get":                {"kmip-key", "read"},
	"Get Attributes":     {"kmip-key-attributes", "retrieve"},
	"Get Attribute List": {"kmip-key-attributes", "list"},
	"Add Attribute":      {"kmip-key-attributes", "add"},
	"Modify Attribute":   {"kmip-key-attributes", "update"},
	"Delete Attribute":   {"kmip-key-attributes", "delete"},
	"Activate":           {"kmip-key", "activate"},
	"Revoke":             {"kmip-key", "revoke"},
	"Destroy":            {"kmip-key", "destroy"},
}

var (
	// anyRequest is what was refused before it was one of these.
	anyRequest   = action{object: "kmip-request", verb: "default"}
	authenticate = action{object: "kmip-connection", verb: "authenticate"}
	listEvents   = action{object: "event", verb: "list"}
)

// statuses are the HTTP statuses that stand for kinds of failure in events;
// Bad Request stands for those that are not here.
var statuses = map[fault.Kind]int{
	fault.Internal: http.StatusInternalServerError, fault.Corrupt: http.StatusInternalServerError,
	fault.Unauthenticated: http.StatusUnauthorized, fault.Denied: http.StatusForbidden,
	fault.NotFound: http.StatusNotFound, fault.Gone: http.StatusNotFound,
	fault.Exists: http.StatusConflict, fault.Conflict: http.StatusConflict, fault.Illegal: http.StatusConflict,
	fault.Unsupported: http.StatusNotImplemented, fault.Throttled: http.StatusTooManyRequests, fault.Unavailable: http.StatusServiceUnavailable,
}

// recorder makes events of what is done for tenants.
type recorder struct {
	region  string // as in CRNs
	sink    audit.Sink
	now     func() time.Time
	metrics *metrics
	backlog backlog
}

// newRecorder returns a recorder whose events go to a sink, unless it is nil,
// and then, in batches, to store.
func newRecorder(region string, sink audit.Sink, store func(context.Context, []pg.KMIPEvents) error, log *slog.Logger, m *metrics, now func() time.Time) *recorder {
	if sink == nil {
		sink = func(audit.Event) error { return nil }
	}
	r := &recorder{region: region, sink: sink, now: now, metrics: m}
	r.backlog = backlog{
		store: store, gap: r.gap, log: log, metrics: m, full: make(chan struct{}, 1), streams: make(map[stream]*pending),
		complain: rate.Sometimes{Interval: complainEvery},
	}
	return r
}

// carriedOut records batch items, before their answer leaves: those that were
// about objects, and those that failed.
func (r *recorder) carriedOut(x *session, t *tenant.Tenant, client tenant.Client, items []wire.Item) {
	for _, it := range items {
		what, known := actions[it.Operation]
		if !known {
			if it.Err == nil {
				continue // Query, Discover Versions
			}
			what = anyRequest
		}
		status, reason := http.StatusOK, ""
		if it.Err != nil {
			status, reason = http.StatusBadRequest, fault.Public(it.Err)
			if s := statuses[fault.KindOf(it.Err)]; s != 0 {
				status = s
			}
		}
		e := r.event(t, what, string(it.Object), status, reason)
		r.by(&e, x, &client)
		e.RequestData["operation"], e.ResponseData["resultReason"] = it.Operation, it.Reason
		if it.Window != "" {
			e.ResponseData["window"] = it.Window
		}
		r.record(e)
		r.backlog.add(t, it.Changes, e)
	}
}

// refused records a connection or request that was turned away, if it is known
// whose it would have been: of the tenant whose own name or port was used, or
// who had admitted the connection before. The tenant's own record of refusals
// counts them, so that strangers can't fill that of events.
func (r *recorder) refused(x *session, a tenant.Arrival, cause string) {
	t, client := x.server.admission(x)
	if snapshot := x.server.configuration.current.Load(); t == nil && snapshot != nil {
		t = snapshot.Tenant(snapshot.Addressed(a))
	}
	if t == nil {
		return
	}
	e := r.event(t, authenticate, "", http.StatusForbidden, cause)
	if a.HasClient {
		client.Fingerprint = a.Client
	}
	r.by(&e, x, &client)
	r.record(e)
}

// record writes an event. One that can't be written holds nothing up: keys are
// what clusters start from, and what was changed is changed.
func (r *recorder) record(e audit.Event) {
	if err := r.sink(e); err != nil {
		r.metrics.eventsLost.Inc()
	}
}

// event makes one about an object of a tenant, or about the tenant.
func (r *recorder) event(t *tenant.Tenant, what action, object string, status int, reason string) audit.Event {
	source := crn.CRN{
		Name: "bluemix", Type: "public", Service: tenant.ServiceName, Location: r.region, Scope: "a/" + t.Account, Instance: string(t.ID),
	}
	target, name := source, string(t.ID)
	if object != "" {
		target.ResourceType, target.Resource, name = "kmip-key", object, object
	}
	outcome := audit.OutcomeOf(status)
	return audit.Event{
		EventTime: audit.Time(r.now()), Action: tenant.ServiceName + "." + what.object + "." + what.verb,
		Outcome: outcome, Severity: audit.SeverityOf(what.verb, false, status), DataEvent: true, SaveServiceCopy: true,
		LogSourceCRN: source.String(),
		Message:      audit.MessageOf("VMware Solutions", what.verb, what.object, name, outcome),
		Observer:     audit.ActivityTracker,
		Target:       audit.Target{ID: target.String(), Name: name, TypeURI: tenant.ServiceName + "/" + what.object},
		Reason:       audit.Reason{ReasonCode: status, ReasonType: http.StatusText(status), ReasonForFailure: reason},
		RequestData:  map[string]any{}, ResponseData: map[string]any{},
	}
}

// by says whose connection an event came from.
func (r *recorder) by(e *audit.Event, x *session, client *tenant.Client) {
	e.CorrelationID = x.id
	e.Initiator = audit.Initiator{
		ID: "CertificateID-" + client.Fingerprint.String(), Name: client.Name, TypeURI: "service/security/client/certificateid",
		Credential: audit.Credential{Type: "certificate"}, Host: audit.HostAt(x.address),
	}
	if client.Fingerprint == (tenant.Fingerprint{}) {
		e.Initiator.ID = "CertificateID-none"
	}
	if client.ID != "" {
		e.RequestData["certificateId"] = client.ID
	}
}

// gap makes the event that stands for events that the tenant's own record does
// not hold.
func (r *recorder) gap(t *tenant.Tenant) audit.Event {
	return r.event(t, listEvents, "", http.StatusInsufficientStorage, "These events are in the node's log alone: they were too many, or the database did not take them.")
}
