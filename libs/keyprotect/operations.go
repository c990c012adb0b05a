package keyprotect

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// The states of a key that matter here (Key Protect, key states).
const (
	stateActive      = 1
	stateSuspended   = 2 // disabled
	stateDeactivated = 3 // expired
	stateDestroyed   = 5
	// allStates is what a list must ask for to show deleted keys as well.
	allStates = "0,1,2,3,5"
)

const keyType = "application/vnd.ibm.kms.key+json"

// key is a key as the API shows it. A list holds no payloads.
type key struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	KeyRing     string `json:"keyRingID"`
	Extractable bool   `json:"extractable"` // a standard key; else a root key
	State       int    `json:"state"`
	Deleted     bool   `json:"deleted"`
	Payload     []byte `json:"payload"`
}

type keys struct {
	Resources []key `json:"resources"`
}

// Wrap implements engine.KeyManager (Key Protect API v2, wrap).
func (c *Client) Wrap(ctx context.Context, kek *secret.Bytes, b engine.Binding) (engine.Wrapped, error) {
	aad, err := json.Marshal(b.AdditionalData())
	if err != nil {
		return engine.Wrapped{}, err
	}
	// The plaintext passes through this slice alone, which never grows.
	const before, between, after = `{"plaintext":"`, `","aad":`, `}`
	encoding := base64.StdEncoding
	text := make([]byte, 0, len(before)+encoding.EncodedLen(kek.Len())+len(between)+len(aad)+len(after))
	text = append(text, before...)
	text = encoding.AppendEncode(text, kek.Reveal())
	text = append(text, between...)
	text = append(text, aad...)
	text = append(text, after...)
	sent := &body{bytes: text}
	defer sent.wipe()

	a, err := c.call(ctx, request{
		action: "wrap", method: http.MethodPost, path: keyPath(c.location.RootKeyID, "/actions/wrap"),
		body: sent, about: rootKey, change: true, limit: maxAnswer,
	})
	if err != nil {
		return engine.Wrapped{}, err
	}
	defer clear(a.content)
	var wrapped struct {
		Ciphertext string `json:"ciphertext"`
		KeyVersion struct {
			ID string `json:"id"`
		} `json:"keyVersion"`
	}
	if json.Unmarshal(a.content, &wrapped) != nil || wrapped.Ciphertext == "" || wrapped.KeyVersion.ID == "" {
		return engine.Wrapped{}, a.unreadable()
	}
	return engine.Wrapped{
		Ciphertext: wrapped.Ciphertext, RootKeyID: c.location.RootKeyID, RootKeyVersion: wrapped.KeyVersion.ID,
	}, nil
}

// Unwrap implements engine.KeyManager (Key Protect API v2, unwrap). After a
// rotation the answer also holds the KEK wrapped anew; standard keys can't be
// changed, so that is not used.
func (c *Client) Unwrap(ctx context.Context, w engine.Wrapped, b engine.Binding) (*secret.Bytes, error) {
	// The envelope comes from the customer's key manager: its words don't
	// choose a path.
	if uuid.Validate(w.RootKeyID) != nil {
		return nil, fault.Wrap(fault.Corrupt, publicCorrupt, errors.New("unwrap: the root key's id is not a UUID"))
	}
	text, err := json.Marshal(struct {
		Ciphertext string   `json:"ciphertext"`
		AAD        []string `json:"aad"`
	}{w.Ciphertext, b.AdditionalData()})
	if err != nil {
		return nil, err
	}
	a, err := c.call(ctx, request{
		action: "unwrap", method: http.MethodPost, path: keyPath(w.RootKeyID, "/actions/unwrap"),
		body: &body{bytes: text}, about: rootKey, limit: maxAnswer,
	})
	if err != nil {
		return nil, err
	}
	defer clear(a.content)
	var unwrapped struct {
		Plaintext []byte `json:"plaintext"` // decoded without passing a string
	}
	err = json.Unmarshal(a.content, &unwrapped)
	plaintext := secret.Of(unwrapped.Plaintext)
	if err != nil || plaintext.Len() == 0 {
		plaintext.Wipe()
		return nil, a.unreadable()
	}
	return plaintext, nil
}

// Store implements engine.KeyManager with one request that is repeated only
// when it certainly had no effect: names are not unique, so a second one would
// make a second key (Key Protect API v2, create key).
func (c *Client) Store(ctx context.Context, id kmip.ObjectID, e engine.Envelope) (engine.KeyRef, error) {
	envelope, err := e.Encode()
	if err != nil {
		return "", err
	}
	type metadata struct {
		CollectionType  string `json:"collectionType"`
		CollectionTotal int    `json:"collectionTotal"`
	}
	type resource struct {
		Type        string `json:"type"`
		Name        string `json:"name"`
		Extractable bool   `json:"extractable"` // true makes it a standard key
		Payload     []byte `json:"payload"`
	}
	name := standardKeyName(id)
	text, err := json.Marshal(struct {
		Metadata  metadata   `json:"metadata"`
		Resources []resource `json:"resources"`
	}{metadata{keyType, 1}, []resource{{keyType, name, true, envelope}}})
	if err != nil {
		return "", err
	}
	since := c.now()
	a, err := c.call(ctx, request{
		action: "create", method: http.MethodPost, path: "/keys",
		body: &body{bytes: text}, about: collection, change: true, once: true, limit: maxAnswer,
	})
	if err == nil {
		var made keys
		if json.Unmarshal(a.content, &made) == nil && len(made.Resources) == 1 && uuid.Validate(made.Resources[0].ID) == nil {
			return engine.KeyRef(made.Resources[0].ID), nil
		}
		err = a.unreadable()
	}
	var f *failure
	if !errors.As(err, &f) || !f.unknown() {
		return "", err
	}
	return c.lookUp(ctx, name, since, err)
}

// Load implements engine.KeyManager (Key Protect API v2, retrieve key). A
// deleted key stays readable for 90 days, in state 5. One that is neither
// active nor deleted may come back: that is ErrUnavailable.
func (c *Client) Load(ctx context.Context, id kmip.ObjectID, ref engine.KeyRef) (engine.Envelope, error) {
	a, err := c.call(ctx, request{
		action: "read", method: http.MethodGet, path: keyPath(ref, ""), about: standardKey, limit: maxAnswer,
	})
	if err != nil {
		return engine.Envelope{}, err
	}
	var read keys
	if json.Unmarshal(a.content, &read) != nil || len(read.Resources) != 1 || read.Resources[0].ID != string(ref) {
		return engine.Envelope{}, a.unreadable()
	}
	switch k := read.Resources[0]; {
	case k.Deleted || k.State == stateDestroyed:
		return engine.Envelope{}, fault.Wrap(fault.Gone, publicGone, a.failure(errors.New("the standard key is in state 5")))
	case k.State != stateActive:
		return engine.Envelope{}, fault.Wrap(fault.Unavailable, "The standard key is not active in the key manager.",
			a.failure(fmt.Errorf("the standard key is in state %d", k.State)))
	default:
		e, err := engine.DecodeEnvelope(k.Payload, id)
		if err != nil {
			return engine.Envelope{}, fault.Wrap(fault.Corrupt, publicCorrupt, a.failure(err))
		}
		return e, nil
	}
}

// Delete implements engine.KeyManager (Key Protect API v2, delete key). The
// key manager keeps the key restorable for 30 days.
func (c *Client) Delete(ctx context.Context, ref engine.KeyRef) error {
	_, err := c.call(ctx, request{
		action: "delete", method: http.MethodDelete, path: keyPath(ref, ""), about: standardKey, change: true, limit: maxAnswer,
	})
	if errors.Is(err, engine.ErrGone) {
		return nil
	}
	return err
}
