// Package keyprotect is the key manager port over the REST API, version 2, of
// IBM Key Protect and Hyper Protect Crypto Services.
package keyprotect

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// The limits of every call in one place.
const (
	callTimeout     = 10 * time.Second // one HTTP exchange
	tries           = 3                // of calls that are safe to repeat
	firstPause      = 100 * time.Millisecond
	longestPause    = 2 * time.Second // a longer Retry-After is an answer for the client
	lookUpTimeout   = 10 * time.Second
	maxAnswer       = 64 << 10 // bytes
	maxListAnswer   = 16 << 20 // a page of 5,000 keys
	connectionsHost = 64
)

// TokenSource gives access tokens of the identity that a tenant gave us;
// *iam.TokenSource is one. Errors are of kind Denied when that identity is
// refused, else Unavailable.
type TokenSource interface {
	// Token returns a token that has not expired.
	Token(ctx context.Context) (string, error)
	// Renew returns one that was fetched after the last one was refused.
	Renew(ctx context.Context) (string, error)
}

// Config is one tenant's key manager.
type Config struct {
	BaseURL     string // without /api/v2
	InstanceCRN string
	KeyRing     string
	RootKeyID   string
	Tokens      TokenSource
	HTTP        *http.Client // nil: a shared one, see Transport
}

// Client implements engine.KeyManager. Safe for concurrent use.
type Client struct {
	base     string
	instance string // GUID
	location engine.Location
	tokens   TokenSource
	http     *http.Client
	now      func() time.Time
}

// shared keeps connections to key managers alive between calls.
var shared = &http.Client{Transport: Transport()}

// Transport returns a transport as this package needs it: HTTP/1.1, which
// costs less than Go's HTTP/2 for calls of this size, and a bounded number of
// kept connections for each key manager.
func Transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	t.MaxConnsPerHost, t.MaxIdleConnsPerHost, t.MaxIdleConns = connectionsHost, connectionsHost, 0
	return t
}

// New returns a Client without calling anything.
func New(c Config) (*Client, error) {
	name, err := crn.Parse(c.InstanceCRN)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "The key manager's CRN can't be read.", err)
	}
	client := &Client{
		base: c.BaseURL + "/api/v2", instance: name.Instance, tokens: c.Tokens, http: c.HTTP, now: time.Now,
		location: engine.Location{KeyManagerCRN: c.InstanceCRN, KeyRing: c.KeyRing, RootKeyID: c.RootKeyID},
	}
	if client.http == nil {
		client.http = shared
	}
	return client, nil
}

// Location implements engine.KeyManager.
func (c *Client) Location() engine.Location { return c.location }

// key is a key as the API shows it (Key Protect API v2, keys).
type key struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	State        int       `json:"state"`
	Deleted      bool      `json:"deleted"`
	CreationDate time.Time `json:"creationDate"`
	Payload      []byte    `json:"payload"` // base64 in JSON
}

// destroyed is the state of a deleted key, which stays readable for 90 days.
const destroyed = 5

func (k key) gone() bool { return k.Deleted || k.State == destroyed }

// keyList is the envelope of answers about keys.
type keyList struct {
	Resources []key `json:"resources"`
}

// keyPath returns the path of a key, or of an action on it.
func keyPath(id, action string) string {
	path := "/keys/" + url.PathEscape(id)
	if action != "" {
		path += "/actions/" + action
	}
	return path
}

// lookUp finds a standard key by its name, whatever its state; of several the
// oldest counts. Names are not unique and can't be asked for exactly, so the
// list is narrowed by the time that an identifier of version 7 holds.
func (c *Client) lookUp(ctx context.Context, name string, made time.Time) (key, bool, error) {
	const page = 5000
	around := fmt.Sprintf(`creationDate=gte:"%s" creationDate=lte:"%s"`,
		made.Add(-time.Hour).UTC().Format(time.RFC3339), made.Add(time.Hour).UTC().Format(time.RFC3339))
	var oldest key
	found := false
	for offset := 0; ; offset += page {
		query := url.Values{
			"state": {"0,1,2,3,5"}, "filter": {around}, "sort": {"creationDate"},
			"limit": {fmt.Sprint(page)}, "offset": {fmt.Sprint(offset)},
		}
		var list keyList
		err := c.call(ctx, request{
			action: "list keys", about: collection, method: http.MethodGet, path: "/keys?" + query.Encode(), safe: true, limit: maxListAnswer,
		}, &list)
		if err != nil {
			return key{}, false, err
		}
		for _, k := range list.Resources {
			if k.Name == name && (!found || k.CreationDate.Before(oldest.CreationDate)) {
				oldest, found = k, true
			}
		}
		if len(list.Resources) < page {
			return oldest, found, nil
		}
	}
}

// standardKeyName returns the name of an object's standard key.
func standardKeyName(id string) string { return engine.StandardKeyPrefix + strings.ToLower(id) }
