package control

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5/middleware"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/audit"
	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

// events names each route's calls in the record: object and verb of the action.
// IBM publishes service.create and service.delete (VMware Solutions, Activity
// Tracker events); the others follow their form.
var events = map[string][2]string{
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
var credentials = map[string]bool{"key-manager": true, "client-certificate": true, "service-authorization": true}

// maxAgent bounds what a caller may say of itself, in bytes.
const maxAgent = 256

// witness sees every call and what came of it.
type witness func(r *http.Request, status int, header http.Header)

// tell lets the witness see a request's end, before the answer leaves.
func (g *gate) tell(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		next.ServeHTTP(ww, r)
		if g.witness != nil && exchangeOf(r.Context()).caller.Account != "" {
			g.witness(r, ww.Status(), ww.Header())
		}
	})
}

// recorder makes events of calls whose caller is known. All go to the sink;
// those that change something, or that were forbidden, are kept for the
// instance's own account too.
type recorder struct {
	region    string
	sink      audit.Sink
	instances *pg.Instances
	now       func() time.Time
	failed    func(ctx context.Context, err error) // an event could not be kept
}

const recordTimeout = 3 * time.Second

func (c *recorder) record(r *http.Request, status int, header http.Header) {
	e, id := c.event(r, status, header)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), recordTimeout)
	defer cancel()
	if err := c.sink(e); err != nil {
		c.failed(ctx, err)
	}
	if id == "" || r.Method == http.MethodGet && status != http.StatusForbidden {
		return
	}
	text, err := json.Marshal(e)
	if err == nil {
		err = c.instances.RecordEvent(ctx, exchangeOf(ctx).caller.Account, id, text)
	}
	if err != nil {
		c.failed(ctx, err)
	}
}

// event describes a call, and names the instance that it was about, or "".
func (c *recorder) event(r *http.Request, status int, header http.Header) (audit.Event, tenant.ID) {
	x := exchangeOf(r.Context())
	named := events[routeOf(r)]
	object, verb := named[0], named[1]
	target := crn.CRN{Name: "bluemix", Type: "public", Service: tenant.ServiceName, Location: c.region, Scope: "a/" + x.caller.Account}
	target.Instance, target.Resource = resourceOf(r.URL.Path)
	if made := header.Get("Location"); made != "" {
		target.Instance, target.Resource = resourceOf(made)
	}
	source := target
	source.Resource = ""
	name := target.Instance
	if target.Resource != "" {
		target.ResourceType, name = object, target.Resource
	}
	outcome := audit.OutcomeOf(status)
	reason := audit.Reason{ReasonCode: status, ReasonType: http.StatusText(status)}
	if outcome == audit.Failure && x.failure != nil {
		reason.ReasonForFailure = publicReason(x.failure)
	}
	credential := credentials[object] && r.Method != http.MethodGet
	return audit.Event{
		EventTime: audit.Time(c.now()), Action: tenant.ServiceName + "." + object + "." + verb,
		Outcome: outcome, Severity: audit.SeverityOf(verb, credential, status), SaveServiceCopy: true,
		CorrelationID: x.trace, LogSourceCRN: source.String(),
		Message:  audit.MessageOf("VMware Solutions", verb, object, name, outcome),
		Observer: audit.ActivityTracker, Initiator: initiator(r, x.caller),
		Target:       audit.Target{ID: target.String(), Name: name, TypeURI: tenant.ServiceName + "/" + object},
		Reason:       reason,
		RequestData:  map[string]any{"requestId": obs.RequestID(r.Context()), "requestURI": r.URL.Path},
		ResponseData: map[string]any{},
	}, tenant.ID(source.Instance)
}

// resourceOf reads the ids of an instance, and of what belongs to it, in a path.
func resourceOf(path string) (instance, part string) {
	segments := strings.Split(strings.TrimPrefix(path, "/v1/instances/"), "/")
	if !identifier.MatchString(segments[0]) {
		return "", ""
	}
	if len(segments) > 2 && identifier.MatchString(segments[2]) {
		part = segments[2]
	}
	return segments[0], part
}

// publicReason is what the caller was told, one sentence after the other.
func publicReason(err error) string {
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // joined in handlers, not wrapped
		all = joined.Unwrap()
	}
	told := make([]string, 0, len(all))
	for _, one := range all {
		_, entry := describe(one)
		told = append(told, entry.Message)
	}
	return strings.Join(told, " ")
}

// identities are the type URIs of callers (IBM Cloud, Activity Tracker fields).
var identities = map[iam.SubjectType]string{
	iam.ServiceID: "service/security/account/serviceid", iam.CRN: "service/security/clientid",
}

func initiator(r *http.Request, caller iam.Identity) audit.Initiator {
	i := audit.Initiator{
		ID: caller.IAMID, Name: caller.Name, TypeURI: identities[caller.Type], Credential: audit.Credential{Type: "token"},
		Host: audit.Host{Agent: strings.ToValidUTF8(r.UserAgent()[:min(len(r.UserAgent()), maxAgent)], "?")},
	}
	if i.TypeURI == "" {
		i.TypeURI = "service/security/account/user"
	}
	if caller.Email != "" {
		i.Name = caller.Email
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	if address, err := netip.ParseAddr(host); err == nil {
		i.Host.Address, i.Host.AddressType = address.Unmap().String(), "IPv6"
		if address.Unmap().Is4() {
			i.Host.AddressType = "IPv4"
		}
	}
	return i
}

// ListInstanceEvents lists a page of the calls on an instance.
func (h *handlers) ListInstanceEvents(ctx context.Context, request server.ListInstanceEventsRequestObject) (server.ListInstanceEventsResponseObject, error) {
	if !identifier.MatchString(request.ID) {
		return nil, errNoInstance
	}
	limit, err := pageLimit(request.Params.Limit)
	if err != nil {
		return nil, err
	}
	var before int64
	if start := request.Params.Start; start != nil {
		if before, err = strconv.ParseInt(*start, 10, 64); err != nil || before < 1 {
			return nil, errStart
		}
	}
	found, err := h.instances.ListEvents(ctx, exchangeOf(ctx).caller.Account, tenant.ID(request.ID), before, limit+1)
	if err != nil {
		return nil, orNoInstance(err)
	}
	page := api.EventCollection{
		Events: []api.Event{}, Limit: int32(limit), //nolint:gosec // at most a page
		First: api.PageLink{Href: h.pageURL(ctx, "", limit)},
	}
	if len(found) > limit {
		found = found[:limit]
		last := strconv.FormatInt(found[limit-1].Number, 10)
		page.Next = &api.NextPageLink{Href: h.pageURL(ctx, last, limit), Start: last}
	}
	for _, e := range found {
		var event api.Event
		if err := json.Unmarshal(e.JSON, &event); err != nil {
			return nil, fault.Wrap(fault.Internal, "An event can't be read.", err)
		}
		page.Events = append(page.Events, event)
	}
	return server.ListInstanceEvents200JSONResponse(page), nil
}
