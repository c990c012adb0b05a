package kms

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

const (
	defaultRegistrationPage = 200
	maxCRNLength            = 2048
)

// registration says that a root key protects a resource of another service.
type registration struct {
	KeyID       string     `json:"key_id"`
	ResourceCRN string     `json:"resource_crn"`
	Description string     `json:"description,omitempty"`
	Prevent     bool       `json:"prevent_key_deletion,omitempty"`
	Version     keyVersion `json:"version"`
	Created     time.Time  `json:"created"`
	CreatedBy   string     `json:"created_by"`
}

func (r registration) id() string { return r.KeyID + "/" + r.ResourceCRN }

type registrationView struct {
	KeyID              string         `json:"keyId"`
	ResourceCRN        string         `json:"resourceCrn"`
	CreatedBy          string         `json:"createdBy"`
	CreationDate       string         `json:"creationDate"`
	UpdatedBy          string         `json:"updatedBy"`
	LastUpdated        string         `json:"lastUpdated"`
	Description        string         `json:"description,omitempty"`
	PreventKeyDeletion bool           `json:"preventKeyDeletion"`
	KeyVersion         keyVersionView `json:"keyVersion"`
}

func (r registration) view() registrationView {
	return registrationView{
		r.KeyID, r.ResourceCRN, r.CreatedBy, date(r.Created), r.CreatedBy, date(r.Created),
		r.Description, r.Prevent,
		keyVersionView{r.Version.ID, date(r.Version.Created)},
	}
}

// registrationsOf are those of one key, or with an empty id of all keys, by key and resource.
func (c *call) registrationsOf(keyID string) (out []registration, err error) {
	err = each(c, bucketRegistrations, func(r registration) error {
		if keyID == "" || r.KeyID == keyID {
			out = append(out, r)
		}
		return nil
	})
	return out, err
}

// registered tells whether the key protects anything, and whether something of it must be retained.
func (c *call) registered(k key) (found, retained bool, err error) {
	list, err := c.registrationsOf(k.ID)
	return len(list) > 0, slices.ContainsFunc(list, func(r registration) bool { return r.Prevent }), err
}

// listRegistrations shows those of the key in the path, or of all keys.
func (c *call) listRegistrations() (answer, error) {
	limit, offset, err := c.page(defaultRegistrationPage)
	if err != nil {
		return answer{}, err
	}
	prevent, err := c.flag("preventKeyDeletion")
	if err != nil {
		return answer{}, err
	}
	list, err := c.registrationsOf(c.key.ID)
	if err != nil {
		return answer{}, err
	}
	pattern := c.query.Get("urlEncodedResourceCRNQuery")
	if decoded, err := url.QueryUnescape(pattern); err == nil { // clients encode it once or twice
		pattern = decoded
	}
	views := []registrationView{}
	for _, r := range list {
		if (pattern == "" || wildcard(pattern, r.ResourceCRN)) && (r.Prevent || !prevent) {
			views = append(views, r.view())
		}
	}
	body := collection("registration", slicePage(views, limit, offset))
	c.addTotal(&body.Metadata, len(views))
	return answer{status: http.StatusOK, body: body}, nil
}

// wildcard matches text with a pattern in which * stands for anything.
func wildcard(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	first, last := parts[0], parts[len(parts)-1]
	if !strings.HasPrefix(text, first) || len(text) < len(first)+len(last) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		at := strings.Index(text, part)
		if at < 0 {
			return false
		}
		text = text[at+len(part):]
	}
	return true
}

// ownResource is the resource in the path, which has to be of the service that calls. A service calls
// with a token of one of its instances, whose IAM id is "crn-" and the instance's CRN.
func (c *call) ownResource() (string, error) {
	caller, ok := strings.CutPrefix(c.by, "crn-")
	if !ok {
		return "", errServiceOnly
	}
	resource := c.param("crn")
	of := func(name string) string {
		if parts := strings.SplitN(name, ":", 6); len(parts) == 6 && parts[0] == "crn" {
			return parts[4] // the service
		}
		return ""
	}
	switch {
	case of(resource) == "" || len(resource) > maxCRNLength:
		return "", fieldError("resourceCRN", "The resource is not named by a CRN.")
	case of(resource) != of(caller):
		return "", errResourceOwner
	}
	return resource, nil
}

// newRegistration is the resource of a request to register.
type newRegistration struct {
	Description  string `json:"description"`
	Prevent      bool   `json:"preventKeyDeletion"`
	KeyVersionID string `json:"keyVersionId"`
}

func (c *call) createRegistration() (answer, error) {
	resource, err := c.ownResource()
	if err != nil {
		return answer{}, err
	}
	var in newRegistration
	if len(c.body) > 0 {
		var req envelope[newRegistration]
		if err := jsonhttp.Decode(c.body, &req); err != nil || req.Metadata.CollectionTotal != 1 || len(req.Resources) != 1 ||
			req.Metadata.CollectionType != mediaType("registration_input") {
			return answer{}, bodyError("The body is not a collection of one registration.")
		}
		in = req.Resources[0]
	}
	k := c.key
	switch {
	case k.Extractable:
		return answer{}, errRegistrationRoot
	case k.state(c.now) != stateActive:
		return answer{}, errRegistrationState
	case len(in.Description) > maxDescriptionLength:
		return answer{}, fieldError("description", "The description must have at most 240 characters.")
	}
	r := registration{k.ID, resource, in.Description, in.Prevent, k.version(), c.now, c.by}
	if in.KeyVersionID != "" {
		at := slices.IndexFunc(k.Versions, func(v keyVersion) bool { return v.ID == in.KeyVersionID })
		if at < 0 {
			return answer{}, errRegistrationVersion
		}
		r.Version = k.Versions[at]
	}
	return answer{status: http.StatusCreated, body: collection("registration", []registrationView{r.view()})}, c.put(bucketRegistrations, r.id(), r)
}

func (c *call) deleteRegistration() (answer, error) {
	resource, err := c.ownResource()
	if err != nil {
		return answer{}, err
	}
	r, err := load[registration](c, bucketRegistrations, registration{KeyID: c.key.ID, ResourceCRN: resource}.id())
	if errors.Is(err, records.ErrNone) {
		return answer{}, errRegistrationNotFound
	}
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, c.drop(bucketRegistrations, r.id())
}
