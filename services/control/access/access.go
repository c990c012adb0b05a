// Package access decides what callers of the customer API may do: actions of
// IBM's VMware Solutions service by the roles that the callers hold in IAM.
package access

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/services/control/ibmcloud"
)

// The actions of IBM's VMware Solutions service that the routes ask for.
const (
	ViewInstances   = "vmware-solutions.instances.view"
	CreateInstances = "vmware-solutions.instances.create"
	UpdateInstances = "vmware-solutions.instances.update"
	DeleteInstances = "vmware-solutions.instances.delete"
	UpdateAccount   = "vmware-solutions.account.update"
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
	ViewInstances:   viewers,
	UpdateInstances: editors,
	CreateInstances: administrators,
	DeleteInstances: administrators,
	UpdateAccount:   administrators,
}

// Limits of the cache of callers' roles.
const (
	rolesFor   = time.Minute // how long a change in IAM may take to count
	maxCallers = 10_000
)

// Config is what Roles are made of.
type Config struct {
	// Policies reads the account's access policies that name an IAM id, as that
	// identity; ibmcloud's Client does.
	Policies func(ctx context.Context, account, kind, iamID string) ([]ibmcloud.Policy, error)
	Region   string // of the instances
	Now      func() time.Time
}

// Roles decides what callers may do by the access policies that name them in
// IAM. Access groups and policies for resource groups count for nothing:
// neither can be told from those policies. Safe for concurrent use.
type Roles struct {
	Config

	mu      sync.Mutex
	callers map[caller]held
}

// New returns Roles that know nobody yet.
func New(c Config) *Roles { return &Roles{Config: c, callers: make(map[caller]held)} }

// caller is an IAM id in the account that its token is for.
type caller struct{ account, iamID string }

// held are a caller's policies, as they were read.
type held struct {
	policies []ibmcloud.Policy
	at       time.Time
}

// Permit returns nil if the caller may do an action on an instance of its
// account, or on all of them when id is empty. Else it is fault.Denied, or
// fault.Unavailable when IAM is away and the caller was not known.
func (r *Roles) Permit(ctx context.Context, who iam.Identity, action, id string) error {
	policies, err := r.of(ctx, caller{who.Account, who.IAMID})
	if err != nil {
		return err
	}
	resource := map[string]string{
		"accountId": who.Account, "serviceType": "service", "serviceName": tenant.ServiceName, "region": r.Region,
	}
	if id != "" {
		resource["serviceInstance"] = id
	}
	for _, p := range policies {
		if About(p, resource) && slices.ContainsFunc(p.Roles, func(role string) bool { return slices.Contains(holders[action], short(role)) }) {
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

// of returns a caller's policies, at most rolesFor old.
func (r *Roles) of(ctx context.Context, who caller) ([]ibmcloud.Policy, error) {
	now := r.Now()
	r.mu.Lock()
	known, ok := r.callers[who]
	r.mu.Unlock()
	if ok && now.Sub(known.at) < rolesFor {
		return known.policies, nil
	}
	policies, err := r.Policies(ctx, who.account, ibmcloud.AccessPolicy, who.iamID)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.callers) >= maxCallers {
		for one := range r.callers { // any: it will be asked for again
			delete(r.callers, one)
			break
		}
	}
	r.callers[who] = held{policies, now}
	return policies, nil
}

// short is a role's name as in holders, or "" for a role of another service.
// IBM's pages show the standard roles both as IAM's and as the service's.
func short(role string) string {
	name, err := crn.Parse(role)
	if err != nil || name.Service != "iam" && name.Service != tenant.ServiceName {
		return ""
	}
	return name.ResourceType + ":" + name.Resource
}

// About reports whether all conditions of a policy match a resource's
// attributes. What the resource does not have, tags among it, matches nothing.
func About(p ibmcloud.Policy, resource map[string]string) bool {
	for _, a := range p.Resource {
		value, has := resource[a.Name]
		if !has || !matches(a, value) {
			return false
		}
	}
	return len(p.Resource) > 0 && !p.Tagged
}

// matches compares as policies do (IAM policy management, operators).
func matches(a ibmcloud.Attribute, value string) bool {
	if !a.Pattern {
		return a.Value == value
	}
	expression := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(a.Value))
	matched, err := regexp.MatchString("^(?s:"+expression+")$", value)
	return err == nil && matched
}
