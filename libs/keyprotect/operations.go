package keyprotect

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// The states of a key that matter here (Key Protect, key states).
const (
	stateActive    = 1
	stateDestroyed = 5
	// allStates is what a list must ask for to show deleted keys as well.
	allStates = "0,1,2,3,5"
)

const keyType = "application/vnd.ibm.kms.key+json"

// key is a standard key as the API shows it. A list holds no payloads.
type key struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	State        int       `json:"state"`
	Deleted      bool      `json:"deleted"`
	CreationDate time.Time `json:"creationDate"`
	Payload      []byte    `json:"payload"`
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

	content, err := c.call(ctx, request{
		action: "wrap", method: http.MethodPost, path: keyPath(c.location.RootKeyID, "/actions/wrap"),
		body: sent, about: rootKey, limit: maxAnswer,
	})
	if err != nil {
		return engine.Wrapped{}, err
	}
	defer clear(content)
	var answer struct {
		Ciphertext string `json:"ciphertext"`
		KeyVersion struct {
			ID string `json:"id"`
		} `json:"keyVersion"`
	}
	if json.Unmarshal(content, &answer) != nil || answer.Ciphertext == "" || answer.KeyVersion.ID == "" {
		return engine.Wrapped{}, unreadable("wrap").fault(rootKey)
	}
	return engine.Wrapped{
		Ciphertext: answer.Ciphertext, RootKeyID: c.location.RootKeyID, RootKeyVersion: answer.KeyVersion.ID,
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
	content, err := c.call(ctx, request{
		action: "unwrap", method: http.MethodPost, path: keyPath(w.RootKeyID, "/actions/unwrap"),
		body: &body{bytes: text}, about: rootKey, limit: maxAnswer,
	})
	if err != nil {
		return nil, err
	}
	defer clear(content)
	var answer struct {
		Plaintext []byte `json:"plaintext"` // decoded without passing a string
	}
	err = json.Unmarshal(content, &answer)
	plaintext := secret.Of(answer.Plaintext)
	if err != nil || plaintext.Len() == 0 {
		plaintext.Wipe()
		return nil, unreadable("unwrap").fault(rootKey)
	}
	return plaintext, nil
}

// Store implements engine.KeyManager with one request that is never repeated:
// names are not unique, so a second one would make a second key (Key Protect
// API v2, create key).
func (c *Client) Store(ctx context.Context, id kmip.ObjectID, e engine.Envelope) (engine.KeyRef, error) {
	envelope, err := e.Encode()
	if err != nil {
		return "", err
	}
	if base64.StdEncoding.EncodedLen(len(envelope)) > engine.MaxEnvelope {
		return "", fault.New(fault.TooLarge, "The object's attributes are larger than a standard key can hold.")
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
	since := c.now().Add(-createdSince)
	content, err := c.call(ctx, request{
		action: "create", method: http.MethodPost, path: "/keys",
		body: &body{bytes: text}, about: collection, once: true, limit: maxAnswer,
	})
	if err == nil {
		var made keys
		if json.Unmarshal(content, &made) == nil && len(made.Resources) == 1 && uuid.Validate(made.Resources[0].ID) == nil {
			return engine.KeyRef(made.Resources[0].ID), nil
		}
		err = unreadable("create").fault(collection)
	}
	var f *failure
	if !errors.As(err, &f) || !f.unknown() {
		return "", err
	}
	return c.lookUp(ctx, name, since, err)
}

// standardKeyName names the standard key of an object.
func standardKeyName(id kmip.ObjectID) string { return engine.StandardKeyPrefix + string(id) }

// lookUp finds the standard key that a create with an unknown outcome may have
// made. It outlives the caller's deadline. A key that is not there yet may
// still come, so it asks several times, and answers Unavailable in the end.
func (c *Client) lookUp(ctx context.Context, name string, since time.Time, cause error) (engine.KeyRef, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookUpTime)
	defer cancel()
	for wait := lookUpPause; ; wait *= 2 {
		ref, err := c.find(ctx, name, since)
		if ref != "" {
			return ref, nil
		}
		if err != nil {
			cause = errors.Join(cause, err)
		}
		if deadline, ok := ctx.Deadline(); err != nil || ok && time.Until(deadline) <= wait || c.sleep(ctx, wait) != nil {
			return "", fault.Wrap(fault.Unavailable, "The key manager does not say whether it stored the key.", cause)
		}
	}
}

// find returns the oldest standard key of that exact name that was created
// since, in any state, or "" without one (Key Protect API v2, list keys). Names
// are not unique; among keys of the same second the id decides.
func (c *Client) find(ctx context.Context, name string, since time.Time) (engine.KeyRef, error) {
	var oldest key
	for page := range maxPages {
		content, err := c.call(ctx, request{
			action: "list", method: http.MethodGet, path: "/keys", about: collection, limit: maxList,
			query: url.Values{
				"limit":  {strconv.Itoa(pageSize)},
				"offset": {strconv.Itoa(page * pageSize)},
				"state":  {allStates},
				"sort":   {"creationDate"},
				"filter": {`creationDate=gte:"` + since.UTC().Format(time.RFC3339) + `"`},
			},
		})
		if err != nil {
			return "", err
		}
		var list keys
		if json.Unmarshal(content, &list) != nil {
			return "", unreadable("list").fault(collection)
		}
		for _, k := range list.Resources {
			if k.Name == name && uuid.Validate(k.ID) == nil && (oldest.ID == "" || k.older(oldest)) {
				oldest = k
			}
		}
		if len(list.Resources) < pageSize { // there is no link to the next page
			return engine.KeyRef(oldest.ID), nil
		}
	}
	return "", fault.Wrap(fault.Unavailable, publicUnavailable, fmt.Errorf("list: more than %d keys", maxPages*pageSize))
}

func (k key) older(than key) bool {
	if !k.CreationDate.Equal(than.CreationDate) {
		return k.CreationDate.Before(than.CreationDate)
	}
	return strings.Compare(k.ID, than.ID) < 0
}

// Load implements engine.KeyManager (Key Protect API v2, retrieve key). A
// deleted key stays readable for 90 days, in state 5. One that is neither
// active nor deleted may come back: that is ErrUnavailable.
func (c *Client) Load(ctx context.Context, id kmip.ObjectID, ref engine.KeyRef) (engine.Envelope, error) {
	content, err := c.call(ctx, request{
		action: "read", method: http.MethodGet, path: keyPath(ref, ""), about: standardKey, limit: maxAnswer,
	})
	if err != nil {
		return engine.Envelope{}, err
	}
	var answer keys
	if json.Unmarshal(content, &answer) != nil || len(answer.Resources) != 1 || answer.Resources[0].ID != string(ref) {
		return engine.Envelope{}, unreadable("read").fault(standardKey)
	}
	switch k := answer.Resources[0]; {
	case k.Deleted || k.State == stateDestroyed:
		return engine.Envelope{}, fault.Wrap(fault.Gone, publicGone, errors.New("read: the standard key is in state 5"))
	case k.State != stateActive:
		return engine.Envelope{}, fault.Wrap(fault.Unavailable, "The standard key is not active in the key manager.",
			fmt.Errorf("read: the standard key is in state %d", k.State))
	default:
		e, err := engine.DecodeEnvelope(k.Payload, id)
		if err != nil {
			return engine.Envelope{}, fault.Wrap(fault.Corrupt, publicCorrupt, err)
		}
		return e, nil
	}
}

// Delete implements engine.KeyManager (Key Protect API v2, delete key). The
// key manager keeps the key restorable for 30 days.
func (c *Client) Delete(ctx context.Context, ref engine.KeyRef) error {
	_, err := c.call(ctx, request{
		action: "delete", method: http.MethodDelete, path: keyPath(ref, ""), about: standardKey, limit: maxAnswer,
	})
	if errors.Is(err, engine.ErrGone) {
		return nil
	}
	return err
}
