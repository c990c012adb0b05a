package emulator

import (
	"context"
	"errors"
	"net/http"

	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/kms"
)

var pathParam = jsonhttp.PathParam

// keyProtectHandler serves the Key Protect API v2 to the instances of one service.
func (e *Emulator) keyProtectHandler(service string) http.Handler {
	api := kms.New(service, kms.Config{
		DB: e.store.db, Now: e.now, Log: e.log,
		Caller:   e.keyProtectCaller,
		Instance: keyProtectInstance,
		May:      mayAtKeyProtect,
	})
	return e.calls.record(service, e.now)(api)
}

func (e *Emulator) keyProtectCaller(r *http.Request) (string, error) {
	by, err := e.signer.caller(r)
	if errors.Is(err, errTokenUnreadable) {
		return "", kms.ErrTokenUnreadable
	}
	if err == nil {
		setCaller(r, by)
	}
	return by, err
}

func keyProtectInstance(tx *bbolt.Tx, guid string) (kms.Instance, error) {
	in, err := load[instance]((&txn{tx}).bucket(bucketInstances), guid)
	if errors.Is(err, errNoRecord) {
		return kms.Instance{}, kms.ErrNoInstance
	}
	return kms.Instance{GUID: in.GUID, Service: in.Service, Account: in.Account, Region: in.Region}, err
}

// mayAtKeyProtect decides by the roles on the instance; they are about all of its key rings and keys.
func mayAtKeyProtect(_ context.Context, tx *bbolt.Tx, q kms.Access) (bool, error) {
	who, err := load[principal]((&txn{tx}).bucket(bucketPrincipals), q.Caller)
	if errors.Is(err, errNoRecord) {
		return false, nil
	}
	return err == nil && who.may(action(q.Action), instance{Service: q.Instance.Service, GUID: q.Instance.GUID}), err
}
