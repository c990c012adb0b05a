package iam

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// Pages of the identity API's lists.
const (
	identityPage    = 20
	maxIdentityPage = 100
)

// identityRoutes serve the IAM identity API v1: API keys and service IDs.
func (s *Service) identityRoutes(r chi.Router) {
	api := jsonhttp.API{
		Caller: s.Caller, NoCaller: errIdentityToken, BadBody: badIdentityRequest("the body"),
		WriteError: writeIdentityFault, Log: s.cfg.Log,
	}
	route := func(method, path string, do func(*jsonhttp.Call) (jsonhttp.Answer, error)) {
		r.Method(method, path, api.Serve(do))
	}

	route("GET", "/v1/apikeys/details", s.apiKeyDetails)
	route("GET", "/v1/apikeys", s.listAPIKeys)
	route("POST", "/v1/apikeys", s.createAPIKey)
	route("GET", "/v1/apikeys/{id}", s.getAPIKey)
	route("PUT", "/v1/apikeys/{id}", s.updateAPIKey)
	route("DELETE", "/v1/apikeys/{id}", s.deleteAPIKey)
	route("POST", "/v1/apikeys/{id}/lock", s.flagAPIKey(func(k *apiKey) { k.Locked = true }))
	route("DELETE", "/v1/apikeys/{id}/lock", s.flagAPIKey(func(k *apiKey) { k.Locked = false }))
	route("POST", "/v1/apikeys/{id}/disable", s.flagAPIKey(func(k *apiKey) { k.Disabled = true }))
	route("DELETE", "/v1/apikeys/{id}/disable", s.flagAPIKey(func(k *apiKey) { k.Disabled = false }))

	for _, path := range []string{"/v1/serviceids", "/v1/serviceids/"} { // IBM's clients send the second
		route("GET", path, s.listServiceIDs)
		route("POST", path, s.createServiceID)
	}
	route("GET", "/v1/serviceids/{id}", s.getServiceID)
	route("PUT", "/v1/serviceids/{id}", s.updateServiceID)
	route("DELETE", "/v1/serviceids/{id}", s.deleteServiceID)
	route("POST", "/v1/serviceids/{id}/lock", s.lockServiceID(true))
	route("DELETE", "/v1/serviceids/{id}/lock", s.lockServiceID(false))
}

// identityFault is an error of the identity API. messageCode is empty where IBM's is not public.
type identityFault struct {
	status                     int
	code, messageCode, message string
}

func (f *identityFault) Error() string { return fmt.Sprintf("%d %s: %s", f.status, f.code, f.message) }

var (
	errIdentityToken    = &identityFault{http.StatusUnauthorized, "unauthorized", "BXNIM0308E", "No valid token was given."}
	errIdentityAbsent   = &identityFault{http.StatusNotFound, "not_found", "BXNIM0119E", "The entity was not found."}
	errIdentityDenied   = &identityFault{http.StatusForbidden, "forbidden", "", "You are not allowed to do this."}
	errIdentityLocked   = &identityFault{http.StatusConflict, "conflict", "", "The entity is locked."}
	errIdentityStale    = &identityFault{http.StatusConflict, "conflict", "", "The entity was changed: If-Match is not its entity tag."}
	errIdentityKeyTaken = &identityFault{http.StatusConflict, "conflict", "", "The value of the API key is in use."}
)

// badIdentityRequest is about a field, parameter or header that is missing or has no valid value.
func badIdentityRequest(name string) *identityFault {
	return &identityFault{http.StatusBadRequest, "bad_request", "BXNIM0109E", "Property missing or not valid: " + name + "."}
}

// writeIdentityFault writes the error document of the identity API: status_code is a string.
func writeIdentityFault(w http.ResponseWriter, err error) bool {
	f := (*identityFault)(nil)
	if !errors.As(err, &f) {
		return false
	}
	id := w.Header().Get(transactionHeader)
	jsonhttp.Write(w, f.status, map[string]any{
		"context":     map[string]string{"transaction_id": id},
		"status_code": strconv.Itoa(f.status),
		"errors":      []map[string]string{{"code": f.code, "message_code": f.messageCode, "message": f.message}},
		"trace":       id,
	})
	return true
}

// identityBody decodes a request of the identity API.
func identityBody(c *jsonhttp.Call, v any) error {
	if err := jsonhttp.Decode(c.Body, v); err != nil {
		return badIdentityRequest("the body: " + err.Error())
	}
	return nil
}

// identityLayout is the identity API's form of a time.
const identityLayout = "2006-01-02T15:04-0700"

func identityTime(t time.Time) string { return t.UTC().Format(identityLayout) }

// entityTag names a revision of an entity.
func entityTag(id string, revision int) string {
	return fmt.Sprintf("%d-%s", revision, strings.ReplaceAll(id[strings.Index(id, "-")+1:], "-", ""))
}

// caller is the identity that calls. An instance's token manages no identities.
func (s *Service) caller(c *jsonhttp.Call, tx *bbolt.Tx) (identity, error) {
	who, err := records.Get[identity](bucket(tx, bucketIdentities), c.By)
	return who, absent(err, errIdentityDenied)
}

// manages tells whether i may see and change target and its API keys: itself, or, as a user of the
// account, its service IDs (IAM identity, by default every user of an account may manage them).
func (i identity) manages(target identity) bool {
	return i.IAMID == target.IAMID || i.Account == target.Account && !i.isServiceID() && target.isServiceID()
}

// ifMatch compares the request's If-Match with an entity tag; * matches any.
func ifMatch(c *jsonhttp.Call, tag string) error {
	switch c.Header.Get("If-Match") {
	case tag, "*":
		return nil
	case "":
		return badIdentityRequest("If-Match")
	}
	return errIdentityStale
}

// identityPageOf cuts a list to the page of the query and returns the members that describe it.
func identityPageOf[T any](c *jsonhttp.Call, all []T) ([]T, map[string]any, error) {
	query := c.URL.Query()
	size, offset := identityPage, 0
	if s := query.Get("pagesize"); s != "" {
		var err error
		if size, err = strconv.Atoi(s); err != nil || size < 1 || size > maxIdentityPage {
			return nil, nil, badIdentityRequest("pagesize")
		}
	}
	if token := query.Get("pagetoken"); token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err == nil {
			offset, err = strconv.Atoi(string(raw))
		}
		if err != nil || offset < 0 {
			return nil, nil, badIdentityRequest("pagetoken")
		}
	}
	link := func(at int) string {
		query.Del("pagetoken")
		if at > 0 {
			query.Set("pagetoken", base64.RawURLEncoding.EncodeToString([]byte(strconv.Itoa(at))))
		}
		return (&url.URL{Scheme: "http", Host: c.Host, Path: c.URL.Path, RawQuery: query.Encode()}).String()
	}
	offset = min(offset, len(all))
	end := min(offset+size, len(all))
	body := map[string]any{"offset": offset, "limit": size, "first": link(0)}
	if offset > 0 {
		body["previous"] = link(max(offset-size, 0))
	}
	if end < len(all) {
		body["next"] = link(end)
	}
	return all[offset:end], body, nil
}

// listing is what the identity API sorts a list by.
type listing struct {
	name, description, createdBy string
	created, modified            time.Time
}

// sortListing orders a list as the query says, by the time of creation otherwise.
func sortListing[T any](query url.Values, all []T, of func(T) listing) error {
	for _, name := range []string{"filter", "group_id"} { // not served: to ignore them would answer another question
		if query.Has(name) {
			return badIdentityRequest(name)
		}
	}
	orders := map[string]func(a, b listing) int{
		"":            func(a, b listing) int { return a.created.Compare(b.created) },
		"name":        func(a, b listing) int { return cmp.Compare(a.name, b.name) },
		"description": func(a, b listing) int { return cmp.Compare(a.description, b.description) },
		"created_at":  func(a, b listing) int { return a.created.Compare(b.created) },
		"modified_at": func(a, b listing) int { return a.modified.Compare(b.modified) },
		"created_by":  func(a, b listing) int { return cmp.Compare(a.createdBy, b.createdBy) },
	}
	order := orders[query.Get("sort")]
	if order == nil {
		return badIdentityRequest("sort")
	}
	slices.SortStableFunc(all, func(a, b T) int { return order(of(a), of(b)) })
	switch query.Get("order") {
	case "", "asc":
	case "desc":
		slices.Reverse(all)
	default:
		return badIdentityRequest("order")
	}
	return nil
}
