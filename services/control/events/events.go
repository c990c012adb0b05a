// Package events makes Activity Tracker's events of calls of the API, and keeps
// those that an instance's own account is to see.
package events

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/audit"
	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Names holds each route's name in the record: object and verb of the action.
// IBM publishes service.create and service.delete (VMware Solutions, Activity
// Tracker events); the others follow their form.
var Names = map[string][2]string{
	"GET /v1/regions":                                                     {"region", "list"},
	"GET /v1/key_estimate":                                                {"key-estimate", "read"},
	"GET /v1/instances":                                                   {"service", "list"},
	"POST /v1/instances":                                                  {"service", "create"},
	"GET /v1/instances/{id}":                                              {"service", "read"},
	"PATCH /v1/instances/{id}":                                            {"service", "update"},
	"DELETE /v1/instances/{id}":                                           {"service", "delete"},
	"POST /v1/instances/{id}/restore":                                     {"service", "restore"},
	"GET /v1/instances/{id}/key_manager":                                  {"key-manager", "read"},
	"PUT /v1/instances/{id}/key_manager":                                  {"key-manager", "update"},
	"PUT /v1/instances/{id}/kmip_credential":                              {"kmip-credential", "update"},
	"DELETE /v1/instances/{id}/kmip_credential":                           {"kmip-credential", "delete"},
	"GET /v1/key_managers":                                                {"key-manager", "list"},
	"GET /v1/key_managers/{guid}/root_keys":                               {"root-key", "list"},
	"GET /v1/instances/{id}/service_authorization":                        {"service-authorization", "read"},
	"POST /v1/instances/{id}/service_authorization":                       {"service-authorization", "create"},
	"GET /v1/instances/{id}/endpoints":                                    {"endpoint", "list"},
	"GET /v1/instances/{id}/refusals":                                     {"refusal", "list"},
	"GET /v1/instances/{id}/events":                                       {"event", "list"},
	"GET /v1/instances/{id}/client_certificates":                          {"client-certificate", "list"},
	"POST /v1/instances/{id}/client_certificates":                         {"client-certificate", "create"},
	"DELETE /v1/instances/{id}/client_certificates/{certificate_id}":      {"client-certificate", "delete"},
	"POST /v1/instances/{id}/client_certificates/sign":                    {"client-certificate", "sign"},
	"POST /v1/instances/{id}/client_certificates/issue":                   {"client-certificate", "issue"},
	"GET /v1/instances/{id}/client_certificates/{certificate_id}":         {"client-certificate", "read"},
	"POST /v1/instances/{id}/client_certificates/{certificate_id}/rotate": {"client-certificate", "rotate"},
}

// credentials are the objects whose changes change who may use keys.
var credentials = map[string]bool{"key-manager": true, "client-certificate": true, "kmip-credential": true, "service-authorization": true}

// maxAgent bounds what a caller may say of itself, in bytes.
const maxAgent = 256

// Call is a call whose caller is known, and what came of it.
type Call struct {
	Request  *http.Request
	Route    string // a key of Names
	Status   int
	Caller   iam.Identity
	Trace    string
	Instance string // that it was about, or empty
	Part     string // of the instance, that it was about, or empty
	Reason   string // what the caller was told of a failure
}

// Recorder makes events of calls whose caller is known. All go to the sink;
// those that change something, or that were forbidden, are kept for the
// instance's own account too.
type Recorder struct {
	Region    string
	Sink      audit.Sink
	Instances *pg.Instances
	Now       func() time.Time
	Failed    func(ctx context.Context, err error) // an event could not be kept
}

const recordTimeout = 3 * time.Second

// Record makes the event of a call.
func (c *Recorder) Record(call Call) {
	e, id := c.event(call)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(call.Request.Context()), recordTimeout)
	defer cancel()
	if err := c.Sink(e); err != nil {
		c.Failed(ctx, err)
	}
	if id == "" || call.Request.Method == http.MethodGet && call.Status != http.StatusForbidden {
		return
	}
	text, err := json.Marshal(e)
	if err == nil {
		err = c.Instances.RecordEvent(ctx, call.Caller.Account, id, text)
	}
	if err != nil {
		c.Failed(ctx, err)
	}
}

// event describes a call, and names the instance that it was about, or "".
func (c *Recorder) event(call Call) (audit.Event, tenant.ID) {
	r, status := call.Request, call.Status
	named := Names[call.Route]
	object, verb := named[0], named[1]
	target := crn.CRN{Name: "bluemix", Type: "public", Service: tenant.ServiceName, Location: c.Region, Scope: "a/" + call.Caller.Account}
	target.Instance, target.Resource = call.Instance, call.Part
	source := target
	source.Resource = ""
	name := target.Instance
	if target.Resource != "" {
		target.ResourceType, name = object, target.Resource
	}
	outcome := audit.OutcomeOf(status)
	reason := audit.Reason{ReasonCode: status, ReasonType: http.StatusText(status)}
	if outcome == audit.Failure {
		reason.ReasonForFailure = call.Reason
	}
	credential := credentials[object] && r.Method != http.MethodGet
	return audit.Event{
		EventTime: audit.Time(c.Now()), Action: tenant.ServiceName + "." + object + "." + verb,
		Outcome: outcome, Severity: audit.SeverityOf(verb, credential, status), SaveServiceCopy: true,
		CorrelationID: call.Trace, LogSourceCRN: source.String(),
		Message:  audit.MessageOf("VMware Solutions", verb, object, name, outcome),
		Observer: audit.ActivityTracker, Initiator: initiator(r, call.Caller),
		Target:       audit.Target{ID: target.String(), Name: name, TypeURI: tenant.ServiceName + "/" + object},
		Reason:       reason,
		RequestData:  map[string]any{"requestId": obs.RequestID(r.Context()), "requestURI": r.URL.Path},
		ResponseData: map[string]any{},
	}, tenant.ID(source.Instance)
}

// identities are the type URIs of callers (IBM Cloud, Activity Tracker fields).
var identities = map[iam.SubjectType]string{
	iam.ServiceID: "service/security/account/serviceid", iam.CRN: "service/security/clientid",
}

func initiator(r *http.Request, caller iam.Identity) audit.Initiator {
	i := audit.Initiator{ID: caller.IAMID, Name: caller.Name, TypeURI: identities[caller.Type], Credential: audit.Credential{Type: "token"}}
	if i.TypeURI == "" {
		i.TypeURI = "service/security/account/user"
	}
	if caller.Email != "" {
		i.Name = caller.Email
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	address, _ := netip.ParseAddr(host) // the zero address if it is none
	i.Host = audit.HostAt(address)
	i.Host.Agent = strings.ToValidUTF8(r.UserAgent()[:min(len(r.UserAgent()), maxAgent)], "?")
	return i
}
