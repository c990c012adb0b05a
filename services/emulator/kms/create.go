package kms

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
)

// Limits of a key (Key Protect API v2, create a key).
const (
	minNameLength, maxNameLength = 2, 90
	maxDescriptionLength         = 240
	maxTags, maxTagLength        = 30, 30
	maxPayloadBytes              = 7500
)

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
	sealedImport
}

// newKeyWithPolicies is one resource of a create request that sets policies too.
type newKeyWithPolicies struct {
	newKey
	keyPolicies
}

// oneKey reads a collection of one key.
func oneKey[T any](c *call) (T, error) {
	var req envelope[T]
	if err := jsonhttp.Decode(c.body, &req); err != nil {
		return *new(T), bodyError("The body is not a collection of one key.")
	}
	if req.Metadata.CollectionType != mediaType("key") || req.Metadata.CollectionTotal != 1 || len(req.Resources) != 1 {
		return *new(T), bodyError("The body must hold metadata for one key, and one key.")
	}
	return req.Resources[0], nil
}

// createKey makes or imports one key with the instance's policies.
func (c *call) createKey() (answer, error) {
	in, err := oneKey[newKey](c)
	if err != nil {
		return answer{}, err
	}
	return c.create(in, keyPolicies{})
}

// createKeyWithPolicies makes or imports one key whose policies come before the instance's.
func (c *call) createKeyWithPolicies() (answer, error) {
	in, err := oneKey[newKeyWithPolicies](c)
	if err != nil {
		return answer{}, err
	}
	return c.create(in.newKey, in.keyPolicies)
}

// create stores one key. Names need not be unique, so a repeated request makes a second key.
func (c *call) create(in newKey, set keyPolicies) (answer, error) {
	k, bytes, err := c.checkNewKey(in)
	if err != nil {
		return answer{}, err
	}
	k.Ring = c.ring
	if err := c.ringExists(k.Ring); err != nil {
		return answer{}, err
	}
	if err := c.inherit(&k, in.EncryptedNonce != nil, &set); err != nil {
		return answer{}, err
	}
	if err := c.apply(&k, set); err != nil {
		return answer{}, err
	}
	if err := c.takeAliases(k); err != nil {
		return answer{}, err
	}
	m := material{Payload: bytes}
	if !k.Extractable {
		v := keyVersion{uuid.NewString(), c.now}
		k.Versions = []keyVersion{v}
		m = material{Versions: map[string][]byte{v.ID: bytes}}
	}
	if err := errors.Join(c.put(bucketMaterial, k.ID, m), c.save(k)); err != nil {
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
	given, err := c.payload(k, *in.Payload, in.sealedImport)
	k.Bits = 8 * len(given)
	return k, given, err
}
