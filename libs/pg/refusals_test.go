package pg

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

var source = netip.MustParseAddr("192.0.2.7")

// Refusals are counted, and shown to nobody but the tenant whose own name or
// port was used.
func TestRefusals(t *testing.T) {
	f := newFeed(t)
	mine, theirs := newInstance(t, f.instances, account, "mine"), newInstance(t, f.instances, stranger, "theirs")
	r := NewReports(openAs(t, f.database, "kmip_node"), "node-1")
	client := tenant.Fingerprint{7}
	one := Refused{Addressed: mine.ID, Cause: tenant.UnknownCertificate, Source: source}
	shown := Seen{ServerName: "mine.example.com", Port: 7000, Client: client, HasClient: true, Times: 2}
	shared, foreign := one, one
	shared.Addressed, foreign.Addressed = "", theirs.ID
	none := Refused{Addressed: mine.ID, Cause: tenant.NoCertificate, Source: netip.MustParseAddr("2001:db8::1")}
	nothing := Seen{Port: 7000, Times: 1}
	for _, batch := range []map[Refused]Seen{{one: nothing}, {one: shown, shared: shown, foreign: shown}, {one: shown, none: nothing}, nil} {
		if err := r.CountRefused(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	got, err := f.instances.ListRefusals(t.Context(), account, mine.ID)
	if err != nil {
		t.Fatal(err)
	}
	count := map[tenant.Cause]int64{}
	for _, g := range got {
		count[g.Cause] += g.Times
		want, latest := one, shown
		if g.Cause == tenant.NoCertificate {
			want, latest = none, nothing
		}
		latest.Times = g.Times
		if g.Refused != want || g.Seen != latest || g.Node != "node-1" || g.LastAt.Before(g.FirstAt) {
			t.Errorf("refusal %+v, want %+v, %+v", g, want, latest)
		}
	}
	if count[tenant.UnknownCertificate] != 5 || count[tenant.NoCertificate] != 1 {
		t.Errorf("counted %v", count)
	}
	for name, where := range map[string]tenant.ID{"a foreign instance": theirs.ID, "the shared endpoints": nobody} {
		if list, err := f.instances.ListRefusals(t.Context(), account, where); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %d refusals, %v; want ErrNotFound", name, len(list), err)
		}
	}
	c := connectAs(t, f.database, "kmip_control")
	run(t, c, "SELECT set_config('kmip.account', $1, false)", account)
	var rows int
	if err := c.QueryRow(t.Context(), "SELECT count(*) FROM refusals WHERE instance_id <> $1", string(mine.ID)).Scan(&rows); err != nil || rows != 0 {
		t.Errorf("the control plane's role sees %d rows of others, %v", rows, err)
	}
	node := connectAs(t, f.database, "kmip_node")
	for _, forbidden := range []string{"SELECT FROM refusals", "DELETE FROM refusals"} {
		if _, err := node.Exec(t.Context(), forbidden); err == nil {
			t.Errorf("kmip_node may %s", forbidden)
		}
	}
}

// A flood from many addresses stays in the day's cap; none of it is uncounted,
// and another tenant's record is not cut.
func TestRefusalsHaveADailyCap(t *testing.T) {
	f := newFeed(t)
	mine, theirs := newInstance(t, f.instances, account, "mine"), newInstance(t, f.instances, stranger, "theirs")
	r := NewReports(openAs(t, f.database, "kmip_node"), "node-1")
	const flood = 1100
	address := netip.MustParseAddr("10.0.0.1")
	batch := make(map[Refused]Seen)
	for range flood {
		batch[Refused{Addressed: mine.ID, Cause: tenant.NoCertificate, Source: address}] = Seen{Port: 7000, Times: 3}
		address = address.Next()
	}
	other := Refused{Addressed: theirs.ID, Cause: tenant.NoCertificate, Source: source}
	batch[other] = Seen{Port: 7001, Times: 1}
	if err := r.CountRefused(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	var rows, times, withoutSource int64
	err := superuser(t, f.database).QueryRow(t.Context(),
		"SELECT count(*), sum(times), sum(times) FILTER (WHERE source IS NULL) FROM refusals WHERE instance_id = $1", string(mine.ID)).Scan(&rows, &times, &withoutSource)
	if err != nil || rows != 1001 || times != 3*flood || withoutSource != 3*(flood-1000) {
		t.Errorf("%d rows of %d refusals, %d without a source, %v", rows, times, withoutSource, err)
	}
	if list, err := f.instances.ListRefusals(t.Context(), account, mine.ID); err != nil || len(list) != maxRefusals {
		t.Errorf("%d are listed, %v; want %d", len(list), err, maxRefusals)
	}
	if list, err := f.instances.ListRefusals(t.Context(), stranger, theirs.ID); err != nil || len(list) != 1 || list[0].Source != source {
		t.Errorf("the other tenant's: %+v, %v", list, err)
	}

	// After 30 days they are gone.
	run(t, superuser(t, f.database), "UPDATE refusals SET minute = minute - interval '31 days' WHERE instance_id = $1", string(mine.ID))
	if err := r.CountRefused(t.Context(), map[Refused]Seen{other: batch[other]}); err != nil {
		t.Fatal(err)
	}
	if list, err := f.instances.ListRefusals(t.Context(), account, mine.ID); err != nil || len(list) != 0 {
		t.Errorf("%d refusals after 30 days, %v", len(list), err)
	}
}

func TestRefusalsWithoutSourceAreCountedByDay(t *testing.T) {
	f := newFeed(t)
	mine := newInstance(t, f.instances, account, "mine")
	r := NewReports(openAs(t, f.database, "kmip_node"), "node-1")
	for n := range 2 {
		batch := map[Refused]Seen{{Addressed: mine.ID, Cause: "no_tls"}: {Port: 7000, Times: int64(n + 1)}}
		if err := r.CountRefused(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	list, err := f.instances.ListRefusals(t.Context(), account, mine.ID)
	if err != nil || len(list) != 1 || list[0].Times != 3 || list[0].Source.IsValid() || list[0].HasClient {
		t.Errorf("%+v, %v", list, err)
	}
}
