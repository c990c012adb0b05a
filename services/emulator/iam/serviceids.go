package iam

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// id is a service ID's own id: ServiceId- and a UUID.
func (i identity) id() string { return strings.TrimPrefix(i.IAMID, "iam-") }

func (i identity) entityTag() string { return entityTag(i.id(), i.Revision) }

func viewServiceID(i identity) map[string]any {
	v := map[string]any{
		"id":          i.id(),
		"iam_id":      i.IAMID,
		"entity_tag":  i.entityTag(),
		"crn":         fmt.Sprintf("crn:v1:bluemix:public:iam-identity::a/%s::serviceid:%s", i.Account, i.id()),
		"locked":      i.Locked,
		"created_at":  identityTime(i.Created),
		"modified_at": identityTime(i.Modified),
		"account_id":  i.Account,
		"name":        i.Name,
		"description": i.Description,
		"history":     []any{},
	}
	if len(i.Bound) > 0 {
		v["unique_instance_crns"] = i.Bound
	}
	return v
}

func (s *Service) createServiceID(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	var b struct {
		AccountID   string     `json:"account_id"`
		Name        string     `json:"name"`
		Description string     `json:"description"`
		Bound       []string   `json:"unique_instance_crns"`
		APIKey      *newAPIKey `json:"apikey"`
	}
	if err := identityBody(c, &b); err != nil {
		return jsonhttp.Answer{}, err
	}
	for field, value := range map[string]string{"account_id": b.AccountID, "name": b.Name} {
		if value == "" {
			return jsonhttp.Answer{}, badIdentityRequest(field)
		}
	}
	now := s.cfg.Now().UTC()
	made := identity{
		IAMID: "iam-ServiceId-" + uuid.NewString(), Account: b.AccountID, Name: b.Name, Description: b.Description, Bound: b.Bound,
		Locked: c.Header.Get("Entity-Lock") == "true", Revision: 1, Created: now, CreatedBy: c.By, Modified: now,
	}
	view := viewServiceID(made)
	err := s.cfg.DB.Update(func(tx *bbolt.Tx) error {
		who, err := s.caller(c, tx)
		if err != nil {
			return err
		}
		if !who.manages(made) {
			return errIdentityDenied
		}
		if b.APIKey != nil {
			k, value, err := s.addAPIKey(c, tx, *b.APIKey, made)
			if err != nil {
				return err
			}
			view["apikey"] = viewAPIKey(k, value)
		}
		return records.Put(bucket(tx, bucketIdentities), made.IAMID, made)
	})
	return jsonhttp.Answer{Status: http.StatusCreated, ETag: made.entityTag(), Body: view}, err
}

// serviceIDOfPath is the service ID that the path names, if the caller manages it; to others it does
// not exist.
func (s *Service) serviceIDOfPath(c *jsonhttp.Call, tx *bbolt.Tx) (identity, error) {
	who, err := s.caller(c, tx)
	if err != nil {
		return identity{}, err
	}
	found, err := records.Get[identity](bucket(tx, bucketIdentities), "iam-"+chi.URLParam(c.Request, "id"))
	if err == nil && !who.manages(found) {
		err = records.ErrNone
	}
	return found, absent(err, errIdentityAbsent)
}

func (s *Service) getServiceID(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	var found identity
	err := s.cfg.DB.View(func(tx *bbolt.Tx) (err error) {
		found, err = s.serviceIDOfPath(c, tx)
		return err
	})
	return jsonhttp.Answer{Status: http.StatusOK, ETag: found.entityTag(), Body: viewServiceID(found)}, err
}

// reviseServiceID changes the service ID of the path by edit.
func (s *Service) reviseServiceID(c *jsonhttp.Call, edit func(*identity) error) (jsonhttp.Answer, error) {
	var found identity
	err := s.cfg.DB.Update(func(tx *bbolt.Tx) (err error) {
		if found, err = s.serviceIDOfPath(c, tx); err != nil {
			return err
		}
		if err := edit(&found); err != nil {
			return err
		}
		found.Revision++
		found.Modified = s.cfg.Now().UTC()
		return records.Put(bucket(tx, bucketIdentities), found.IAMID, found)
	})
	return jsonhttp.Answer{Status: http.StatusOK, ETag: found.entityTag(), Body: viewServiceID(found)}, err
}

func (s *Service) updateServiceID(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	var b struct {
		Name        *string   `json:"name"`
		Description *string   `json:"description"`
		Bound       *[]string `json:"unique_instance_crns"`
	}
	if err := identityBody(c, &b); err != nil {
		return jsonhttp.Answer{}, err
	}
	return s.reviseServiceID(c, func(i *identity) error {
		if err := ifMatch(c, i.entityTag()); err != nil {
			return err
		}
		if i.Locked {
			return errIdentityLocked
		}
		if b.Name != nil {
			if i.Name = *b.Name; i.Name == "" {
				return badIdentityRequest("name")
			}
		}
		if b.Description != nil {
			i.Description = *b.Description
		}
		if b.Bound != nil {
			i.Bound = *b.Bound
		}
		return nil
	})
}

func (s *Service) lockServiceID(locked bool) func(*jsonhttp.Call) (jsonhttp.Answer, error) {
	return func(c *jsonhttp.Call) (jsonhttp.Answer, error) {
		return s.reviseServiceID(c, func(i *identity) error {
			i.Locked = locked
			return nil
		})
	}
}

// deleteServiceID deletes its API keys and access with it.
func (s *Service) deleteServiceID(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	err := s.Remove("iam-"+chi.URLParam(c.Request, "id"), func(tx *bbolt.Tx) error {
		found, err := s.serviceIDOfPath(c, tx)
		if err != nil {
			return err
		}
		if found.Locked {
			return errIdentityLocked
		}
		var keys []apiKey
		err = records.Each(bucket(tx, bucketAPIKeys), func(k apiKey) error {
			if k.IAMID == found.IAMID {
				keys = append(keys, k)
			}
			return nil
		})
		for _, k := range keys {
			err = errors.Join(err, deleteAPIKey(tx, k))
		}
		return errors.Join(err, bucket(tx, bucketIdentities).Delete([]byte(found.IAMID)))
	})
	return jsonhttp.Answer{Status: http.StatusNoContent}, err
}

// listServiceIDs shows those of an account that the caller manages.
func (s *Service) listServiceIDs(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	query := c.URL.Query()
	if query.Get("account_id") == "" && query.Get("pagetoken") == "" {
		return jsonhttp.Answer{}, badIdentityRequest("account_id")
	}
	found := []identity{}
	err := s.cfg.DB.View(func(tx *bbolt.Tx) error {
		who, err := s.caller(c, tx)
		if err != nil {
			return err
		}
		return records.Each(bucket(tx, bucketIdentities), func(i identity) error {
			asked := (!query.Has("account_id") || query.Get("account_id") == i.Account) && (!query.Has("name") || query.Get("name") == i.Name)
			if i.isServiceID() && asked && who.manages(i) {
				found = append(found, i)
			}
			return nil
		})
	})
	if err != nil {
		return jsonhttp.Answer{}, err
	}
	err = sortListing(query, found, func(i identity) listing { return listing{i.Name, i.Description, i.CreatedBy, i.Created, i.Modified} })
	if err != nil {
		return jsonhttp.Answer{}, err
	}
	found, body, err := identityPageOf(c, found)
	if err != nil {
		return jsonhttp.Answer{}, err
	}
	views := []any{}
	for _, i := range found {
		views = append(views, viewServiceID(i))
	}
	body["serviceids"] = views
	return jsonhttp.Answer{Status: http.StatusOK, Body: body}, nil
}
