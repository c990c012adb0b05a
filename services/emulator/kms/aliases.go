package kms

import (
	"errors"
	"net/http"
	"regexp"
	"slices"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// Rules of aliases (Key Protect API v2, create an alias). The limit of an instance is not held: IBM's
// pages do not agree on it.
const maxAliases = 5 // of a key

var (
	aliasPattern  = regexp.MustCompile(`^[A-Za-z0-9_-]{2,90}$`)
	reservedNames = []string{
		"allowed_ip", "key", "keys", "metadata", "policy", "policies", "registration",
		"registrations", "ring", "rings", "rotate", "wrap", "unwrap", "rewrap", "version", "versions",
	}
)

// aliasOwner is the id of the key that has an alias, or empty.
func (c *call) aliasOwner(alias string) string {
	b := c.bucket(bucketAliases)
	if b == nil {
		return ""
	}
	return string(b.Get([]byte(alias)))
}

// takeAliases gives the key its aliases, all or none.
func (c *call) takeAliases(k key) error {
	if len(k.Aliases) > maxAliases {
		return fieldError("aliases", "A key has at most 5 aliases.")
	}
	for _, a := range k.Aliases {
		if _, err := uuid.Parse(a); err == nil || !aliasPattern.MatchString(a) || slices.Contains(reservedNames, a) {
			return fieldError("aliases", "An alias has 2 to 90 of the characters A-Z a-z 0-9 _ - and is neither a UUID nor a reserved word.")
		}
		switch owner := c.aliasOwner(a); owner {
		case "":
		case k.ID:
			continue
		default:
			if err := c.freeAlias(owner); err != nil {
				return err
			}
		}
		b, err := c.grown(bucketAliases)
		if err != nil {
			return err
		}
		if err := b.Put([]byte(a), []byte(k.ID)); err != nil {
			return err
		}
	}
	return nil
}

// freeAlias is errAliasTaken unless the service has purged the key that has the alias.
func (c *call) freeAlias(owner string) error {
	k, err := load[key](c, bucketKeys, owner)
	if errors.Is(err, records.ErrNone) || err == nil && !k.purged(c.now) {
		return errAliasTaken
	}
	if err != nil {
		return err
	}
	return c.forget(k)
}

type aliasView struct {
	KeyID        string `json:"keyId"`
	Alias        string `json:"alias"`
	CreatedBy    string `json:"createdBy"`
	CreationDate string `json:"creationDate"`
}

func (c *call) createAlias() (answer, error) {
	k, alias := c.key, c.param("alias")
	if err := k.allows("alias", c.now); err != nil {
		return answer{}, err
	}
	if slices.Contains(k.Aliases, alias) {
		return answer{}, errAliasTaken
	}
	k.Aliases, k.Updated = append(slices.Clip(k.Aliases), alias), c.now
	if err := c.takeAliases(k); err != nil {
		return answer{}, err
	}
	view := aliasView{k.ID, alias, c.by, date(c.now)}
	return answer{status: http.StatusCreated, body: collection("alias", []aliasView{view})}, c.save(k)
}

func (c *call) deleteAlias() (answer, error) {
	k, alias := c.key, c.param("alias")
	at := slices.Index(k.Aliases, alias)
	if at < 0 {
		return answer{}, errAliasNotFound
	}
	k.Aliases, k.Updated = slices.Delete(slices.Clone(k.Aliases), at, at+1), c.now
	return answer{status: http.StatusNoContent}, errors.Join(c.drop(bucketAliases, alias), c.save(k))
}
