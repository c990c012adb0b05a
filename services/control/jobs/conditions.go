package jobs

import (
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Conditions says in conditions what a check of a key manager has found:
// whether it is ready, and if so whether it would delete standard keys.
func Conditions(k tenant.KeyManager, ready, destroy error) []pg.Condition {
	all := []pg.Condition{conditionOf(pg.KeyManagerReady, ready, "The key manager does what making and reading keys needs.")}
	if ready != nil && destroy == nil {
		all = append(all, pg.Condition{
			Type: pg.DestroyPermitted, Status: pg.Unknown, Reason: "not_tried", Message: "This shows when the key manager is ready.",
		})
	} else {
		all = append(all, conditionOf(pg.DestroyPermitted, destroy, "The key manager deletes standard keys when a client destroys their objects."))
	}
	if len(k.SealedAPIKey) > 0 {
		return all
	}
	authorization := pg.Condition{
		Type: pg.ServiceAuthorization, Status: pg.True, Reason: "ready", Message: "The key manager lets this instance in under its service authorization.",
	}
	switch keyprotect.CauseOf(ready) {
	case keyprotect.NotPermitted:
		authorization.Status, authorization.Reason = pg.False, "not_permitted"
		authorization.Message = "The service authorization from this instance to its key manager is missing, or lacks a role. Create it with the roles Viewer and VMware KMIP Manager; nothing else is to be done then."
	case keyprotect.NoAnswer, keyprotect.APIKeyRefused:
		if ready != nil {
			authorization.Status, authorization.Reason, authorization.Message = pg.Unknown, "no_answer", "Whether the service authorization exists could not be found out. This is tried again."
		}
	default: // the key manager has let us in
	}
	return append(all, authorization)
}

// conditionOf makes a condition of how an attempt went.
func conditionOf(t pg.ConditionType, err error, well string) pg.Condition {
	if err == nil {
		return pg.Condition{Type: t, Status: pg.True, Reason: "ready", Message: well}
	}
	cause := keyprotect.CauseOf(err)
	c := pg.Condition{Type: t, Status: pg.False, Reason: string(cause), Message: fault.Public(err)}
	if cause == keyprotect.NoAnswer {
		c.Status = pg.Unknown
	}
	if t == pg.DestroyPermitted && cause == keyprotect.NotPermitted {
		c.Message = "The key manager does not permit to delete standard keys: keys are made and read, but a client's Destroy fails. Give the owner of the API key the service role Manager, or the service authorization its full role."
	}
	return c
}
