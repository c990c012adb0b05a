package iam

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"
	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

func (s *Service) identityRoutes(r chi.Router) {
	r.Get("/v1/apikeys/details", s.apiKeyDetails)
}

// apiKeyDetails answers GET /v1/apikeys/details: what IAM knows of the key in the IAM-ApiKey header.
func (s *Service) apiKeyDetails(w http.ResponseWriter, r *http.Request) {
	if _, err := s.Caller(r); err != nil {
		writeIdentityFault(w, http.StatusUnauthorized, "BXNIM0308E", "unauthorized", "No valid token was given.")
		return
	}
	var k apiKey
	err := s.cfg.DB.View(func(tx *bbolt.Tx) (err error) {
		k, err = findAPIKey(tx, r.Header.Get("IAM-ApiKey"))
		return err
	})
	if errors.Is(err, records.ErrNone) {
		writeIdentityFault(w, http.StatusNotFound, "BXNIM0119E", "not_found", "The API key was not found.")
		return
	}
	if err != nil {
		s.internal(w, r, err)
		return
	}
	created := k.Created.UTC().Format("2006-01-02T15:04-0700")
	jsonhttp.Write(w, http.StatusOK, map[string]any{
		"id":                 k.ID,
		"entity_tag":         "1-" + strings.ReplaceAll(strings.TrimPrefix(k.ID, "ApiKey-"), "-", ""),
		"crn":                fmt.Sprintf("crn:v1:bluemix:public:iam-identity::a/%s::apikey:%s", k.Account, k.ID),
		"locked":             k.Locked,
		"disabled":           k.Disabled,
		"created_at":         created,
		"created_by":         k.IAMID,
		"modified_at":        created,
		"name":               k.Name,
		"support_sessions":   false,
		"action_when_leaked": "none",
		"description":        "",
		"iam_id":             k.IAMID,
		"account_id":         k.Account,
		"apikey":             "",
		"history":            []any{},
		"activity":           map[string]any{"authn_count": 0},
	})
}

// writeIdentityFault writes the error document of the IAM identity API: status_code is a string.
func writeIdentityFault(w http.ResponseWriter, status int, messageCode, code, message string) {
	id := w.Header().Get(transactionHeader)
	jsonhttp.Write(w, status, map[string]any{
		"context":     map[string]string{"transaction_id": id},
		"status_code": fmt.Sprint(status),
		"errors":      []map[string]string{{"code": code, "message_code": messageCode, "message": message}},
		"trace":       id,
	})
}
