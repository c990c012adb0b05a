package control_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// What the stand-in knows of IAM's policies and of the resource controller is
// from IBM's public pages: everybody reads the access policies that name them;
// who is Administrator reads and writes authorizations.

type attribute struct {
	Name     string `json:"name"`
	Value    string `json:"value"`
	Operator string `json:"operator,omitempty"`
}

type attributeSet struct {
	Attributes []attribute `json:"attributes"`
	Tags       []attribute `json:"tags,omitempty"`
}

func (s attributeSet) get(name string) string {
	i := slices.IndexFunc(s.Attributes, func(a attribute) bool { return a.Name == name })
	if i < 0 {
		return ""
	}
	return s.Attributes[i].Value
}

type role struct {
	ID string `json:"role_id"`
}

type policy struct {
	ID        string         `json:"id"`
	Type      string         `json:"type"`
	State     string         `json:"state"`
	Subjects  []attributeSet `json:"subjects"`
	Roles     []role         `json:"roles"`
	Resources []attributeSet `json:"resources"`
}

// attributes are pairs of name and value.
func attributes(pairs ...string) []attributeSet {
	var s attributeSet
	for i := 0; i < len(pairs); i += 2 {
		s.Attributes = append(s.Attributes, attribute{Name: pairs[i], Value: pairs[i+1]})
	}
	return []attributeSet{s}
}

// roleCRN is the CRN of one of the standard roles.
func roleCRN(name string) string {
	if slices.Contains([]string{"Reader", "Writer", "Manager"}, name) {
		return "crn:v1:bluemix:public:iam::::serviceRole:" + name
	}
	return "crn:v1:bluemix:public:iam::::role:" + name
}

// setTrouble makes the creation of policies fail in a way; "" heals it.
func (c *ibmCloud) setTrouble(trouble string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trouble = trouble
}

// grant gives an identity a role on resources. Whoever has been given none is
// Administrator of vmware-solutions in every account.
func (c *ibmCloud) grant(iamID, roleName string, resources []attributeSet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policies = append(c.policies, policy{
		ID: uuid.NewString(), Type: "access", State: "active", Subjects: attributes("iam_id", iamID),
		Roles: []role{{roleCRN(roleName)}}, Resources: resources,
	})
}

// readings returns how often policies that name a caller were read.
func (c *ibmCloud) readings() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reads
}

// bearer is whom an access token is of, unverified.
func bearer(r *http.Request) (iamID, account string) {
	claims := jwt.MapClaims{}
	_, _, _ = jwt.NewParser().ParseUnverified(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), claims)
	iamID, _ = claims["iam_id"].(string)
	of, _ := claims["account"].(map[string]any)
	account, _ = of["bss"].(string)
	return iamID, account
}

// may tells whether a token's bearer has been given one of some roles on a service.
func (c *ibmCloud) may(token, service string, roles ...string) bool {
	iamID, _ := bearer(&http.Request{Header: http.Header{"Authorization": {"Bearer " + token}}})
	return slices.ContainsFunc(c.policies, func(p policy) bool {
		return p.Subjects[0].get("iam_id") == iamID && p.Resources[0].get("serviceName") == service &&
			slices.ContainsFunc(roles, func(name string) bool { return p.Roles[0].ID == roleCRN(name) })
	})
}

func (c *ibmCloud) servePolicies(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	iamID, account := bearer(r)
	refuse := func(status int, code string) {
		answer(w, status, map[string]any{"trace": "t", "status_code": status, "errors": []any{map[string]any{"code": code, "message": code}}})
	}
	named := slices.ContainsFunc(c.policies, func(p policy) bool { return p.Subjects[0].get("iam_id") == iamID })
	administers := !named || slices.ContainsFunc(c.policies, func(p policy) bool {
		return p.Subjects[0].get("iam_id") == iamID && p.Roles[0].ID == roleCRN("Administrator")
	})
	if r.Method == http.MethodPost {
		var p policy
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
			refuse(http.StatusBadRequest, "invalid_body")
			return
		}
		same := func(other policy) bool {
			return slices.Equal(other.Subjects[0].Attributes, p.Subjects[0].Attributes) && slices.Equal(other.Resources[0].Attributes, p.Resources[0].Attributes)
		}
		switch {
		case c.trouble == "before":
			w.WriteHeader(http.StatusBadGateway)
		case !administers || p.Resources[0].get("accountId") != account:
			refuse(http.StatusForbidden, "insufficent_permissions") //nolint:misspell // IBM's spelling
		case slices.ContainsFunc(c.policies, same):
			refuse(http.StatusConflict, "policy_conflict_error")
		default:
			p.ID, p.State = uuid.NewString(), "active"
			c.policies = append(c.policies, p)
			c.authorized["crn:v1:bluemix:public:vmware-solutions:us-south:a/"+account+":"+p.Subjects[0].get("serviceInstance")+"::"] = true
			if c.trouble == "after" {
				w.WriteHeader(http.StatusGatewayTimeout)
				return
			}
			answer(w, http.StatusCreated, p)
		}
		return
	}
	query, found := r.URL.Query(), []policy{}
	if query.Get("type") == "access" {
		c.reads++
		if !named {
			found = append(found, policy{
				ID: uuid.NewString(), Type: "access", State: "active", Subjects: attributes("iam_id", iamID),
				Roles: []role{{roleCRN("Administrator")}}, Resources: attributes("accountId", query.Get("account_id"), "serviceName", "vmware-solutions"),
			})
		}
	}
	for _, p := range c.policies {
		mine := p.Subjects[0].get("iam_id") == iamID
		if p.Type == query.Get("type") && p.Resources[0].get("accountId") == query.Get("account_id") && account == query.Get("account_id") &&
			(query.Get("iam_id") == "" || query.Get("iam_id") == p.Subjects[0].get("iam_id")) && (mine || p.Type == "authorization" && administers && c.trouble != "late") {
			found = append(found, p)
		}
	}
	// Pages of two, to show that they are followed.
	at := 0
	if query.Get("start") != "" {
		at = slices.IndexFunc(found, func(p policy) bool { return p.ID == query.Get("start") })
	}
	body := map[string]any{"limit": 2, "policies": found[at:min(at+2, len(found))]}
	if at+2 < len(found) {
		body["next"] = map[string]any{"href": "x", "start": found[at+2].ID}
	}
	answer(w, http.StatusOK, body)
}

// addResource adds a service instance to the resource controller.
func (c *ibmCloud) addResource(crn, name, state string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resources = append(c.resources, map[string]any{
		"id": crn, "crn": crn, "guid": strings.Split(crn, ":")[7], "name": name, "state": state, "type": "service_instance",
	})
}

// serveController shows instances of the account of the caller alone, one a page.
func (c *ibmCloud) serveController(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, account := bearer(r)
	if c.down || account == "" {
		answer(w, http.StatusServiceUnavailable, map[string]any{"error_code": "RC-X", "message": canaryAPIKey, "status_code": 503})
		return
	}
	var mine []map[string]any
	for _, i := range c.resources {
		if strings.Contains(i["crn"].(string), account) {
			mine = append(mine, i)
		}
	}
	if guid, one := strings.CutPrefix(r.URL.Path, "/v2/resource_instances/"); one {
		for _, i := range mine {
			if i["guid"] == guid {
				answer(w, http.StatusOK, i)
				return
			}
		}
		answer(w, http.StatusNotFound, map[string]any{"error_code": "RC-InstanceNotFound", "message": "no", "status_code": 404})
		return
	}
	at := 0
	for i := range mine {
		if mine[i]["guid"] == r.URL.Query().Get("start") {
			at = i
		}
	}
	var next any
	if at+1 < len(mine) {
		next = "/v2/resource_instances?start=" + mine[at+1]["guid"].(string) + "&limit=100"
	}
	answer(w, http.StatusOK, map[string]any{"rows_count": 1, "next_url": next, "resources": mine[min(at, len(mine)):min(at+1, len(mine))]})
}
