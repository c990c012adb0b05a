package kmip_test

import (
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 999, time.UTC)

func template(more ...kmip.Attribute) []kmip.Attribute {
	return append([]kmip.Attribute{
		{Name: kmip.AttributeCryptographicAlgorithm, Value: kmip.Enum(kmip.AES)},
		{Name: kmip.AttributeCryptographicUsageMask, Value: kmip.Int(12)},
		{Name: kmip.AttributeCryptographicLength, Value: kmip.Int(256)},
	}, more...)
}

func TestActivationDateMovesTheState(t *testing.T) {
	at := func(d time.Duration) kmip.Attribute {
		return kmip.Attribute{Name: kmip.AttributeActivationDate, Value: kmip.Time(now.Add(d))}
	}
	past, err := kmip.NewObject(kmip.SymmetricKey, template(at(-time.Hour)), now)
	if err != nil || past.Current(now) != kmip.Active {
		t.Errorf("activation date passed: %s, %v", past.Current(now), err)
	}
	future, err := kmip.NewObject(kmip.SymmetricKey, template(at(time.Hour)), now)
	if err != nil || future.Current(now) != kmip.PreActive || future.Current(now.Add(2*time.Hour)) != kmip.Active {
		t.Errorf("activation date ahead: %s then %s, %v", future.Current(now), future.Current(now.Add(2*time.Hour)), err)
	}
	if err := future.Destroy(now.Add(2 * time.Hour)); fault.KindOf(err) != fault.Denied {
		t.Errorf("Destroy after the activation date: %v, want Denied", err)
	}
}

// TestRevocationTable tries every reason in every state (KMIP 1.4, 3.22).
func TestRevocationTable(t *testing.T) {
	const deactivate, compromise = kmip.RevocationReason(1), kmip.KeyCompromise
	for _, c := range []struct {
		from   kmip.State
		reason kmip.RevocationReason
		to     kmip.State // 0: refused
	}{
		{kmip.PreActive, deactivate, 0},
		{kmip.PreActive, compromise, kmip.Compromised},
		{kmip.Active, deactivate, kmip.Deactivated},
		{kmip.Active, compromise, kmip.Compromised},
		{kmip.Deactivated, deactivate, 0},
		{kmip.Deactivated, compromise, kmip.Compromised},
		{kmip.Compromised, deactivate, 0},
		{kmip.Compromised, compromise, 0},
		{kmip.Destroyed, deactivate, 0},
		{kmip.Destroyed, compromise, kmip.DestroyedCompromised},
		{kmip.DestroyedCompromised, deactivate, 0},
		{kmip.DestroyedCompromised, compromise, 0},
	} {
		o := kmip.Object{State: c.from}
		err := o.Revoke(kmip.Revocation{Reason: c.reason}, now.Add(-time.Hour), now)
		switch {
		case c.to == 0 && (fault.KindOf(err) != fault.Illegal || o.State != c.from):
			t.Errorf("%s, reason %d: now %s, %v, want Illegal", c.from, c.reason, o.State, err)
		case c.to != 0 && (err != nil || o.State != c.to):
			t.Errorf("%s, reason %d: now %s, %v, want %s", c.from, c.reason, o.State, err, c.to)
		}
	}
	due := kmip.Object{State: kmip.Active, DeactivationDate: now.Add(-time.Second)}
	if got := due.Current(now); got != kmip.Deactivated {
		t.Errorf("after the Deactivation Date: %s", got)
	}
	early := template(kmip.Attribute{Name: kmip.AttributeActivationDate, Value: kmip.Time(now)},
		kmip.Attribute{Name: kmip.AttributeDeactivationDate, Value: kmip.Time(now.Add(-time.Hour))})
	if _, err := kmip.NewObject(kmip.SymmetricKey, early, now); fault.KindOf(err) != fault.Invalid {
		t.Errorf("deactivation before activation: %v", err)
	}
}
