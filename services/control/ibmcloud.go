package control

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/IBM/platform-services-go-sdk/iampolicymanagementv1"

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
	policies *iampolicymanagementv1.IamPolicyManagementV1
}

// newIBMCloud returns a client of IAM policy management.
func newIBMCloud(iamURL string) (*ibmCloud, error) {
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
	policies.Service.SetHTTPClient(client)
	return &ibmCloud{policies}, nil
}

// asCaller gives a request to IBM Cloud the token of the request that it is
// made for. It is go-sdk-core's Authenticator.
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

// policyManagement is what it is called in sentences.
const policyManagement = "IAM policy management"

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
