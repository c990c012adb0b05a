package kms

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
)

const apiDocs = "https://cloud.ibm.com/apidocs/key-protect"

// apiError is an error answer of the Key Protect API v2: HTTP status, reason code and message, and
// the field it is about. Without a code the answer has no reasons and message is its whole text.
type apiError struct {
	status        int
	code, message string
	field         string
}

func (e *apiError) Error() string {
	return fmt.Sprintf("%d %s: %s", e.status, e.code, e.message)
}

// The errors of the Key Protect API v2, error codes.
var (
	errNoInstance = &apiError{
		status:  http.StatusBadRequest,
		message: "Bad Request: Request requires valid Bluemix-Instance Header containing a valid UUID",
	}
	// One answer for no token, an unknown instance and a missing role.
	errUnauthorized = &apiError{
		status:  http.StatusUnauthorized,
		message: "Unauthorized: The user does not have access to the specified resource",
	}
	// What HPCS answers is not public: an assumption.
	errUninitialized = &apiError{
		status:  http.StatusConflict,
		message: "Conflict: The crypto units of the instance are not initialized",
	}
	errBearer = &apiError{
		status: http.StatusBadRequest, code: "BEARER_SUB_EXTRACTION_ERR",
		message: "The bearer token could not be parsed.",
	}
	errNotFoundPath = &apiError{status: http.StatusNotFound, message: "Not Found: The requested path does not exist"}
	errMethod       = &apiError{status: http.StatusMethodNotAllowed, message: "Method Not Allowed: The path does not serve this method"}

	errNoBody       = &apiError{status: http.StatusBadRequest, code: "NO_BODY_ERR", message: "The request has no body."}
	errRootRequired = &apiError{
		status: http.StatusBadRequest, code: "KEY_ROOT_REQ_ERR",
		message: "Requested action can only be completed with a root key.",
	}
	errPayloadRequired = &apiError{
		status: http.StatusBadRequest, code: "KEY_PAYLOAD_REQ_ERR",
		message: "Imported root keys need a payload to rotate.", field: "payload",
	}
	errKeyExpired = &apiError{
		status: http.StatusBadRequest, code: "KEY_EXPIRED_ERR",
		message: "The key's expiration date has passed.",
	}
	errRestoreExpired = &apiError{
		status: http.StatusBadRequest, code: "KEY_RESTORE_EXPIRED",
		message: "The time in which the key can be restored has passed.",
	}
	errSearchTooBroad = &apiError{
		status: http.StatusBadRequest, code: "KEY_SEARCH_TOO_BROAD",
		message: "The search covers more than 5000 keys.",
	}

	errKeyNotFound  = &apiError{status: http.StatusNotFound, code: "KEY_NOT_FOUND_ERR", message: "Key does not exist."}
	errRingNotFound = &apiError{status: http.StatusNotFound, code: "KEY_RING_NOT_FOUND_ERR", message: "Key ring does not exist."}

	errKeyState = &apiError{
		status: http.StatusConflict, code: "KEY_ACTION_INVALID_STATE_ERR",
		message: "Key is not in a valid state for this action.",
	}
	errSettling   = tooEarly("The action is allowed 30 seconds after the key's state changed.")
	errPurgeEarly = tooEarly("Purge operation is allowed 4h0m0s after key is deleted")
	errSyncEarly  = tooEarly("The key was synchronized less than an hour ago.")
	errRotation   = &apiError{
		status: http.StatusConflict, code: "KEY_ROTATION_NOT_PERMITTED",
		message: "The key was rotated less than an hour ago.",
	}
	errAliasTaken = &apiError{
		status: http.StatusConflict, code: "KEY_ALIAS_NOT_UNIQUE_ERR",
		message: "The alias belongs to another key of the instance.", field: "aliases",
	}
	errAuthorizations = conflict("AUTHORIZATIONS_NOT_MET", "1 prior authorization(s) are required for deletion")
	errNotDualAuth    = conflict("NOT_DUAL_AUTH_ERR", "The key is not dual auth enabled and cannot be set for deletion")
	errProtected      = conflict("PROTECTED_RESOURCE_ERR", "Key is protecting one or more cloud resources")
	errRetained       = conflict("PREV_KEY_DEL_ERR", "The key cannot be deleted because it protects a cloud resource that has a retention policy.")
	errCreateImport   = conflict("KEY_CREATE_IMPORT_ACCESS_ERR", "The instance's policy does not allow this kind of key to be created or imported.")
	errImportToken    = conflict("IMPORT_TOKEN_EXPIRED_ERR", "The import token has expired, or there is none.")

	errNonce               = badRequest("INCORRECT_NONCE_ERR", "The nonce is not the import token's.")
	errNonceIV             = badRequest("INCORRECT_NONCE_IV_ERR", "The encrypted nonce or its initialization vector is missing or malformed.")
	errCollectionTotal     = badRequest("COLLECTION_TOTAL_MISMATCH_ERR", "collectionTotal is not the number of resources.")
	errCollectionSize      = badRequest("NUM_COLLECTION_RESOURCE_ERR", "There are too few or too many resources.")
	errPolicyMismatch      = badRequest("BODY_QUERY_PARAM_MISMATCH_ERR", "The body holds a policy of another type than the query names.")
	errServiceOnly         = &apiError{status: http.StatusForbidden, code: "SERVICE_ONLY_ERR", message: "Only a service can do this."}
	errResourceOwner       = &apiError{status: http.StatusForbidden, code: "RESOURCE_OWNER_ERR", message: "The resource belongs to another service."}
	errRegistrationState   = &apiError{status: http.StatusUnprocessableEntity, code: "KEY_INVALID_STATE_ERR", message: "The key is not active."}
	errRegistrationRoot    = &apiError{status: http.StatusUnprocessableEntity, code: "KEY_ROOT_REQ_REG_ERR", message: "Only root keys protect resources."}
	errRegistrationVersion = &apiError{status: http.StatusUnprocessableEntity, code: "KEY_VERSION_INVALID", message: "The key has no such version."}
	// The codes of these three, and that HPCS uses the first, are not public.
	errRingFeature          = &apiError{status: http.StatusForbidden, code: "FEATURE_RESTRICTED_ERR", message: "Key rings are not available."}
	errAliasNotFound        = &apiError{status: http.StatusNotFound, code: "KEY_ALIAS_NOT_FOUND_ERR", message: "The key has no such alias."}
	errRegistrationNotFound = &apiError{status: http.StatusNotFound, code: "REGISTRATION_NOT_FOUND_ERR", message: "The registration does not exist."}
	errRingKeys             = conflict("KEY_RING_KEYS_NOT_DELETED_ERR", "The key ring holds keys that are not deleted.")
	errRingNotEmpty         = conflict("KEY_RING_NOT_EMPTY_ERR", "The key ring holds deleted keys: delete it with force.")
	// The codes of these two are not public.
	errRingExists = &apiError{status: http.StatusConflict, code: "KEY_RING_NOT_UNIQUE_ERR", message: "The key ring exists."}
	errRingQuota  = &apiError{status: http.StatusConflict, code: "KEY_RING_QUOTA_ERR", message: "The instance has 50 key rings."}

	errKeyDeleted = &apiError{
		status: http.StatusGone, code: "KEY_DELETED_ERR",
		message: "Key has already been deleted. Please delete references to this key.",
	}
	errCiphertext = &apiError{
		status: http.StatusUnprocessableEntity, code: "UNPROCESSABLE_CIPHERTEXT_ERR",
		message: "The provided ciphertext is invalid or corrupted.",
	}
)

func conflict(code, message string) *apiError {
	return &apiError{status: http.StatusConflict, code: code, message: message}
}

func badRequest(code, message string) *apiError {
	return &apiError{status: http.StatusBadRequest, code: code, message: message}
}

func tooEarly(message string) *apiError { return conflict("REQ_TOO_EARLY_ERR", message) }

func bodyError(message string) *apiError {
	return &apiError{status: http.StatusBadRequest, code: "BAD_BODY_ERR", message: message}
}

func fieldError(field, message string) *apiError {
	return &apiError{status: http.StatusBadRequest, code: "INVALID_FIELD_ERR", message: message, field: field}
}

func queryError(parameter, message string) *apiError {
	return &apiError{status: http.StatusBadRequest, code: "INVALID_QUERY_PARAM_ERR", message: message, field: parameter}
}

// refuse writes err in the envelope of the API; what says which call came to nothing. Any error that
// is not an apiError is an internal one: it is logged, and its answer says nothing of it.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, what string, err error) {
	var fault *apiError
	if !errors.As(err, &fault) {
		s.Log.Error("request failed", "what", what, "method", r.Method, "error", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	type target struct {
		Type string `json:"type"`
		Name string `json:"name"`
	}
	type reason struct {
		Code     string  `json:"code"`
		Message  string  `json:"message"`
		Status   int     `json:"status"`
		MoreInfo string  `json:"moreInfo"`
		Target   *target `json:"target,omitempty"`
	}
	type resource struct {
		ErrorMsg string   `json:"errorMsg"`
		Reasons  []reason `json:"reasons,omitempty"`
	}
	body := resource{ErrorMsg: fault.message}
	if fault.code != "" {
		body.ErrorMsg = fmt.Sprintf("%s: %s: Please see `reasons` for more details (%s)",
			http.StatusText(fault.status), what, fault.code)
		body.Reasons = []reason{{Code: fault.code, Message: fault.message, Status: fault.status, MoreInfo: apiDocs}}
		if fault.field != "" {
			body.Reasons[0].Target = &target{"field", fault.field}
		}
	}
	jsonhttp.Write(w, fault.status, collection("error", []resource{body}))
}
