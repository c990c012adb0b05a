package control

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5/middleware"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/services/control/events"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

// tell lets the witness see a request's end, before the answer leaves.
func (g *gate) tell(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		next.ServeHTTP(ww, r)
		x := exchangeOf(r.Context())
		if g.witness == nil || x.caller.Account == "" {
			return
		}
		call := events.Call{Request: r, Route: routeOf(r), Status: ww.Status(), Caller: x.caller, Trace: x.trace}
		call.Instance, call.Part = resourceOf(r.URL.Path)
		if made := ww.Header().Get("Location"); made != "" {
			call.Instance, call.Part = resourceOf(made)
		}
		if x.failure != nil {
			call.Reason = publicReason(x.failure)
		}
		g.witness(call)
	})
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

// ListInstanceEvents lists a page of the events of an instance.
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
