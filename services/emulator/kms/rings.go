package kms

import (
	"errors"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// Limits of key rings (Key Protect API v2, key rings; the characters are taken from IBM's samples).
const (
	maxRings        = 50 // of an instance, without the default one
	defaultRingPage = 100
)

var ringPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{2,100}$`)

type keyRing struct {
	ID        string    `json:"id"`
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

type keyRingView struct {
	ID           string `json:"id"`
	CreationDate string `json:"creationDate,omitempty"`
	CreatedBy    string `json:"createdBy,omitempty"`
}

// ringExists is errRingNotFound unless there is such a key ring.
func (c *call) ringExists(id string) error {
	if id == defaultRing {
		return nil
	}
	_, err := load[keyRing](c, bucketRings, id)
	if errors.Is(err, records.ErrNone) {
		return errRingNotFound
	}
	return err
}

// listRings shows the default ring, of which only the id is known, and then the others.
func (c *call) listRings() (answer, error) {
	limit, offset, err := c.page(defaultRingPage)
	if err != nil {
		return answer{}, err
	}
	views := []keyRingView{{ID: defaultRing}}
	err = each(c, bucketRings, func(r keyRing) error {
		views = append(views, keyRingView{r.ID, date(r.Created), r.CreatedBy})
		return nil
	})
	body := collection("key_ring", slicePage(views, limit, offset))
	c.addTotal(&body.Metadata, len(views))
	return answer{status: http.StatusOK, body: body}, err
}

// createRing makes a key ring. Hyper Protect Crypto Services has the default one alone here.
func (c *call) createRing() (answer, error) {
	if c.in.Service == HPCS {
		return answer{}, errRingFeature
	}
	id := c.param("ring")
	if id == defaultRing || !ringPattern.MatchString(id) {
		return answer{}, fieldError("id", "A key ring's id has 2 to 100 of the characters A-Z a-z 0-9 _ - and is not default.")
	}
	switch err := c.ringExists(id); {
	case err == nil:
		return answer{}, errRingExists
	case !errors.Is(err, errRingNotFound):
		return answer{}, err
	}
	stored := 0
	if err := each(c, bucketRings, func(keyRing) error { stored++; return nil }); err != nil {
		return answer{}, err
	}
	if stored >= maxRings {
		return answer{}, errRingQuota
	}
	return answer{status: http.StatusCreated}, c.put(bucketRings, id, keyRing{id, c.now, c.by})
}

// deleteRing removes a key ring that holds no key, or with force one that holds deleted keys alone:
// these go to the default key ring.
func (c *call) deleteRing() (answer, error) {
	force, err := c.flag("force")
	if err != nil {
		return answer{}, err
	}
	id := c.param("ring")
	if id == defaultRing {
		return answer{}, fieldError("id", "The default key ring stays.")
	}
	if err := c.ringExists(id); err != nil {
		return answer{}, err
	}
	var held []key
	err = each(c, bucketKeys, func(k key) error {
		if k.Ring == id && !k.purged(c.now) {
			held = append(held, k)
		}
		return nil
	})
	switch {
	case err != nil:
		return answer{}, err
	case slices.ContainsFunc(held, func(k key) bool { return k.State != stateDestroyed }):
		return answer{}, errRingKeys
	case len(held) > 0 && !force:
		return answer{}, errRingNotEmpty
	}
	for _, k := range held {
		k.Ring = defaultRing
		if err := c.save(k); err != nil {
			return answer{}, err
		}
	}
	return answer{status: http.StatusNoContent}, c.drop(bucketRings, id)
}
