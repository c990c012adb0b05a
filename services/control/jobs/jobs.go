// Package jobs does what nobody waits for: it checks key managers, compares
// them with the ledger, settles objects that clients began, moves keys to
// another root key, renews server certificates, and removes client certificates
// that were replaced.
package jobs

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Worker works jobs. Any number of control planes do it side by side; each job
// may be done twice, and begun again after a kill.
type Worker struct {
	Instances *pg.Instances
	Ledger    *pg.Ledger
	// Open reaches a tenant's key manager.
	Open func(*tenant.Tenant) (engine.KeyManager, error)
	// Certificate signs a server certificate for a host name and returns it in
	// DER; nil: none can be signed here.
	Certificate   func(hostName string) (der []byte, notAfter time.Time, err error)
	Findings      *prometheus.CounterVec
	CheckDeadline time.Duration // the key manager's answer to all of a check
	Now           func() time.Time
	Log           *slog.Logger
}

// Handle gives the queue its workers.
func (w *Worker) Handle(queue *pg.Jobs) {
	pg.Handle(queue, w.checkKeyManager)
	pg.Handle(queue, w.settleObjects)
	pg.Handle(queue, w.renewCertificates)
	pg.Handle(queue, w.moveKeys)
	pg.Handle(queue, w.removeReplaced)
	pg.Handle(queue, w.reconcile)
}

// subject returns a job's instance, unless there is none with a key manager
// any more.
func (w *Worker) subject(ctx context.Context, s pg.Subject) (i pg.Instance, there bool, err error) {
	i, err = w.Instances.Get(ctx, s.Account, s.Instance)
	if fault.KindOf(err) == fault.NotFound {
		return i, false, nil
	}
	return i, i.KeyManager != nil && i.Status != pg.Removing, err
}

// reacher reaches the key managers, present and former, in which a tenant's keys
// lie, each with tokens that serve for all of its keys.
func (w *Worker) reacher(t *tenant.Tenant) func(engine.Location) (engine.KeyManager, error) {
	reached := make(map[[2]string]engine.KeyManager)
	return func(l engine.Location) (engine.KeyManager, error) {
		there := t.At(l.KeyManagerCRN, l.RootKeyID)
		place := [2]string{there.KeyManager.InstanceCRN, there.KeyManager.RootKeyID}
		if reached[place] == nil {
			keys, err := w.Open(there)
			if err != nil {
				return nil, err
			}
			reached[place] = keys
		}
		return reached[place], nil
	}
}

// checkKeyManager finds out whether an instance's key manager still does what
// the service needs, and records the conditions. That it doesn't is no failure
// of the job.
func (w *Worker) checkKeyManager(ctx context.Context, job pg.CheckKeyManager) error {
	i, there, err := w.subject(ctx, job.Subject)
	if !there || err != nil {
		return err
	}
	thorough, err := w.Instances.NeedsThoroughCheck(ctx, i.Account, i.ID)
	if err != nil {
		return err
	}
	keys, ready := w.Open(i.Tenant(nil))
	var destroy error
	if ready == nil {
		limited, cancel := context.WithTimeout(ctx, w.CheckDeadline)
		defer cancel()
		if ready = probe(limited, keys); ready == nil && thorough {
			destroy = mayDelete(limited, keys)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err() // ours was the failure, perhaps
	}
	if ready != nil {
		w.Log.WarnContext(ctx, "a key manager does not do what is needed", "tenant", i.ID, "error", ready)
	}
	return w.Instances.SetConditions(ctx, i.Account, i.ID, *i.KeyManager, Conditions(*i.KeyManager, ready, destroy))
}

// probe wraps and unwraps once, and asks for a standard key that does not
// exist: who may read is told so, who may not is refused before. Nothing is
// left in the key manager, where each key would be seen, listed and paid for.
func probe(ctx context.Context, keys engine.KeyManager) error {
	id := kmip.ObjectID("check_" + uuid.NewString())
	binding := engine.Binding{Tenant: "check", Object: id}
	sent := secret.Random(32)
	defer sent.Wipe()
	wrapped, err := keys.Wrap(ctx, sent, binding)
	if err != nil {
		return err
	}
	got, err := keys.Unwrap(ctx, wrapped, binding)
	if err != nil {
		return err
	}
	defer got.Wipe()
	if !got.Equal(sent) {
		return fault.New(fault.Corrupt, "The key manager unwrapped other bytes than were wrapped.")
	}
	_, err = keys.Load(ctx, id, engine.KeyRef(uuid.NewString()))
	if errors.Is(err, engine.ErrGone) {
		return nil
	}
	return err
}

// mayDelete finds out in the same way whether standard keys could be deleted.
func mayDelete(ctx context.Context, keys engine.KeyManager) error {
	return keys.Delete(ctx, engine.KeyRef(uuid.NewString()))
}

// settleObjects finishes what clients began and nodes could not end: a Create
// whose standard key exists becomes a key, one without leaves nothing, and a
// Destroy is carried through.
func (w *Worker) settleObjects(ctx context.Context, job pg.SettleObjects) error {
	i, there, err := w.subject(ctx, job.Subject)
	if !there || err != nil {
		return err
	}
	move, _, err := w.Instances.GetMove(ctx, i.Account, i.ID)
	if err != nil {
		return err
	}
	at := w.reacher(i.Tenant(move.Former))
	rows, err := w.Ledger.ListUnsettled(ctx, i.ID)
	if err != nil || len(rows) == 0 {
		return err
	}
	var failed []error
	for _, r := range rows {
		settle := w.settlePending
		if r.Phase == engine.Destroying {
			settle = w.settleDestroying
		}
		keys, err := at(r.Location)
		if err == nil {
			err = settle(ctx, keys, i.ID, r)
		}
		if err != nil && !errors.Is(err, engine.ErrConflict) {
			failed = append(failed, fmt.Errorf("%s: %w", r.Object.ID, err))
		}
	}
	if len(failed) > 0 {
		return errors.Join(failed...)
	}
	return pg.Again{}
}

// settlePending decides what became of a Create that was never answered.
func (w *Worker) settlePending(ctx context.Context, keys engine.KeyManager, t tenant.ID, r engine.Record) error {
	ref, err := keys.Find(ctx, r.Object.ID)
	var stored engine.Envelope
	if err == nil {
		stored, err = keys.Load(ctx, r.Object.ID, ref)
	}
	switch {
	case errors.Is(err, engine.ErrNotFound), errors.Is(err, engine.ErrGone):
		return w.Ledger.Drop(ctx, t, r)
	case err != nil:
		return err
	case stored.Tenant != t || string(stored.Object.Digest) != string(r.Object.Digest):
		return fault.New(fault.Corrupt, "The standard key holds another key than the ledger's row.")
	}
	w.Log.WarnContext(ctx, "a key was made that no client was told of", "tenant", t, "unique_identifier", r.Object.ID)
	return w.Ledger.Claim(ctx, t, r, ref)
}

// settleDestroying deletes the standard key of an object that a client asked to
// destroy.
func (w *Worker) settleDestroying(ctx context.Context, keys engine.KeyManager, t tenant.ID, r engine.Record) error {
	if err := keys.Delete(ctx, r.KeyRef); err != nil {
		return err
	}
	return w.Ledger.FinishDestroy(ctx, t, r)
}

// renewBefore is how long before its end a server certificate is signed again;
// take_due_work has the same number.
const renewBefore = 60 * 24 * time.Hour

// renewCertificates signs the server certificates of an instance's own host
// names again that end soon, over the same key, so that nodes need nothing new.
func (w *Worker) renewCertificates(ctx context.Context, job pg.RenewCertificates) error {
	i, there, err := w.subject(ctx, job.Subject)
	if !there || err != nil {
		return err
	}
	endpoints, err := w.Instances.ListEndpoints(ctx, i.Account, i.ID)
	for _, e := range endpoints {
		if e.ServerCertificate == nil {
			continue
		}
		leaf, parseErr := x509.ParseCertificate(e.ServerCertificate)
		if parseErr == nil && leaf.NotAfter.Sub(w.Now()) > renewBefore {
			err = errors.Join(err, w.Instances.NoteCertificate(ctx, i.Account, i.ID, e, leaf.NotAfter))
			continue
		}
		if w.Certificate == nil {
			return errors.New("KMIP_DEDICATED_ENDPOINTS is not set: a server certificate can't be signed again")
		}
		der, notAfter, signErr := w.Certificate(e.HostName)
		if signErr != nil {
			return signErr
		}
		w.Log.InfoContext(ctx, "server certificate renewed", "tenant", i.ID, "host_name", e.HostName, "not_after", notAfter)
		err = errors.Join(err, w.Instances.RenewCertificate(ctx, i.Account, i.ID, e, der, notAfter))
	}
	return err
}

// removeReplaced removes client certificates that nobody uses since vCenter has
// their successors.
func (w *Worker) removeReplaced(ctx context.Context, job pg.RemoveReplaced) error {
	removed, err := w.Instances.RemoveReplaced(ctx, job.Account, job.Instance)
	if errors.Is(err, pg.ErrNotFound) || errors.Is(err, pg.ErrRemoved) {
		return nil
	}
	for _, c := range removed {
		w.Log.InfoContext(ctx, "replaced client certificate removed", "tenant", job.Instance, "client_certificate_id", c.ID, "replaced_by", c.ReplacedBy)
	}
	return err
}
