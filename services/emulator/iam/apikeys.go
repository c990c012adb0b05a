package iam

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// minAPIKeyValue is the least length of a value that the caller chooses (IAM identity API, create an
// API key).
const minAPIKeyValue = 32

// viewAPIKey shows a key; value is empty unless it was just made or is kept.
func viewAPIKey(k apiKey, value string) map[string]any {
	v := map[string]any{
		"id":                 k.ID,
		"entity_tag":         k.entityTag(),
		"crn":                fmt.Sprintf("crn:v1:bluemix:public:iam-identity::a/%s::apikey:%s", k.Account, k.ID),
		"locked":             k.Locked,
		"disabled":           k.Disabled,
		"created_at":         identityTime(k.Created),
		"created_by":         k.CreatedBy,
		"modified_at":        identityTime(k.Modified),
		"name":               k.Name,
		"support_sessions":   k.Sessions,
		"action_when_leaked": k.WhenLeaked,
		"description":        k.Description,
		"iam_id":             k.IAMID,
		"account_id":         k.Account,
		"apikey":             value,
		"history":            []any{},
	}
	if !k.Expires.IsZero() {
		v["expires_at"] = identityTime(k.Expires)
	}
	return v
}

func (k apiKey) entityTag() string { return entityTag(k.ID, k.Revision) }

// apiKeyDetails answers what IAM knows of the key in the IAM-ApiKey header, to whoever has its value.
func (s *Service) apiKeyDetails(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	var k apiKey
	err := s.cfg.DB.View(func(tx *bbolt.Tx) (err error) {
		k, err = findAPIKey(tx, c.Header.Get("IAM-ApiKey"))
		return absent(err, errIdentityAbsent)
	})
	return jsonhttp.Answer{Status: http.StatusOK, ETag: k.entityTag(), Body: viewAPIKey(k, "")}, err
}

// newAPIKey is an API key as clients ask for it, alone or with a service ID.
type newAPIKey struct {
	Name        string `json:"name"`
	IAMID       string `json:"iam_id"`
	Description string `json:"description"`
	AccountID   string `json:"account_id"`
	Value       string `json:"apikey"`
	StoreValue  bool   `json:"store_value"`
	Sessions    bool   `json:"support_sessions"`
	WhenLeaked  string `json:"action_when_leaked"`
	ExpiresAt   string `json:"expires_at"`
}

func checkWhenLeaked(action string) error {
	if !slices.Contains([]string{"none", "disable", "delete"}, action) {
		return badIdentityRequest("action_when_leaked")
	}
	return nil
}

func parseExpiry(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(identityLayout, s)
	if err != nil {
		return t, badIdentityRequest("expires_at")
	}
	return t.UTC(), nil
}

// addAPIKey makes the key that n asks for, for owner, and returns it with its value.
func (s *Service) addAPIKey(c *jsonhttp.Call, tx *bbolt.Tx, n newAPIKey, owner identity) (apiKey, string, error) {
	if n.Name == "" {
		return apiKey{}, "", badIdentityRequest("name")
	}
	if n.Value == "" {
		raw := make([]byte, 33) // 44 characters, as IBM's
		rand.Read(raw)          // never fails (Go 1.24)
		n.Value = base64.RawURLEncoding.EncodeToString(raw)
	}
	if len(n.Value) < minAPIKeyValue {
		return apiKey{}, "", badIdentityRequest("apikey")
	}
	if n.WhenLeaked == "" {
		n.WhenLeaked = "none"
	}
	if err := checkWhenLeaked(n.WhenLeaked); err != nil {
		return apiKey{}, "", err
	}
	expires, err := parseExpiry(n.ExpiresAt)
	if err != nil {
		return apiKey{}, "", err
	}
	now := s.cfg.Now().UTC()
	k := apiKey{
		ID: "ApiKey-" + uuid.NewString(), IAMID: owner.IAMID, Account: owner.Account, Name: n.Name, Description: n.Description,
		Hash: hashAPIKey(n.Value), WhenLeaked: n.WhenLeaked, Sessions: n.Sessions, Expires: expires,
		Locked: c.Header.Get("Entity-Lock") == "true", Disabled: c.Header.Get("Entity-Disable") == "true",
		Revision: 1, Created: now, CreatedBy: c.By, Modified: now,
	}
	if n.StoreValue {
		if !owner.isServiceID() { // a user's are never kept
			return apiKey{}, "", badIdentityRequest("store_value")
		}
		k.Value = n.Value
	}
	if err := putAPIKey(tx, k); errors.Is(err, errValueTaken) {
		return apiKey{}, "", errIdentityKeyTaken
	} else if err != nil {
		return apiKey{}, "", err
	}
	return k, n.Value, nil
}

func (s *Service) createAPIKey(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	var n newAPIKey
	if err := identityBody(c, &n); err != nil {
		return jsonhttp.Answer{}, err
	}
	if n.IAMID == "" {
		return jsonhttp.Answer{}, badIdentityRequest("iam_id")
	}
	var k apiKey
	var value string
	err := s.cfg.DB.Update(func(tx *bbolt.Tx) error {
		who, err := s.caller(c, tx)
		if err != nil {
			return err
		}
		owner, err := records.Get[identity](bucket(tx, bucketIdentities), n.IAMID)
		switch {
		case errors.Is(err, records.ErrNone), err == nil && !who.manages(owner):
			return errIdentityDenied
		case err != nil:
			return err
		case n.AccountID != "" && n.AccountID != owner.Account:
			return badIdentityRequest("account_id")
		}
		k, value, err = s.addAPIKey(c, tx, n, owner)
		return err
	})
	return jsonhttp.Answer{Status: http.StatusCreated, ETag: k.entityTag(), Body: viewAPIKey(k, value)}, err
}

// apiKeyOfPath is the key that the path names, if the caller manages its owner; to others it does not
// exist.
func (s *Service) apiKeyOfPath(c *jsonhttp.Call, tx *bbolt.Tx) (apiKey, error) {
	who, err := s.caller(c, tx)
	if err != nil {
		return apiKey{}, err
	}
	k, err := records.Get[apiKey](bucket(tx, bucketAPIKeys), chi.URLParam(c.Request, "id"))
	if err != nil {
		return k, absent(err, errIdentityAbsent)
	}
	if !who.manages(identity{IAMID: k.IAMID, Account: k.Account}) {
		return apiKey{}, errIdentityAbsent
	}
	return k, nil
}

func (s *Service) getAPIKey(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	var k apiKey
	err := s.cfg.DB.View(func(tx *bbolt.Tx) (err error) {
		k, err = s.apiKeyOfPath(c, tx)
		return err
	})
	return jsonhttp.Answer{Status: http.StatusOK, ETag: k.entityTag(), Body: viewAPIKey(k, k.Value)}, err
}

// reviseAPIKey changes the key of the path by edit.
func (s *Service) reviseAPIKey(c *jsonhttp.Call, edit func(*apiKey) error) (apiKey, error) {
	var k apiKey
	err := s.cfg.DB.Update(func(tx *bbolt.Tx) (err error) {
		if k, err = s.apiKeyOfPath(c, tx); err != nil {
			return err
		}
		if err := edit(&k); err != nil {
			return err
		}
		k.Revision++
		k.Modified = s.cfg.Now().UTC()
		return putAPIKey(tx, k)
	})
	return k, err
}

func (s *Service) updateAPIKey(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	var b struct {
		Name        *string `json:"name"`
		Description *string `json:"description"`
		Sessions    *bool   `json:"support_sessions"`
		WhenLeaked  *string `json:"action_when_leaked"`
		ExpiresAt   *string `json:"expires_at"`
	}
	if err := identityBody(c, &b); err != nil {
		return jsonhttp.Answer{}, err
	}
	k, err := s.reviseAPIKey(c, func(k *apiKey) error {
		if err := ifMatch(c, k.entityTag()); err != nil {
			return err
		}
		if k.Locked {
			return errIdentityLocked
		}
		if b.Name != nil {
			if k.Name = *b.Name; k.Name == "" {
				return badIdentityRequest("name")
			}
		}
		if b.Description != nil {
			k.Description = *b.Description
		}
		if b.Sessions != nil {
			k.Sessions = *b.Sessions
		}
		if b.WhenLeaked != nil {
			if k.WhenLeaked = *b.WhenLeaked; checkWhenLeaked(k.WhenLeaked) != nil {
				return checkWhenLeaked(k.WhenLeaked)
			}
		}
		if b.ExpiresAt != nil {
			var err error
			k.Expires, err = parseExpiry(*b.ExpiresAt)
			return err
		}
		return nil
	})
	return jsonhttp.Answer{Status: http.StatusOK, ETag: k.entityTag(), Body: viewAPIKey(k, k.Value)}, err
}

func (s *Service) deleteAPIKey(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	err := s.cfg.DB.Update(func(tx *bbolt.Tx) error {
		k, err := s.apiKeyOfPath(c, tx)
		if err != nil {
			return err
		}
		if k.Locked {
			return errIdentityLocked
		}
		return deleteAPIKey(tx, k)
	})
	return jsonhttp.Answer{Status: http.StatusNoContent}, err
}

// flagAPIKey locks, unlocks, disables or enables a key.
func (s *Service) flagAPIKey(set func(*apiKey)) func(*jsonhttp.Call) (jsonhttp.Answer, error) {
	return func(c *jsonhttp.Call) (jsonhttp.Answer, error) {
		_, err := s.reviseAPIKey(c, func(k *apiKey) error {
			set(k)
			return nil
		})
		return jsonhttp.Answer{Status: http.StatusNoContent}, err
	}
}

// listAPIKeys shows the keys of one owner, the caller by default, or with scope=account those of every
// owner that the caller manages.
func (s *Service) listAPIKeys(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	query := c.URL.Query()
	scope, kind, owner := query.Get("scope"), query.Get("type"), query.Get("iam_id")
	if !slices.Contains([]string{"", "entity", "account"}, scope) {
		return jsonhttp.Answer{}, badIdentityRequest("scope")
	}
	if !slices.Contains([]string{"", "user", "serviceid"}, kind) {
		return jsonhttp.Answer{}, badIdentityRequest("type")
	}
	if owner == "" && scope != "account" {
		owner = c.By
	}
	found := []apiKey{}
	err := s.cfg.DB.View(func(tx *bbolt.Tx) error {
		who, err := s.caller(c, tx)
		if err != nil {
			return err
		}
		return records.Each(bucket(tx, bucketAPIKeys), func(k apiKey) error {
			of := identity{IAMID: k.IAMID, Account: k.Account}
			asked := (owner == "" || owner == k.IAMID) && (kind == "" || (kind == "serviceid") == of.isServiceID()) &&
				(!query.Has("account_id") || query.Get("account_id") == k.Account)
			if asked && who.manages(of) {
				found = append(found, k)
			}
			return nil
		})
	})
	if err != nil {
		return jsonhttp.Answer{}, err
	}
	err = sortListing(query, found, func(k apiKey) listing { return listing{k.Name, k.Description, k.CreatedBy, k.Created, k.Modified} })
	if err != nil {
		return jsonhttp.Answer{}, err
	}
	found, body, err := identityPageOf(c, found)
	if err != nil {
		return jsonhttp.Answer{}, err
	}
	views := []any{}
	for _, k := range found {
		views = append(views, viewAPIKey(k, ""))
	}
	body["apikeys"] = views
	return jsonhttp.Answer{Status: http.StatusOK, Body: body}, nil
}
