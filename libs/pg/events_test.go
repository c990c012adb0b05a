package pg

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// kmipEvents returns events of a second each, in the shape of audit.Event.
func kmipEvents(name string, from, to int) (all [][]byte) {
	for n := from; n < to; n++ {
		at := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Second)
		all = append(all, fmt.Appendf(nil, `{"eventTime":%q,"message":"%s %d"}`, at.Format("2006-01-02T15:04:05.00-0700"), name, n))
	}
	return all
}

// listed returns the messages of an instance's newest events, a gap with what
// it stands for.
func listed(t *testing.T, s *Instances, account string, id tenant.ID, most int) (all []string) {
	t.Helper()
	found, err := s.ListEvents(t.Context(), account, id, 0, most)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range found {
		var event struct {
			Message      string
			ResponseData struct {
				Events   int64
				From, To string
			}
		}
		if err := json.Unmarshal(e.JSON, &event); err != nil {
			t.Fatal(err)
		}
		if gap := event.ResponseData; gap.Events > 0 {
			event.Message += fmt.Sprintf(" %d %s %s", gap.Events, gap.From, gap.To)
		}
		all = append(all, event.Message)
	}
	return all
}

func wantListed(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("listed\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Events of KMIP requests are their own tenant's to see. What a node could not
// hand over is one entry for a day, which grows; nodes have no other right to
// the record.
func TestKMIPEvents(t *testing.T) {
	f := newFeed(t)
	mine, theirs := newInstance(t, f.instances, account, "mine"), newInstance(t, f.instances, stranger, "theirs")
	r := NewReports(openAs(t, f.database, "kmip_node"), "node-1")
	gap := []byte(`{"message":"gap"}`)
	at := time.Date(2026, 1, 2, 2, 0, 0, 5e8, time.UTC)
	for _, batch := range [][]KMIPEvents{
		{{Instance: mine.ID, Events: kmipEvents("read", 0, 2), Gap: gap}, {Instance: theirs.ID, Changes: true, Events: kmipEvents("change", 0, 1), Gap: gap}},
		{{Instance: mine.ID, Missed: 3, From: at, To: at.Add(time.Minute), Gap: gap}},
		{{Instance: mine.ID, Events: kmipEvents("read", 2, 3), Missed: 4, From: at.Add(time.Hour), To: at.Add(2 * time.Hour), Gap: gap}},
		{{Instance: mine.ID, Changes: true, Events: [][]byte{[]byte(`{"message":"x\u0000y"}`)}, Missed: 1, From: at, To: at, Gap: gap}},
		{{Instance: "11111111-2222-4333-8444-555555555555", Events: kmipEvents("nobody's", 0, 1), Gap: gap}},
		nil,
	} {
		if err := r.RecordKMIPEvents(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	wantListed(t, listed(t, f.instances, account, mine.ID, 10),
		"gap 1 2026-01-02T02:00:00.50+0000 2026-01-02T02:00:00.50+0000", "x\ufffdy",
		"read 2", "gap 7 2026-01-02T02:00:00.50+0000 2026-01-02T04:00:00.50+0000", "read 1", "read 0")
	wantListed(t, listed(t, f.instances, stranger, theirs.ID, 10), "change 0")

	node := connectAs(t, f.database, "kmip_node")
	for _, forbidden := range []string{"SELECT FROM events", "DELETE FROM events", "INSERT INTO events (instance_id, event) VALUES (gen_random_uuid(), '{}')", "SELECT FROM kmip_event_counts"} {
		if _, err := node.Exec(t.Context(), forbidden); err == nil {
			t.Errorf("kmip_node may %s", forbidden)
		}
	}
}

// A flood fills no more than a day's share of its own kind: what is beyond is
// counted, and neither the tenant's changes nor another tenant's reads go.
func TestKMIPEventsHaveADailyCap(t *testing.T) {
	f := newFeed(t)
	mine, theirs := newInstance(t, f.instances, account, "mine"), newInstance(t, f.instances, stranger, "theirs")
	r := NewReports(openAs(t, f.database, "kmip_node"), "node-1")
	gap := []byte(`{"message":"gap"}`)
	reads := func(of tenant.ID, from, to int) KMIPEvents {
		return KMIPEvents{Instance: of, Events: kmipEvents("read", from, to), Gap: gap}
	}
	record := func(batch ...KMIPEvents) {
		t.Helper()
		if err := r.RecordKMIPEvents(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	record(reads(mine.ID, 0, 1))
	run(t, superuser(t, f.database), "UPDATE kmip_event_counts SET events = 99998")
	record(reads(mine.ID, 1, 4))
	record(reads(mine.ID, 4, 5), reads(theirs.ID, 0, 1), KMIPEvents{Instance: mine.ID, Changes: true, Events: kmipEvents("change", 0, 1), Gap: gap})
	wantListed(t, listed(t, f.instances, account, mine.ID, 10),
		"change 0", "gap 2 2026-01-02T03:00:03.00+0000 2026-01-02T03:00:04.00+0000", "read 2", "read 1", "read 0")
	wantListed(t, listed(t, f.instances, stranger, theirs.ID, 10), "read 0")

	// The next day there is room again, and after 30 days all are gone.
	run(t, superuser(t, f.database), "UPDATE kmip_event_counts SET day = day - 1")
	run(t, superuser(t, f.database), "UPDATE events SET recorded_at = recorded_at - interval '31 days'")
	record(reads(mine.ID, 5, 6))
	wantListed(t, listed(t, f.instances, account, mine.ID, 10), "read 5")
	var rows int
	if err := superuser(t, f.database).QueryRow(t.Context(), "SELECT count(*) FROM events").Scan(&rows); err != nil || rows != 1 {
		t.Errorf("%d rows are left, %v", rows, err)
	}
}
