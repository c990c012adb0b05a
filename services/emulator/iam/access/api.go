package access

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// maxAttributeValue is in characters (IAM policy management, attribute validations).
const maxAttributeValue = 1000

const transactionHeader = "Transaction-Id"

// Routes adds IAM policy management to r: v1, v2 for reading, roles, and the decision point. Answers have a Transaction-Id header
// before they come here.
func (s *Service) Routes(r chi.Router) {
	api := jsonhttp.API{
		Caller: s.cfg.Caller, NoCaller: errToken, BadBody: invalidBody("The body could not be read or is too large."),
		WriteError: writeFault, Log: s.cfg.Log,
	}
	route := func(method, path string, do func(*jsonhttp.Call) (jsonhttp.Answer, error)) {
		r.Method(method, path, api.Serve(do))
	}
	route("GET", "/v1/policies", s.listPolicies(viewV1))
	route("POST", "/v1/policies", s.createPolicy)
	route("GET", "/v1/policies/{id}", s.getPolicy(viewV1))
	route("PUT", "/v1/policies/{id}", s.replacePolicy)
	route("PATCH", "/v1/policies/{id}", s.setPolicyState)
	route("DELETE", "/v1/policies/{id}", s.deletePolicy)
	route("GET", "/v2/policies", s.listPolicies(viewV2))
	route("GET", "/v2/policies/{id}", s.getPolicy(viewV2))
	route("GET", "/v2/roles", s.listRoles)
	route("GET", "/acms/v1/roles", s.listLegacyRoles)
	route("POST", "/v2/authz", s.authz)
}

// fault is an error of policy management: HTTP status, code, message and, for a conflict, the
// policy that is there.
type fault struct {
	status        int
	code, message string
	with          *policy
}

func (f *fault) Error() string { return fmt.Sprintf("%d %s: %s", f.status, f.code, f.message) }

func invalidBody(format string, args ...any) *fault {
	return &fault{http.StatusBadRequest, "invalid_body", fmt.Sprintf(format, args...), nil}
}

func invalidQuery(name, rule string) *fault {
	return &fault{http.StatusBadRequest, "request_not_processed", fmt.Sprintf("The query parameter `%s` %s.", name, rule), nil}
}

var (
	errToken = &fault{http.StatusUnauthorized, "invalid_token", "The token is missing or not valid.", nil}
	// The code is spelt as IBM spells it.
	errForbidden = &fault{http.StatusForbidden, "insufficent_permissions", //nolint:misspell // see above
		"You are not allowed to manage this policy.", nil}
	errNotFound  = &fault{http.StatusNotFound, "policy_not_found", "The policy was not found.", nil}
	errLocked    = &fault{http.StatusBadRequest, "request_not_processed", "The service ID of the subject is locked.", nil}
	errNoIfMatch = &fault{http.StatusBadRequest, "request_not_processed", "The header `If-Match` is required.", nil}
)

// errConflict is about another policy that says the same, or about a newer revision of this one.
func errConflict(with policy, message string) *fault {
	return &fault{http.StatusConflict, "policy_conflict_error", message, &with}
}

func writeFault(w http.ResponseWriter, err error) bool {
	f := (*fault)(nil)
	if !errors.As(err, &f) {
		return false
	}
	document := map[string]any{"code": f.code, "message": f.message, "more_info": "https://cloud.ibm.com/apidocs/iam-policy-management"}
	if f.with != nil {
		document["details"] = map[string]any{"conflicts_with": map[string]string{"etag": f.with.etag(), "policy": f.with.ID}}
	}
	jsonhttp.Write(w, f.status, map[string]any{
		"trace": w.Header().Get(transactionHeader), "errors": []any{document}, "status_code": f.status,
	})
	return true
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
			return policy{}, &fault{http.StatusBadRequest, "role_not_found", fmt.Sprintf("The role `%s` does not exist for this resource.", r.RoleID), nil}
		}
		p.Roles = append(p.Roles, r.RoleID)
	}
	return p, nil
}

func (s *Service) createPolicy(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	p, err := parsePolicy(c.Body)
	if err != nil {
		return jsonhttp.Answer{}, err
	}
	p.ID, p.State, p.Revision = uuid.NewString(), stateActive, 1
	p.Created = s.cfg.Now().UTC()
	p.CreatedBy, p.Modified, p.ModifiedBy = c.By, p.Created, c.By
	if err := s.changePolicy(c, func(*bbolt.Tx) (policy, error) { return p, nil }); err != nil {
		return jsonhttp.Answer{}, err
	}
	return jsonhttp.Answer{Status: http.StatusCreated, ETag: p.etag(), Body: viewV1(c.Request, p)}, nil
}

// changePolicy writes the policy that prepare returns, in one transaction with the checks that every write
// needs: the caller may manage it, and no other policy says the same. Then the decision learns of it.
func (s *Service) changePolicy(c *jsonhttp.Call, prepare func(*bbolt.Tx) (policy, error)) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	var p policy
	err := s.cfg.DB.Update(func(tx *bbolt.Tx) error {
		var err error
		if p, err = prepare(tx); err != nil {
			return err
		}
		if !s.mayManage(c.By, p.Resource.attributes()) {
			return errForbidden
		}
		if p.State == stateActive {
			if locked, err := s.cfg.Locked(tx, p.Subject.get("iam_id")); err != nil || locked { // IBM: create a policy
				return cmp.Or(err, error(errLocked))
			}
			err := records.Each(policies(tx), func(other policy) error {
				if other.ID != p.ID && other.State == stateActive && other.same(p) {
					return errConflict(other, "A policy with the same subject, resource and roles exists.")
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return records.Put(policies(tx), p.ID, p)
	})
	if err == nil {
		s.rules.set(p)
	}
	return err
}

// policyOfPath is the policy that the path names, if the caller may read it, and to change it may manage
// it; to others it does not exist.
func (s *Service) policyOfPath(c *jsonhttp.Call, tx *bbolt.Tx) (policy, error) {
	p, err := records.Get[policy](policies(tx), chi.URLParam(c.Request, "id"))
	may := s.mayRead(c.By, p)
	if c.Method != http.MethodGet {
		may = s.mayManage(c.By, p.Resource.attributes())
	}
	if err == nil && !may {
		err = records.ErrNone
	}
	return p, absent(err, errNotFound)
}

// revisePolicy changes the policy of the path by edit, and records who did it and when. With conditional
// the request has to name the revision it has seen.
func (s *Service) revisePolicy(c *jsonhttp.Call, conditional bool, edit func(*policy) error) (policy, error) {
	var p policy
	err := s.changePolicy(c, func(tx *bbolt.Tx) (policy, error) {
		var err error
		if p, err = s.policyOfPath(c, tx); err != nil {
			return p, err
		}
		seen := c.Header.Get("If-Match")
		switch {
		case conditional && seen == "":
			return p, errNoIfMatch
		case conditional && seen != p.etag():
			return p, errConflict(p, "The policy was changed: read it again.")
		}
		p.Revision++
		p.Modified, p.ModifiedBy = s.cfg.Now().UTC(), c.By
		err = edit(&p)
		return p, err
	})
	return p, err
}

func (s *Service) replacePolicy(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	next, err := parsePolicy(c.Body)
	if err != nil {
		return jsonhttp.Answer{}, err
	}
	p, err := s.revisePolicy(c, true, func(p *policy) error {
		if p.State == stateDeleted {
			return errNotFound
		}
		if p.Type != next.Type {
			return invalidBody("The `type` of a policy cannot change.")
		}
		p.Description, p.Subject, p.Roles, p.Resource = next.Description, next.Subject, next.Roles, next.Resource
		return nil
	})
	return jsonhttp.Answer{Status: http.StatusOK, ETag: p.etag(), Body: viewV1(c.Request, p)}, err
}

func (s *Service) setPolicyState(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	var b struct {
		State string `json:"state"`
	}
	if err := decodeBody(c.Body, &b); err != nil {
		return jsonhttp.Answer{}, err
	}
	if b.State != stateActive && b.State != stateDeleted {
		return jsonhttp.Answer{}, invalidBody("The `state` must be active or deleted.")
	}
	p, err := s.revisePolicy(c, true, func(p *policy) error {
		p.State = b.State
		return nil
	})
	return jsonhttp.Answer{Status: http.StatusOK, ETag: p.etag(), Body: viewV1(c.Request, p)}, err
}

// deletePolicy keeps the policy as a deleted one.
func (s *Service) deletePolicy(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	_, err := s.revisePolicy(c, false, func(p *policy) error {
		if p.State == stateDeleted {
			return errNotFound
		}
		p.State = stateDeleted
		return nil
	})
	return jsonhttp.Answer{Status: http.StatusNoContent}, err
}

// policyView shows a policy in one version of the API.
type policyView func(*http.Request, policy) any

func (s *Service) getPolicy(view policyView) func(*jsonhttp.Call) (jsonhttp.Answer, error) {
	return func(c *jsonhttp.Call) (jsonhttp.Answer, error) {
		var p policy
		err := s.cfg.DB.View(func(tx *bbolt.Tx) (err error) {
			p, err = s.policyOfPath(c, tx)
			return err
		})
		return jsonhttp.Answer{Status: http.StatusOK, ETag: p.etag(), Body: view(c.Request, p)}, err
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
