package access

import (
	"net/http"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
)

// attributeV2 is an attribute as v2 and its tags write it.
type attributeV2 struct {
	Key      string `json:"key"`
	Operator string `json:"operator"`
	Value    string `json:"value"`
}

func attributesV2(list []attribute) []attributeV2 {
	out := []attributeV2{}
	for _, a := range list {
		v := attributeV2{a.Name, a.Operator, a.Value}
		if v.Operator == "" {
			v.Operator = stringEquals
		}
		out = append(out, v)
	}
	return out
}

type roleAction struct {
	ID          string `json:"id"`
	DisplayName string `json:"display_name"`
	Description string `json:"description"`
}

type roleV2 struct {
	RoleID      string       `json:"role_id"`
	DisplayName string       `json:"display_name,omitempty"`
	Description string       `json:"description,omitempty"`
	Actions     []roleAction `json:"actions,omitempty"`
}

// viewV2 shows a policy as v2 does; with format=display its roles have names and actions.
func viewV2(r *http.Request, p policy) any {
	roles := []roleV2{}
	for _, id := range p.Roles {
		v := roleV2{RoleID: id}
		if known, ok := findRole(p.Resource.get("serviceName"), id); ok && r.URL.Query().Get("format") == "display" {
			v.DisplayName, v.Description = known.displayName, known.description()
			for _, a := range known.actions {
				v.Actions = append(v.Actions, roleAction{a, a, a})
			}
		}
		roles = append(roles, v)
	}
	resource := map[string]any{"attributes": attributesV2(p.Resource.Attributes)}
	if len(p.Resource.Tags) > 0 {
		resource["tags"] = attributesV2(p.Resource.Tags)
	}
	v := map[string]any{
		"id": p.ID, "type": p.Type, "href": policyHref(r, "v2", "/"+p.ID), "state": p.State,
		"subject":    map[string]any{"attributes": attributesV2(p.Subject.Attributes)},
		"control":    map[string]any{"grant": map[string]any{"roles": roles}},
		"resource":   resource,
		"created_at": apiTime(p.Created), "created_by_id": p.CreatedBy,
		"last_modified_at": apiTime(p.Modified), "last_modified_by_id": p.ModifiedBy,
	}
	if p.Description != "" {
		v["description"] = p.Description
	}
	return v
}

// listRoles answers GET /v2/roles. Which sources a service admits for a role is not known here: an
// authorization may have any of them.
func (*Service) listRoles(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	set := rolesOf(c.URL.Query().Get("service_name"))
	show := func(roles []role) []any {
		out := []any{}
		for _, r := range roles {
			out = append(out, map[string]any{"display_name": r.displayName, "description": r.description(), "actions": r.actions, "crn": r.crn})
		}
		return out
	}
	return jsonhttp.Answer{Status: http.StatusOK, Body: map[string]any{
		"custom_roles": []any{}, "service_roles": show(set.service), "system_roles": show(set.platform),
	}}, nil
}

// listLegacyRoles answers GET /acms/v1/roles, which IBM's older clients ask.
func (*Service) listLegacyRoles(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	set := rolesOf(c.URL.Query().Get("serviceName"))
	show := func(roles []role) []any {
		out := []any{}
		for _, r := range roles {
			actions := []any{}
			for _, a := range r.actions {
				actions = append(actions, map[string]string{"id": a, "displayName": a, "description": a})
			}
			out = append(out, map[string]any{
				"crn": r.crn, "id": r.crn, "displayName": r.displayName, "description": r.description(), "actions": actions,
			})
		}
		return out
	}
	return jsonhttp.Answer{Status: http.StatusOK, Body: map[string]any{
		"supportedRoles": show(set.service), "platformExtensions": map[string]any{"supportedRoles": show(set.platform)},
	}}, nil
}

// authzRequest is one question to the decision point: who is either an id or the attributes of an
// instance, and what is a CRN or attributes.
type authzRequest struct {
	Subject struct {
		Attributes Attributes `json:"attributes"`
	} `json:"subject"`
	Resource struct {
		CRN        string     `json:"crn"`
		Attributes Attributes `json:"attributes"`
	} `json:"resource"`
	Action string `json:"action"`
}

type authzDecision struct {
	Permitted bool `json:"permitted"`
}

type authzResponse struct {
	Status   string        `json:"status"`
	Decision authzDecision `json:"authorizationDecision"`
}

// authz answers POST /v2/authz (partner services, authorizing access), to any caller with a token.
func (s *Service) authz(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	var questions []authzRequest
	if err := decodeBody(c.Body, &questions); err != nil {
		return jsonhttp.Answer{}, err
	}
	responses := []authzResponse{}
	for _, q := range questions {
		subject := q.Subject.Attributes
		if id := subject["id"]; id != "" {
			subject = subjectOf(id)
		}
		on := q.Resource.Attributes
		if q.Resource.CRN != "" {
			on, _ = AttributesOf(q.Resource.CRN)
		} else if on["serviceName"] != "" {
			on["serviceType"] = "service"
		}
		responses = append(responses, authzResponse{"200", authzDecision{s.rules.holds(subject, on, withAction(q.Action))}})
	}
	return jsonhttp.Answer{Status: http.StatusOK, Body: map[string]any{"responses": responses}}, nil
}
