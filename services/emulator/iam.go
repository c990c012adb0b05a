package emulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
)

// grantAPIKey is the one grant served so far.
const grantAPIKey = "urn:ibm:params:oauth:grant-type:apikey" //nolint:gosec // a name, not a credential

// grantsAdvertised is the list of IBM's openid-configuration.
var grantsAdvertised = []string{
	"authorization_code", "password", "refresh_token",
	grantAPIKey,
	"urn:ibm:params:oauth:grant-type:assume",
	"urn:ibm:params:oauth:grant-type:cr-token",
	"urn:ibm:params:oauth:grant-type:delegated-refresh-token",
	"urn:ibm:params:oauth:grant-type:iam-authz",
}

const maxFormBytes = 64 << 10

// iamHandler serves the IAM address: tokens, signing keys, discovery, API key details.
func (e *Emulator) iamHandler() http.Handler {
	r := chi.NewRouter()
	r.Use(e.calls.record("iam", e.now))
	for _, path := range []string{"/identity/token", "/oidc/token"} { // keyprotect-go-client asks the old path
		r.Post(path, e.token)
	}
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		e.writeTokenFault(w, r, webException(http.StatusMethodNotAllowed), e.now())
	})
	r.Get("/identity/keys", func(w http.ResponseWriter, _ *http.Request) {
		keys := e.signer.jwks()
		slices.SortFunc(keys, func(a, b jwk) int { return strings.Compare(b.Kid, a.Kid) })
		writeJSON(w, http.StatusOK, map[string]any{"keys": keys})
	})
	r.Get("/identity/.well-known/openid-configuration", e.discovery)
	r.Get("/v1/apikeys/details", e.apiKeyDetails)
	return r
}

// tokenFault is an error of the token service: HTTP status, errorCode, errorMessage, errorDetails
// (IAM identity API, token operations).
type tokenFault struct {
	status                 int
	code, message, details string
}

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
)

// token answers POST /identity/token and its older alias.
func (e *Emulator) token(w http.ResponseWriter, r *http.Request) {
	start := e.now()
	if id := r.Header.Get("Transaction-Id"); id != "" {
		w.Header().Set("Transaction-Id", id)
	}
	p, client, fault, err := e.tokenOwner(w, r)
	switch {
	case err != nil:
		e.internal(w, r, "token", err)
		return
	case fault != nil:
		e.writeTokenFault(w, r, fault, start)
		return
	}
	setCaller(r, p.IAMID)
	c := claimsFor(p, e.cfg.Issuer, client, start, e.cfg.TokenLifetime)
	raw, err := e.signer.sign(c)
	if err != nil {
		e.internal(w, r, "token", err)
		return
	}
	w.Header().Set("Cache-Control", "no-cache, no-store")
	writeJSON(w, http.StatusOK, struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
		TokenType    string `json:"token_type"`
		ExpiresIn    int64  `json:"expires_in"`
		Expiration   int64  `json:"expiration"`
		Scope        string `json:"scope"`
	}{raw, "not_supported", "Bearer", c.EXP - c.IAT, c.EXP, c.Scope})
}

// tokenOwner checks a token request and finds whom it is for, and the OAuth client that asks.
func (e *Emulator) tokenOwner(w http.ResponseWriter, r *http.Request) (principal, string, *tokenFault, error) {
	if r.ContentLength < 0 {
		return principal{}, "", webException(http.StatusLengthRequired), nil
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
	if err := r.ParseForm(); err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			return principal{}, "", webException(http.StatusRequestEntityTooLarge), nil
		}
		return principal{}, "", webException(http.StatusBadRequest), nil
	}
	client := "default"
	if id, secret, given := r.BasicAuth(); given {
		if id != "bx" || secret != "bx" { // the client of IBM's command line, the only public one
			return principal{}, "", errWrongClient, nil
		}
		client = id
	}
	// IBM's answer to a grant it does not know is not public; it is taken for an empty one.
	if r.PostForm.Get("grant_type") != grantAPIKey {
		return principal{}, "", missingProperty("grant_type"), nil
	}
	value := r.PostForm.Get("apikey")
	if value == "" {
		return principal{}, "", missingProperty("apikey"), nil
	}
	_, p, err := e.ownerOf(value)
	switch {
	case errors.Is(err, errNoRecord):
		return principal{}, "", errAPIKeyNotFound, nil
	case err == nil && p.IAMID == "":
		return principal{}, "", errKeyOwner, nil
	}
	return p, client, nil, err
}

// ownerOf finds an API key by its value; errNoRecord when there is none, an empty principal when its
// owner is gone.
func (e *Emulator) ownerOf(value string) (k apiKey, p principal, err error) {
	err = e.store.view(func(tx *txn) error {
		if k, err = load[apiKey](tx.bucket(bucketAPIKeys), hashAPIKey(value)); err != nil {
			return err
		}
		p, err = load[principal](tx.bucket(bucketPrincipals), k.IAMID)
		if errors.Is(err, errNoRecord) {
			return nil
		}
		return err
	})
	return k, p, err
}

// writeTokenFault writes the token service's error document, the only camelCase one of IAM.
func (e *Emulator) writeTokenFault(w http.ResponseWriter, r *http.Request, f *tokenFault, start time.Time) {
	id := r.Header.Get("Transaction-Id")
	if id == "" {
		id = uuid.NewString()
	}
	end := e.now()
	contextTime := func(t time.Time) string {
		return fmt.Sprintf("%s:%03d UTC", t.UTC().Format("02.01.2006 15:04:05"), t.Nanosecond()/int(time.Millisecond))
	}
	body := struct {
		Code    string            `json:"errorCode"`
		Message string            `json:"errorMessage"`
		Details string            `json:"errorDetails,omitempty"`
		Context map[string]string `json:"context"`
	}{f.code, f.message, f.details, map[string]string{
		"requestId":   id,
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
	writeJSON(w, f.status, body)
}

// discovery answers with the configured issuer and endpoints on this very host: IBM's endpoints may
// differ from the issuer as well.
func (e *Emulator) discovery(w http.ResponseWriter, r *http.Request) {
	base := "http://" + r.Host + "/identity"
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer":                                e.cfg.Issuer,
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

// apiKeyDetails answers GET /v1/apikeys/details: what IAM knows of the key in the IAM-ApiKey header.
func (e *Emulator) apiKeyDetails(w http.ResponseWriter, r *http.Request) {
	caller, err := e.signer.caller(r)
	if err != nil {
		writeIdentityFault(w, r, http.StatusUnauthorized, "BXNIM0308E", "unauthorized", "No valid token was given.")
		return
	}
	setCaller(r, caller)
	k, p, err := e.ownerOf(r.Header.Get("IAM-ApiKey"))
	if errors.Is(err, errNoRecord) {
		writeIdentityFault(w, r, http.StatusNotFound, "BXNIM0119E", "not_found", "The API key was not found.")
		return
	}
	if err != nil {
		e.internal(w, r, "apikeys", err)
		return
	}
	created := k.Created.UTC().Format("2006-01-02T15:04-0700")
	writeJSON(w, http.StatusOK, map[string]any{
		"id":                 k.ID,
		"entity_tag":         "1-" + strings.ReplaceAll(strings.TrimPrefix(k.ID, "ApiKey-"), "-", ""),
		"crn":                fmt.Sprintf("crn:v1:bluemix:public:iam-identity::a/%s::apikey:%s", p.Account, k.ID),
		"locked":             false,
		"disabled":           false,
		"created_at":         created,
		"created_by":         k.IAMID,
		"modified_at":        created,
		"name":               p.Name,
		"support_sessions":   false,
		"action_when_leaked": "none",
		"description":        "",
		"iam_id":             k.IAMID,
		"account_id":         p.Account,
		"apikey":             "",
		"history":            []any{},
		"activity":           map[string]any{"authn_count": 0},
	})
}

// writeIdentityFault writes the error document of the IAM identity API: status_code is a string.
func writeIdentityFault(w http.ResponseWriter, r *http.Request, status int, messageCode, code, message string) {
	id := r.Header.Get("Transaction-Id")
	if id == "" {
		id = uuid.NewString()
	}
	writeJSON(w, status, map[string]any{
		"context":     map[string]string{"transaction_id": id},
		"status_code": fmt.Sprint(status),
		"errors":      []map[string]string{{"code": code, "message_code": messageCode, "message": message}},
		"trace":       id,
	})
}

// writeJSON writes v as the whole answer. An error means that the client went away.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// internal logs what a client must not see and answers 500 without it.
func (e *Emulator) internal(w http.ResponseWriter, r *http.Request, what string, err error) {
	e.log.Error("request failed", "what", what, "method", r.Method, "error", err)
	http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
}
