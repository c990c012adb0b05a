package pg

import (
	"errors"
	"reflect"
	"testing"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

func TestInstanceLife(t *testing.T) {
	s := NewInstances(openAs(t, pgtest.Database(t), "kmip_control"))
	i := newInstance(t, s, account, "first")
	if i.CreatedAt.IsZero() || !i.UpdatedAt.Equal(i.CreatedAt) || i.Status != Inactive || !i.Shared || i.KeyManager != nil {
		t.Errorf("created: %+v", i)
	}
	if got, err := s.Get(t.Context(), account, i.ID); err != nil || !reflect.DeepEqual(got, i) {
		t.Errorf("Get: %+v, %v; want %+v", got, err, i)
	}

	for range 2 { // set and replaced
		k := newKeyManager()
		changed, err := s.SetKeyManager(t.Context(), account, i.ID, k, nil)
		if err != nil {
			t.Fatal(err)
		}
		if changed.Status != Installed || !reflect.DeepEqual(*changed.KeyManager, k) || !changed.UpdatedAt.After(i.UpdatedAt) {
			t.Errorf("after SetKeyManager: %+v", changed)
		}
	}

	if _, err := s.Create(t.Context(), Instance{ID: tenant.ID(uuid.NewString()), Account: account, Name: "first", Status: Inactive}); !errors.Is(err, ErrNameTaken) || fault.KindOf(err) != fault.Exists {
		t.Errorf("a second instance of the name: %v, want ErrNameTaken", err)
	}
	newInstance(t, s, stranger, "first")
	if err := s.Delete(t.Context(), account, i.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), account, i.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get of a deleted instance: %v, want ErrNotFound", err)
	}
	again := newInstance(t, s, account, "first")
	second := newInstance(t, s, account, "second")
	all, err := s.List(t.Context(), account)
	if err != nil || !reflect.DeepEqual(all, []Instance{again, second}) {
		t.Errorf("List: %+v, %v", all, err)
	}
}

// A foreign instance, an unknown one and a deleted one look alike to every
// method.
func TestForeignInstanceIsNotFound(t *testing.T) {
	s := NewInstances(openAs(t, pgtest.Database(t), "kmip_control"))
	foreign := newInstance(t, s, stranger, "theirs")
	certificate := addCertificate(t, s, foreign, newCertificate("vc"))
	deleted := newInstance(t, s, account, "deleted")
	if err := s.Delete(t.Context(), account, deleted.ID); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, id := range []tenant.ID{foreign.ID, deleted.ID, tenant.ID(uuid.NewString()), "not a uuid", ""} {
		_, get := s.Get(ctx, account, id)
		_, set := s.SetKeyManager(ctx, account, id, newKeyManager(), nil)
		_, add := s.AddCertificate(ctx, account, id, newCertificate("x"))
		_, list := s.ListCertificates(ctx, account, id)
		for method, err := range map[string]error{
			"Get": get, "SetKeyManager": set, "AddCertificate": add, "ListCertificates": list,
			"Delete": s.Delete(ctx, account, id), "DeleteCertificate": s.DeleteCertificate(ctx, account, id, certificate.ID),
		} {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("%s of %q: %v, want ErrNotFound", method, id, err)
			}
		}
	}
	if all, err := s.ListCertificates(ctx, stranger, foreign.ID); err != nil || len(all) != 1 {
		t.Errorf("the foreign instance has now %d certificates, %v", len(all), err)
	}
}

func TestCertificates(t *testing.T) {
	s := NewInstances(openAs(t, pgtest.Database(t), "kmip_control"))
	i := newInstance(t, s, account, "one")
	c := newCertificate("vc-1")
	added := addCertificate(t, s, i, c)
	if added.ID == "" || added.CreatedAt.IsZero() || added.Fingerprint != tenant.FingerprintOf(c.DER) ||
		!added.NotBefore.Equal(c.NotBefore) || !added.NotAfter.Equal(c.NotAfter) || added.Name != "vc-1" || !reflect.DeepEqual(added.DER, c.DER) {
		t.Errorf("added: %+v", added)
	}
	if _, err := s.AddCertificate(t.Context(), account, i.ID, newCertificate("vc-1")); !errors.Is(err, ErrNameTaken) || errors.Is(err, ErrFingerprintTaken) {
		t.Errorf("a second one of the name: %v, want ErrNameTaken", err)
	}
	theirs := newInstance(t, s, stranger, "theirs")
	for _, where := range []Instance{i, theirs} {
		same := c
		same.Name = "vc-2"
		if _, err := s.AddCertificate(t.Context(), where.Account, where.ID, same); !errors.Is(err, ErrFingerprintTaken) || fault.KindOf(err) != fault.Exists {
			t.Errorf("the same certificate in %s: %v, want ErrFingerprintTaken", where.Name, err)
		}
	}
	second := addCertificate(t, s, i, newCertificate("vc-2"))
	if all, err := s.ListCertificates(t.Context(), account, i.ID); err != nil || !reflect.DeepEqual(all, []Certificate{added, second}) {
		t.Errorf("ListCertificates: %+v, %v", all, err)
	}
	if err := s.DeleteCertificate(t.Context(), account, i.ID, added.ID); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{added.ID, "not a uuid"} {
		if err := s.DeleteCertificate(t.Context(), account, i.ID, id); !errors.Is(err, ErrNotFound) {
			t.Errorf("DeleteCertificate %q: %v, want ErrNotFound", id, err)
		}
	}
	addCertificate(t, s, theirs, c) // free again
}

func TestFingerprintOfDeletedInstanceStaysReserved(t *testing.T) {
	database := pgtest.Database(t)
	s := NewInstances(openAs(t, database, "kmip_control"))
	c := newCertificate("vc")
	old := newInstance(t, s, account, "old")
	addCertificate(t, s, old, c)
	if err := s.Delete(t.Context(), account, old.ID); err != nil {
		t.Fatal(err)
	}
	theirs := newInstance(t, s, stranger, "theirs")
	if _, err := s.AddCertificate(t.Context(), stranger, theirs.ID, c); !errors.Is(err, ErrFingerprintTaken) {
		t.Errorf("another account: %v, want ErrFingerprintTaken", err)
	}
	mine := newInstance(t, s, account, "new")
	addCertificate(t, s, mine, c)
	if err := s.Delete(t.Context(), account, mine.ID); err != nil {
		t.Fatal(err)
	}
	run(t, superuser(t, database), "UPDATE instances SET deleted_at = now() - interval '31 days' WHERE deleted_at IS NOT NULL")
	addCertificate(t, s, theirs, c)
}

// Without an account, and as another one, the control plane's role sees and
// changes nothing.
func TestInstancesRowLevelSecurity(t *testing.T) {
	database := pgtest.Database(t)
	s := NewInstances(openAs(t, database, "kmip_control"))
	i := newInstance(t, s, account, "one")
	addCertificate(t, s, i, newCertificate("vc"))
	if _, err := s.SetKeyManager(t.Context(), account, i.ID, newKeyManager(), nil); err != nil {
		t.Fatal(err)
	}
	run(t, superuser(t, database), "INSERT INTO endpoints VALUES ('kmip.example.com', $1, 6000)", string(i.ID))
	c := connectAs(t, database, "kmip_control")
	for _, setting := range []string{"", stranger, account} {
		run(t, c, "SELECT set_config('kmip.account', $1, false)", setting)
		want := 0
		if setting == account {
			want = 1
		}
		for _, table := range []string{"instances", "key_managers", "client_certificates", "endpoints"} {
			var rows int
			if err := c.QueryRow(t.Context(), "SELECT count(*) FROM "+table).Scan(&rows); err != nil || rows != want {
				t.Errorf("as account %q %s shows %d rows, %v; want %d", setting, table, rows, err, want)
			}
		}
		if want == 0 {
			if _, err := c.Exec(t.Context(), "INSERT INTO endpoints VALUES ('taken.example.com', $1)", string(i.ID)); err == nil {
				t.Errorf("as account %q an endpoint was added to a foreign instance", setting)
			}
		}
	}
	for _, forbidden := range []string{"SELECT FROM objects", "DELETE FROM instances", "UPDATE cell SET revision = 0", "SELECT configuration_since(0)"} {
		if _, err := c.Exec(t.Context(), forbidden); err == nil {
			t.Errorf("kmip_control may %s", forbidden)
		}
	}
}
