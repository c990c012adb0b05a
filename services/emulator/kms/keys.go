package kms

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
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
}

// Waiting times of the life cycle (Key Protect: disabling, restoring, rotating, purging keys).
const (
	settleTime    = 30 * time.Second    // between disable and enable, and delete and restore
	restoreWindow = 30 * 24 * time.Hour // after the deletion
	purgeFrom     = 4 * time.Hour       // after the deletion
	purgeAfter    = 90 * 24 * time.Hour // the service purges: the key is gone
	rotationPause = time.Hour           // between rotations; none before the first
)

// Limits of a key (Key Protect API v2, create a key).
const (
	minNameLength, maxNameLength = 2, 90
	maxDescriptionLength         = 240
	maxTags, maxTagLength        = 30, 30
	maxAliases                   = 5
	maxPayloadBytes              = 7500
)

var (
	aliasPattern  = regexp.MustCompile(`^[A-Za-z0-9_-]{2,90}$`)
	reservedNames = []string{
		"allowed_ip", "key", "keys", "metadata", "policy", "policies", "registration",
		"registrations", "ring", "rings", "rotate", "wrap", "unwrap", "rewrap", "version", "versions",
	}
)

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
	DualAuthDelete    map[string]bool   `json:"dualAuthDelete"`
	Deleted           bool              `json:"deleted"`
	DeletionDate      string            `json:"deletionDate,omitempty"`
	DeletedBy         string            `json:"deletedBy,omitempty"`
	RestoreExpiration string            `json:"restoreExpirationDate,omitempty"`
	RestoreAllowed    *bool             `json:"restoreAllowed,omitempty"`
	PurgeAllowed      *bool             `json:"purgeAllowed,omitempty"`
	PurgeAllowedFrom  string            `json:"purgeAllowedFrom,omitempty"`
	PurgeScheduledOn  string            `json:"purgeScheduledOn,omitempty"`
	Payload           string            `json:"payload,omitempty"`
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
		DualAuthDelete: map[string]bool{"enabled": false},
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

// newKey is one resource of a create request.
type newKey struct {
	Type           string     `json:"type"`
	Name           string     `json:"name"`
	Aliases        []string   `json:"aliases"`
	Description    string     `json:"description"`
	Tags           []string   `json:"tags"`
	ExpirationDate *time.Time `json:"expirationDate"`
	Extractable    *bool      `json:"extractable"`
	Payload        *string    `json:"payload"`
}

// createKey makes or imports one key. Names need not be unique, so a repeated request makes a
// second key.
func (c *call) createKey() (answer, error) {
	var req envelope[newKey]
	if err := jsonhttp.Decode(c.body, &req); err != nil {
		return answer{}, bodyError("The body is not a collection of one key.")
	}
	if req.Metadata.CollectionType != mediaType("key") || req.Metadata.CollectionTotal != 1 || len(req.Resources) != 1 {
		return answer{}, bodyError("The body must hold metadata for one key, and one key.")
	}
	in := req.Resources[0]
	k, bytes, err := c.checkNewKey(in)
	if err != nil {
		return answer{}, err
	}
	k.Ring = c.ring
	if err := c.ringExists(k.Ring); err != nil {
		return answer{}, err
	}
	if err := c.addAliases(k); err != nil {
		return answer{}, err
	}
	m := material{Payload: bytes}
	if !k.Extractable {
		v := keyVersion{uuid.NewString(), c.now}
		k.Versions = []keyVersion{v}
		m = material{Versions: map[string][]byte{v.ID: bytes}}
	}
	if err := c.put(bucketMaterial, k.ID, m); err != nil {
		return answer{}, err
	}
	if err := c.save(k); err != nil {
		return answer{}, err
	}
	if c.prefer == "minimal" {
		minimal := map[string]string{"type": mediaType("key"), "id": k.ID, "crn": c.in.crn("key:" + k.ID)}
		return answer{status: http.StatusCreated, body: collection("key", []map[string]string{minimal})}, nil
	}
	v := c.view(k)
	if c.prefer == "representation" {
		v.Payload = base64.StdEncoding.EncodeToString(m.Payload)
	}
	return answer{status: http.StatusCreated, body: collection("key", []keyView{v})}, nil
}

// checkNewKey checks every field of the request and makes the key and its bytes.
func (c *call) checkNewKey(in newKey) (key, []byte, error) {
	// An absent "extractable" is taken for true, a standard key.
	k := key{
		ID: uuid.NewString(), Name: in.Name, Description: in.Description, Tags: in.Tags, Aliases: in.Aliases,
		Extractable: in.Extractable == nil || *in.Extractable, Imported: in.Payload != nil,
		State: stateActive, Created: c.now, Updated: c.now, CreatedBy: c.by,
	}
	if in.Type != "" && in.Type != mediaType("key") {
		return key{}, nil, fieldError("type", "The type is not a key's.")
	}
	if n := utf8.RuneCountInString(in.Name); n < minNameLength || n > maxNameLength {
		return key{}, nil, fieldError("name", "The name must have 2 to 90 characters.")
	}
	if utf8.RuneCountInString(in.Description) > maxDescriptionLength {
		return key{}, nil, fieldError("description", "The description must have at most 240 characters.")
	}
	if len(in.Tags) > maxTags {
		return key{}, nil, fieldError("tags", "There must be at most 30 tags.")
	}
	for _, tag := range in.Tags {
		if utf8.RuneCountInString(tag) > maxTagLength || strings.ContainsAny(tag, "<>,:&|") {
			return key{}, nil, fieldError("tags", "A tag is too long or holds one of < > , : & |")
		}
	}
	if in.ExpirationDate != nil {
		if k.Expires = in.ExpirationDate.UTC(); !k.Expires.After(c.now) {
			return key{}, nil, fieldError("expirationDate", "The expiration date must be in the future.")
		}
	}
	if in.Payload == nil {
		made := make([]byte, generatedBytes)
		rand.Read(made)
		k.Bits = 8 * generatedBytes
		return k, made, nil
	}
	given, err := checkPayload(k, *in.Payload)
	k.Bits = 8 * len(given)
	return k, given, err
}

// checkPayload decodes imported bytes: 16, 24 or 32 for a root key, up to 7,500 for a standard key.
func checkPayload(k key, text string) ([]byte, error) {
	raw, err := decodeField("payload", text, 1, maxPayloadBytes)
	if err != nil {
		return nil, err
	}
	if !k.Extractable && len(raw) != 16 && len(raw) != 24 && len(raw) != 32 {
		return nil, fieldError("payload", "A root key's payload must have 16, 24 or 32 bytes.")
	}
	return raw, nil
}

func (c *call) addAliases(k key) error {
	if len(k.Aliases) > maxAliases {
		return fieldError("aliases", "A key has at most 5 aliases.")
	}
	b, err := c.grown(bucketAliases)
	if err != nil {
		return err
	}
	for _, a := range k.Aliases {
		if _, err := uuid.Parse(a); err == nil || !aliasPattern.MatchString(a) || slices.Contains(reservedNames, a) {
			return fieldError("aliases", "An alias has 2 to 90 of the characters A-Z a-z 0-9 _ - and is neither a UUID nor a reserved word.")
		}
		if b.Get([]byte(a)) != nil {
			return errAliasTaken
		}
		if err := b.Put([]byte(a), []byte(k.ID)); err != nil {
			return err
		}
	}
	return nil
}

// getKey shows a key; the payload of a standard key that is not deleted is part of it.
func (c *call) getKey() (answer, error) {
	k := c.key
	v := c.view(k)
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
	k := c.key
	return answer{status: http.StatusOK, body: collection("key", []keyView{c.view(k)})}, nil
}

// listVersions shows a root key's versions, newest first.
func (c *call) listVersions() (answer, error) {
	k := c.key
	if k.Extractable {
		return answer{}, errRootRequired
	}
	if c.query.Get("allKeyStates") != "true" && k.state(c.now) != stateActive {
		return answer{}, errKeyState
	}
	limit, offset, err := c.page(200, 5000)
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

// deleteKey moves a key to the destroyed state; its record stays for 90 days. Nothing here registers
// resources, so "force" is checked and changes nothing.
func (c *call) deleteKey() (answer, error) {
	if force := c.query.Get("force"); force != "" && force != "true" && force != "false" {
		return answer{}, queryError("force", "Force is true or false.")
	}
	k := c.key
	if err := k.allows("delete", c.now); err != nil {
		return answer{}, err
	}
	k.State, k.Deleted, k.DeletedBy, k.Updated = stateDestroyed, c.now, c.by, c.now
	if err := c.save(k); err != nil {
		return answer{}, err
	}
	if c.prefer == "representation" {
		return answer{status: http.StatusOK, body: collection("key", []keyView{c.view(k)})}, nil
	}
	return answer{status: http.StatusNoContent}, nil
}

// restoreKey makes a deleted key active again, 30 seconds to 30 days after the deletion. Its body,
// which older clients send, is not looked at.
func (c *call) restoreKey() (answer, error) {
	k := c.key
	if err := k.allows("restore", c.now); err != nil {
		return answer{}, err
	}
	switch age := c.now.Sub(k.Deleted); {
	case age < settleTime:
		return answer{}, errTooEarly
	case age >= restoreWindow:
		return answer{}, errRestoreExpired
	case !k.Expires.IsZero() && !c.now.Before(k.Expires):
		return answer{}, errKeyExpired
	}
	k.State, k.Deleted, k.DeletedBy, k.Updated = stateActive, time.Time{}, "", c.now
	if err := c.save(k); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusCreated, body: collection("key", []keyView{c.view(k)})}, nil
}

func (c *call) disableKey() (answer, error) {
	k, _, err := c.rootKey("disable")
	if err != nil {
		return answer{}, err
	}
	k.State, k.Disabled, k.Updated = stateSuspended, c.now, c.now
	return answer{status: http.StatusNoContent}, c.save(k)
}

func (c *call) enableKey() (answer, error) {
	k, _, err := c.rootKey("enable")
	if err != nil {
		return answer{}, err
	}
	if c.now.Sub(k.Disabled) < settleTime {
		return answer{}, errTooEarly
	}
	k.State, k.Disabled, k.Updated = stateActive, time.Time{}, c.now
	return answer{status: http.StatusNoContent}, c.save(k)
}

// rotateKey adds a version to a root key: from the request's payload for an imported key, made here
// for a generated one.
func (c *call) rotateKey() (answer, error) {
	var req struct {
		Payload *string `json:"payload"`
	}
	if len(c.body) > 0 {
		if err := jsonhttp.Decode(c.body, &req); err != nil {
			return answer{}, bodyError("The body is not a rotate request.")
		}
	}
	k, m, err := c.rootKey("rotate")
	switch {
	case err != nil:
		return answer{}, err
	case k.Imported && req.Payload == nil:
		return answer{}, errPayloadRequired
	case !k.Imported && req.Payload != nil:
		return answer{}, fieldError("payload", "A generated root key is rotated without payload.")
	case !k.Rotated.IsZero() && c.now.Sub(k.Rotated) < rotationPause:
		return answer{}, errRotation
	}
	root := make([]byte, generatedBytes)
	rand.Read(root)
	if k.Imported {
		if root, err = checkPayload(k, *req.Payload); err != nil {
			return answer{}, err
		}
	}
	v := keyVersion{uuid.NewString(), c.now}
	k.Versions = append(k.Versions, v)
	m.Versions[v.ID] = root
	k.Rotated, k.Updated, k.Bits = c.now, c.now, 8*len(root)
	if err := c.put(bucketMaterial, k.ID, m); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, c.save(k)
}
