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
	"time"

	"github.com/google/uuid"

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
		a, err := c.call(ctx, request{
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
		if json.Unmarshal(a.content, &list) != nil {
			return "", a.unreadable()
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
