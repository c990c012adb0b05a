// Package api holds the OpenAPI documents of the control plane's two
// listeners, the models that are generated from the customer's, and a client
// for it over net/http. ClientWithResponses is the client to use; give it the
// access token with WithRequestEditorFn.
package api

//go:generate oapi-codegen -config oapi-codegen.yaml openapi.yaml

import _ "embed" // for the documents

// CustomerDocument is the OpenAPI document of the customer listener, in YAML.
//
//go:embed openapi.yaml
var CustomerDocument string

// AdminDocument is the OpenAPI document of the admin listener, in YAML.
//
//go:embed admin.yaml
var AdminDocument string
