package keyprotect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/singleflight"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

// standardKeyName names the standard key of an object.
func standardKeyName(id kmip.ObjectID) string { return engine.StandardKeyPrefix + string(id) }

// lookUp finds the standard key that a create with an unknown outcome may have
// made. It outlives the caller's deadline. A key that is not there yet may
// still come, so it asks several times, and answers Unavailable in the end.
func (c *Client) lookUp(ctx context.Context, name string, since time.Time, cause error) (engine.KeyRef, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookUpTime)
	defer cancel()
	for wait := lookUpPause; ; wait *= 2 {
		ref, err := c.named(ctx, name, createdFrom(since))
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

// lastYear is beyond every date of the API (RFC 3339 has four digits).
const lastYear = 9999

// Find implements engine.KeyManager. Names can't be asked for: a search covers
// at most 5,000 keys, and an instance has few aliases (Key Protect API v2, list
// keys; limits). A unique identifier of version 7 says when its key was made;
// the key of another, or one that is not found so, is looked for among all.
func (c *Client) Find(ctx context.Context, id kmip.ObjectID) (engine.KeyRef, error) {
	name := standardKeyName(id)
	if u, err := uuid.Parse(string(id)); err == nil && u.Version() == 7 {
		made := time.Unix(u.Time().UnixTime())
		// Such a time reaches beyond the dates that the API knows. One that seems
		// to come still is asked for: it is our clock that may be wrong.
		if made.Year() < lastYear {
			ref, err := c.named(ctx, name, createdFrom(made)+" "+createdTo(made))
			if ref != "" || err != nil {
				return ref, err
			}
		}
	}
	ref, err := c.indexed(ctx, name)
	if ref == "" && err == nil {
		err = fault.New(fault.NotFound, "The key manager has no standard key for this object.")
	}
	return ref, err
}

// FindSince implements engine.KeyManager.
func (c *Client) FindSince(ctx context.Context, id kmip.ObjectID, since time.Time) ([]engine.KeyRef, error) {
	var refs []engine.KeyRef
	name := standardKeyName(id)
	err := c.list(ctx, false, createdFrom(since), func(k key) {
		if k.Name == name && k.State != stateDestroyed {
			refs = append(refs, engine.KeyRef(k.ID))
		}
	})
	return refs, err
}

// createdFrom and createdTo are filters for keys created around a time of our
// clock.
func createdFrom(t time.Time) string { return `creationDate=gte:"` + date(t.Add(-clocksDiffer)) + `"` }

func createdTo(t time.Time) string { return `creationDate=lte:"` + date(t.Add(clocksDiffer)) + `"` }

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// named returns the oldest standard key of that exact name that the filter
// leaves, or "" without one. Names are not unique.
func (c *Client) named(ctx context.Context, name, filter string) (ref engine.KeyRef, err error) {
	err = c.list(ctx, false, filter, func(k key) {
		if ref == "" && k.Name == name {
			ref = engine.KeyRef(k.ID)
		}
	})
	if err != nil {
		return "", err
	}
	return ref, nil
}

// list shows all keys in the tenant's key ring, or in any ring, that the
// filter leaves, in any state, oldest first; among keys of the same second the
// id decides (Key Protect API v2, list keys). There is no link to the next
// page: each one but the first begins with the last key of the page before it,
// which shows that none was purged in between.
func (c *Client) list(ctx context.Context, anyRing bool, filter string, show func(key)) error {
	query := url.Values{"limit": {strconv.Itoa(pageSize)}, "state": {allStates}, "sort": {"creationDate,id"}}
	if filter != "" {
		query.Set("filter", filter)
	}
	last := ""
	for seen := 0; seen < maxListed; {
		query.Set("offset", strconv.Itoa(max(0, seen-1)))
		a, err := c.call(ctx, request{
			action: "list", method: http.MethodGet, path: "/keys", query: query, about: collection, anyRing: anyRing, limit: maxList,
		})
		if err != nil {
			return err
		}
		var page keys
		if json.Unmarshal(a.content, &page) != nil {
			return a.unreadable()
		}
		full := len(page.Resources) >= pageSize
		if last != "" {
			if len(page.Resources) == 0 || page.Resources[0].ID != last {
				return fault.Wrap(fault.Unavailable, publicUnavailable, a.failure(errors.New("the list changed while it was read")))
			}
			page.Resources = page.Resources[1:]
		}
		for _, k := range page.Resources {
			if uuid.Validate(k.ID) == nil {
				show(k)
			}
			last = k.ID
		}
		if seen += len(page.Resources); !full {
			return nil
		}
	}
	return fault.Wrap(fault.Unavailable, publicUnavailable, fmt.Errorf("list: more than %d keys", maxListed))
}

// index is the key manager's standard keys by name, as they were when the
// whole list was read.
type index struct {
	reading singleflight.Group

	mu    sync.Mutex
	refs  map[string]engine.KeyRef // the oldest of each name; nil before the first reading
	asked time.Time                // when the reading began
}

// indexed returns the standard key of a name, or "". It reads the list when
// the last reading does not hold the name and is no longer fresh.
func (c *Client) indexed(ctx context.Context, name string) (engine.KeyRef, error) {
	refs, fresh := c.lastReading()
	if ref := refs[name]; ref != "" || fresh {
		return ref, nil
	}
	reading := c.index.reading.DoChan("", func() (any, error) {
		if refs, fresh := c.lastReading(); fresh {
			return refs, nil
		}
		return c.readIndex(context.WithoutCancel(ctx)) // it belongs to no caller
	})
	select {
	case r := <-reading:
		refs, _ := r.Val.(map[string]engine.KeyRef)
		return refs[name], r.Err
	case <-ctx.Done():
		return "", fault.Wrap(fault.Unavailable, publicUnavailable, ctx.Err())
	}
}

func (c *Client) lastReading() (refs map[string]engine.KeyRef, fresh bool) {
	c.index.mu.Lock()
	defer c.index.mu.Unlock()
	return c.index.refs, c.index.refs != nil && c.now().Sub(c.index.asked) < readEvery
}

// readIndex reads the names of all standard keys.
func (c *Client) readIndex(ctx context.Context) (map[string]engine.KeyRef, error) {
	asked := c.now()
	all, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	refs := make(map[string]engine.KeyRef, len(all))
	for _, k := range all {
		if name := standardKeyName(k.Object); refs[name] == "" {
			refs[name] = k.Ref
		}
	}
	c.index.mu.Lock()
	defer c.index.mu.Unlock()
	c.index.refs, c.index.asked = refs, asked
	return refs, nil
}

// List implements engine.KeyManager. It reads all key rings if we may: the
// customer may have moved some keys.
func (c *Client) List(ctx context.Context) ([]engine.StoredKey, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	var all []engine.StoredKey
	read := func(anyRing bool) error {
		all = nil
		return c.list(ctx, anyRing, "", func(k key) {
			if id, ours := strings.CutPrefix(k.Name, engine.StandardKeyPrefix); ours {
				all = append(all, engine.StoredKey{
					Object: kmip.ObjectID(id), Ref: engine.KeyRef(k.ID), Deleted: k.Deleted || k.State == stateDestroyed,
				})
			}
		})
	}
	err := read(true)
	if errors.Is(err, engine.ErrDenied) {
		err = read(false)
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}
