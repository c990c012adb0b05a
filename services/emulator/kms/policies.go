package kms

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// Types of policies; a key can have the first two (Key Protect API v2, policies).
const (
	policyDualAuth     = "dualAuthDelete"
	policyRotation     = "rotation"
	policyNetwork      = "allowedNetwork"
	policyIP           = "allowedIP"
	policyMetrics      = "metrics"
	policyCreateImport = "keyCreateImportAccess"
)

var (
	keyPolicyTypes      = []string{policyDualAuth, policyRotation}
	instancePolicyTypes = []string{policyDualAuth, policyNetwork, policyIP, policyMetrics, policyCreateImport, policyRotation}
	allowedNetworks     = []string{"public-and-private", "private-only"}
)

// maxIntervalMonth is the longest time between automatic rotations.
const maxIntervalMonth = 12

// policy is a key's or an instance's. Rotation policies do not rotate by themselves here, and those of
// networks and addresses let everything through; the others do what they say.
type policy struct {
	ID         string     `json:"id"`
	Type       string     `json:"type"`
	Enabled    bool       `json:"enabled"`
	Attributes attributes `json:"attributes"`
	Created    time.Time  `json:"created"`
	CreatedBy  string     `json:"created_by"`
	Updated    time.Time  `json:"updated"`
	UpdatedBy  string     `json:"updated_by"`
}

// attributes of instance policies; a key's policy has an interval at most.
type attributes struct {
	AllowedNetwork    *string   `json:"allowed_network,omitempty"`
	AllowedIP         *[]string `json:"allowed_ip,omitempty"`
	CreateRootKey     *bool     `json:"create_root_key,omitempty"`
	CreateStandardKey *bool     `json:"create_standard_key,omitempty"`
	ImportRootKey     *bool     `json:"import_root_key,omitempty"`
	ImportStandardKey *bool     `json:"import_standard_key,omitempty"`
	EnforceToken      *bool     `json:"enforce_token,omitempty"`
	IntervalMonth     *int      `json:"interval_month,omitempty"`
}

// policy is the key's of a type, or the zero value.
func (k key) policy(kind string) policy {
	i := slices.IndexFunc(k.Policies, func(p policy) bool { return p.Type == kind })
	if i < 0 {
		return policy{}
	}
	return k.Policies[i]
}

// with is the old policy, or a new one, set anew by the caller.
func (c *call) with(old policy, kind string, enabled bool, a attributes) policy {
	if old.ID == "" {
		old = policy{ID: uuid.NewString(), Type: kind, Created: c.now, CreatedBy: c.by}
	}
	old.Enabled, old.Attributes, old.Updated, old.UpdatedBy = enabled, a, c.now, c.by
	return old
}

// setPolicy puts a policy in the place of the key's own of its type.
func (k *key) setPolicy(p policy) {
	k.Policies = slices.DeleteFunc(slices.Clone(k.Policies), func(old policy) bool { return old.Type == p.Type })
	k.Policies = append(k.Policies, p)
}

// rotationSetting and dualAuthSetting are what requests and answers say of a key's policies.
type rotationSetting struct {
	Enabled       *bool `json:"enabled,omitempty"`
	IntervalMonth *int  `json:"interval_month,omitempty"`
}

type dualAuthSetting struct {
	Enabled        *bool  `json:"enabled"`
	SetForDeletion *bool  `json:"keySetForDeletion,omitempty"`
	AuthExpiration string `json:"authExpiration,omitempty"`
}

// keyPolicies are the settings of a key's policies; nil leaves one alone.
type keyPolicies struct {
	Rotation       *rotationSetting `json:"rotation,omitempty"`
	DualAuthDelete *dualAuthSetting `json:"dualAuthDelete,omitempty"`
}

// apply sets the key's policies.
func (c *call) apply(k *key, set keyPolicies) error {
	if r := set.Rotation; r != nil {
		if k.Extractable {
			return errRootRequired
		}
		old := k.policy(policyRotation)
		interval := r.IntervalMonth
		if interval == nil {
			interval = old.Attributes.IntervalMonth
		}
		enabled := r.Enabled == nil || *r.Enabled
		if err := checkInterval(enabled, interval); err != nil {
			return err
		}
		k.setPolicy(c.with(old, policyRotation, enabled, attributes{IntervalMonth: interval}))
	}
	if d := set.DualAuthDelete; d != nil {
		if d.Enabled == nil || d.SetForDeletion != nil || d.AuthExpiration != "" {
			return bodyError("A dual authorization policy says enabled, and nothing else.")
		}
		k.setPolicy(c.with(k.policy(policyDualAuth), policyDualAuth, *d.Enabled, attributes{}))
		if !*d.Enabled {
			k.IntentBy, k.Intent = "", time.Time{}
		}
	}
	return nil
}

func checkInterval(needed bool, months *int) error {
	if months == nil && needed || months != nil && (*months < 1 || *months > maxIntervalMonth) {
		return fieldError("interval_month", "The interval has 1 to 12 months.")
	}
	return nil
}

// settings are the key's policies as a key shows them.
func (c *call) settings(k key) keyPolicies {
	dual := k.policy(policyDualAuth)
	out := keyPolicies{DualAuthDelete: &dualAuthSetting{Enabled: &dual.Enabled}}
	if dual.Enabled {
		intended := k.intended(c.now)
		out.DualAuthDelete.SetForDeletion = &intended
		if intended {
			out.DualAuthDelete.AuthExpiration = date(k.Intent.Add(deletionIntent))
		}
	}
	if r := k.policy(policyRotation); r.ID != "" {
		out.Rotation = &rotationSetting{&r.Enabled, r.Attributes.IntervalMonth}
	}
	return out
}

type keyPolicyView struct {
	Type           string `json:"type"`
	ID             string `json:"id"`
	CRN            string `json:"crn"`
	CreatedBy      string `json:"createdBy"`
	CreationDate   string `json:"creationDate"`
	UpdatedBy      string `json:"updatedBy"`
	LastUpdateDate string `json:"lastUpdateDate"`
	keyPolicies
}

// keyPolicyViews are the key's policies of one type, or of all.
func (c *call) keyPolicyViews(k key, kind string) answer {
	var views []keyPolicyView
	for _, p := range k.Policies {
		if kind != "" && kind != p.Type {
			continue
		}
		v := keyPolicyView{
			Type: mediaType("policy"), ID: p.ID, CRN: c.in.crn("policy:" + p.ID), CreatedBy: p.CreatedBy,
			CreationDate: date(p.Created), UpdatedBy: p.UpdatedBy, LastUpdateDate: date(p.Updated),
		}
		if p.Type == policyRotation {
			v.Rotation = &rotationSetting{&p.Enabled, p.Attributes.IntervalMonth}
		} else {
			v.DualAuthDelete = &dualAuthSetting{Enabled: &p.Enabled}
		}
		views = append(views, v)
	}
	return answer{status: http.StatusOK, body: collection("policy", views)}
}

// policyType is the type that the query names, or empty for all.
func (c *call) policyType(known []string) (string, error) {
	kind := c.query.Get("policy")
	if kind != "" && !slices.Contains(known, kind) {
		return "", queryError("policy", "The type of policy is unknown.")
	}
	return kind, nil
}

func (c *call) getKeyPolicies() (answer, error) {
	kind, err := c.policyType(keyPolicyTypes)
	return c.keyPolicyViews(c.key, kind), err
}

// policyBody reads a collection of policies that is as the query says; kinds are the types that one of
// them sets.
func policyBody[T any](c *call, known []string, kinds func(T) []string) ([]T, string, error) {
	only, err := c.policyType(known)
	if err != nil {
		return nil, "", err
	}
	var req envelope[T]
	if err := jsonhttp.Decode(c.body, &req); err != nil || req.Metadata.CollectionType != mediaType("policy") {
		return nil, "", bodyError("The body is not a collection of policies.")
	}
	if req.Metadata.CollectionTotal != len(req.Resources) {
		return nil, "", errCollectionTotal
	}
	if n := len(req.Resources); n == 0 || n > len(known) || only != "" && n != 1 {
		return nil, "", errCollectionSize
	}
	var seen []string
	for _, r := range req.Resources {
		for _, kind := range kinds(r) {
			if only != "" && kind != only {
				return nil, "", errPolicyMismatch
			}
			if !slices.Contains(known, kind) || slices.Contains(seen, kind) {
				return nil, "", bodyError("A policy's type is unknown, or there twice.")
			}
			seen = append(seen, kind)
		}
	}
	if len(seen) < len(req.Resources) {
		return nil, "", bodyError("A policy says nothing.")
	}
	return req.Resources, only, nil
}

// newKeyPolicy is one resource of a request for a key's policies.
type newKeyPolicy struct {
	Type string `json:"type"`
	keyPolicies
}

func (p newKeyPolicy) kinds() (out []string) {
	if p.Rotation != nil {
		out = append(out, policyRotation)
	}
	if p.DualAuthDelete != nil {
		out = append(out, policyDualAuth)
	}
	return out
}

func (c *call) setKeyPolicies() (answer, error) {
	list, only, err := policyBody(c, keyPolicyTypes, newKeyPolicy.kinds)
	if err != nil {
		return answer{}, err
	}
	k := c.key
	if err := k.allows("policies", c.now); err != nil {
		return answer{}, err
	}
	for _, p := range list {
		if err := c.apply(&k, p.keyPolicies); err != nil {
			return answer{}, err
		}
	}
	k.Updated = c.now
	return c.keyPolicyViews(k, only), c.save(k)
}

// newInstancePolicy is one resource of a request for the instance's policies.
type newInstancePolicy struct {
	Type string `json:"policy_type"`
	Data struct {
		Enabled    *bool       `json:"enabled"`
		Attributes *attributes `json:"attributes"`
	} `json:"policy_data"`
}

type instancePolicyView struct {
	CreatedBy    string `json:"createdBy"`
	CreationDate string `json:"creationDate"`
	UpdatedBy    string `json:"updatedBy"`
	LastUpdated  string `json:"lastUpdated"`
	Type         string `json:"policy_type"`
	Data         any    `json:"policy_data"`
}

// instancePolicy is the instance's of a type, or the zero value.
func (c *call) instancePolicy(kind string) (policy, error) {
	p, err := load[policy](c, bucketPolicies, kind)
	if errors.Is(err, records.ErrNone) {
		return policy{}, nil
	}
	return p, err
}

func (c *call) getInstancePolicies() (answer, error) {
	only, err := c.policyType(instancePolicyTypes)
	if err != nil {
		return answer{}, err
	}
	var views []instancePolicyView
	err = each(c, bucketPolicies, func(p policy) error {
		if only == "" || only == p.Type {
			data := map[string]any{"enabled": p.Enabled}
			if p.Attributes != (attributes{}) {
				data["attributes"] = p.Attributes
			}
			views = append(views, instancePolicyView{p.CreatedBy, date(p.Created), p.UpdatedBy, date(p.Updated), p.Type, data})
		}
		return nil
	})
	return answer{status: http.StatusOK, body: collection("policy", views)}, err
}

func (c *call) setInstancePolicies() (answer, error) {
	kinds := func(p newInstancePolicy) []string { return []string{p.Type} }
	list, _, err := policyBody(c, instancePolicyTypes, kinds)
	if err != nil {
		return answer{}, err
	}
	for _, p := range list {
		if p.Data.Enabled == nil {
			return answer{}, fieldError("enabled", "The policy does not say whether it is enabled.")
		}
		var a attributes
		if p.Data.Attributes != nil {
			a = *p.Data.Attributes
		}
		if err := checkAttributes(p.Type, *p.Data.Enabled, a); err != nil {
			return answer{}, err
		}
		old, err := c.instancePolicy(p.Type)
		if err != nil {
			return answer{}, err
		}
		if err := c.put(bucketPolicies, p.Type, c.with(old, p.Type, *p.Data.Enabled, a)); err != nil {
			return answer{}, err
		}
	}
	return answer{status: http.StatusNoContent}, nil
}

// checkAttributes checks the attributes that a type of policy has, and that it has no others.
func checkAttributes(kind string, enabled bool, a attributes) error {
	switch kind {
	case policyRotation:
		if err := checkInterval(enabled, a.IntervalMonth); err != nil {
			return err
		}
		a.IntervalMonth = nil
	case policyNetwork:
		if a.AllowedNetwork == nil || !slices.Contains(allowedNetworks, *a.AllowedNetwork) {
			return fieldError("allowed_network", "The network is public-and-private or private-only.")
		}
		a.AllowedNetwork = nil
	case policyIP:
		if enabled && (a.AllowedIP == nil || len(*a.AllowedIP) == 0) {
			return fieldError("allowed_ip", "There is no address.")
		}
		if a.AllowedIP != nil {
			for _, text := range *a.AllowedIP {
				if _, err := netip.ParsePrefix(text); err != nil {
					return fieldError("allowed_ip", "An address is not a subnet in CIDR notation.")
				}
			}
		}
		a.AllowedIP = nil
	case policyCreateImport:
		a.CreateRootKey, a.CreateStandardKey, a.ImportRootKey, a.ImportStandardKey, a.EnforceToken = nil, nil, nil, nil, nil
	}
	if a != (attributes{}) {
		return fieldError("attributes", "The policy has attributes that are not its own.")
	}
	return nil
}

// inherit gives a new key the policies of the instance that the request leaves open, and refuses a key
// that they do not let in.
func (c *call) inherit(k *key, viaToken bool, set *keyPolicies) error {
	access, err := c.instancePolicy(policyCreateImport)
	if err != nil {
		return err
	}
	a := access.Attributes
	rule := map[[2]bool]*bool{ // extractable, imported
		{false, false}: a.CreateRootKey, {true, false}: a.CreateStandardKey,
		{false, true}: a.ImportRootKey, {true, true}: a.ImportStandardKey,
	}[[2]bool{k.Extractable, k.Imported}]
	if access.Enabled && (rule != nil && !*rule || a.EnforceToken != nil && *a.EnforceToken && k.Imported && !viaToken) {
		return errCreateImport
	}
	if set.DualAuthDelete == nil {
		p, err := c.instancePolicy(policyDualAuth)
		if err != nil {
			return err
		}
		if p.Enabled {
			set.DualAuthDelete = &dualAuthSetting{Enabled: &p.Enabled}
		}
	}
	if set.Rotation == nil && !k.Extractable && !k.Imported {
		p, err := c.instancePolicy(policyRotation)
		if err != nil {
			return err
		}
		if p.Enabled {
			set.Rotation = &rotationSetting{&p.Enabled, p.Attributes.IntervalMonth}
		}
	}
	return nil
}
