package iam

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

const (
	maxPolicyBytes    = 256 << 10
	maxAttributeValue = 1000 // characters (IAM policy management, attribute validations)
	maxPolicyPage     = 100
)

// policyRoutes serve IAM policy management: v1, and v2 for reading.
func (s *Service) policyRoutes(r chi.Router) {
	r.Get("/v1/policies", s.policyCall(listPolicies(viewV1)))
	r.Post("/v1/policies", s.policyCall((*policyCall).create))
	r.Get("/v1/policies/{id}", s.policyCall(getPolicy(viewV1)))
	r.Put("/v1/policies/{id}", s.policyCall((*policyCall).replace))
	r.Patch("/v1/policies/{id}", s.policyCall((*policyCall).setState))
	r.Delete("/v1/policies/{id}", s.policyCall((*policyCall).remove))
}

// policyFault is an error of policy management: HTTP status, code, message and, for a conflict, the
// policy that is there.
type policyFault struct {
	status        int
	code, message string
	with          *policy
}

func (f *policyFault) Error() string { return fmt.Sprintf("%d %s: %s", f.status, f.code, f.message) }

func invalidBody(format string, args ...any) *policyFault {
	return &policyFault{http.StatusBadRequest, "invalid_body", fmt.Sprintf(format, args...), nil}
}

func invalidQuery(name, rule string) *policyFault {
	return &policyFault{http.StatusBadRequest, "request_not_processed", fmt.Sprintf("The query parameter `%s` %s.", name, rule), nil}
}

var (
	errPolicyToken = &policyFault{http.StatusUnauthorized, "invalid_token", "The token is missing or not valid.", nil}
	// The code is spelt as IBM spells it.
	errPolicyForbidden = &policyFault{http.StatusForbidden, "insufficent_permissions", //nolint:misspell // see above
		"You are not allowed to manage this policy.", nil}
	errPolicyNotFound = &policyFault{http.StatusNotFound, "policy_not_found", "The policy was not found.", nil}
	errNoIfMatch      = &policyFault{http.StatusBadRequest, "request_not_processed", "The header `If-Match` is required.", nil}
)

// errPolicyConflict is about another policy that says the same, or about a newer revision of this one.
func errPolicyConflict(with policy, message string) *policyFault {
	return &policyFault{http.StatusConflict, "policy_conflict_error", message, &with}
}

// policyCall is one request of a proved caller.
type policyCall struct {
	s    *Service
	by   string
	r    *http.Request
	body []byte
}

// policyAnswer is a success: status, ETag (empty: none) and body (nil: none).
type policyAnswer struct {
	status int
	etag   string
	body   any
}

func (s *Service) policyCall(do func(*policyCall) (policyAnswer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a, err := s.runPolicyCall(w, r, do)
		fault := (*policyFault)(nil)
		switch {
		case errors.As(err, &fault):
			writePolicyFault(w, fault)
		case err != nil:
			s.internal(w, r, err)
		default:
			if a.etag != "" {
				w.Header().Set("ETag", a.etag)
			}
			if a.body == nil {
				w.WriteHeader(a.status)
				return
			}
			jsonhttp.Write(w, a.status, a.body)
		}
	}
}

func (s *Service) runPolicyCall(w http.ResponseWriter, r *http.Request, do func(*policyCall) (policyAnswer, error)) (policyAnswer, error) {
	by, err := s.Caller(r)
	if err != nil {
		return policyAnswer{}, errPolicyToken
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPolicyBytes))
	if err != nil {
		return policyAnswer{}, invalidBody("The body could not be read or is too large.")
	}
	return do(&policyCall{s, by, r, body})
}

func writePolicyFault(w http.ResponseWriter, f *policyFault) {
	document := map[string]any{"code": f.code, "message": f.message, "more_info": "https://cloud.ibm.com/apidocs/iam-policy-management"}
	if f.with != nil {
		document["details"] = map[string]any{"conflicts_with": map[string]string{"etag": f.with.etag(), "policy": f.with.ID}}
	}
	jsonhttp.Write(w, f.status, map[string]any{
		"trace": w.Header().Get(transactionHeader), "errors": []any{document}, "status_code": f.status,
	})
}

// policyBody is a policy as v1 clients send it.
type policyBody struct {
	Type        string         `json:"type"`
	Description string         `json:"description"`
	Subjects    []attributeSet `json:"subjects"`
	Roles       []policyRole   `json:"roles"`
	Resources   []attributeSet `json:"resources"`
}

type policyRole struct {
	RoleID      string `json:"role_id"`
	DisplayName string `json:"display_name,omitempty"`
	Description string `json:"description,omitempty"`
}

func decodeBody(raw []byte, v any) error {
	if err := jsonhttp.Decode(raw, v); err != nil {
		return invalidBody("The body is not valid: %v.", err)
	}
	return nil
}

// subjectAttributes are those that the subject of an authorization may have.
var subjectAttributes = []string{"serviceName", "serviceInstance", "region", "resourceType", "resource", "accountId", "resourceGroupId"}

// parsePolicy reads a body and checks IBM's rules for it.
func parsePolicy(raw []byte) (policy, error) {
	var b policyBody
	if err := decodeBody(raw, &b); err != nil {
		return policy{}, err
	}
	if len(b.Subjects) != 1 || len(b.Resources) != 1 || len(b.Roles) == 0 {
		return policy{}, invalidBody("A policy has one of `subjects`, one of `resources` and at least one of `roles`.")
	}
	p := policy{Type: b.Type, Description: b.Description, Subject: b.Subjects[0], Resource: b.Resources[0]}
	for _, set := range []attributeSet{p.Subject, p.Resource} {
		for _, a := range set.Attributes {
			if n := len([]rune(a.Value)); a.Name == "" || n < 1 || n > maxAttributeValue {
				return policy{}, invalidBody("The attribute `%s` needs a value of 1 to 1000 characters.", a.Name)
			}
			if a.Operator != "" && a.Operator != stringEquals && a.Operator != stringMatch {
				return policy{}, invalidBody("The operator of `%s` must be stringEquals or stringMatch.", a.Name)
			}
		}
	}
	if p.account() == "" {
		return policy{}, invalidBody("The resource needs the attribute `accountId`.")
	}
	switch p.Type {
	case typeAccess:
		if p.Subject.get("iam_id") == "" && p.Subject.get("access_group_id") == "" || len(p.Subject.Attributes) != 1 {
			return policy{}, invalidBody("The subject of an access policy is `iam_id` or `access_group_id`.")
		}
		if !slices.ContainsFunc([]string{"serviceType", "serviceName", "resourceGroupId", "service_group_id"}, p.Resource.has) {
			return policy{}, invalidBody("The resource needs `serviceType`, `serviceName`, `resourceGroupId` or `service_group_id`.")
		}
	case typeAuthorization:
		for _, a := range p.Subject.Attributes {
			if !slices.Contains(subjectAttributes, a.Name) {
				return policy{}, invalidBody("The subject of an authorization does not support the attribute `%s`.", a.Name)
			}
		}
		if p.Subject.get("accountId") == "" || !p.Subject.has("serviceName") && !p.Subject.has("resourceGroupId") {
			return policy{}, invalidBody("The subject needs `accountId`, and `serviceName` or `resourceGroupId`.")
		}
	default:
		return policy{}, invalidBody("The `type` must be access or authorization.")
	}
	for _, r := range b.Roles {
		if _, ok := findRole(p.Resource.get("serviceName"), r.RoleID); !ok {
			return policy{}, &policyFault{http.StatusBadRequest, "role_not_found", fmt.Sprintf("The role `%s` does not exist for this resource.", r.RoleID), nil}
		}
		p.Roles = append(p.Roles, r.RoleID)
	}
	return p, nil
}

func (c *policyCall) create() (policyAnswer, error) {
	p, err := parsePolicy(c.body)
	if err != nil {
		return policyAnswer{}, err
	}
	p.ID, p.State, p.Revision = uuid.NewString(), stateActive, 1
	p.Created = c.s.cfg.Now().UTC()
	p.CreatedBy, p.Modified, p.ModifiedBy = c.by, p.Created, c.by
	if err := c.change(func(*bbolt.Tx) (policy, error) { return p, nil }); err != nil {
		return policyAnswer{}, err
	}
	return policyAnswer{http.StatusCreated, p.etag(), viewV1(c.r, p)}, nil
}

// change writes the policy that prepare returns, in one transaction with the checks that every write
// needs: the caller may manage it, and no other policy says the same. Then the decision learns of it.
func (c *policyCall) change(prepare func(*bbolt.Tx) (policy, error)) error {
	c.s.changing.Lock()
	defer c.s.changing.Unlock()
	var p policy
	err := c.s.cfg.DB.Update(func(tx *bbolt.Tx) error {
		var err error
		if p, err = prepare(tx); err != nil {
			return err
		}
		if !c.s.mayManage(c.by, p.Resource.attributes()) {
			return errPolicyForbidden
		}
		if p.State == stateActive {
			if err := checkSubject(tx, p); err != nil {
				return err
			}
			err := records.Each(bucket(tx, bucketPolicies), func(other policy) error {
				if other.ID != p.ID && other.State == stateActive && other.same(p) {
					return errPolicyConflict(other, "A policy with the same subject, resource and roles exists.")
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return records.Put(bucket(tx, bucketPolicies), p.ID, p)
	})
	if err == nil {
		c.s.rules.set(p)
	}
	return err
}

// checkSubject refuses new access of a locked service ID (IAM policy management, create a policy).
func checkSubject(tx *bbolt.Tx, p policy) error {
	who, err := records.Get[identity](bucket(tx, bucketIdentities), p.Subject.get("iam_id"))
	if err == nil && who.Locked {
		return &policyFault{http.StatusBadRequest, "request_not_processed", "The service ID of the subject is locked.", nil}
	}
	return absent(err, nil)
}

// visible is the policy that the path names, if the caller may manage it; to others it does not exist.
func (c *policyCall) visible(tx *bbolt.Tx) (policy, error) {
	p, err := records.Get[policy](bucket(tx, bucketPolicies), chi.URLParam(c.r, "id"))
	if err == nil && !c.s.mayManage(c.by, p.Resource.attributes()) {
		err = records.ErrNone
	}
	return p, absent(err, errPolicyNotFound)
}

// revise changes the policy of the path by edit, and records who did it and when. With conditional
// the request has to name the revision it has seen.
func (c *policyCall) revise(conditional bool, edit func(*policy) error) (policy, error) {
	var p policy
	return p, c.change(func(tx *bbolt.Tx) (policy, error) {
		var err error
		if p, err = c.visible(tx); err != nil {
			return p, err
		}
		seen := c.r.Header.Get("If-Match")
		switch {
		case conditional && seen == "":
			return p, errNoIfMatch
		case conditional && seen != p.etag():
			return p, errPolicyConflict(p, "The policy was changed: read it again.")
		}
		p.Revision++
		p.Modified, p.ModifiedBy = c.s.cfg.Now().UTC(), c.by
		return p, edit(&p)
	})
}

func (c *policyCall) replace() (policyAnswer, error) {
	next, err := parsePolicy(c.body)
	if err != nil {
		return policyAnswer{}, err
	}
	p, err := c.revise(true, func(p *policy) error {
		if p.State == stateDeleted {
			return errPolicyNotFound
		}
		if p.Type != next.Type {
			return invalidBody("The `type` of a policy cannot change.")
		}
		p.Description, p.Subject, p.Roles, p.Resource = next.Description, next.Subject, next.Roles, next.Resource
		return nil
	})
	return policyAnswer{http.StatusOK, p.etag(), viewV1(c.r, p)}, err
}

func (c *policyCall) setState() (policyAnswer, error) {
	var b struct {
		State string `json:"state"`
	}
	if err := decodeBody(c.body, &b); err != nil {
		return policyAnswer{}, err
	}
	if b.State != stateActive && b.State != stateDeleted {
		return policyAnswer{}, invalidBody("The `state` must be active or deleted.")
	}
	p, err := c.revise(true, func(p *policy) error {
		p.State = b.State
		return nil
	})
	return policyAnswer{http.StatusOK, p.etag(), viewV1(c.r, p)}, err
}

// remove keeps the policy as a deleted one.
func (c *policyCall) remove() (policyAnswer, error) {
	_, err := c.revise(false, func(p *policy) error {
		if p.State == stateDeleted {
			return errPolicyNotFound
		}
		p.State = stateDeleted
		return nil
	})
	return policyAnswer{status: http.StatusNoContent}, err
}

// policyView shows a policy in one version of the API.
type policyView func(*http.Request, policy) any

func getPolicy(view policyView) func(*policyCall) (policyAnswer, error) {
	return func(c *policyCall) (policyAnswer, error) {
		var p policy
		err := c.s.cfg.DB.View(func(tx *bbolt.Tx) (err error) {
			p, err = c.visible(tx)
			return err
		})
		return policyAnswer{http.StatusOK, p.etag(), view(c.r, p)}, err
	}
}

// apiTime is policy management's form of a time.
func apiTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func policyHref(r *http.Request, version, rest string) string {
	return "http://" + r.Host + "/" + version + "/policies" + rest
}

func viewV1(r *http.Request, p policy) any {
	roles := []policyRole{}
	for _, id := range p.Roles {
		known, _ := findRole(p.Resource.get("serviceName"), id)
		roles = append(roles, policyRole{id, known.displayName, known.description()})
	}
	return struct {
		ID               string         `json:"id"`
		Type             string         `json:"type"`
		Description      string         `json:"description,omitempty"`
		Subjects         []attributeSet `json:"subjects"`
		Roles            []policyRole   `json:"roles"`
		Resources        []attributeSet `json:"resources"`
		Href             string         `json:"href"`
		CreatedAt        string         `json:"created_at"`
		CreatedByID      string         `json:"created_by_id"`
		LastModifiedAt   string         `json:"last_modified_at"`
		LastModifiedByID string         `json:"last_modified_by_id"`
		State            string         `json:"state"`
	}{
		p.ID, p.Type, p.Description,
		[]attributeSet{p.Subject},
		roles,
		[]attributeSet{p.Resource},
		policyHref(r, "v1", "/"+p.ID), apiTime(p.Created), p.CreatedBy, apiTime(p.Modified), p.ModifiedBy, p.State,
	}
}

// policySorts order a list (IAM policy management, list policies); href orders as id does.
var policySorts = map[string]func(a, b policy) int{
	"id":                  func(a, b policy) int { return strings.Compare(a.ID, b.ID) },
	"href":                func(a, b policy) int { return strings.Compare(a.ID, b.ID) },
	"type":                func(a, b policy) int { return strings.Compare(a.Type, b.Type) },
	"state":               func(a, b policy) int { return strings.Compare(a.State, b.State) },
	"created_at":          func(a, b policy) int { return a.Created.Compare(b.Created) },
	"created_by_id":       func(a, b policy) int { return strings.Compare(a.CreatedBy, b.CreatedBy) },
	"last_modified_at":    func(a, b policy) int { return a.Modified.Compare(b.Modified) },
	"last_modified_by_id": func(a, b policy) int { return strings.Compare(a.ModifiedBy, b.ModifiedBy) },
}

// policyChoices are query parameters with few values; absent, each has its first.
var policyChoices = map[string][]string{
	"state":        {stateActive, stateDeleted},
	"type":         {"", typeAccess, typeAuthorization},
	"service_type": {"", "service", "platform_service"},
	"format":       {"", "display", "include_last_permit"},
}

// listed tells whether the query asks for p.
func (p policy) listed(query url.Values, state string) bool {
	serviceType := p.Resource.attributes()["serviceType"]
	for name, value := range map[string]string{
		"account_id": p.account(), "type": p.Type, "service_type": serviceType,
		"iam_id": p.Subject.get("iam_id"), "access_group_id": p.Subject.get("access_group_id"),
	} {
		if want := query.Get(name); want != "" && want != value {
			return false
		}
	}
	tag := func(name string, of func(attribute) string) bool {
		want := query.Get(name)
		return want == "" || slices.ContainsFunc(p.Resource.Tags, func(t attribute) bool { return of(t) == want })
	}
	return p.State == state &&
		tag("tag_name", func(t attribute) string { return t.Name }) &&
		tag("tag_value", func(t attribute) string { return t.Value })
}

// listPolicies shows those that the caller may manage and the query asks for; others are left out in
// silence.
func listPolicies(view policyView) func(*policyCall) (policyAnswer, error) {
	return func(c *policyCall) (policyAnswer, error) {
		query := c.r.URL.Query()
		if query.Get("account_id") == "" {
			return policyAnswer{}, &policyFault{http.StatusBadRequest, "missing_required_query_parameter", "The query parameter `account_id` is required.", nil}
		}
		for name, values := range policyChoices {
			if query.Has(name) && !slices.Contains(values, query.Get(name)) {
				return policyAnswer{}, invalidQuery(name, "is unknown")
			}
		}
		state := query.Get("state")
		if state == "" {
			state = stateActive
		}
		field, descending := strings.CutPrefix(query.Get("sort"), "-")
		order := policySorts[field]
		if field != "" && order == nil {
			return policyAnswer{}, invalidQuery("sort", "names no field to sort by")
		}
		found := []policy{}
		err := c.s.cfg.DB.View(func(tx *bbolt.Tx) error {
			return records.Each(bucket(tx, bucketPolicies), func(p policy) error {
				if p.listed(query, state) && c.s.mayManage(c.by, p.Resource.attributes()) {
					found = append(found, p)
				}
				return nil
			})
		})
		if err != nil {
			return policyAnswer{}, err
		}
		if order != nil {
			slices.SortStableFunc(found, order)
		}
		if descending {
			slices.Reverse(found)
		}
		body := map[string]any{}
		if found, err = c.page(found, query, body); err != nil {
			return policyAnswer{}, err
		}
		views := []any{}
		for _, p := range found {
			views = append(views, view(c.r, p))
		}
		body["policies"] = views
		return policyAnswer{status: http.StatusOK, body: body}, nil
	}
}

// page cuts a list when the query has limit or start, and writes the links to the other pages.
func (c *policyCall) page(all []policy, query url.Values, body map[string]any) ([]policy, error) {
	if !query.Has("limit") && !query.Has("start") {
		return all, nil
	}
	limit, offset := maxPolicyPage, 0
	if s := query.Get("limit"); s != "" {
		var err error
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 || limit > maxPolicyPage {
			return nil, invalidQuery("limit", "must be 1 to 100")
		}
	}
	if start := query.Get("start"); start != "" {
		raw, err := base64.RawURLEncoding.DecodeString(start)
		if err == nil {
			offset, err = strconv.Atoi(string(raw))
		}
		if err != nil || offset < 0 {
			return nil, invalidQuery("start", "is no token of a page")
		}
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(c.r.URL.Path, "/"), "/")
	link := func(at int) map[string]string {
		query.Set("limit", strconv.Itoa(limit))
		query.Del("start")
		out := map[string]string{}
		if at > 0 {
			out["start"] = base64.RawURLEncoding.EncodeToString([]byte(strconv.Itoa(at)))
			query.Set("start", out["start"])
		}
		out["href"] = policyHref(c.r, version, "?"+query.Encode())
		return out
	}
	offset = min(offset, len(all))
	end := min(offset+limit, len(all))
	body["limit"], body["first"] = limit, link(0)
	if end < len(all) {
		body["next"] = link(end)
	}
	if offset > 0 {
		body["previous"] = link(max(offset-limit, 0))
	}
	return all[offset:end], nil
}
