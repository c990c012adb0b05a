package control_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/services/control"
)

// Roles by what they may do, as IBM publishes it for VMware Solutions.
var (
	everyRole  = []string{"none", "Viewer", "Operator", "Editor", "Administrator", "Reader", "Writer", "Manager"}
	view       = everyRole[1:]
	update     = []string{"Editor", "Administrator", "Writer", "Manager"}
	administer = []string{"Administrator", "Manager"}
)

// matrix says who may use each route, with a body that gets as far as the
// instance. A route without a row here fails the test.
var matrix = map[string]struct {
	roles  []string // nil: needs no role
	body   string
	header []string
}{
	"GET /v1/regions":                                                     {},
	"GET /v1/key_estimate":                                                {},
	"PATCH /v1/instances/{id}":                                            {roles: update, body: "{}", header: []string{"Content-Type", "application/merge-patch+json", "If-Match", "*"}},
	"POST /v1/instances/{id}/restore":                                     {roles: administer},
	"GET /v1/key_managers":                                                {roles: view},
	"GET /v1/key_managers/{guid}/root_keys":                               {roles: view},
	"GET /v1/instances":                                                   {roles: view},
	"POST /v1/instances":                                                  {roles: administer, body: "{}"},
	"GET /v1/instances/{id}":                                              {roles: view},
	"DELETE /v1/instances/{id}":                                           {roles: administer},
	"GET /v1/instances/{id}/key_manager":                                  {roles: view},
	"PUT /v1/instances/{id}/key_manager":                                  {roles: administer, body: "{}"},
	"GET /v1/instances/{id}/service_authorization":                        {roles: view},
	"POST /v1/instances/{id}/service_authorization":                       {roles: administer, body: "{}"},
	"PUT /v1/instances/{id}/kmip_credential":                              {roles: update, body: "{}"},
	"DELETE /v1/instances/{id}/kmip_credential":                           {roles: update},
	"GET /v1/instances/{id}/endpoints":                                    {roles: view},
	"GET /v1/instances/{id}/events":                                       {roles: view},
	"GET /v1/instances/{id}/refusals":                                     {roles: view},
	"GET /v1/instances/{id}/client_certificates":                          {roles: view},
	"POST /v1/instances/{id}/client_certificates":                         {roles: update, body: "{}"},
	"POST /v1/instances/{id}/client_certificates/sign":                    {roles: update, body: "{}"},
	"POST /v1/instances/{id}/client_certificates/issue":                   {roles: update, body: "{}"},
	"GET /v1/instances/{id}/client_certificates/{certificate_id}":         {roles: view},
	"DELETE /v1/instances/{id}/client_certificates/{certificate_id}":      {roles: update},
	"POST /v1/instances/{id}/client_certificates/{certificate_id}/rotate": {roles: update, body: "{}"},
}

// TestAuthorizationMatrix tries every route with every role, on an instance of
// the caller's account and on one of another. A query that no route takes shows
// who came past the roles, before anything happens.
func TestAuthorizationMatrix(t *testing.T) {
	c := start(t)
	const id, certificate = "{id}", "{certificate_id}"
	table := control.TableRoutes()
	for route := range matrix {
		if !slices.Contains(table, route) {
			t.Errorf("%s is no route", route)
		}
	}
	for n, role := range everyRole {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			// Accounts of their own: the requests of an account are limited.
			home, abroad, name := fmt.Sprintf("%032x", 2*n), fmt.Sprintf("%032x", 2*n+1), "IBMid-"+role
			for _, account := range []string{home, abroad} {
				if role == "none" { // but one elsewhere
					c.cloud.grant(name, "Administrator", attributes("accountId", account, "serviceName", "kms"))
				} else {
					c.cloud.grant(name, role, attributes("accountId", account, "serviceName", "vmware-solutions"))
				}
			}
			made := read[api.Instance](t, c.as(t, home, "POST", "/v1/instances", "{}"), http.StatusAccepted)
			own := "/v1/instances/" + made.ID
			paths := strings.NewReplacer("/v1/instances/"+id, own, certificate, "00000000-0000-4000-8000-000000000000", "{guid}", kmsInstance)
			for _, route := range table {
				row, known := matrix[route]
				if !known {
					t.Errorf("%s has no row", route)
					continue
				}
				method, path, _ := strings.Cut(route, " ")
				r := c.send(t, method, c.url+paths.Replace(path)+"?not_taken=1", c.cloud.token(t, home, jwt.MapClaims{"iam_id": name}), row.body, row.header...)
				if row.roles == nil || slices.Contains(row.roles, role) {
					refusal(t, r, http.StatusBadRequest, api.ErrorCodeInvalidValue, "not_taken", "is unknown")
				} else {
					refusal(t, r, http.StatusForbidden, api.ErrorCodeForbidden, "", "action `"+control.Action(route)+"`")
					for _, holder := range row.roles {
						if !strings.Contains(r.body, holder) {
							t.Errorf("the refusal does not name %s: %s", holder, r.body)
						}
					}
				}
				if strings.Contains(path, id) {
					r := c.send(t, method, c.url+paths.Replace(path), c.cloud.token(t, abroad, jwt.MapClaims{"iam_id": name}), row.body, row.header...)
					refusal(t, r, http.StatusNotFound, api.ErrorCodeNotFound, "", "Your account has no instance with this id")
				}
				if t.Failed() {
					t.Fatal(route)
				}
			}
			after := read[api.Instance](t, c.as(t, home, "GET", own, ""), http.StatusOK)
			if after.Status != api.InstanceStatusInactive || after.Name != made.Name {
				t.Errorf("the matrix changed the instance: %+v", after)
			}
		})
	}
}

// TestRolesOnSomeResources: a policy counts for what it names, and for nothing
// that is not known here.
func TestRolesOnSomeResources(t *testing.T) {
	c := start(t)
	one, other := c.instance(t, "one"), c.instance(t, "other")
	idOf := func(path string) string { return strings.TrimPrefix(path, "/v1/instances/") }
	for name, tc := range map[string]struct {
		resources       []attributeSet
		one, other, all bool
	}{
		"the instance":              {attributes("accountId", account, "serviceName", "vmware-solutions", "serviceInstance", idOf(one)), true, false, false},
		"the service":               {attributes("accountId", account, "serviceName", "vmware-solutions"), true, true, true},
		"the region":                {attributes("accountId", account, "serviceName", "vmware-solutions", "region", "us-south"), true, true, true},
		"another region":            {attributes("accountId", account, "serviceName", "vmware-solutions", "region", "eu-de"), false, false, false},
		"all services":              {attributes("accountId", account, "serviceType", "service"), true, true, true},
		"another service":           {attributes("accountId", account, "serviceName", "kms"), false, false, false},
		"another account":           {attributes("accountId", stranger, "serviceName", "vmware-solutions"), false, false, false},
		"a resource group":          {attributes("accountId", account, "serviceName", "vmware-solutions", "resourceGroupId", "abc"), false, false, false},
		"tagged ones":               {[]attributeSet{{Attributes: attributes("accountId", account, "serviceName", "vmware-solutions")[0].Attributes, Tags: []attribute{{Name: "a", Value: "b"}}}}, false, false, false},
		"a pattern":                 {[]attributeSet{{Attributes: []attribute{{Name: "accountId", Value: account}, {Name: "serviceInstance", Value: idOf(one)[:8] + "*", Operator: "stringMatch"}}}}, true, false, false},
		"what looks like a pattern": {attributes("accountId", account, "serviceInstance", idOf(one)[:8]+"*"), false, false, false},
		"an expression":             {[]attributeSet{{Attributes: []attribute{{Name: "accountId", Value: account}, {Name: "serviceInstance", Value: ".+", Operator: "stringMatch"}}}}, false, false, false},
		"no conditions":             {[]attributeSet{{}}, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			who := "IBMid-" + strings.ReplaceAll(name, " ", "-")
			c.cloud.grant(who, "Viewer", tc.resources)
			token := c.cloud.token(t, account, jwt.MapClaims{"iam_id": who})
			for path, permitted := range map[string]bool{one: tc.one, other: tc.other, "/v1/instances": tc.all} {
				want := http.StatusForbidden
				if permitted {
					want = http.StatusOK
				}
				if r := c.send(t, "GET", c.url+path, token, ""); r.status != want {
					t.Errorf("%s: %d, want %d: %s", path, r.status, want, r.body)
				}
			}
		})
	}
	// The service's own form of a standard role's CRN is understood, another
	// service's is not.
	for service, want := range map[string]int{"vmware-solutions": http.StatusOK, "kms": http.StatusForbidden} {
		who := "IBMid-form-" + service
		c.cloud.grant(who, "Viewer", attributes("accountId", account, "serviceName", "vmware-solutions"))
		c.cloud.policies[len(c.cloud.policies)-1].Roles = []role{{"crn:v1:bluemix:public:" + service + "::::role:Viewer"}}
		if r := c.send(t, "GET", c.url+one, c.cloud.token(t, account, jwt.MapClaims{"iam_id": who}), ""); r.status != want {
			t.Errorf("%s: %d, want %d: %s", service, r.status, want, r.body)
		}
	}
}

// TestIAMAwayAndRoles: who was known is served, who was not is told to come again.
func TestIAMAwayAndRoles(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	for range 5 {
		read[api.Instance](t, c.call(t, "GET", path, ""), http.StatusOK)
	}
	if n := c.cloud.readings(); n != 1 {
		t.Errorf("the caller's policies were read %d times, want once", n)
	}
	c.cloud.stopIAM()
	read[api.Instance](t, c.call(t, "GET", path, ""), http.StatusOK)
	unknown := c.cloud.token(t, account, jwt.MapClaims{"iam_id": "IBMid-unknown"})
	refusal(t, c.send(t, "GET", c.url+path, unknown, ""), http.StatusServiceUnavailable, api.ErrorCodeServiceUnavailable, "", "IAM policy management")
}
