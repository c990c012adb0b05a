package ibmcloud

import (
	"context"
	"net/http"

	"github.com/IBM/platform-services-go-sdk/iampolicymanagementv1"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// The types of policies.
const (
	AccessPolicy  = "access"        // the subject is an identity
	Authorization = "authorization" // the subject is a service
)

// Policy is an active policy of IAM (policy management API v1): who holds roles
// on which resources. All attributes of either have to match.
type Policy struct {
	ID                string
	Subject, Resource []Attribute
	Roles             []string // CRNs
	Tagged            bool     // about resources with certain tags alone
}

// Attribute is one condition of a policy.
type Attribute struct {
	Name, Value string
	Pattern     bool // operator stringMatch: Value holds * and ?
}

// Policies returns the account's policies of a type that the caller may read,
// those about the IAM id alone unless it is empty.
func (c *Client) Policies(ctx context.Context, account, kind, iamID string) ([]Policy, error) {
	active, limit := iampolicymanagementv1.ListPoliciesOptionsStateActiveConst, int64(pageSize)
	options := &iampolicymanagementv1.ListPoliciesOptions{AccountID: &account, Type: &kind, State: &active, Limit: &limit}
	if iamID != "" {
		options.IamID = &iamID
	}
	var all []Policy
	for range maxPages {
		page, response, err := c.policies.ListPoliciesWithContext(ctx, options)
		if err != nil {
			return nil, failure(policyManagement, statusOf(response))
		}
		for _, p := range page.Policies {
			if read, ok := policyOf(p); ok {
				all = append(all, read)
			}
		}
		if page.Next == nil || page.Next.Start == nil {
			return all, nil
		}
		options.Start = page.Next.Start
	}
	return nil, tooMany(policyManagement)
}

// policyOf reads a policy; one that is not as documented is none.
func policyOf(p iampolicymanagementv1.PolicyTemplateMetaData) (Policy, bool) {
	if len(p.Subjects) != 1 || len(p.Resources) != 1 {
		return Policy{}, false
	}
	read := Policy{Tagged: len(p.Resources[0].Tags) > 0}
	if p.ID != nil {
		read.ID = *p.ID
	}
	for _, a := range p.Subjects[0].Attributes {
		if a.Name == nil || a.Value == nil {
			return Policy{}, false
		}
		read.Subject = append(read.Subject, Attribute{Name: *a.Name, Value: *a.Value})
	}
	for _, a := range p.Resources[0].Attributes {
		if a.Name == nil || a.Value == nil {
			return Policy{}, false
		}
		read.Resource = append(read.Resource, Attribute{*a.Name, *a.Value, a.Operator != nil && *a.Operator == "stringMatch"})
	}
	for _, r := range p.Roles {
		if r.RoleID != nil {
			read.Roles = append(read.Roles, *r.RoleID)
		}
	}
	return read, true
}

// Errors of Authorize, to compare with errors.Is.
var (
	ErrExists = &fault.Error{Kind: fault.Exists} // a policy that says the same is there
	ErrDenied = &fault.Error{Kind: fault.Denied} // the caller may not grant that
)

// Authorize creates an authorization policy as the caller and returns its id.
func (c *Client) Authorize(ctx context.Context, p Policy, description string) (id string, err error) {
	kind := Authorization
	var subject iampolicymanagementv1.PolicySubject
	var resource iampolicymanagementv1.PolicyResource
	options := &iampolicymanagementv1.CreatePolicyOptions{Type: &kind, Description: &description}
	for _, a := range p.Subject {
		subject.Attributes = append(subject.Attributes, iampolicymanagementv1.SubjectAttribute{Name: &a.Name, Value: &a.Value})
	}
	for _, a := range p.Resource {
		resource.Attributes = append(resource.Attributes, iampolicymanagementv1.ResourceAttribute{Name: &a.Name, Value: &a.Value})
	}
	for _, role := range p.Roles {
		options.Roles = append(options.Roles, iampolicymanagementv1.PolicyRole{RoleID: &role})
	}
	options.Subjects, options.Resources = []iampolicymanagementv1.PolicySubject{subject}, []iampolicymanagementv1.PolicyResource{resource}
	made, response, err := c.policies.CreatePolicyWithContext(ctx, options)
	switch status := statusOf(response); {
	case err == nil && made.ID != nil:
		return *made.ID, nil
	case status == http.StatusConflict:
		return "", fault.New(fault.Exists, "This policy exists already in IAM.")
	default:
		return "", failure(policyManagement, status)
	}
}
