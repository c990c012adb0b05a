package control

import (
	"context"
	"net/http"
	"strings"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/iam"
)

// Verify checks an access token, without "Bearer ", and says whose it is. Its
// errors are of kind Unauthenticated, or Unavailable when the signing keys
// can't be had.
type Verify func(ctx context.Context, token string) (iam.Identity, error)

// errNoToken is the one failure without a token; RFC 6750 section 3 wants it
// told apart in the challenge.
var errNoToken = fault.New(fault.Unauthenticated,
	"No access token. Send the header `Authorization: Bearer <IAM access token>`; `ibmcloud iam oauth-tokens` prints one.")

// authenticate verifies the request's token and notes the caller.
func authenticate(r *http.Request, action string, verify Verify) error {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "Bearer") || token == "" {
		return errNoToken
	}
	caller, err := verify(r.Context(), token)
	if err != nil {
		return err
	}
	x := exchangeOf(r.Context())
	x.caller, x.token, x.action = caller, token, action
	return nil
}

// callersToken is the access token of the request in whose context we are. It
// goes to IBM Cloud alone.
func callersToken(ctx context.Context) string { return exchangeOf(ctx).token }

// asCaller is keyprotect's Tokens: those of the caller.
type asCaller struct{}

// Token implements keyprotect.Tokens.
func (asCaller) Token(ctx context.Context) (string, error) { return callersToken(ctx), nil }

// Renew implements keyprotect.Tokens. The caller has sent no other.
func (asCaller) Renew(ctx context.Context) (string, error) { return callersToken(ctx), nil }

// authorize holds the caller to the roles behind an action, on the instance of
// the path or on all of the account. What the account does not have is absent
// rather than forbidden, whatever the caller's roles.
func (h *handlers) authorize(ctx context.Context, action, id string) error {
	err := h.roles.Permit(ctx, exchangeOf(ctx).caller, action, id)
	if id != "" && fault.KindOf(err) == fault.Denied {
		if _, absent := h.instance(ctx, id); absent != nil {
			return absent
		}
	}
	return err
}

// challenge is the WWW-Authenticate header for a failed authentication (RFC
// 6750 section 3).
func challenge(err error) string {
	const bare = `Bearer realm="kmip-for-vmware"`
	if err == errNoToken { //nolint:errorlint // the very value: fault errors compare by kind alone
		return bare
	}
	quoted := strings.NewReplacer(`"`, `'`, `\`, `/`, "`", "'").Replace(fault.Public(err))
	return bare + `, error="invalid_token", error_description="` + quoted + `"`
}
