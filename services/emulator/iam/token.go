package iam

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/iam/access"
	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// Grants that are served (IAM identity API, create an IAM access token).
const (
	grantAPIKey  = "urn:ibm:params:oauth:grant-type:apikey"    //nolint:gosec // a name, not a credential
	grantAuthz   = "urn:ibm:params:oauth:grant-type:iam-authz" //nolint:gosec // a name, not a credential
	grantRefresh = "refresh_token"
)

// grantsAdvertised is the list of IBM's openid-configuration.
var grantsAdvertised = []string{
	"authorization_code", "password", grantRefresh, grantAPIKey,
	"urn:ibm:params:oauth:grant-type:assume",
	"urn:ibm:params:oauth:grant-type:cr-token",
	"urn:ibm:params:oauth:grant-type:delegated-refresh-token",
	grantAuthz,
}

// crnRealm is what the IAM id of an instance begins with; its CRN follows.
const crnRealm = "crn-"

const maxFormBytes = 64 << 10

func (s *Service) tokenRoutes(r chi.Router) {
	for _, path := range []string{"/identity/token", "/oidc/token"} { // keyprotect-go-client asks the old path
		r.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			s.writeTokenFault(w, r, webException(http.StatusMethodNotAllowed), s.cfg.Now())
		})
		r.Post(path, s.token)
	}
	r.Get("/identity/keys", func(w http.ResponseWriter, _ *http.Request) {
		jsonhttp.Write(w, http.StatusOK, map[string]any{"keys": s.signer.published()})
	})
	r.Get("/identity/.well-known/openid-configuration", s.discovery)
}

// tokenFault is an error of the token service: HTTP status, errorCode, errorMessage, errorDetails
// (IAM identity API, token operations).
type tokenFault struct {
	status                 int
	code, message, details string
}

func (f *tokenFault) Error() string { return fmt.Sprintf("%d %s %s", f.status, f.code, f.details) }

func missingProperty(name string) *tokenFault {
	return &tokenFault{http.StatusBadRequest, "BXNIM0109E", "Property missing or empty.", name}
}

func webException(status int) *tokenFault {
	return &tokenFault{status, "BXNIM0060E", "Web application exception.", fmt.Sprintf("HTTP %d %s", status, http.StatusText(status))}
}

var (
	errAPIKeyNotFound = &tokenFault{http.StatusBadRequest, "BXNIM0415E", "Provided API key could not be found.", ""}
	errWrongClient    = &tokenFault{http.StatusBadRequest, "BXNIM0139E", "Client ID or client secret is wrong.", ""}
	errKeyOwner       = &tokenFault{http.StatusBadRequest, "BXNIM0410E", "User of the API key not found or not active.", ""}
	errTokenInvalid   = &tokenFault{http.StatusBadRequest, "BXNIM0407E", "Provided token is invalid or expired.", ""}
)

// token answers POST /identity/token and its older alias.
func (s *Service) token(w http.ResponseWriter, r *http.Request) {
	start := s.cfg.Now()
	c, err := s.grant(w, r, start)
	if fault := (*tokenFault)(nil); errors.As(err, &fault) {
		s.writeTokenFault(w, r, fault, start)
		return
	}
	var raw string
	if err == nil {
		raw, err = s.signer.sign(c)
	}
	if err != nil {
		jsonhttp.Internal(s.cfg.Log, w, r, err)
		return
	}
	s.cfg.Proved(r, c.IAMID)
	w.Header().Set("Cache-Control", "no-cache, no-store")
	jsonhttp.Write(w, http.StatusOK, struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
		TokenType    string `json:"token_type"`
		ExpiresIn    int64  `json:"expires_in"`
		Expiration   int64  `json:"expiration"`
		Scope        string `json:"scope"`
	}{raw, "not_supported", "Bearer", c.EXP - c.IAT, c.EXP, c.Scope})
}

// grant checks a token request and says what its token is to hold. The error is a *tokenFault or
// internal.
func (s *Service) grant(w http.ResponseWriter, r *http.Request, now time.Time) (claims, error) {
	if r.ContentLength < 0 {
		return claims{}, webException(http.StatusLengthRequired)
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
	if err := r.ParseForm(); err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			return claims{}, webException(http.StatusRequestEntityTooLarge)
		}
		return claims{}, webException(http.StatusBadRequest)
	}
	client := "default"
	if id, secret, given := r.BasicAuth(); given {
		if id != "bx" || secret != "bx" { // the client of IBM's command line, the only public one
			return claims{}, errWrongClient
		}
		client = id
	}
	field := r.PostForm.Get
	switch field("grant_type") {
	case grantAPIKey:
		return s.grantForAPIKey(field("apikey"), client, now)
	case grantAuthz:
		return s.grantForInstance(field("access_token"), field("desired_iam_id"), now)
	case grantRefresh: // none was ever given out
		if field("refresh_token") == "" {
			return claims{}, missingProperty("refresh_token")
		}
		return claims{}, errTokenInvalid
	}
	// IBM's answer to a grant it does not know is not public; it is taken for an empty one.
	return claims{}, missingProperty("grant_type")
}

// grantForAPIKey is for a user or service ID with an API key. IBM's answer to a key that is disabled
// or expired is not public; it is taken for one that does not exist.
func (s *Service) grantForAPIKey(value, client string, now time.Time) (claims, error) {
	if value == "" {
		return claims{}, missingProperty("apikey")
	}
	var who identity
	err := s.cfg.DB.View(func(tx *bbolt.Tx) error {
		k, err := findAPIKey(tx, value)
		if err != nil {
			return absent(err, errAPIKeyNotFound)
		}
		if !k.usable(now) {
			return errAPIKeyNotFound
		}
		who, err = records.Get[identity](bucket(tx, bucketIdentities), k.IAMID)
		return absent(err, errKeyOwner)
	})
	return s.identityClaims(who, client, now), err
}

// grantForInstance is for a service that acts as one of its instances: accessToken is that of a
// service ID which belongs to the service in the CRN of desired. IBM's errors are not public: 403 is
// for whom IAM knows and does not let act so.
func (s *Service) grantForInstance(accessToken, desired string, now time.Time) (claims, error) {
	if accessToken == "" {
		return claims{}, missingProperty("access_token")
	}
	name, ok := strings.CutPrefix(desired, crnRealm)
	as, wellFormed := access.AttributesOf(name)
	if !ok || !wellFormed || as["serviceInstance"] == "" {
		return claims{}, missingProperty("desired_iam_id")
	}
	caller, err := s.signer.verify(accessToken)
	switch {
	case errors.Is(err, ErrTokenUnreadable):
		return claims{}, missingProperty("access_token")
	case err != nil:
		return claims{}, errTokenInvalid
	}
	var who identity
	err = s.cfg.DB.View(func(tx *bbolt.Tx) error {
		who, err = records.Get[identity](bucket(tx, bucketIdentities), caller)
		return absent(err, webException(http.StatusForbidden))
	})
	if err == nil && (who.Service == "" || who.Service != as["serviceName"]) {
		err = webException(http.StatusForbidden)
	}
	return s.instanceClaims(name, as["accountId"], as["serviceName"], now), err
}

// writeTokenFault writes the token service's error document, the only camelCase one of IAM.
func (s *Service) writeTokenFault(w http.ResponseWriter, r *http.Request, f *tokenFault, start time.Time) {
	end := s.cfg.Now()
	contextTime := func(t time.Time) string {
		return fmt.Sprintf("%s:%03d UTC", t.UTC().Format("02.01.2006 15:04:05"), t.Nanosecond()/int(time.Millisecond))
	}
	body := struct {
		Code    string            `json:"errorCode"`
		Message string            `json:"errorMessage"`
		Details string            `json:"errorDetails,omitempty"`
		Context map[string]string `json:"context"`
	}{f.code, f.message, f.details, map[string]string{
		"requestId":   w.Header().Get(transactionHeader),
		"requestType": "incoming.Identity_Token",
		"userAgent":   r.UserAgent(),
		"url":         "https://iam.cloud.ibm.com",
		"instanceId":  "iamid-emulator",
		"threadId":    "1",
		"host":        r.Host,
		"startTime":   contextTime(start),
		"endTime":     contextTime(end),
		"elapsedTime": fmt.Sprint(end.Sub(start).Milliseconds()),
		"locale":      "en_US",
		"clusterName": "emulator",
	}}
	jsonhttp.Write(w, f.status, body)
}

// discovery answers with the configured issuer and endpoints on this very host: IBM's endpoints may
// differ from the issuer as well.
func (s *Service) discovery(w http.ResponseWriter, r *http.Request) {
	base := "http://" + r.Host + "/identity"
	jsonhttp.Write(w, http.StatusOK, map[string]any{
		"issuer":                                s.cfg.Issuer,
		"authorization_endpoint":                base + "/authorize",
		"token_endpoint":                        base + "/token",
		"userinfo_endpoint":                     base + "/userinfo",
		"introspection_endpoint":                base + "/introspect",
		"jwks_uri":                              base + "/keys",
		"response_types_supported":              []string{"code", "token"},
		"response_modes_supported":              []string{"query"},
		"grant_types_supported":                 grantsAdvertised,
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"scopes_supported":                      []string{"openid"},
		"claims_supported":                      []string{"iss", "aud", "sub", "iat", "exp", "auth_time", "amr"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post"},
		"code_challenge_methods_supported":      []string{"S256"},
	})
}
