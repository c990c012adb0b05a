package pg

import (
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
)

// certificate reads a certificate of an instance again.
func (f feed) certificate(t *testing.T, i Instance, c Certificate) Certificate {
	t.Helper()
	got, err := f.instances.GetCertificate(t.Context(), i.Account, i.ID, c.ID)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// due returns the jobs about instances that a sweep finds.
func (f feed) due(t *testing.T) []string {
	t.Helper()
	admin := superuser(t, f.database)
	j := NewJobs(openAs(t, f.database, "kmip_control"), Intervals{Check: time.Hour, Reconcile: time.Hour}, slog.New(slog.DiscardHandler))
	if err := j.sweep(t.Context(), sweep{}); err != nil {
		t.Fatal(err)
	}
	all := queued(t, admin)
	run(t, admin, "DELETE FROM river_job")
	return all
}

// Uses come from several nodes, in any order: the latest one counts, the first
// one stays, a certificate that is not meant stays untouched.
func TestUsesOfCertificates(t *testing.T) {
	f := newFeed(t)
	i, theirs := newInstance(t, f.instances, account, "mine"), newInstance(t, f.instances, stranger, "theirs")
	c, foreign := addCertificate(t, f.instances, i, newCertificate("vc")), addCertificate(t, f.instances, theirs, newCertificate("vc"))
	r := NewReports(openAs(t, f.database, "kmip_node"), "node-1")
	if got := f.certificate(t, i, c); !reflect.DeepEqual(got, c) || !got.FirstUsedAt.IsZero() || !got.LastUsedAt.IsZero() {
		t.Errorf("unused: %+v, want %+v", got, c)
	}
	use := func(u ...CertificateUse) Certificate {
		t.Helper()
		if err := r.RecordCertificateUses(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		return f.certificate(t, i, c)
	}
	first := use(CertificateUse{c.ID, source, time.Hour}, CertificateUse{Certificate: uuid.NewString(), From: source}) // the other one is removed
	if ago := time.Since(first.FirstUsedAt); !first.LastUsedAt.Equal(first.FirstUsedAt) || first.LastUsedFrom != source || ago < time.Hour || ago > time.Hour+time.Minute {
		t.Errorf("used an hour ago: %+v", first)
	}
	if late := use(CertificateUse{c.ID, netip.MustParseAddr("192.0.2.9"), 2 * time.Hour}); !reflect.DeepEqual(late, first) {
		t.Errorf("a report that came late: %+v, want %+v", late, first)
	}
	six := netip.MustParseAddr("2001:db8::1")
	if last := use(CertificateUse{c.ID, six, 0}); !last.FirstUsedAt.Equal(first.FirstUsedAt) || !last.LastUsedAt.After(first.LastUsedAt) || last.LastUsedFrom != six {
		t.Errorf("used again: %+v", last)
	}
	if last := use(CertificateUse{Certificate: c.ID, Ago: -time.Hour}); last.LastUsedFrom.IsValid() || last.LastUsedAt.After(time.Now().Add(time.Minute)) {
		t.Errorf("used by nobody knows whom, on a node ahead of time: %+v", last)
	}
	if all, err := f.instances.ListCertificates(t.Context(), stranger, theirs.ID); err != nil || !reflect.DeepEqual(all, []Certificate{foreign}) {
		t.Errorf("the other tenant's: %+v, %v", all, err)
	}
	if s, _ := f.snapshot(t); s.Revision().Number != foreign.Revision {
		t.Errorf("revision %d, want %d: uses take none", s.Revision().Number, foreign.Revision)
	}
	node := connectAs(t, f.database, "kmip_node")
	for _, forbidden := range []string{
		"SELECT FROM client_certificates", "UPDATE client_certificates SET last_used_at = now()", "SELECT FROM client_authorities",
	} {
		if _, err := node.Exec(t.Context(), forbidden); err == nil {
			t.Errorf("kmip_node may %s", forbidden)
		}
	}
}

// A replaced certificate is in force beside its successor until that one was
// used and it was not for a week. Another tenant's rotation is its own affair.
func TestRotation(t *testing.T) {
	f := newFeed(t)
	i, theirs := newInstance(t, f.instances, account, "mine"), newInstance(t, f.instances, stranger, "theirs")
	rotate := func(i Instance, old Certificate, name string) Certificate {
		t.Helper()
		c, err := f.instances.RotateCertificate(t.Context(), i.Account, i.ID, old.ID, newCertificate(name))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	remove := func(i Instance, want ...Certificate) {
		t.Helper()
		removed, err := f.instances.RemoveReplaced(t.Context(), i.Account, i.ID)
		same := func(a, b Certificate) bool { return a.ID == b.ID }
		if err != nil || !slices.EqualFunc(removed, want, same) {
			t.Errorf("removed %+v, %v; want %+v", removed, err, want)
		}
	}
	owner := superuser(t, f.database)
	age := func(column string, days int, c Certificate) {
		t.Helper()
		run(t, owner, "UPDATE client_certificates SET "+column+" = now() - make_interval(days => $1) WHERE id = $2", days, c.ID)
	}
	old, foreign := addCertificate(t, f.instances, i, newCertificate("1")), addCertificate(t, f.instances, theirs, newCertificate("1"))
	next, foreignNext := rotate(i, old, "2"), rotate(theirs, foreign, "2")
	if got := f.certificate(t, i, old); got.ReplacedBy != next.ID || !got.RemovableAt.IsZero() || next.ReplacedBy != "" {
		t.Errorf("rotated: %+v to %+v", got, next)
	}
	snapshot, _ := f.snapshot(t)
	for _, i := range []Instance{i, theirs} {
		if clients := snapshot.Tenant(i.ID).Clients; len(clients) != 2 {
			t.Errorf("in force for %s: %+v, want both", i.Name, clients)
		}
	}

	// Nobody has the successor yet: however long the old one rests, it stays.
	age("replaced_at", 30, old)
	age("replaced_at", 30, foreign)
	remove(i)
	// The successor is used, and the old one was three days ago.
	age("first_used_at", 2, next)
	age("last_used_at", 2, next)
	age("last_used_at", 3, old)
	age("first_used_at", 40, old)
	if got := f.certificate(t, i, old); !got.RemovableAt.Equal(got.LastUsedAt.Add(UnusedBeforeRemoval)) {
		t.Errorf("removable at %s, last used at %s", got.RemovableAt, got.LastUsedAt)
	}
	remove(i)
	if kinds := f.due(t); len(kinds) > 0 { // the other tenant's new one is unused
		t.Errorf("due: %q", kinds)
	}
	age("last_used_at", 8, old)
	if kinds := f.due(t); !slices.Equal(kinds, []string{"remove_replaced " + i.Account + " " + string(i.ID)}) {
		t.Errorf("due: %q", kinds)
	}
	remove(i, old)
	remove(i)
	if _, err := f.instances.GetCertificate(t.Context(), account, i.ID, old.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("the removed certificate: %v, want ErrNotFound", err)
	}
	if got := f.certificate(t, theirs, foreign); got.ReplacedBy != foreignNext.ID {
		t.Errorf("the other tenant's: %+v", got)
	}
	remove(theirs)
	age("first_used_at", 2, foreignNext)
	remove(theirs, foreign)

	// Whatever waited for a certificate waits for that one's successor.
	third := rotate(i, next, "3")
	if _, err := f.instances.RotateCertificate(t.Context(), account, i.ID, next.ID, newCertificate("x")); !errors.Is(err, ErrReplaced) || fault.KindOf(err) != fault.Illegal {
		t.Errorf("rotating once more: %v, want ErrReplaced", err)
	}
	fourth := rotate(i, third, "4")
	for _, c := range []Certificate{next, third} {
		if got := f.certificate(t, i, c); got.ReplacedBy != fourth.ID {
			t.Errorf("certificate %s is replaced by %s, want %s", c.Name, got.ReplacedBy, fourth.ID)
		}
	}
	// Without its successor it is as before.
	if err := f.instances.DeleteCertificate(t.Context(), account, i.ID, fourth.ID); err != nil {
		t.Fatal(err)
	}
	if got := f.certificate(t, i, third); got.ReplacedBy != "" || !got.RemovableAt.IsZero() {
		t.Errorf("without its successor: %+v", got)
	}
	rotate(i, third, "5")
	same := newCertificate("6")
	same.DER = next.DER
	if _, err := f.instances.RotateCertificate(t.Context(), account, i.ID, next.ID, same); !errors.Is(err, ErrFingerprintTaken) {
		t.Errorf("by itself: %v, want ErrFingerprintTaken", err)
	}
	for _, id := range []string{foreignNext.ID, uuid.NewString(), "not a uuid"} {
		if _, err := f.instances.RotateCertificate(t.Context(), account, i.ID, id, newCertificate("7")); !errors.Is(err, ErrNotFound) {
			t.Errorf("rotating %q: %v, want ErrNotFound", id, err)
		}
	}
	if all, err := f.instances.ListCertificates(t.Context(), account, i.ID); err != nil || len(all) != 3 {
		t.Errorf("refused rotations left %d certificates, %v; want 3", len(all), err)
	}
}

// The first authority stays as long as it lasts, whoever else makes one, and
// each tenant has its own.
func TestClientAuthorities(t *testing.T) {
	database := pgtest.Database(t)
	s := NewInstances(openAs(t, database, "kmip_control"))
	i, theirs := newInstance(t, s, account, "mine"), newInstance(t, s, stranger, "theirs")
	ends := time.Date(2036, 1, 2, 3, 4, 5, 0, time.UTC)
	made := func(name string, notAfter time.Time) Authority {
		return Authority{Certificate: []byte(name), SealedKey: []byte("sealed " + name), NotAfter: notAfter}
	}
	check := func(got *Authority, err error, want Authority) {
		t.Helper()
		if err != nil || got == nil || string(got.Certificate) != string(want.Certificate) || string(got.SealedKey) != string(want.SealedKey) || !got.NotAfter.Equal(want.NotAfter) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	if got, err := s.ClientAuthority(t.Context(), account, i.ID, ends); got != nil || err != nil {
		t.Errorf("before the first: %+v, %v", got, err)
	}
	first, second, other := made("first", ends), made("second", ends.AddDate(10, 0, 0)), made("theirs", ends)
	got, err := s.KeepClientAuthority(t.Context(), account, i.ID, first, ends)
	check(got, err, first)
	got, err = s.KeepClientAuthority(t.Context(), account, i.ID, second, ends)
	check(got, err, first)
	got, err = s.KeepClientAuthority(t.Context(), stranger, theirs.ID, other, ends)
	check(got, err, other)
	if got, err := s.ClientAuthority(t.Context(), account, i.ID, ends.Add(time.Second)); got != nil || err != nil {
		t.Errorf("one that does not last: %+v, %v", got, err)
	}
	got, err = s.KeepClientAuthority(t.Context(), account, i.ID, second, ends.Add(time.Second))
	check(got, err, second)
	got, err = s.ClientAuthority(t.Context(), account, i.ID, ends)
	check(got, err, second)
	got, err = s.ClientAuthority(t.Context(), stranger, theirs.ID, ends)
	check(got, err, other)
}
