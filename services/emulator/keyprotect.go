package emulator

import (
	"context"
	"errors"
	"net/http"

	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/iam"
	"github.com/kmip-for-vmware/kmip/services/emulator/iam/access"
	"github.com/kmip-for-vmware/kmip/services/emulator/kms"
	"github.com/kmip-for-vmware/kmip/services/emulator/knobs"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// keyProtectHandler serves the Key Protect API v2 to the instances of one service.
func (e *Emulator) keyProtectHandler(service string) http.Handler {
	return kms.New(service, kms.Config{
		DB: e.store.db, Now: e.now, Log: e.log,
		Caller:   e.keyProtectCaller,
		Instance: e.keyProtectInstance,
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

func (e *Emulator) keyProtectInstance(tx *bbolt.Tx, guid string) (kms.Instance, error) {
	in, err := e.instances.Get(tx.Bucket([]byte(bucketInstances)), guid)
	if errors.Is(err, records.ErrNone) {
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
	if q.KeyRing != "" {
		on["keyRing"] = q.KeyRing
	}
	if q.Key != "" {
		on["resourceType"], on["resource"] = "key", q.Key
	}
	return e.iam.May(q.Caller, q.Instance.Service+"."+q.Action, on), nil
}
