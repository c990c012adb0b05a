package pg

import (
	"errors"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// A credential becomes part of its own tenant's configuration, is replaced and
// removed, each with a revision, and another account can't set one.
func TestCredential(t *testing.T) {
	f := newFeed(t)
	mine, theirs := newInstance(t, f.instances, account, "mine"), newInstance(t, f.instances, stranger, "theirs")
	held := func() (*tenant.Credential, *tenant.Credential, int64) {
		t.Helper()
		s, quarantined := f.snapshot(t)
		if len(quarantined) != 0 {
			t.Fatalf("quarantined: %v", quarantined)
		}
		return s.Tenant(mine.ID).Credential, s.Tenant(theirs.ID).Credential, s.Revision().Number
	}
	_, _, before := held()
	for n, password := range []string{"one", "two"} {
		c := tenant.NewCredential("vcenter", []byte(password))
		changed, err := f.instances.SetCredential(t.Context(), account, mine.ID, &c)
		if err != nil || changed.UserName != "vcenter" {
			t.Fatal(changed.UserName, err)
		}
		got, other, revision := held()
		if got == nil || *got != c || other != nil || revision != before+int64(n)+1 {
			t.Errorf("%s: %v and the other tenant's %v at revision %d, before %d", password, got, other, revision, before)
		}
	}
	if _, err := f.instances.SetCredential(t.Context(), stranger, mine.ID, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("another account's change: %v", err)
	}
	if _, err := f.instances.SetCredential(t.Context(), account, mine.ID, nil); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := held(); got != nil {
		t.Errorf("removed: %v", got)
	}
	if _, err := f.instances.Delete(t.Context(), account, mine.ID, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := f.instances.SetCredential(t.Context(), account, mine.ID, nil); !errors.Is(err, ErrRemoved) {
		t.Errorf("of a deleted instance: %v", err)
	}
}
