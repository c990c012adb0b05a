package control

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

// The actions of IBM's VMware Solutions service that the routes ask for.
const (
	viewInstances   = "vmware-solutions.instances.view"
	createInstances = "vmware-solutions.instances.create"
	updateInstances = "vmware-solutions.instances.update"
	deleteInstances = "vmware-solutions.instances.delete"
	updateAccount   = "vmware-solutions.account.update"
)

// Limits that the table below uses.
const (
	quick          = 10 * time.Second // one database transaction
	checkDeadline  = 20 * time.Second // the key manager's answer to all of a check
	checksDeadline = checkDeadline + quick
	smallBody      = 4 << 10
	pemBody        = 32 << 10 // the PEM's 16 KiB, escaped, and a name
)

// route is who may use a route, and its limits.
type route struct {
	action   string        // empty: open to everyone, without a token
	deadline time.Duration // from the last byte of the headers to the answer
	maxBody  int64         // bytes; 0: no body is read
	body     func() any    // the body's type, for strict decoding
}

// routes holds every route of the customer API. A request that is not in it is
// refused even if a handler exists.
//
// The action is what the route asks of the caller. So far it is only recorded
// in the access log: the roles behind it are not evaluated, and any verified
// identity of an account may do everything with that account's instances.
var routes = map[string]route{
	"GET /v1/instances":                                              {action: viewInstances, deadline: quick},
	"POST /v1/instances":                                             {action: createInstances, deadline: quick, maxBody: smallBody, body: bodyOf[api.InstancePrototype]},
	"GET /v1/instances/{id}":                                         {action: viewInstances, deadline: quick},
	"DELETE /v1/instances/{id}":                                      {action: deleteInstances, deadline: quick},
	"PUT /v1/instances/{id}/key_manager":                             {action: updateAccount, deadline: checksDeadline, maxBody: smallBody, body: bodyOf[api.KeyManagerPrototype]},
	"GET /v1/instances/{id}/endpoints":                               {action: viewInstances, deadline: quick},
	"GET /v1/instances/{id}/refusals":                                {action: viewInstances, deadline: quick},
	"GET /v1/instances/{id}/client_certificates":                     {action: viewInstances, deadline: quick},
	"POST /v1/instances/{id}/client_certificates":                    {action: updateInstances, deadline: quick, maxBody: pemBody, body: bodyOf[api.ClientCertificatePrototype]},
	"DELETE /v1/instances/{id}/client_certificates/{certificate_id}": {action: updateInstances, deadline: quick},
	"GET /openapi.yaml":                                              {deadline: quick},
}

func bodyOf[T any]() any { return new(T) }

// routeOf names the route that chi found, in the form of the table.
func routeOf(r *http.Request) string {
	return r.Method + " " + chi.RouteContext(r.Context()).RoutePattern()
}

// newAPI returns the handler of the customer listener.
func newAPI(h *handlers, outer func(http.Handler) http.Handler, verify Verify) http.Handler {
	root := chi.NewRouter()
	root.Use(obs.WithRequestID, outer)
	root.NotFound(func(w http.ResponseWriter, r *http.Request) {
		fail(w, r, &httpError{
			answer:  answer{http.StatusNotFound, api.ErrorCodeNotFound},
			message: "There is nothing at this path. GET /openapi.yaml lists the paths.",
		})
	})
	root.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		var allowed []string
		for _, method := range []string{http.MethodDelete, http.MethodGet, http.MethodPost, http.MethodPut} {
			if root.Match(chi.NewRouteContext(), method, r.URL.Path) {
				allowed = append(allowed, method)
			}
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		fail(w, r, &httpError{
			answer:  answer{http.StatusMethodNotAllowed, api.ErrorCodeMethodNotAllowed},
			message: "This path allows " + strings.Join(allowed, ", ") + ".",
		})
	})
	strict := server.NewStrictHandlerWithOptions(h, nil, server.StrictHTTPServerOptions{
		RequestErrorHandlerFunc: fail, ResponseErrorHandlerFunc: fail,
	})
	server.HandlerWithOptions(strict, server.ChiServerOptions{
		BaseRouter: root.With(guard(verify)), ErrorHandlerFunc: fail,
	})
	return root
}

// guard holds every request to its route's entry in the table.
func guard(verify Verify) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rt, known := routes[routeOf(r)]
			if !known {
				fail(w, r, fmt.Errorf("route %s is not in the table", routeOf(r)))
				return
			}
			ctx, cancel := context.WithTimeout(r.Context(), rt.deadline)
			defer cancel()
			r = r.WithContext(ctx)
			if err := admit(w, r, rt, verify); err != nil {
				fail(w, r, err)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// admit checks caller, query, headers and body, in this order.
func admit(w http.ResponseWriter, r *http.Request, rt route, verify Verify) error {
	if rt.action != "" {
		if err := authenticate(r, rt.action, verify); err != nil {
			return err
		}
	}
	if r.URL.RawQuery != "" {
		return unknownParameter(r)
	}
	if r.Method != http.MethodGet {
		for _, name := range []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
			if r.Header.Get(name) != "" {
				return &httpError{
					answer:  answer{http.StatusBadRequest, api.ErrorCodeBadRequest},
					target:  &api.ErrorTarget{Type: api.ErrorTargetTypeHeader, Name: name},
					message: fmt.Sprintf("Conditional requests are not supported. Leave out the header `%s`.", name),
				}
			}
		}
	}
	if rt.body == nil {
		return nil
	}
	return readBody(w, r, rt.maxBody, rt.body())
}

// unknownParameter refuses the query of a request: no route has parameters.
func unknownParameter(r *http.Request) error {
	names := make([]string, 0, 1)
	for name := range r.URL.Query() {
		names = append(names, name)
	}
	slices.Sort(names)
	refusal := &httpError{
		answer:  answer{http.StatusBadRequest, api.ErrorCodeBadRequest},
		message: "This path takes no query parameters. Leave the query out.",
	}
	if len(names) > 0 && names[0] != "" {
		name := shorten(names[0])
		refusal.target = &api.ErrorTarget{Type: api.ErrorTargetTypeParameter, Name: name}
		refusal.message = fmt.Sprintf("Query parameter `%s` is unknown: this path takes none.", name)
	}
	return refusal
}
