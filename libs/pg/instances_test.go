package pg

import (
	"errors"
	"reflect"
	"slices"
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

	for _, want := range []Status{Installed, Configuring} { // set and replaced
		k := newKeyManager()
		changed, err := s.SetKeyManager(t.Context(), account, i.ID, k, nil)
		if err != nil {
			t.Fatal(err)
		}
		if changed.Status != want || !reflect.DeepEqual(*changed.KeyManager, k) || !changed.UpdatedAt.After(i.UpdatedAt) {
			t.Errorf("after SetKeyManager: %+v", changed)
		}
	}

	if _, err := s.Create(t.Context(), Instance{ID: tenant.ID(uuid.NewString()), Account: account, Name: "first", Status: Inactive}); !errors.Is(err, ErrNameTaken) || fault.KindOf(err) != fault.Exists {
		t.Errorf("a second instance of the name: %v, want ErrNameTaken", err)
	}
	newInstance(t, s, stranger, "first")
}

// deleteInstance deletes an instance and returns it as it is then.
func deleteInstance(t *testing.T, s *Instances, i Instance) Instance {
	t.Helper()
	deleted, err := s.Delete(t.Context(), i.Account, i.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	return deleted
}

// For 30 days a deleted instance can be seen and restored, but not changed; its
// name is free at once.
func TestDeletedInstance(t *testing.T) {
	database := pgtest.Database(t)
	s := NewInstances(openAs(t, database, "kmip_control"))
	ctx := t.Context()
	i := newInstance(t, s, account, "first")
	own := addCertificate(t, s, i, newCertificate("vc"))
	moved := addCertificate(t, s, i, newCertificate("moved"))
	i, err := s.SetKeyManager(ctx, account, i.ID, newKeyManager(), &Dedicated{HostName: "a.example.com", ServerCertificate: []byte{1}, FirstPort: 7000, LastPort: 7000})
	if err != nil {
		t.Fatal(err)
	}
	deleted := deleteInstance(t, s, i)
	if deleted.Status != Removing || deleted.Revision <= i.Revision || deleted.RestorableUntil.Sub(deleted.UpdatedAt) != restorable {
		t.Errorf("deleted: %+v, before %+v", deleted, i)
	}
	if again := deleteInstance(t, s, i); !reflect.DeepEqual(again, deleted) {
		t.Errorf("deleted again: %+v, before %+v", again, deleted)
	}
	if got, err := s.Get(ctx, account, i.ID); err != nil || !reflect.DeepEqual(got, deleted) {
		t.Errorf("Get: %+v, %v", got, err)
	}
	if all, err := s.ListCertificates(ctx, account, i.ID); err != nil || len(all) != 2 {
		t.Errorf("its certificates: %v, %v", all, err)
	}
	_, rename := s.Update(ctx, account, i.ID, Settings{Name: new("other")}, nil)
	_, set := s.SetKeyManager(ctx, account, i.ID, newKeyManager(), nil)
	_, add := s.AddCertificate(ctx, account, i.ID, newCertificate("x"))
	for method, err := range map[string]error{
		"Update": rename, "SetKeyManager": set, "AddCertificate": add, "DeleteCertificate": s.DeleteCertificate(ctx, account, i.ID, own.ID),
	} {
		if !errors.Is(err, ErrRemoved) || fault.KindOf(err) != fault.Illegal {
			t.Errorf("%s: %v, want ErrRemoved", method, err)
		}
	}

	// Its endpoint is nobody else's meanwhile.
	theirs := newInstance(t, s, stranger, "theirs")
	if _, err := s.SetKeyManager(ctx, stranger, theirs.ID, newKeyManager(), &Dedicated{HostName: "b.example.com", ServerCertificate: []byte{1}, FirstPort: 7000, LastPort: 7000}); !errors.Is(err, ErrNoPort) {
		t.Errorf("its port was given away: %v", err)
	}

	namesake := newInstance(t, s, account, "first")
	addCertificate(t, s, namesake, moved)
	if _, err := s.Restore(ctx, account, i.ID); !errors.Is(err, ErrNameTaken) {
		t.Errorf("Restore beside its namesake: %v, want ErrNameTaken", err)
	}
	if _, err := s.Update(ctx, account, namesake.ID, Settings{Name: new("second")}, nil); err != nil {
		t.Fatal(err)
	}
	restored, err := s.Restore(ctx, account, i.ID)
	if err != nil || restored.Status != Installed || !restored.RestorableUntil.IsZero() || restored.Revision <= deleted.Revision ||
		restored.Shared || !reflect.DeepEqual(restored.KeyManager, i.KeyManager) {
		t.Errorf("restored: %+v, %v", restored, err)
	}
	if again, err := s.Restore(ctx, account, i.ID); err != nil || !reflect.DeepEqual(again, restored) {
		t.Errorf("restored again: %+v, %v", again, err)
	}
	if all, err := s.ListCertificates(ctx, account, i.ID); err != nil || len(all) != 1 || all[0].ID != own.ID {
		t.Errorf("its certificates: %v, %v", all, err)
	}
	if e, err := s.ListEndpoints(ctx, account, i.ID); err != nil || len(e) != 1 || e[0].Port != 7000 {
		t.Errorf("its endpoints: %v, %v", e, err)
	}

	bare := deleteInstance(t, s, namesake)
	if again, err := s.Restore(ctx, account, bare.ID); err != nil || again.Status != Inactive {
		t.Errorf("restored without a key manager: %+v, %v", again, err)
	}
	deleteInstance(t, s, namesake)
	run(t, superuser(t, database), "UPDATE instances SET deleted_at = now() - interval '30 days' WHERE id = $1", string(namesake.ID))
	_, get := s.Get(ctx, account, namesake.ID)
	_, restore := s.Restore(ctx, account, namesake.ID)
	_, remove := s.Delete(ctx, account, namesake.ID, nil)
	for method, err := range map[string]error{"Get": get, "Restore": restore, "Delete": remove} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s after 30 days: %v, want ErrNotFound", method, err)
		}
	}
}

// A change for a state that is no longer happens to nobody.
func TestMatch(t *testing.T) {
	s := NewInstances(openAs(t, pgtest.Database(t), "kmip_control"))
	i := newInstance(t, s, account, "first")
	at := func(revision int64) Match { return func(i Instance) bool { return i.Revision == revision } }
	renamed, err := s.Update(t.Context(), account, i.ID, Settings{Name: new("second")}, at(i.Revision))
	if err != nil || renamed.Name != "second" || renamed.Revision <= i.Revision || !renamed.UpdatedAt.After(i.UpdatedAt) {
		t.Errorf("renamed: %+v, %v", renamed, err)
	}
	_, rename := s.Update(t.Context(), account, i.ID, Settings{Name: new("third")}, at(i.Revision))
	_, remove := s.Delete(t.Context(), account, i.ID, at(i.Revision))
	for method, err := range map[string]error{"Update": rename, "Delete": remove} {
		if !errors.Is(err, ErrStale) {
			t.Errorf("%s: %v, want ErrStale", method, err)
		}
	}
	if got, err := s.Get(t.Context(), account, i.ID); err != nil || !reflect.DeepEqual(got, renamed) {
		t.Errorf("Get: %+v, %v; want %+v", got, err, renamed)
	}
	newInstance(t, s, account, "third")
	if _, err := s.Update(t.Context(), account, i.ID, Settings{Name: new("third")}, nil); !errors.Is(err, ErrNameTaken) {
		t.Errorf("a taken name: %v, want ErrNameTaken", err)
	}
}

func TestListPages(t *testing.T) {
	s := NewInstances(openAs(t, pgtest.Database(t), "kmip_control"))
	var made []Instance
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		made = append(made, newInstance(t, s, account, name))
		newInstance(t, s, stranger, name)
	}
	foreign, _, err := s.List(t.Context(), stranger, Filter{Limit: 10})
	if err != nil || len(foreign) != 5 {
		t.Fatal(foreign, err)
	}
	removed := deleteInstance(t, s, made[1])
	made = slices.Delete(made, 1, 2)
	list := func(f Filter) ([]Instance, int) {
		t.Helper()
		page, total, err := s.List(t.Context(), account, f)
		if err != nil {
			t.Fatal(err)
		}
		return page, total
	}
	for from := 0; from < len(made); from += 2 {
		f := Filter{Limit: 2}
		if from > 0 {
			f.After = made[from-1].ID
		}
		if page, total := list(f); total != 4 || !reflect.DeepEqual(page, made[from:from+2]) {
			t.Errorf("page from %d: %+v of %d", from, page, total)
		}
	}
	// A page may begin behind one that was deleted since.
	if page, total := list(Filter{After: removed.ID, Limit: 10}); total != 4 || !reflect.DeepEqual(page, made[1:]) {
		t.Errorf("behind the deleted one: %+v of %d", page, total)
	}
	if page, total := list(Filter{Status: Removing, Limit: 10}); total != 1 || !reflect.DeepEqual(page, []Instance{removed}) {
		t.Errorf("deleted ones: %+v of %d", page, total)
	}
	if page, total := list(Filter{Name: "c", Status: Inactive, Limit: 10}); total != 1 || !reflect.DeepEqual(page, made[1:2]) {
		t.Errorf("by name: %+v of %d", page, total)
	}
	if page, total := list(Filter{Status: Installed, Limit: 10}); total != 0 || len(page) != 0 {
		t.Errorf("installed ones: %+v of %d", page, total)
	}
	for _, after := range []tenant.ID{foreign[0].ID, tenant.ID(uuid.NewString())} {
		if page, _, err := s.List(t.Context(), account, Filter{After: after, Limit: 10}); !errors.Is(err, ErrNotFound) {
			t.Errorf("behind %s: %v, %v, want ErrNotFound", after, page, err)
		}
	}
}

// A foreign instance and an unknown one look alike to every method.
func TestForeignInstanceIsNotFound(t *testing.T) {
	s := NewInstances(openAs(t, pgtest.Database(t), "kmip_control"))
	foreign := newInstance(t, s, stranger, "theirs")
	certificate := addCertificate(t, s, foreign, newCertificate("vc"))
	ctx := t.Context()
	for _, id := range []tenant.ID{foreign.ID, tenant.ID(uuid.NewString()), "not a uuid", ""} {
		_, get := s.Get(ctx, account, id)
		_, set := s.SetKeyManager(ctx, account, id, newKeyManager(), nil)
		_, add := s.AddCertificate(ctx, account, id, newCertificate("x"))
		_, list := s.ListCertificates(ctx, account, id)
		_, endpoints := s.ListEndpoints(ctx, account, id)
		_, refusals := s.ListRefusals(ctx, account, id)
		_, rename := s.Update(ctx, account, id, Settings{Name: new("x")}, nil)
		_, remove := s.Delete(ctx, account, id, nil)
		_, restore := s.Restore(ctx, account, id)
		_, one := s.GetCertificate(ctx, account, id, certificate.ID)
		_, rotate := s.RotateCertificate(ctx, account, id, certificate.ID, newCertificate("x"))
		_, replaced := s.RemoveReplaced(ctx, account, id)
		_, authority := s.ClientAuthority(ctx, account, id, certificate.NotAfter)
		_, keep := s.KeepClientAuthority(ctx, account, id, Authority{Certificate: []byte("x"), SealedKey: []byte("x"), NotAfter: certificate.NotAfter}, certificate.NotAfter)
		for method, err := range map[string]error{
			"Get": get, "SetKeyManager": set, "AddCertificate": add, "ListCertificates": list,
			"ListEndpoints": endpoints, "ListRefusals": refusals, "Update": rename, "Delete": remove, "Restore": restore,
			"GetCertificate": one, "RotateCertificate": rotate, "RemoveReplaced": replaced, "ClientAuthority": authority, "KeepClientAuthority": keep,
			"DeleteCertificate": s.DeleteCertificate(ctx, account, id, certificate.ID),
		} {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("%s of %q: %v, want ErrNotFound", method, id, err)
			}
		}
	}
	if got, err := s.Get(ctx, stranger, foreign.ID); err != nil || got.Name != "theirs" || got.Status != Inactive {
		t.Errorf("the foreign instance is now %+v, %v", got, err)
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
	deleteInstance(t, s, old)
	theirs := newInstance(t, s, stranger, "theirs")
	if _, err := s.AddCertificate(t.Context(), stranger, theirs.ID, c); !errors.Is(err, ErrFingerprintTaken) {
		t.Errorf("another account: %v, want ErrFingerprintTaken", err)
	}
	mine := newInstance(t, s, account, "new")
	addCertificate(t, s, mine, c)
	deleteInstance(t, s, mine)
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
	if _, err := s.KeepClientAuthority(t.Context(), account, i.ID, Authority{Certificate: []byte("x"), SealedKey: []byte("x")}, i.CreatedAt); err != nil {
		t.Fatal(err)
	}
	c := connectAs(t, database, "kmip_control")
	for _, setting := range []string{"", stranger, account} {
		run(t, c, "SELECT set_config('kmip.account', $1, false)", setting)
		want := 0
		if setting == account {
			want = 1
		}
		for _, table := range []string{"instances", "key_managers", "client_certificates", "client_authorities", "endpoints"} {
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
	for _, forbidden := range []string{"SELECT FROM objects", "DELETE FROM instances", "UPDATE cell SET revision = 0", "UPDATE client_certificates SET last_used_at = now()", "UPDATE client_certificates SET der = 'x'", "SELECT configuration_since(0)"} {
		if _, err := c.Exec(t.Context(), forbidden); err == nil {
			t.Errorf("kmip_control may %s", forbidden)
		}
	}
}
