package pg

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// creation creates an instance and answers with its id.
func creation(s *Instances, account, name string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		i, err := s.Create(ctx, Instance{ID: tenant.ID(uuid.NewString()), Account: account, Name: name, Region: "us-south", Status: Inactive, Shared: true, CreatedBy: "x"})
		return []byte(`"` + string(i.ID) + `"`), err
	}
}

func count(t *testing.T, s *Instances, account string) int {
	t.Helper()
	_, total, err := s.List(t.Context(), account, Filter{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

func TestOnce(t *testing.T) {
	database := pgtest.Database(t)
	s := NewInstances(openAs(t, database, "kmip_control"))
	request := []byte{1}
	first, err := s.Once(t.Context(), account, "key", request, creation(s, account, "a"))
	if err != nil || len(first) != 38 {
		t.Fatalf("%s, %v", first, err)
	}
	if again, err := s.Once(t.Context(), account, "key", request, creation(s, account, "b")); err != nil || string(again) != string(first) {
		t.Errorf("again: %s, %v; first %s", again, err, first)
	}
	if _, err := s.Once(t.Context(), account, "key", []byte{2}, creation(s, account, "c")); !errors.Is(err, ErrKeyReused) || fault.KindOf(err) != fault.Conflict {
		t.Errorf("another request: %v, want ErrKeyReused", err)
	}
	// Another account's key of the same name is another key.
	if theirs, err := s.Once(t.Context(), stranger, "key", []byte{2}, creation(s, stranger, "a")); err != nil || string(theirs) == string(first) {
		t.Errorf("the stranger's: %s, %v", theirs, err)
	}
	if n := count(t, s, account); n != 1 {
		t.Errorf("%d instances", n)
	}
	run(t, superuser(t, database), "UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
	if later, err := s.Once(t.Context(), account, "key", []byte{2}, creation(s, account, "d")); err != nil || string(later) == string(first) {
		t.Errorf("a day later: %s, %v", later, err)
	}
	var left int
	if err := superuser(t, database).QueryRow(t.Context(), "SELECT count(*) FROM idempotency_keys").Scan(&left); err != nil || left != 1 {
		t.Errorf("%d keys are left, %v", left, err)
	}
}

// What is refused leaves neither a key nor anything else.
func TestOnceRefused(t *testing.T) {
	s := NewInstances(openAs(t, pgtest.Database(t), "kmip_control"))
	refused := errors.New("refused")
	taken := newInstance(t, s, account, "taken")
	_, err := s.Once(t.Context(), account, "key", []byte{1}, func(ctx context.Context) ([]byte, error) {
		// A part that fails is undone alone.
		if _, err := creation(s, account, "taken")(ctx); !errors.Is(err, ErrNameTaken) {
			t.Errorf("a taken name: %v", err)
		}
		if _, err := creation(s, account, "free")(ctx); err != nil {
			t.Error(err)
		}
		if _, err := s.AddCertificate(ctx, account, taken.ID, newCertificate("vc")); err != nil {
			t.Error(err)
		}
		if _, err := s.Nodes(ctx); err != nil {
			t.Error(err)
		}
		return nil, refused
	})
	if !errors.Is(err, refused) {
		t.Errorf("%v", err)
	}
	if n := count(t, s, account); n != 1 {
		t.Errorf("%d instances", n)
	}
	if all, err := s.ListCertificates(t.Context(), account, taken.ID); err != nil || len(all) != 0 {
		t.Errorf("certificates %v, %v", all, err)
	}
	if _, err := s.Once(t.Context(), account, "key", []byte{2}, creation(s, account, "free")); err != nil {
		t.Errorf("the key was not free: %v", err)
	}
}

// Of many at the same time one creates, and all get its answer.
func TestOnceAtTheSameTime(t *testing.T) {
	s := NewInstances(openAs(t, pgtest.Database(t), "kmip_control"))
	const callers = 6
	answers, errs := make(chan string, callers), make(chan error, callers)
	for i := range callers {
		go func() {
			answer, err := s.Once(t.Context(), account, "key", []byte{1}, creation(s, account, string(rune('a'+i))))
			answers <- string(answer)
			errs <- err
		}()
	}
	seen := map[string]bool{}
	for range callers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
		seen[<-answers] = true
	}
	if n := count(t, s, account); n != 1 || len(seen) != 1 {
		t.Errorf("%d instances, answers %v", n, seen)
	}
}

func TestIdempotencyKeysRowLevelSecurity(t *testing.T) {
	database := pgtest.Database(t)
	s := NewInstances(openAs(t, database, "kmip_control"))
	if _, err := s.Once(t.Context(), account, "key", []byte{1}, creation(s, account, "a")); err != nil {
		t.Fatal(err)
	}
	c := connectAs(t, database, "kmip_control")
	for setting, want := range map[string]int{"": 0, stranger: 0, account: 1} {
		run(t, c, "SELECT set_config('kmip.account', $1, false)", setting)
		var rows int
		if err := c.QueryRow(t.Context(), "SELECT count(*) FROM idempotency_keys").Scan(&rows); err != nil || rows != want {
			t.Errorf("as account %q %d rows, %v; want %d", setting, rows, err, want)
		}
	}
	if _, err := connectAs(t, database, "kmip_node").Exec(t.Context(), "SELECT FROM idempotency_keys"); err == nil {
		t.Error("kmip_node may read idempotency keys")
	}
}
