package kms

import (
	"crypto/rand"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
)

// Waiting times of the life cycle (Key Protect: disabling, restoring, rotating, purging keys, deleting
// keys with dual authorization). That of sync is an assumption.
const (
	settleTime     = 30 * time.Second    // between disable and enable, and delete and restore
	restoreWindow  = 30 * 24 * time.Hour // after the deletion
	purgeFrom      = 4 * time.Hour       // after the deletion
	purgeAfter     = 90 * 24 * time.Hour // the service purges: the key is gone
	rotationPause  = time.Hour           // between rotations; none before the first
	syncPause      = time.Hour           // between syncs
	deletionIntent = 7 * 24 * time.Hour  // an authorization to delete lasts
)

// keyAnswer is what a call that changed a key answers: the key, or nothing if the caller does not ask.
func (c *call) keyAnswer(k key) answer {
	if c.prefer == "representation" {
		return answer{status: http.StatusOK, body: collection("key", []keyView{c.view(k)})}
	}
	return answer{status: http.StatusNoContent}
}

// flag reads a query parameter that is true or false; absent is false.
func (c *call) flag(name string) (bool, error) {
	switch c.query.Get(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, queryError(name, "The value is true or false.")
}

// deleteKey moves a key to the destroyed state; its record stays for 90 days. Registrations stand
// against it unless force is asked for, retention even then.
func (c *call) deleteKey() (answer, error) {
	force, err := c.flag("force")
	if err != nil {
		return answer{}, err
	}
	k := c.key
	if err := k.allows("delete", c.now); err != nil {
		return answer{}, err
	}
	if k.policy(policyDualAuth).Enabled && (k.IntentBy == "" || k.IntentBy == c.by || !k.intended(c.now)) {
		return answer{}, errAuthorizations
	}
	found, retained, err := c.registered(k)
	switch {
	case err != nil:
		return answer{}, err
	case found && !force:
		return answer{}, errProtected
	case retained:
		return answer{}, errRetained
	}
	k.State, k.Deleted, k.DeletedBy, k.Updated = stateDestroyed, c.now, c.by, c.now
	k.IntentBy, k.Intent = "", time.Time{}
	return c.keyAnswer(k), c.save(k)
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
		return answer{}, errSettling
	case age >= restoreWindow:
		return answer{}, errRestoreExpired
	case !k.Expires.IsZero() && !c.now.Before(k.Expires):
		return answer{}, errKeyExpired
	}
	k.State, k.Deleted, k.DeletedBy, k.Updated = stateActive, time.Time{}, "", c.now
	return answer{status: http.StatusCreated, body: collection("key", []keyView{c.view(k)})}, c.save(k)
}

// purgeKey removes a key that was deleted four hours ago or earlier, with all that belongs to it.
func (c *call) purgeKey() (answer, error) {
	k := c.key
	if err := k.allows("purge", c.now); err != nil {
		return answer{}, err
	}
	if c.now.Sub(k.Deleted) < purgeFrom {
		return answer{}, errPurgeEarly
	}
	return c.keyAnswer(k), c.forget(k)
}

// forget removes every trace of a key.
func (c *call) forget(k key) error {
	regs, err := c.registrationsOf(k.ID)
	for _, r := range regs {
		err = errors.Join(err, c.drop(bucketRegistrations, r.id()))
	}
	for _, a := range k.Aliases {
		err = errors.Join(err, c.drop(bucketAliases, a))
	}
	return errors.Join(err, c.drop(bucketMaterial, k.ID), c.drop(bucketKeys, k.ID))
}

func (c *call) disableKey() (answer, error) {
	k, err := c.rootKey("disable")
	if err != nil {
		return answer{}, err
	}
	k.State, k.Disabled, k.Updated = stateSuspended, c.now, c.now
	return answer{status: http.StatusNoContent}, c.save(k)
}

func (c *call) enableKey() (answer, error) {
	k, err := c.rootKey("enable")
	if err != nil {
		return answer{}, err
	}
	if c.now.Sub(k.Disabled) < settleTime {
		return answer{}, errSettling
	}
	k.State, k.Disabled, k.Updated = stateActive, time.Time{}, c.now
	return answer{status: http.StatusNoContent}, c.save(k)
}

// rotateRequest is the body of rotate.
type rotateRequest struct {
	Payload *string `json:"payload"`
	sealedImport
}

// rotateKey adds a version to a root key: from the request's payload for an imported key, made here
// for a generated one.
func (c *call) rotateKey() (answer, error) {
	var req rotateRequest
	if len(c.body) > 0 {
		if err := jsonhttp.Decode(c.body, &req); err != nil {
			return answer{}, bodyError("The body is not a rotate request.")
		}
	}
	k, err := c.rootKey("rotate")
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
		if root, err = c.payload(k, *req.Payload, req.sealedImport); err != nil {
			return answer{}, err
		}
	}
	m, err := load[material](c, bucketMaterial, k.ID)
	if err != nil {
		return answer{}, err
	}
	v := keyVersion{uuid.NewString(), c.now}
	k.Versions = append(slices.Clip(k.Versions), v)
	m.Versions[v.ID] = root
	k.Rotated, k.Updated, k.Bits = c.now, c.now, 8*len(root)
	return answer{status: http.StatusNoContent}, errors.Join(c.put(bucketMaterial, k.ID, m), c.save(k))
}

// moveKey changes the key ring of a key, which is all that PATCH can do.
func (c *call) moveKey() (answer, error) {
	var req struct {
		KeyRingID string `json:"keyRingID"`
	}
	if err := jsonhttp.Decode(c.body, &req); err != nil {
		return answer{}, bodyError("The body does not hold a key ring's id alone.")
	}
	k := c.key
	if err := k.allows("patch", c.now); err != nil {
		return answer{}, err
	}
	if err := c.ringExists(req.KeyRingID); err != nil {
		return answer{}, err
	}
	k.Ring, k.Updated = req.KeyRingID, c.now
	return answer{status: http.StatusOK, body: collection("key", []keyView{c.view(k)})}, c.save(k)
}

// intended tells whether somebody has authorized the key's deletion, not too long ago.
func (k key) intended(now time.Time) bool {
	return !k.Intent.IsZero() && now.Sub(k.Intent) < deletionIntent
}

// setForDeletion is the first of two authorizations to delete a key.
func (c *call) setForDeletion() (answer, error) {
	return c.intend(c.by, c.now)
}

func (c *call) unsetForDeletion() (answer, error) {
	return c.intend("", time.Time{})
}

func (c *call) intend(by string, at time.Time) (answer, error) {
	k := c.key
	if err := k.allows("setKeyForDeletion", c.now); err != nil {
		return answer{}, err
	}
	if !k.policy(policyDualAuth).Enabled {
		return answer{}, errNotDualAuth
	}
	k.IntentBy, k.Intent, k.Updated = by, at, c.now
	return answer{status: http.StatusNoContent}, c.save(k)
}

// syncKey would tell the resources that a root key protects about its state; nothing here listens.
func (c *call) syncKey() (answer, error) {
	k, err := c.rootKey("sync")
	if err != nil {
		return answer{}, err
	}
	if !k.Synced.IsZero() && c.now.Sub(k.Synced) < syncPause {
		return answer{}, errSyncEarly
	}
	k.Synced = c.now
	return answer{status: http.StatusNoContent}, c.save(k)
}
