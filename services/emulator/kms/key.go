package kms

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Key states by number (Key Protect, key states). A key is deactivated when its expiration date has
// passed; state 0 never shows, 4 is unused.
const (
	stateActive      = 1
	stateSuspended   = 2
	stateDeactivated = 3
	stateDestroyed   = 5
)

// stateMatrix names the states in which an action works (Key Protect, key states and actions).
// Reading a key works in all of them.
var stateMatrix = map[string][]int{
	"wrap":    {stateActive},
	"unwrap":  {stateActive, stateDeactivated},
	"rewrap":  {stateActive, stateDeactivated},
	"rotate":  {stateActive, stateDeactivated},
	"disable": {stateActive},
	"enable":  {stateSuspended},
	"delete":  {stateActive, stateSuspended, stateDeactivated},
	"restore": {stateDestroyed},
	"purge":   {stateDestroyed},

	// IBM's pages have no row for these: they are taken to work until the key is deleted.
	"patch":             {stateActive, stateSuspended, stateDeactivated},
	"alias":             {stateActive, stateSuspended, stateDeactivated},
	"policies":          {stateActive, stateSuspended, stateDeactivated},
	"setKeyForDeletion": {stateActive, stateSuspended, stateDeactivated},
	"sync":              {stateActive, stateSuspended, stateDeactivated},
}

// key is a stored key without its bytes; those are in material, so that no list can show them.
type key struct {
	ID          string       `json:"id"`
	Name        string       `json:"name"`
	Description string       `json:"description,omitempty"`
	Tags        []string     `json:"tags,omitempty"`
	Aliases     []string     `json:"aliases,omitempty"`
	Extractable bool         `json:"extractable"` // a standard key; else a root key
	Imported    bool         `json:"imported"`
	Ring        string       `json:"ring"`
	Bits        int          `json:"bits"`
	State       int          `json:"state"` // stateDeactivated is never stored
	Versions    []keyVersion `json:"versions,omitempty"`
	Created     time.Time    `json:"created"`
	CreatedBy   string       `json:"created_by"`
	Updated     time.Time    `json:"updated"`
	Expires     time.Time    `json:"expires,omitzero"`
	Rotated     time.Time    `json:"rotated,omitzero"`
	Disabled    time.Time    `json:"disabled,omitzero"`
	Deleted     time.Time    `json:"deleted,omitzero"`
	DeletedBy   string       `json:"deleted_by,omitempty"`
	Policies    []policy     `json:"policies,omitempty"`
	Intent      time.Time    `json:"intent,omitzero"` // when its deletion was authorized
	IntentBy    string       `json:"intent_by,omitempty"`
	Synced      time.Time    `json:"synced,omitzero"`
}

type keyVersion struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
}

// version is the newest version of a root key.
func (k key) version() keyVersion { return k.Versions[len(k.Versions)-1] }

// material holds a key's bytes: a root key's by version, or a standard key's payload.
type material struct {
	Versions map[string][]byte `json:"versions,omitempty"`
	Payload  []byte            `json:"payload,omitempty"`
}

func (material) String() string   { return "[key material]" }
func (material) GoString() string { return "[key material]" }

// state is the key's state at a time.
func (k key) state(now time.Time) int {
	if k.State == stateActive && !k.Expires.IsZero() && !now.Before(k.Expires) {
		return stateDeactivated
	}
	return k.State
}

// allows checks the state matrix. Every action but restore finds a deleted key gone.
func (k key) allows(action string, now time.Time) error {
	state := k.state(now)
	switch {
	case slices.Contains(stateMatrix[action], state):
		return nil
	case state == stateDestroyed:
		return errKeyDeleted
	}
	return errKeyState
}

func (k key) purged(now time.Time) bool {
	return k.State == stateDestroyed && now.Sub(k.Deleted) >= purgeAfter
}

// keyView is a key as the API shows it.
type keyView struct {
	Type              string            `json:"type"`
	ID                string            `json:"id"`
	Name              string            `json:"name,omitempty"`
	Aliases           []string          `json:"aliases,omitempty"`
	Description       string            `json:"description,omitempty"`
	Tags              []string          `json:"tags,omitempty"`
	State             int               `json:"state"`
	Expiration        string            `json:"expirationDate,omitempty"`
	Extractable       bool              `json:"extractable"`
	CRN               string            `json:"crn"`
	Imported          bool              `json:"imported"`
	KeyRingID         string            `json:"keyRingID"`
	CreationDate      string            `json:"creationDate"`
	CreatedBy         string            `json:"createdBy"`
	AlgorithmType     string            `json:"algorithmType"`
	AlgorithmMetadata map[string]string `json:"algorithmMetadata"`
	AlgorithmBitSize  int               `json:"algorithmBitSize"`
	AlgorithmMode     string            `json:"algorithmMode"`
	LastUpdateDate    string            `json:"lastUpdateDate"`
	LastRotateDate    string            `json:"lastRotateDate,omitempty"`
	KeyVersion        *keyVersionView   `json:"keyVersion,omitempty"`
	keyPolicies
	Deleted           bool   `json:"deleted"`
	DeletionDate      string `json:"deletionDate,omitempty"`
	DeletedBy         string `json:"deletedBy,omitempty"`
	RestoreExpiration string `json:"restoreExpirationDate,omitempty"`
	RestoreAllowed    *bool  `json:"restoreAllowed,omitempty"`
	PurgeAllowed      *bool  `json:"purgeAllowed,omitempty"`
	PurgeAllowedFrom  string `json:"purgeAllowedFrom,omitempty"`
	PurgeScheduledOn  string `json:"purgeScheduledOn,omitempty"`
	Payload           string `json:"payload,omitempty"`
}

type keyVersionView struct {
	ID           string `json:"id"`
	CreationDate string `json:"creationDate"`
}

// date is the API's form of a time: RFC 3339, UTC, whole seconds; empty for no time.
func date(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

func itoa(n int) string { return strconv.Itoa(n) }

// view is the key as the API shows it, without payload.
func (c *call) view(k key) keyView {
	v := keyView{
		Type: mediaType("key"), ID: k.ID, Name: k.Name, Aliases: k.Aliases, Description: k.Description, Tags: k.Tags,
		State: k.state(c.now), Expiration: date(k.Expires), Extractable: k.Extractable, Imported: k.Imported,
		CRN: c.in.crn("key:" + k.ID), KeyRingID: k.Ring, CreationDate: date(k.Created), CreatedBy: k.CreatedBy,
		AlgorithmType: "Deprecated", AlgorithmMode: "Deprecated", AlgorithmBitSize: k.Bits,
		AlgorithmMetadata: map[string]string{"bitLength": itoa(k.Bits), "mode": "Deprecated"},
		LastUpdateDate:    date(k.Updated), LastRotateDate: date(k.Rotated),
		keyPolicies: c.settings(k),
	}
	if !k.Extractable {
		v.KeyVersion = &keyVersionView{k.version().ID, date(k.version().Created)}
	}
	if k.State == stateDestroyed {
		age := c.now.Sub(k.Deleted)
		restore, purge := age < restoreWindow, age >= purgeFrom
		v.Deleted, v.DeletionDate, v.DeletedBy = true, date(k.Deleted), k.DeletedBy
		v.RestoreAllowed, v.RestoreExpiration = &restore, date(k.Deleted.Add(restoreWindow))
		v.PurgeAllowed, v.PurgeAllowedFrom = &purge, date(k.Deleted.Add(purgeFrom))
		v.PurgeScheduledOn = date(k.Deleted.Add(purgeAfter))
	}
	return v
}

func (c *call) save(k key) error {
	return c.put(bucketKeys, k.ID, k)
}

// getKey shows a key; the payload of a standard key that is not deleted is part of it.
func (c *call) getKey() (answer, error) {
	k, v := c.key, c.view(c.key)
	if k.Extractable && k.State != stateDestroyed {
		m, err := load[material](c, bucketMaterial, k.ID)
		if err != nil {
			return answer{}, err
		}
		v.Payload = base64.StdEncoding.EncodeToString(m.Payload)
	}
	return answer{status: http.StatusOK, body: collection("key", []keyView{v})}, nil
}

func (c *call) getMetadata() (answer, error) {
	return answer{status: http.StatusOK, body: collection("key", []keyView{c.view(c.key)})}, nil
}

const defaultVersionPage = 200

// listVersions shows a root key's versions, newest first.
func (c *call) listVersions() (answer, error) {
	k := c.key
	if k.Extractable {
		return answer{}, errRootRequired
	}
	if c.query.Get("allKeyStates") != "true" && k.state(c.now) != stateActive {
		return answer{}, errKeyState
	}
	limit, offset, err := c.page(defaultVersionPage)
	if err != nil {
		return answer{}, err
	}
	views := make([]keyVersionView, 0, len(k.Versions))
	for _, v := range slices.Backward(k.Versions) {
		views = append(views, keyVersionView{v.ID, date(v.Created)})
	}
	body := collection("key.version", slicePage(views, limit, offset))
	c.addTotal(&body.Metadata, len(views))
	return answer{status: http.StatusOK, body: body}, nil
}
