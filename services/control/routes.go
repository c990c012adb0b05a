package control

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/services/control/access"
	"github.com/kmip-for-vmware/kmip/services/control/events"
	"github.com/kmip-for-vmware/kmip/services/control/limits"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

// Limits that the table below uses.
const (
	quick          = 10 * time.Second // one database transaction
	checkDeadline  = 20 * time.Second // the key manager's answer to all of a check
	checksDeadline = checkDeadline + quick
	cloudDeadline  = 3 * quick // IBM Cloud's answers to a list, page by page
	smallBody      = 4 << 10
	pemBody        = 32 << 10 // the PEM's 16 KiB, escaped, and a name
	checkCost      = 20
	keyCost        = 20 // an RSA key that is made or used takes that much longer
)

// route is who may use a route, what requests to it may hold, and its limits.
type route struct {
	action      string        // empty: every identity that is verified
	deadline    time.Duration // from the last byte of the headers to the answer
	maxBody     int64         // bytes; 0: no body is read
	body        func() any    // the body's type, for strict decoding
	query       []string      // the query parameters that it knows
	conditional bool          // takes If-Match
	creates     bool          // takes Idempotency-Key; acts on the database alone
	cost        int           // of the account's limit; 0: one request's
}

// routes holds every route of the customer API. A request that is not in it is
// refused even if a handler exists. What the actions take, package access knows.
var routes = map[string]route{
	"GET /v1/regions":                                                {deadline: quick},
	"GET /v1/key_estimate":                                           {deadline: quick, query: []string{"encrypted_vms", "vsphere_clusters", "vsan_clusters"}},
	"GET /v1/instances":                                              {action: access.ViewInstances, deadline: quick, query: []string{"name", "status", "start", "limit"}},
	"POST /v1/instances":                                             {action: access.CreateInstances, deadline: quick, maxBody: smallBody, body: bodyOf[api.InstancePrototype], creates: true},
	"GET /v1/instances/{id}":                                         {action: access.ViewInstances, deadline: quick},
	"PATCH /v1/instances/{id}":                                       {action: access.UpdateInstances, deadline: quick, maxBody: smallBody, body: bodyOf[api.InstancePatch], conditional: true},
	"DELETE /v1/instances/{id}":                                      {action: access.DeleteInstances, deadline: quick, conditional: true},
	"POST /v1/instances/{id}/restore":                                {action: access.CreateInstances, deadline: quick},
	"GET /v1/instances/{id}/key_manager":                             {action: access.ViewInstances, deadline: quick},
	"PUT /v1/instances/{id}/key_manager":                             {action: access.UpdateAccount, deadline: checksDeadline, maxBody: smallBody, body: bodyOf[api.KeyManagerPrototype], cost: checkCost},
	"GET /v1/key_managers":                                           {action: access.ViewInstances, deadline: cloudDeadline, query: []string{"type"}, cost: checkCost},
	"GET /v1/key_managers/{guid}/root_keys":                          {action: access.ViewInstances, deadline: cloudDeadline, cost: checkCost},
	"GET /v1/instances/{id}/service_authorization":                   {action: access.ViewInstances, deadline: cloudDeadline, query: []string{"key_manager_crn"}, cost: checkCost},
	"POST /v1/instances/{id}/service_authorization":                  {action: access.UpdateAccount, deadline: cloudDeadline, maxBody: smallBody, body: bodyOf[api.ServiceAuthorizationPrototype], cost: checkCost},
	"PUT /v1/instances/{id}/kmip_credential":                         {action: access.UpdateInstances, deadline: quick, maxBody: smallBody, body: bodyOf[api.KMIPCredentialPrototype]},
	"DELETE /v1/instances/{id}/kmip_credential":                      {action: access.UpdateInstances, deadline: quick},
	"GET /v1/instances/{id}/endpoints":                               {action: access.ViewInstances, deadline: quick},
	"GET /v1/instances/{id}/refusals":                                {action: access.ViewInstances, deadline: quick},
	"GET /v1/instances/{id}/events":                                  {action: access.ViewInstances, deadline: quick, query: []string{"start", "limit"}},
	"GET /v1/instances/{id}/client_certificates":                     {action: access.ViewInstances, deadline: quick},
	"POST /v1/instances/{id}/client_certificates":                    {action: access.UpdateInstances, deadline: quick, maxBody: pemBody, body: bodyOf[api.ClientCertificatePrototype], creates: true},
	"DELETE /v1/instances/{id}/client_certificates/{certificate_id}": {action: access.UpdateInstances, deadline: quick},
	"POST /v1/instances/{id}/client_certificates/sign":               {action: access.UpdateInstances, deadline: quick, maxBody: pemBody, body: bodyOf[api.CertificateSigningRequest], creates: true, cost: keyCost},
	// Without Idempotency-Key: an answer that is kept would keep the private key.
	"POST /v1/instances/{id}/client_certificates/issue":                   {action: access.UpdateInstances, deadline: quick, maxBody: smallBody, body: bodyOf[api.CertificateIssueRequest], cost: keyCost},
	"GET /v1/instances/{id}/client_certificates/{certificate_id}":         {action: access.ViewInstances, deadline: quick},
	"POST /v1/instances/{id}/client_certificates/{certificate_id}/rotate": {action: access.UpdateInstances, deadline: quick, maxBody: pemBody, body: bodyOf[api.ClientCertificatePrototype], creates: true},
}

// documentRoute is the one route beside the table: it needs no token, takes
// anything and does nothing.
const documentRoute = "GET /openapi.yaml"

func bodyOf[T any]() any { return new(T) }

// routeOf names the route that chi found, in the form of the table.
func routeOf(r *http.Request) string {
	return r.Method + " " + chi.RouteContext(r.Context()).RoutePattern()
}

// newAPI returns the handler of the customer listener.
func newAPI(h *handlers, outer func(http.Handler) http.Handler, g *gate) http.Handler {
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
		for _, method := range []string{http.MethodDelete, http.MethodGet, http.MethodPatch, http.MethodPost, http.MethodPut} {
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
	root.Method(http.MethodGet, "/openapi.yaml", document(api.CustomerDocument))
	strict := server.NewStrictHandlerWithOptions(h, nil, server.StrictHTTPServerOptions{
		RequestErrorHandlerFunc: fail, ResponseErrorHandlerFunc: fail,
	})
	server.HandlerWithOptions(strict, server.ChiServerOptions{
		BaseRouter: root.With(g.tell, g.guard), ErrorHandlerFunc: func(w http.ResponseWriter, r *http.Request, err error) { fail(w, r, unbound(err)) },
	})
	return root
}

// document serves an OpenAPI document.
func document(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write([]byte(text)) // an error means that the caller left
	}
}

// gate lets a request through to its handler.
type gate struct {
	verify    Verify
	authorize func(ctx context.Context, action, instance string) error
	limits    *limits.Accounts
	once      once
	// witness is told of each call whose caller is known; nil: nobody is.
	witness func(events.Call)
}

// guard holds every request to its route's entry in the table.
func (g *gate) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rt, known := routes[routeOf(r)]
		if !known {
			fail(w, r, fmt.Errorf("route %s is not in the table", routeOf(r)))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), rt.deadline)
		defer cancel()
		r = r.WithContext(ctx)
		body, err := g.admit(w, r, rt)
		if err != nil {
			fail(w, r, err)
			return
		}
		if key := r.Header.Get(idempotencyKey); key != "" {
			g.once.serve(w, r, key, body, next)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// admit checks caller, rate, role, query, headers and body, in this order, and
// returns the body.
func (g *gate) admit(w http.ResponseWriter, r *http.Request, rt route) ([]byte, error) {
	if err := authenticate(r, rt.action, g.verify); err != nil {
		return nil, err
	}
	if err := g.limits.Take(w, exchangeOf(r.Context()).caller.Account, max(rt.cost, 1)); err != nil {
		return nil, err
	}
	if rt.action != "" {
		if err := g.authorize(r.Context(), rt.action, chi.URLParam(r, "id")); err != nil {
			return nil, err
		}
	}
	if err := checkQuery(r.URL.RawQuery, rt.query); err != nil {
		return nil, err
	}
	if err := checkHeaders(r, rt); err != nil {
		return nil, err
	}
	if rt.body == nil {
		return nil, nil
	}
	return readBody(w, r, rt.maxBody, rt.body())
}

// checkQuery refuses parameters that a route doesn't know, and repeated ones.
// Their values are the handlers' to check.
func checkQuery(query string, known []string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return fault.New(fault.Malformed, "The query is not well-formed. Encode the names and values of its parameters.")
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch {
		case !slices.Contains(known, name) && len(known) == 0:
			return inParameter(fault.Shorten(name), "Query parameter `%s` is unknown: this path takes none.", fault.Shorten(name))
		case !slices.Contains(known, name):
			return inParameter(fault.Shorten(name), "Query parameter `%s` is unknown. This path knows `%s`.", fault.Shorten(name), strings.Join(known, "`, `"))
		case len(values[name]) > 1:
			return inParameter(name, "Query parameter `%s` appears more than once.", name)
		case values[name][0] == "":
			return inParameter(name, "Query parameter `%s` is empty. Leave it out or give it a value.", name)
		}
	}
	return nil
}

// checkHeaders refuses headers that would change what a request means if the
// route honoured them.
func checkHeaders(r *http.Request, rt route) error {
	if r.Method == http.MethodGet {
		return nil
	}
	for _, name := range []string{ifMatch, "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", idempotencyKey} {
		switch taken := name == ifMatch && rt.conditional || name == idempotencyKey && rt.creates; {
		case len(r.Header.Values(name)) == 0:
		case !taken:
			return inHeader(name, fault.Malformed, "This path does not take the header `%s`. Leave it out.", name)
		case len(r.Header.Values(name)) > 1:
			return inHeader(name, fault.Malformed, "Header `%s` appears more than once.", name)
		}
	}
	if key := r.Header.Get(idempotencyKey); len(r.Header.Values(idempotencyKey)) > 0 && !keyForm.MatchString(key) {
		return inHeader(idempotencyKey, fault.Invalid, "Header `Idempotency-Key` has to be 1 to 64 letters, digits, hyphens and underscores.")
	}
	return nil
}

// unbound gives what the generated code says of a parameter its kind and a
// sentence.
func unbound(err error) error {
	switch e := err.(type) { //nolint:errorlint // handed over as they are
	case *server.InvalidParamFormatError:
		return inParameter(e.ParamName, "Query parameter `%s` has the wrong form. GET /openapi.yaml has the right one.", e.ParamName)
	case *server.RequiredHeaderError:
		return inHeader(e.ParamName, fault.Missing, "Header `%s` is missing. Send the `ETag` of the resource as you know it.", e.ParamName)
	}
	return err
}
