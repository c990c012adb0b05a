package keyprotect

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// Wrap implements engine.KeyManager.
func (c *Client) Wrap(ctx context.Context, kek *secret.Bytes, b engine.Binding) (engine.Wrapped, error) {
	additional, err := json.Marshal(b.AdditionalData())
	if err != nil {
		return engine.Wrapped{}, err
	}
	// By hand, so that the key is in no buffer but this, which call wipes.
	body := make([]byte, 0, 64+base64.StdEncoding.EncodedLen(kek.Len())+len(additional))
	body = append(body, `{"plaintext":"`...)
	body = base64.StdEncoding.AppendEncode(body, kek.Reveal())
	body = append(body, `","aad":`...)
	body = append(append(body, additional...), '}')

	var answer struct {
		Ciphertext string `json:"ciphertext"`
		KeyVersion struct {
			ID string `json:"id"`
		} `json:"keyVersion"`
	}
	err = c.call(ctx, request{
		action: "wrap with the root key", about: rootKey, method: http.MethodPost, path: keyPath(c.location.RootKeyID, "wrap"), body: body, safe: true,
	}, &answer)
	if err == nil && answer.Ciphertext == "" {
		err = fault.New(fault.Unavailable, "The key manager's answer to wrap holds no ciphertext.")
	}
	if err != nil {
		return engine.Wrapped{}, err
	}
	return engine.Wrapped{Ciphertext: answer.Ciphertext, RootKeyID: c.location.RootKeyID, RootKeyVersion: answer.KeyVersion.ID}, nil
}

// Unwrap implements engine.KeyManager.
func (c *Client) Unwrap(ctx context.Context, w engine.Wrapped, b engine.Binding) (*secret.Bytes, error) {
	body, err := json.Marshal(struct {
		Ciphertext string   `json:"ciphertext"`
		AAD        []string `json:"aad"`
	}{w.Ciphertext, b.AdditionalData()})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Plaintext []byte `json:"plaintext"` // decoded from base64 without a string
	}
	err = c.call(ctx, request{
		action: "unwrap with the root key", about: rootKey, method: http.MethodPost, path: keyPath(w.RootKeyID, "unwrap"), body: body, safe: true,
	}, &answer)
	kek := secret.Of(answer.Plaintext)
	if err == nil && kek.Len() == 0 {
		err = fault.New(fault.Unavailable, "The key manager's answer to unwrap holds no plaintext.")
	}
	if err != nil {
		kek.Wipe()
		return nil, err
	}
	return kek, nil
}

// prototype is the body of a request to create a key.
type prototype struct {
	Metadata struct {
		CollectionType  string `json:"collectionType"`
		CollectionTotal int    `json:"collectionTotal"`
	} `json:"metadata"`
	Resources []prototypeKey `json:"resources"`
}

type prototypeKey struct {
	Type        string `json:"type"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Extractable bool   `json:"extractable"`
	Payload     []byte `json:"payload"` // base64 in JSON
}

const keyMediaType = "application/vnd.ibm.kms.key+json"

// Store implements engine.KeyManager. The envelope is wrapped already and no
// secret.
func (c *Client) Store(ctx context.Context, id kmip.ObjectID, e engine.Envelope) (engine.KeyRef, error) {
	payload, err := e.Encode()
	if err != nil {
		return "", err
	}
	if n := base64.StdEncoding.EncodedLen(len(payload)); n > engine.MaxEnvelope {
		return "", fault.Newf(fault.Invalid, "The key's attributes are too long to be stored with it: %d bytes, at most %d.", n, engine.MaxEnvelope)
	}
	name := standardKeyName(string(id))
	p := prototype{Resources: []prototypeKey{{
		Type: keyMediaType, Name: name, Description: "Key for VMware, wrapped by the root key", Extractable: true, Payload: payload,
	}}}
	p.Metadata.CollectionType, p.Metadata.CollectionTotal = keyMediaType, 1
	body, err := json.Marshal(p)
	if err != nil {
		return "", err
	}
	var made keyList
	err = c.call(ctx, request{
		action: "create a standard key", about: collection, method: http.MethodPost, path: "/keys", ring: c.location.KeyRing, body: body,
	}, &made)
	switch {
	case err == nil && len(made.Resources) == 1 && made.Resources[0].ID != "":
		return engine.KeyRef(made.Resources[0].ID), nil
	case err != nil && !unknownOutcome(err):
		return "", err
	}
	// It may have taken effect. Only finding it proves anything: a key that is
	// not listed yet may still appear.
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookUpTimeout)
	defer cancel()
	found, ok, lookErr := c.lookUp(look, name, madeAt(id, c.now()))
	if ok {
		return engine.KeyRef(found.ID), nil
	}
	return "", fault.Wrap(fault.Unavailable, "The key manager did not say whether it stored the key.", errors.Join(err, lookErr))
}

// madeAt returns the time in an identifier of version 7, else now.
func madeAt(id kmip.ObjectID, now time.Time) time.Time {
	u, err := uuid.Parse(string(id))
	if err != nil || u.Version() != 7 {
		return now
	}
	sec, nsec := u.Time().UnixTime()
	return time.Unix(sec, nsec)
}

// Load implements engine.KeyManager.
func (c *Client) Load(ctx context.Context, id kmip.ObjectID, ref engine.KeyRef) (engine.Envelope, error) {
	var got keyList
	load := request{action: "read a standard key", about: standardKey, method: http.MethodGet, path: keyPath(string(ref), ""), ring: c.location.KeyRing, safe: true}
	err := c.call(ctx, load, &got)
	if errors.Is(err, engine.ErrGone) && load.ring != "" {
		// The customer may have moved it to another ring.
		load.ring = ""
		err = c.call(ctx, load, &got)
	}
	if err != nil {
		return engine.Envelope{}, err
	}
	if len(got.Resources) != 1 {
		return engine.Envelope{}, fault.New(fault.Unavailable, "The key manager's answer holds no key.")
	}
	if got.Resources[0].gone() {
		return engine.Envelope{}, errGone
	}
	e, err := engine.DecodeEnvelope(got.Resources[0].Payload, id)
	if err != nil {
		return engine.Envelope{}, fault.Wrap(fault.Corrupt, "The standard key in the key manager does not hold this key.", err)
	}
	return e, nil
}

// errGone answers for every way in which a standard key can be gone.
var errGone = fault.New(fault.Gone, publicGone)

// Delete implements engine.KeyManager.
func (c *Client) Delete(ctx context.Context, ref engine.KeyRef) error {
	err := c.call(ctx, request{
		action: "delete a standard key", about: standardKey, method: http.MethodDelete, path: keyPath(string(ref), ""), safe: true,
	}, nil)
	if errors.Is(err, engine.ErrGone) {
		return nil
	}
	return err
}
