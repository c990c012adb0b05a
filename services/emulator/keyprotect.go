package emulator

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/iam"
	"github.com/kmip-for-vmware/kmip/services/emulator/iam/access"
	"github.com/kmip-for-vmware/kmip/services/emulator/kms"
	"github.com/kmip-for-vmware/kmip/services/emulator/knobs"
	"github.com/kmip-for-vmware/kmip/services/emulator/resourcecontroller"
)

// keyProtectHandler serves the Key Protect API v2 to the instances of one service.
func (e *Emulator) keyProtectHandler(service string) http.Handler {
	return kms.New(service, kms.Config{
		DB: e.db, Now: e.now, Log: e.log,
		Caller:   e.keyProtectCaller,
		Instance: keyProtectInstance,
		May:      e.mayAtKeyProtect,
	})
}

func (e *Emulator) keyProtectCaller(r *http.Request) (string, error) {
	by, err := e.iam.Caller(r)
	if errors.Is(err, iam.ErrTokenUnreadable) {
		return "", kms.ErrTokenUnreadable
	}
	return by, err
}

func keyProtectInstance(tx *bbolt.Tx, guid string) (kms.Instance, error) {
	in, err := resourcecontroller.Find(tx, guid)
	if errors.Is(err, resourcecontroller.ErrNoInstance) {
		return kms.Instance{}, kms.ErrNoInstance
	}
	return kms.Instance{GUID: in.GUID, Service: in.Service, Account: in.Account, Region: in.Region, Uninitialized: in.Uninitialized}, err
}

// mayAtKeyProtect decides by policies, unless a knob withdraws the permission.
func (e *Emulator) mayAtKeyProtect(ctx context.Context, _ *bbolt.Tx, q kms.Access) (bool, error) {
	if knobs.Withdrawn(ctx) {
		return false, nil
	}
	on := access.OnInstance(q.Instance.Account, q.Instance.Service, q.Instance.Region, q.Instance.GUID)
	on["resourceGroupId"] = resourcecontroller.ResourceGroup(q.Instance.Account)
	if q.KeyRing != "" {
		on["keyRing"] = q.KeyRing
	}
	if q.Key != "" {
		on["resourceType"], on["resource"] = "key", q.Key
	}
	return e.iam.May(q.Caller, q.Instance.Service+"."+q.Action, on), nil
}

// resourceController serves the resource controller. A Key Protect instance that holds keys, and a
// Hyper Protect Crypto Services instance whose crypto units are initialized, are not deleted.
func (e *Emulator) resourceController() http.Handler {
	return resourcecontroller.New(resourcecontroller.Config{
		DB: e.db, Now: e.now, Log: e.log, Caller: e.iam.Caller, May: e.iam.May,
		Keeps: func(tx *bbolt.Tx, in resourcecontroller.Instance) (string, error) {
			if in.Service == resourcecontroller.HPCS && !in.Uninitialized {
				return "The crypto units of the instance are not zeroized", nil
			}
			n, err := kms.Keys(tx, in.GUID)
			if err != nil || n == 0 {
				return "", err
			}
			return fmt.Sprintf("CONTAINS_ACTIVE_KEYS: Remove all keys before de-provisioning: Instance contains %d active keys", n), nil
		},
	})
}
