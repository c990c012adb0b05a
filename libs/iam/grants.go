package iam

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// What callers read.
const (
	publicRefused  = "IAM does not accept the API key. Give a valid API key of the service ID."
	publicOwn      = "IAM does not accept this service's own identity. The service's operator has to mend that."
	publicInstance = "IAM does not let this service act for the instance. The service's operator has to mend that."
)

func unavailable(err error) error {
	return fault.Wrap(fault.Unavailable, "IAM does not give out access tokens now.", err)
}

// fetch gets one token. Its errors are a *fault.Error; with one it says how
// long to ask no more.
type fetch func(context.Context) (*core.IamTokenServerResponse, time.Duration, error)

// ForAPIKey returns a source of access tokens for the owner of an API key. It
// keeps a copy of the key and asks for nothing until its first use.
func (t *Tokens) ForAPIKey(apiKey *secret.Bytes) *TokenSource {
	apiKey = apiKey.Clone()
	return &TokenSource{now: t.config.Now, fetch: func(context.Context) (*core.IamTokenServerResponse, time.Duration, error) {
		authenticator, err := core.NewIamAuthenticatorBuilder().
			SetURL(t.config.URL).
			SetApiKey(string(apiKey.Reveal())).
			SetClient(t.config.HTTP). // ends the request, which takes no context
			Build()
		if err != nil { // its text names the field alone
			return nil, refusedPause, fault.Wrap(fault.Denied, publicRefused, err)
		}
		answer, err := authenticator.RequestToken()
		if err == nil {
			return usable(answer)
		}
		var failed *core.AuthenticationError
		if !errors.As(err, &failed) || failed.HTTPProblem == nil || failed.Response == nil {
			return nil, failedPause, unavailable(broken(err))
		}
		r := read(failed.Response)
		// Final is the token service's own word about the API key alone
		// (BXNIM0415E and others), not a stranger's 400.
		if r.status == http.StatusBadRequest && r.code != "" {
			return nil, refusedPause, fault.Wrap(fault.Denied, publicRefused, r)
		}
		return nil, r.pause, unavailable(r)
	}}
}

// ForInstance returns a source of access tokens with which a service acts as
// one of its own instances, under the service authorizations that customers
// gave that instance (IAM identity API, grant iam-authz). The service proves
// itself by its own tokens. No failure is the customer's fault, so every one
// is fault.Unavailable.
func (t *Tokens) ForInstance(service *TokenSource, instanceCRN string) *TokenSource {
	return &TokenSource{now: t.config.Now, fetch: func(ctx context.Context) (*core.IamTokenServerResponse, time.Duration, error) {
		var r refusal
		// A refusal may be about what an older token of the service says.
		for _, own := range []func(context.Context) (string, error){service.Token, service.Renew} {
			token, err := own(ctx)
			if fault.KindOf(err) == fault.Denied {
				return nil, failedPause, fault.Wrap(fault.Unavailable, publicOwn, errors.Unwrap(err))
			}
			if err != nil {
				return nil, failedPause, err
			}
			answer, response, err := t.authorize(ctx, token, instanceCRN)
			if err == nil {
				return usable(answer)
			}
			if response == nil {
				return nil, failedPause, unavailable(broken(err))
			}
			switch r = read(response); r.status {
			case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
			default:
				return nil, r.pause, unavailable(r)
			}
		}
		return nil, refusedPause, fault.Wrap(fault.Unavailable, publicInstance, r)
	}}
}

// authorize makes the token request of the grant iam-authz, which go-sdk-core
// has no authenticator for.
func (t *Tokens) authorize(ctx context.Context, token, instanceCRN string) (*core.IamTokenServerResponse, *core.DetailedResponse, error) {
	builder := core.NewRequestBuilder(core.POST).WithContext(ctx).
		AddFormData("grant_type", "", "", "urn:ibm:params:oauth:grant-type:iam-authz").
		AddFormData("access_token", "", "", token).
		AddFormData("desired_iam_id", "", "", "crn-"+instanceCRN) // the realm, then the CRN with its own crn
	builder.AddHeader("Accept", "application/json")
	builder.AddHeader("Content-Type", "application/x-www-form-urlencoded")
	if _, err := builder.ResolveRequestURL(t.config.URL, "/identity/token", nil); err != nil {
		return nil, nil, err
	}
	request, err := builder.Build()
	if err != nil {
		return nil, nil, err
	}
	answer := &core.IamTokenServerResponse{}
	response, err := t.service.Request(request, answer)
	return answer, response, err
}

// usable checks that an answer holds a token.
func usable(answer *core.IamTokenServerResponse) (*core.IamTokenServerResponse, time.Duration, error) {
	if answer.AccessToken == "" || answer.ExpiresIn <= 0 {
		return nil, failedPause, unavailable(errors.New("token service: the answer holds no token or no life time"))
	}
	return answer, 0, nil
}

// refusal is an answer of the token service that brought no token. Its text is
// for the log; the service's own are left out: they may repeat what was sent.
type refusal struct {
	status  int
	code    string // errorCode of the token service's error document, or ""
	request string // what IBM's support finds the request by
	pause   time.Duration
}

// Error implements error.
func (r refusal) Error() string {
	return fmt.Sprintf("token service answered %d %s (request %s)", r.status, r.code, r.request)
}

// An identifier from IAM enters our logs only in this shape.
var identifier = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// read reads a refusal (IAM identity API, token operations, errors).
func read(answer *core.DetailedResponse) refusal {
	r := refusal{status: answer.StatusCode, request: "unknown", pause: failedPause}
	document, _ := answer.Result.(map[string]any)
	if code, _ := document["errorCode"].(string); identifier.MatchString(code) {
		r.code = code
	}
	details, _ := document["context"].(map[string]any)
	id, _ := details["requestId"].(string)
	if id == "" {
		id = answer.Headers.Get("Transaction-Id")
	}
	if identifier.MatchString(id) {
		r.request = id
	}
	seconds, err := strconv.Atoi(answer.Headers.Get("Retry-After"))
	if err == nil && seconds > 0 {
		r.pause = time.Duration(min(seconds, int(maxPause/time.Second))) * time.Second
	}
	return r
}

// broken describes a failed exchange by those errors whose texts are ours or
// the operating system's: net/http's may quote what the other side sent.
func broken(err error) error {
	var network *net.OpError
	var certificate *tls.CertificateVerificationError
	var other net.Error
	switch {
	case errors.As(err, &certificate):
		return certificate
	case errors.As(err, &network):
		return network
	case errors.As(err, &other) && other.Timeout():
		return fmt.Errorf("token service: no answer within %s", answerTime)
	default:
		return errors.New("token service: no HTTP answer")
	}
}
