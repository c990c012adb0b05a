// Package ibmcloud asks IBM Cloud in the name of the caller whose request it
// is: what the caller may not see or do there, it can't through us either.
package ibmcloud

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/IBM/platform-services-go-sdk/iampolicymanagementv1"
	"github.com/IBM/platform-services-go-sdk/resourcecontrollerv2"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// Limits on what IBM Cloud may do to a request.
const (
	answerTime = 8 * time.Second // of one exchange
	maxAnswer  = 8 << 20         // bytes that are read of one answer
	pageSize   = 100             // the most that either API lists at once
	maxPages   = 100             // that are read of one list
)

// The services, in sentences.
const (
	policyManagement   = "IAM policy management"
	resourceController = "The resource controller"
)

// Client speaks to IAM policy management and to the resource controller. Its
// errors are a *fault.Error: Unavailable when there is no answer to rely on,
// Denied when the service does not accept the caller. Safe for concurrent use.
type Client struct {
	policies  *iampolicymanagementv1.IamPolicyManagementV1
	resources *resourcecontrollerv2.ResourceControllerV2
}

// New returns a Client for services at addresses without a path, https or on
// this machine. The access token that token finds in a request's context goes
// to these two alone.
func New(iamURL, controllerURL string, token func(context.Context) string) (*Client, error) {
	client := &http.Client{
		Transport:     bounded{http.DefaultTransport},
		Timeout:       answerTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	policies, err := iampolicymanagementv1.NewIamPolicyManagementV1(&iampolicymanagementv1.IamPolicyManagementV1Options{
		URL: iamURL, Authenticator: asCaller{token},
	})
	if err != nil {
		return nil, err
	}
	resources, err := resourcecontrollerv2.NewResourceControllerV2(&resourcecontrollerv2.ResourceControllerV2Options{
		URL: controllerURL, Authenticator: asCaller{token},
	})
	if err != nil {
		return nil, err
	}
	policies.Service.SetHTTPClient(client)
	resources.Service.SetHTTPClient(client)
	return &Client{policies, resources}, nil
}

// asCaller is go-sdk-core's Authenticator: a request gets the token of the
// request that it is made for.
type asCaller struct{ token func(context.Context) string }

// AuthenticationType implements core.Authenticator.
func (asCaller) AuthenticationType() string { return "bearerToken" }

// Validate implements core.Authenticator.
func (asCaller) Validate() error { return nil }

// Authenticate implements core.Authenticator.
func (a asCaller) Authenticate(r *http.Request) error {
	r.Header.Set("Authorization", "Bearer "+a.token(r.Context()))
	return nil
}

// bounded ends answers after maxAnswer bytes.
type bounded struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.next.RoundTrip(r)
	if err == nil {
		answer.Body = http.MaxBytesReader(nil, answer.Body, maxAnswer)
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

// failure gives a failed call its kind. The SDKs' own texts are left out: they
// repeat what the other side sent.
func failure(who string, status int) error {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fault.Newf(fault.Denied, "%s does not accept your access token. Use a token of a user or service ID of this account.", who)
	case 0:
		return fault.Wrap(fault.Unavailable, who+" does not answer now. Try again later.", errors.New("no HTTP answer"))
	}
	return fault.Newf(fault.Unavailable, "%s can't answer now: status %d. Try again later.", who, status)
}

func tooMany(who string) error {
	return fault.Newf(fault.Unavailable, "%s lists more than %d entries.", who, maxPages*pageSize)
}
