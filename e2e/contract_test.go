package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	"github.com/kmip-for-vmware/kmip/api"
)

// contract is the customer API's document. Objects hold what it names and
// nothing else, so that an undocumented property of an answer is found.
var contract = sync.OnceValues(func() (routers.Router, error) {
	document, err := openapi3.NewLoader().LoadFromData([]byte(api.CustomerDocument))
	if err != nil {
		return nil, err
	}
	closed := false
	for _, schema := range document.Components.Schemas {
		flatten(schema.Value)
		if len(schema.Value.Properties) > 0 {
			schema.Value.AdditionalProperties = openapi3.AdditionalProperties{Has: &closed}
		}
	}
	document.Servers = nil // any address serves it
	return legacy.NewRouter(document)
})

// flatten makes one object of those that a schema joins: each of them alone would
// not know the others' properties.
func flatten(s *openapi3.Schema) {
	for _, part := range s.AllOf {
		flatten(part.Value)
		if s.Properties == nil {
			s.Properties = openapi3.Schemas{}
		}
		maps.Copy(s.Properties, part.Value.Properties)
		s.Required = append(s.Required, part.Value.Required...)
	}
	if len(s.Properties) > 0 {
		s.AllOf = nil
	}
}

// contractOptions check everything but tokens, whose meaning is not in the
// document.
var contractOptions = &openapi3filter.Options{
	AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, MultiError: true, IncludeResponseStatus: true,
}

// checkContract holds one exchange to the document: the answer has to be in it,
// and a request that is not in it has to be refused.
func checkContract(t *testing.T, method, path string, header map[string]string, body any, a answer) {
	t.Helper()
	router, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	switch b := body.(type) {
	case nil:
	case string:
		request.Body = io.NopCloser(strings.NewReader(b))
	default:
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		request.Body = io.NopCloser(bytes.NewReader(text))
	}
	wrong, undocumented := violations(t.Context(), router, request, a)
	if wrong != nil && a.status < http.StatusBadRequest {
		t.Errorf("%s %s was answered with %d, but is not in the document: %v", method, path, a.status, wrong)
	}
	if undocumented != nil {
		t.Errorf("the answer to %s %s is not in the document: %v", method, path, undocumented)
	}
}

// violations says how a request and its answer deviate from the document.
func violations(ctx context.Context, router routers.Router, request *http.Request, a answer) (asked, answered error) {
	route, parameters, err := router.FindRoute(request)
	if err != nil {
		return err, err
	}
	input := &openapi3filter.RequestValidationInput{Request: request, PathParams: parameters, Route: route, Options: contractOptions}
	asked = openapi3filter.ValidateRequest(ctx, input)
	answered = openapi3filter.ValidateResponse(ctx, &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.body)), Options: contractOptions,
	})
	return asked, answered
}

// TestDocumentsAreValid checks both documents against OpenAPI, their examples
// against their schemas.
func TestDocumentsAreValid(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"openapi.yaml": api.CustomerDocument, "admin.yaml": api.AdminDocument} {
		document, err := openapi3.NewLoader().LoadFromData([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := document.Validate(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestContractSeesViolations keeps the check itself honest.
func TestContractSeesViolations(t *testing.T) {
	t.Parallel()
	router, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	const good = `{"root_keys":1,"standard_keys":2}`
	jsonHeader := http.Header{"Content-Type": {"application/json"}}
	for name, tc := range map[string]struct {
		method, path, body string
		answer             answer
		asked, answered    bool // a violation is found
	}{
		"good":                  {"GET", "/v1/key_estimate?encrypted_vms=1", "", answer{200, jsonHeader, []byte(good)}, false, false},
		"unknown path":          {"GET", "/v1/keys", "", answer{200, jsonHeader, []byte(good)}, true, true},
		"parameter's form":      {"GET", "/v1/key_estimate?encrypted_vms=x", "", answer{200, jsonHeader, []byte(good)}, true, false},
		"body without name":     {"POST", "/v1/instances/6f1cf5a8-2f5b-4a0e-9a5e-0d8a8d1b2c3d/client_certificates", `{}`, answer{201, jsonHeader, []byte(`{}`)}, true, true},
		"unknown request field": {"POST", "/v1/instances", `{"colour":"red"}`, answer{202, jsonHeader, []byte(`{}`)}, true, true},
		"missing header":        {"PATCH", "/v1/instances/6f1cf5a8-2f5b-4a0e-9a5e-0d8a8d1b2c3d", `{}`, answer{404, jsonHeader, []byte(`{}`)}, true, true},
		"undocumented status":   {"GET", "/v1/key_estimate", "", answer{418, jsonHeader, []byte(good)}, false, true},
		"undocumented property": {"GET", "/v1/key_estimate", "", answer{200, jsonHeader, []byte(`{"root_keys":1,"standard_keys":2,"x":3}`)}, false, true},
		"missing property":      {"GET", "/v1/key_estimate", "", answer{200, jsonHeader, []byte(`{"root_keys":1}`)}, false, true},
		"null":                  {"GET", "/v1/key_estimate", "", answer{200, jsonHeader, []byte(`{"root_keys":1,"standard_keys":null}`)}, false, true},
		"missing answer header": {"GET", "/v1/key_estimate", "", answer{429, jsonHeader, []byte(`{"errors":[{"code":"too_many_requests","message":"Wait.","more_info":"https://example.com/"}],"status_code":429,"trace":"6f1cf5a8-2f5b-4a0e-9a5e-0d8a8d1b2c3d"}`)}, false, true},
	} {
		request, err := http.NewRequestWithContext(t.Context(), tc.method, "http://localhost"+tc.path, strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		if tc.body != "" {
			request.Header.Set("Content-Type", "application/json")
			if tc.method == http.MethodPatch {
				request.Header.Set("Content-Type", "application/merge-patch+json")
			}
		}
		asked, answered := violations(t.Context(), router, request, tc.answer)
		if (asked != nil) != tc.asked || (answered != nil) != tc.answered {
			t.Errorf("%s: asked %v, answered %v", name, asked, answered)
		}
	}
}
