package control

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/IBM/platform-services-go-sdk/iampolicymanagementv1"

	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// The actions of IBM's VMware Solutions service that the routes ask for.
const (
	viewInstances   = "vmware-solutions.instances.view"
	createInstances = "vmware-solutions.instances.create"
	updateInstances = "vmware-solutions.instances.update"
	deleteInstances = "vmware-solutions.instances.delete"
	updateAccount   = "vmware-solutions.account.update"
)

// The roles that hold actions: the platform roles, and the service roles that
// may stand for them (VMware Solutions, managing IAM access).
var (
	administrators = []string{"role:Administrator", "serviceRole:Manager"}
	editors        = append([]string{"role:Editor", "serviceRole:Writer"}, administrators...)
	viewers        = append([]string{"role:Viewer", "role:Operator", "serviceRole:Reader"}, editors...)
)

// holders is the one table from actions to the roles that hold them, by the
// last two segments of the roles' CRNs.
var holders = map[string][]string{
	viewInstances:   viewers,
	updateInstances: editors,
	createInstances: administrators,
	deleteInstances: administrators,
	updateAccount:   administrators,
}

// Limits of the cache of callers' roles.
const (
	rolesFor   = time.Minute // how long a change in IAM may take to count
	maxCallers = 10_000
)

// roles decides what callers may do by the access policies that name them in
// IAM, read with their own tokens. Access groups and policies for resource
// groups count for nothing: neither can be told from those policies.
type roles struct {
	policies func(ctx context.Context, account, kind, subject string) ([]iampolicymanagementv1.PolicyTemplateMetaData, error)
	region   string
	now      func() time.Time

	mu      sync.Mutex
	callers map[caller]held
}

// caller is an IAM id in the account that its token is for.
type caller struct{ account, iamID string }

// held is what a caller has been granted, as it was read.
type held struct {
	grants []grant
	at     time.Time
}

// grant is one policy: roles on the resources whose attributes match.
type grant struct {
	roles      []string // as in holders
	attributes []attribute
}

// attribute is one condition on a resource.
type attribute struct {
	name, value string
	pattern     bool // value holds * and ?
}

// permit returns nil if the caller may do an action on an instance of its
// account, or on all of them when id is empty. Else it is fault.Denied, or
// fault.Unavailable when IAM is away and the caller was not known.
func (r *roles) permit(ctx context.Context, who iam.Identity, action, id string) error {
	grants, err := r.granted(ctx, caller{who.Account, who.IAMID})
	if err != nil {
		return err
	}
	resource := map[string]string{
		"accountId": who.Account, "serviceType": "service", "serviceName": tenant.ServiceName, "region": r.region,
	}
	if id != "" {
		resource["serviceInstance"] = id
	}
	for _, g := range grants {
		if g.about(resource) && slices.ContainsFunc(holders[action], func(role string) bool { return slices.Contains(g.roles, role) }) {
			return nil
		}
	}
	what := "this instance"
	if id == "" {
		what = "all instances of the account"
	}
	return fault.Newf(fault.Denied, "You may not do this: action `%s` on %s takes one of the roles %s on the service %s. "+
		"An administrator of the account can give you one; it counts within a minute. Roles of access groups do not count here.",
		action, what, strings.Join(names(holders[action]), ", "), tenant.ServiceName)
}

// names are roles as people know them.
func names(roles []string) []string {
	var all []string
	for _, role := range roles {
		_, name, _ := strings.Cut(role, ":")
		all = append(all, name)
	}
	return all
}

// granted returns a caller's policies, at most rolesFor old.
func (r *roles) granted(ctx context.Context, who caller) ([]grant, error) {
	now := r.now()
	r.mu.Lock()
	known, ok := r.callers[who]
	r.mu.Unlock()
	if ok && now.Sub(known.at) < rolesFor {
		return known.grants, nil
	}
	policies, err := r.policies(ctx, who.account, "access", who.iamID)
	if err != nil {
		return nil, err
	}
	fresh := held{at: now}
	for _, p := range policies {
		fresh.grants = append(fresh.grants, grantOf(p))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.callers == nil {
		r.callers = make(map[caller]held)
	}
	if len(r.callers) >= maxCallers {
		for one := range r.callers { // any: it will be asked for again
			delete(r.callers, one)
			break
		}
	}
	r.callers[who] = fresh
	return fresh.grants, nil
}

// grantOf reads a policy. One with tags of resources, which instances here
// don't have, grants nothing.
func grantOf(p iampolicymanagementv1.PolicyTemplateMetaData) grant {
	var g grant
	if len(p.Resources) != 1 || len(p.Resources[0].Tags) > 0 {
		return g
	}
	for _, role := range p.Roles {
		if role.RoleID == nil {
			continue
		}
		// IBM's pages show the standard roles both as IAM's and as the service's.
		name, err := crn.Parse(*role.RoleID)
		if err == nil && (name.Service == "iam" || name.Service == tenant.ServiceName) {
			g.roles = append(g.roles, name.ResourceType+":"+name.Resource)
		}
	}
	for _, a := range p.Resources[0].Attributes {
		if a.Name == nil || a.Value == nil {
			return grant{}
		}
		g.attributes = append(g.attributes, attribute{*a.Name, *a.Value, a.Operator != nil && *a.Operator == "stringMatch"})
	}
	return g
}

// about reports whether all conditions match. What a resource does not have
// matches nothing.
func (g grant) about(resource map[string]string) bool {
	for _, a := range g.attributes {
		value, has := resource[a.name]
		if !has || !a.matches(value) {
			return false
		}
	}
	return len(g.attributes) > 0
}

// matches compares as policies do (IAM policy management, operators).
func (a attribute) matches(value string) bool {
	if !a.pattern {
		return a.value == value
	}
	expression := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(a.value))
	matched, err := regexp.MatchString("^(?s:"+expression+")$", value)
	return err == nil && matched
}
