package access

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// maxPolicyPage is the largest page, and the default of a list that has a start.
const maxPolicyPage = 100

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
		"service_name": p.Resource.get("serviceName"), "service_group_id": p.Resource.get("service_group_id"),
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

// listPolicies shows those that the caller may read and the query asks for; others are left out in
// silence.
func (s *Service) listPolicies(view policyView) func(*jsonhttp.Call) (jsonhttp.Answer, error) {
	return func(c *jsonhttp.Call) (jsonhttp.Answer, error) {
		query := c.URL.Query()
		if query.Get("account_id") == "" {
			return jsonhttp.Answer{}, &fault{http.StatusBadRequest, "missing_required_query_parameter", "The query parameter `account_id` is required.", nil}
		}
		for name, values := range policyChoices {
			if query.Has(name) && !slices.Contains(values, query.Get(name)) {
				return jsonhttp.Answer{}, invalidQuery(name, "is unknown")
			}
		}
		state := query.Get("state")
		if state == "" {
			state = stateActive
		}
		field, descending := strings.CutPrefix(query.Get("sort"), "-")
		order := policySorts[field]
		if field != "" && order == nil {
			return jsonhttp.Answer{}, invalidQuery("sort", "names no field to sort by")
		}
		found := []policy{}
		err := s.cfg.DB.View(func(tx *bbolt.Tx) error {
			return records.Each(policies(tx), func(p policy) error {
				if p.listed(query, state) && s.mayRead(c.By, p) {
					found = append(found, p)
				}
				return nil
			})
		})
		if err != nil {
			return jsonhttp.Answer{}, err
		}
		if order != nil {
			slices.SortStableFunc(found, order)
		}
		if descending {
			slices.Reverse(found)
		}
		body := map[string]any{}
		if found, err = s.policyPage(c, found, query, body); err != nil {
			return jsonhttp.Answer{}, err
		}
		views := []any{}
		for _, p := range found {
			views = append(views, view(c.Request, p))
		}
		body["policies"] = views
		return jsonhttp.Answer{Status: http.StatusOK, Body: body}, nil
	}
}

// policyPage cuts a list when the query has limit or start, and writes the links to the other pages.
func (s *Service) policyPage(c *jsonhttp.Call, all []policy, query url.Values, body map[string]any) ([]policy, error) {
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
	version, _, _ := strings.Cut(strings.TrimPrefix(c.URL.Path, "/"), "/")
	link := func(at int) map[string]string {
		query.Set("limit", strconv.Itoa(limit))
		query.Del("start")
		out := map[string]string{}
		if at > 0 {
			out["start"] = base64.RawURLEncoding.EncodeToString([]byte(strconv.Itoa(at)))
			query.Set("start", out["start"])
		}
		out["href"] = policyHref(c.Request, version, "?"+query.Encode())
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
