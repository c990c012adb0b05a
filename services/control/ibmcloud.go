package control

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/IBM/platform-services-go-sdk/iampolicymanagementv1"
	"github.com/IBM/platform-services-go-sdk/resourcecontrollerv2"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// Limits on what IBM Cloud may do to a request.
const (
	cloudTime   = 8 * time.Second // of one exchange
	cloudAnswer = 8 << 20         // bytes that are read of one answer
	cloudPage   = 100             // the most that either API lists at once
	cloudPages  = 100             // that are read of one list
)

// ibmCloud asks IBM Cloud in the name of the caller whose request it is: what
// the caller may not see or do there, it can't through us either.
type ibmCloud struct {
	policies  *iampolicymanagementv1.IamPolicyManagementV1
	resources *resourcecontrollerv2.ResourceControllerV2
}

// newIBMCloud returns clients of IAM policy management and of the resource
// controller.
func newIBMCloud(iamURL, controllerURL string) (*ibmCloud, error) {
	client := &http.Client{
		Transport:     bounded{http.DefaultTransport},
		Timeout:       cloudTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token goes no further
	}
	policies, err := iampolicymanagementv1.NewIamPolicyManagementV1(&iampolicymanagementv1.IamPolicyManagementV1Options{
		URL: iamURL, Authenticator: asCaller{},
	})
	if err != nil {
		return nil, err
	}
	resources, err := resourcecontrollerv2.NewResourceControllerV2(&resourcecontrollerv2.ResourceControllerV2Options{
		URL: controllerURL, Authenticator: asCaller{},
	})
	if err != nil {
		return nil, err
	}
	policies.Service.SetHTTPClient(client)
	resources.Service.SetHTTPClient(client)
	return &ibmCloud{policies, resources}, nil
}

// asCaller gives a request to IBM Cloud the token of the request that it is
// made for. It is go-sdk-core's Authenticator and keyprotect's Tokens.
type asCaller struct{}

// AuthenticationType implements core.Authenticator.
func (asCaller) AuthenticationType() string { return "bearerToken" }

// Validate implements core.Authenticator.
func (asCaller) Validate() error { return nil }

// Authenticate implements core.Authenticator.
func (asCaller) Authenticate(r *http.Request) error {
	r.Header.Set("Authorization", "Bearer "+exchangeOf(r.Context()).token)
	return nil
}

// Token implements keyprotect.Tokens.
func (asCaller) Token(ctx context.Context) (string, error) { return exchangeOf(ctx).token, nil }

// Renew implements keyprotect.Tokens. The caller has no other.
func (a asCaller) Renew(ctx context.Context) (string, error) { return a.Token(ctx) }

// bounded ends answers after cloudAnswer bytes.
type bounded struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.next.RoundTrip(r)
	if err == nil {
		answer.Body = http.MaxBytesReader(nil, answer.Body, cloudAnswer)
	}
	return answer, err
}

// statusOf is the HTTP status of what go-sdk-core returned, or 0 without an
// answer.
func statusOf[R interface {
	comparable
	GetStatusCode() int
}](response R) int {
	var none R
	if response == none {
		return 0
	}
	return response.GetStatusCode()
}

// cloudFailure gives a failed call to IBM Cloud its kind. The SDKs' own texts
// are left out: they repeat what the other side sent.
func cloudFailure(who string, status int) error {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fault.Newf(fault.Denied, "%s does not accept your access token. Use a token of a user or service ID of this account.", who)
	case 0:
		return fault.Wrap(fault.Unavailable, who+" does not answer now. Try again later.", errors.New("no HTTP answer"))
	}
	return fault.Newf(fault.Unavailable, "%s can't answer now: status %d. Try again later.", who, status)
}

// The services, in sentences.
const (
	policyManagement   = "IAM policy management"
	resourceController = "The resource controller"
)

// listPolicies returns the account's active policies of a type that the caller
// may read, those about subject alone if that is an IAM id.
func (c *ibmCloud) listPolicies(ctx context.Context, account, kind, subject string) ([]iampolicymanagementv1.PolicyTemplateMetaData, error) {
	active, limit := iampolicymanagementv1.ListPoliciesOptionsStateActiveConst, int64(cloudPage)
	options := &iampolicymanagementv1.ListPoliciesOptions{AccountID: &account, Type: &kind, State: &active, Limit: &limit}
	if subject != "" {
		options.IamID = &subject
	}
	var all []iampolicymanagementv1.PolicyTemplateMetaData
	for range cloudPages {
		page, response, err := c.policies.ListPoliciesWithContext(ctx, options)
		if err != nil {
			return nil, cloudFailure(policyManagement, statusOf(response))
		}
		all = append(all, page.Policies...)
		if page.Next == nil || page.Next.Start == nil {
			return all, nil
		}
		options.Start = page.Next.Start
	}
	return nil, fault.Newf(fault.Unavailable, "%s lists more than %d policies.", policyManagement, cloudPages*cloudPage)
}

// cloudInstance is a service instance of the caller's account.
type cloudInstance struct {
	crn  crn.CRN
	name string
}

// keyManagers returns the Key Protect and HPCS instances of the account that
// the caller may see. HPCS has no public id in the catalog, so the CRN decides.
func (c *ibmCloud) keyManagers(ctx context.Context, account string) ([]cloudInstance, error) {
	kind, limit := "service_instance", int64(cloudPage)
	options := &resourcecontrollerv2.ListResourceInstancesOptions{Type: &kind, Limit: &limit}
	var all []cloudInstance
	for range cloudPages {
		page, response, err := c.resources.ListResourceInstancesWithContext(ctx, options)
		if err != nil {
			return nil, cloudFailure(resourceController, statusOf(response))
		}
		for _, r := range page.Resources {
			if i, ok := cloudInstanceOf(&r); ok && i.crn.Account() == account {
				all = append(all, i)
			}
		}
		start := startOf(page.NextURL)
		if start == "" {
			return all, nil
		}
		options.Start = &start
	}
	return nil, fault.Newf(fault.Unavailable, "%s lists more than %d instances.", resourceController, cloudPages*cloudPage)
}

// errNoKeyManager is the answer for an unknown and for a foreign key manager.
var errNoKeyManager = fault.New(fault.NotFound, "You see no key manager with this id in your account. GET /v1/key_managers lists those that you see.")

// startOf is the token of the next page in next_url, which may be relative.
func startOf(next *string) string {
	if next == nil {
		return ""
	}
	u, err := url.Parse(*next)
	if err != nil {
		return ""
	}
	return u.Query().Get("start")
}

// keyManager returns the Key Protect or HPCS instance with an id, or
// fault.NotFound: the account has none that the caller may see.
func (c *ibmCloud) keyManager(ctx context.Context, account, guid string) (cloudInstance, error) {
	r, response, err := c.resources.GetResourceInstanceWithContext(ctx, &resourcecontrollerv2.GetResourceInstanceOptions{ID: &guid})
	status := statusOf(response)
	if err != nil && status != http.StatusNotFound && status != http.StatusForbidden {
		return cloudInstance{}, cloudFailure(resourceController, status)
	}
	if err == nil {
		if i, ok := cloudInstanceOf(r); ok && i.crn.Account() == account && i.crn.Instance == guid {
			return i, nil
		}
	}
	return cloudInstance{}, errNoKeyManager
}

// cloudInstanceOf reports whether r is an active key manager.
func cloudInstanceOf(r *resourcecontrollerv2.ResourceInstance) (cloudInstance, bool) {
	if r.CRN == nil || r.Name == nil || r.State == nil || *r.State != "active" {
		return cloudInstance{}, false
	}
	name, err := crn.Parse(*r.CRN)
	_, known := keyManagerType(name.Service)
	return cloudInstance{name, *r.Name}, err == nil && known && identifier.MatchString(name.Instance)
}

// createAuthorization creates an authorization policy as the caller and returns
// its id, or the status with which IAM refused.
func (c *ibmCloud) createAuthorization(ctx context.Context, p api.AuthorizationPolicy, description string) (id string, status int, err error) {
	kind := string(p.Type)
	options := &iampolicymanagementv1.CreatePolicyOptions{
		Type: &kind, Description: &description,
		Subjects: []iampolicymanagementv1.PolicySubject{{}}, Resources: []iampolicymanagementv1.PolicyResource{{}},
	}
	for _, a := range p.Subjects[0].Attributes {
		options.Subjects[0].Attributes = append(options.Subjects[0].Attributes, iampolicymanagementv1.SubjectAttribute{Name: &a.Name, Value: &a.Value})
	}
	for _, a := range p.Resources[0].Attributes {
		options.Resources[0].Attributes = append(options.Resources[0].Attributes, iampolicymanagementv1.ResourceAttribute{Name: &a.Name, Value: &a.Value})
	}
	for _, r := range p.Roles {
		options.Roles = append(options.Roles, iampolicymanagementv1.PolicyRole{RoleID: &r.RoleID})
	}
	made, response, err := c.policies.CreatePolicyWithContext(ctx, options)
	if err != nil {
		return "", statusOf(response), err
	}
	if made.ID == nil {
		return "", statusOf(response), errors.New("the answer names no policy")
	}
	return *made.ID, statusOf(response), nil
}
