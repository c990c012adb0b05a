package access

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/crn"
)

// Attributes describe a resource or a subject by IAM's names: accountId, serviceName,
// serviceInstance, region, resourceGroupId, keyRing, resourceType, resource.
type Attributes map[string]string

// OnInstance are the attributes of an instance of a service.
func OnInstance(account, service, region, guid string) Attributes {
	return Attributes{
		"accountId": account, "serviceType": "service", "serviceName": service, "region": region, "serviceInstance": guid,
	}
}

// AttributesOf are those that a CRN holds; ok is false when text is no CRN of a thing of an account.
func AttributesOf(text string) (a Attributes, ok bool) {
	c, err := crn.Parse(text)
	if err != nil || c.Account() == "" || c.Service == "" {
		return nil, false
	}
	a = OnInstance(c.Account(), c.Service, c.Location, c.Instance)
	a["resourceType"], a["resource"] = c.ResourceType, c.Resource
	maps.DeleteFunc(a, func(_, value string) bool { return value == "" })
	return a, true
}

// Policy types and states, and the operators of attributes.
const (
	typeAccess        = "access"
	typeAuthorization = "authorization"
	stateActive       = "active"
	stateDeleted      = "deleted"
	stringEquals      = "stringEquals"
	stringMatch       = "stringMatch"
)

type attribute struct {
	Name     string `json:"name"`
	Value    string `json:"value"`
	Operator string `json:"operator,omitempty"`
}

func (a attribute) matches(on Attributes) bool {
	value, ok := on[a.Name]
	if a.Operator == stringMatch {
		return ok && wildcardMatch(a.Value, value)
	}
	return ok && value == a.Value
}

// wildcardMatch tells whether text fits a pattern, in which * is any run of characters and ? any one.
func wildcardMatch(wildcards, text string) bool {
	pattern, s := []rune(wildcards), []rune(text)
	p, i := 0, 0
	star, from := -1, 0 // the latest *, and where in s what follows it was tried last
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p, i = p+1, i+1
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(string(pattern[p:]), "*") == ""
}

// attributeSet is a subject or a resource of a policy. Only resources have tags.
type attributeSet struct {
	Attributes []attribute `json:"attributes"`
	Tags       []attribute `json:"tags,omitempty"`
}

// get is the value that has to be equal, or empty.
func (s attributeSet) get(name string) string {
	for _, a := range s.Attributes {
		if a.Name == name && a.Operator != stringMatch {
			return a.Value
		}
	}
	return ""
}

func (s attributeSet) has(name string) bool {
	return slices.ContainsFunc(s.Attributes, func(a attribute) bool { return a.Name == name })
}

// matches tells whether the set is about what on describes. No resource here has tags.
func (s attributeSet) matches(on Attributes) bool {
	return len(s.Tags) == 0 && !slices.ContainsFunc(s.Attributes, func(a attribute) bool { return !a.matches(on) })
}

// attributes are the set's own, for the question who may manage the policy. A wildcard stands for
// itself, so that only a policy with the same or no limit covers it.
func (s attributeSet) attributes() Attributes {
	out := Attributes{}
	for _, a := range s.Attributes {
		out[a.Name] = a.Value
	}
	if _, ok := out["serviceType"]; !ok && out["serviceName"] != "" {
		out["serviceType"] = "service"
	}
	return out
}

// sorted is a form that two sets with the same meaning share.
func (s attributeSet) sorted() string {
	lines := []string{}
	for kind, list := range map[string][]attribute{"attribute": s.Attributes, "tag": s.Tags} {
		for _, a := range list {
			if a.Operator == "" {
				a.Operator = stringEquals
			}
			lines = append(lines, fmt.Sprintf("%s %q %s %q", kind, a.Name, a.Operator, a.Value))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// policy is a stored policy of either type. Its account is that of its resource.
type policy struct {
	ID          string       `json:"id"`
	Type        string       `json:"type"`
	Description string       `json:"description,omitempty"`
	Subject     attributeSet `json:"subject"`
	Roles       []string     `json:"roles"` // CRNs as given
	Resource    attributeSet `json:"resource"`
	State       string       `json:"state"`
	Revision    int          `json:"revision"`
	Created     time.Time    `json:"created"`
	CreatedBy   string       `json:"created_by"`
	Modified    time.Time    `json:"modified"`
	ModifiedBy  string       `json:"modified_by"`
}

func (p policy) account() string { return p.Resource.get("accountId") }

// etag names this revision of the policy; its form is not public.
func (p policy) etag() string {
	raw, _ := json.Marshal(p) // a struct of strings always encodes
	sum := sha256.Sum256(raw)
	return fmt.Sprintf("%q", fmt.Sprintf("%d-%s", p.Revision, hex.EncodeToString(sum[:16])))
}

// same tells whether two policies say the same: subject, resource and roles.
func (p policy) same(q policy) bool {
	roles := func(p policy) string {
		set := map[string]bool{}
		for _, id := range p.Roles {
			r, _ := findRole(p.Resource.get("serviceName"), id)
			set[r.crn] = true
		}
		return strings.Join(slices.Sorted(maps.Keys(set)), "\n")
	}
	return p.Type == q.Type && p.Subject.sorted() == q.Subject.sorted() &&
		p.Resource.sorted() == q.Resource.sorted() && roles(p) == roles(q)
}

// grants tells whether any role of p passes, for a subject and a resource that p is about.
func (p policy) grants(subject, on Attributes, passes func(role) bool) bool {
	if !p.Subject.matches(subject) || !p.Resource.matches(on) {
		return false
	}
	return slices.ContainsFunc(p.Roles, func(id string) bool {
		r, ok := findRole(on["serviceName"], id)
		if ring := on["keyRing"]; r.ring != "" && ring != "" && ring != r.ring {
			return false
		}
		return ok && passes(r)
	})
}
