package node

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

func ringOf(t *testing.T, keys string) func() (*secret.Keyring, error) {
	t.Helper()
	ring, err := secret.ParseKeyring(keys)
	if err != nil {
		t.Fatal(err)
	}
	return func() (*secret.Keyring, error) { return ring, nil }
}

func newCopy(t *testing.T) *diskCopy {
	t.Helper()
	return &diskCopy{path: filepath.Join(t.TempDir(), copyFile), keyring: ringOf(t, firstKey)}
}

// history is a first snapshot and what followed.
func history(t *testing.T) (first *tenant.Snapshot, deltas []tenant.Delta, then []*tenant.Snapshot) {
	t.Helper()
	one, two := newTenant("one", oneIdentity().must(t)), newTenant("two", twoIdentity().must(t))
	two.Names, two.Ports, two.ServerCertificates = []string{"two.example.com"}, []uint16{7000}, map[string][]byte{"two.example.com": {1, 2}}
	at := func(n int64) tenant.Revision { return tenant.Revision{Number: n, ID: string(rune('a' + n))} }
	first, _ = tenant.NewSnapshot(at(1), []tenant.Tenant{one}, tenant.Quarantined{ID: "new", Reason: "format 9"})
	suspended := one
	suspended.Suspended = true
	deltas = []tenant.Delta{
		{After: at(1), To: at(2), Changed: []tenant.Tenant{two}},
		{After: at(2), To: at(2)},
		{After: at(2), To: at(4), Changed: []tenant.Tenant{suspended}, Unreadable: []tenant.Quarantined{{ID: "newer", Reason: "format 10"}}},
		{After: at(4), To: at(5), Removed: []tenant.ID{"two", "new"}},
	}
	s := first
	for _, d := range deltas {
		if d.After != d.To {
			var err error
			if s, _, err = s.Apply(d); err != nil {
				t.Fatal(err)
			}
		}
		then = append(then, s)
	}
	return first, deltas, then
}

func wantSame(t *testing.T, got, want *tenant.Snapshot) {
	t.Helper()
	gotAll, gotUnreadable := got.All()
	wantAll, wantUnreadable := want.All()
	for _, list := range [][]tenant.Tenant{gotAll, wantAll} {
		for i := range list {
			for n := range list[i].Clients {
				list[i].Clients[n].NotAfter = list[i].Clients[n].NotAfter.Round(0).UTC()
			}
		}
	}
	if got.Revision() != want.Revision() || !reflect.DeepEqual(gotAll, wantAll) || !reflect.DeepEqual(gotUnreadable, wantUnreadable) {
		t.Errorf("got %v: %+v, %+v\nwant %v: %+v, %+v", got.Revision(), gotAll, gotUnreadable, want.Revision(), wantAll, wantUnreadable)
	}
}

// TestCopyHoldsEveryChange reads after each change what another process would.
func TestCopyHoldsEveryChange(t *testing.T) {
	c := newCopy(t)
	if _, _, _, err := c.read(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a copy: %v", err)
	}
	first, deltas, then := history(t)
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	if err := c.replace(first, now); err != nil {
		t.Fatal(err)
	}
	for n, d := range deltas {
		now = now.Add(time.Hour)
		if err := c.add(d, then[n], now); err != nil {
			t.Fatal(err)
		}
		got, _, confirmed, err := c.read()
		if err != nil || !confirmed.Equal(now) {
			t.Fatalf("after change %d: %v, confirmed %s", n, err, confirmed)
		}
		wantSame(t, got, then[n])
	}
	// That nothing has changed is not written again and again.
	before, err := os.Stat(c.path)
	if err != nil {
		t.Fatal(err)
	}
	still := tenant.Delta{After: then[3].Revision(), To: then[3].Revision()}
	if err := c.add(still, then[3], now.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(c.path); err != nil || after.Size() != before.Size() || after.Mode().Perm() != 0o600 {
		t.Errorf("%d bytes became %d, mode %v, %v", before.Size(), after.Size(), after.Mode(), err)
	}
	// A copy that has been added to enough is written anew.
	c.added = minAdded
	if err := c.add(still, then[3], now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	got, _, _, err := c.read()
	if err != nil || c.added != 0 {
		t.Fatalf("%v, %d bytes added", err, c.added)
	}
	wantSame(t, got, then[3])
}

// TestTornCopy cuts the file at every byte: what was whole is read, and the
// rest as if it had never been written.
func TestTornCopy(t *testing.T) {
	c := newCopy(t)
	first, deltas, then := history(t)
	now := time.Now()
	var ends []int64 // of each frame
	end := func() {
		info, err := os.Stat(c.path)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, info.Size())
	}
	if err := c.replace(first, now); err != nil {
		t.Fatal(err)
	}
	end()
	for n, d := range deltas {
		now = now.Add(time.Hour)
		if err := c.add(d, then[n], now); err != nil {
			t.Fatal(err)
		}
		end()
	}
	states := append([]*tenant.Snapshot{first}, then...)
	whole, err := os.ReadFile(c.path)
	if err != nil {
		t.Fatal(err)
	}
	for size := range int64(len(whole)) {
		if err := os.WriteFile(c.path, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		complete := -1
		for n, e := range ends {
			if size >= e {
				complete = n
			}
		}
		got, _, _, err := c.read()
		switch {
		case complete < 0 && err == nil:
			t.Fatalf("%d bytes of the first frame were taken for a copy", size)
		case complete >= 0 && (err != nil || got.Revision() != states[complete].Revision()):
			t.Fatalf("%d bytes: %v; want revision %v", size, err, states[complete].Revision())
		}
	}
	for _, damaged := range []int{4, 20, len(whole) / 2} {
		spoiled := append([]byte(nil), whole...)
		spoiled[damaged] ^= 1
		if err := os.WriteFile(c.path, spoiled, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, _, _, err := c.read(); err == nil && got.Revision() == states[4].Revision() {
			t.Errorf("a changed byte %d went unnoticed", damaged)
		}
	}
}

// TestCopyNeedsItsKey reads a copy with another keyring, and with a rotated one.
func TestCopyNeedsItsKey(t *testing.T) {
	c := newCopy(t)
	first, _, _ := history(t)
	if err := c.replace(first, time.Now()); err != nil {
		t.Fatal(err)
	}
	c.keyring = ringOf(t, secondKey)
	if _, _, _, err := c.read(); !errors.Is(err, secret.ErrSeal) {
		t.Errorf("with another key: %v", err)
	}
	c.keyring = ringOf(t, secondKey+"\n"+firstKey)
	if _, _, _, err := c.read(); err != nil {
		t.Errorf("with a rotated set: %v", err)
	}
}

// TestCopyThatCannotBeWrittenIsRemoved takes the disk away in the middle: an
// older copy must not survive what it misses.
func TestCopyThatCannotBeWrittenIsRemoved(t *testing.T) {
	first, deltas, then := history(t)
	for name, spoil := range map[string]func(*diskCopy){
		"an append that fails": func(c *diskCopy) { c.file.Close() },
		"no sealing key":       func(c *diskCopy) { c.keyring = func() (*secret.Keyring, error) { return nil, errors.New("none") } },
		"a full copy that can't be made": func(c *diskCopy) {
			c.added = minAdded
			if err := os.Mkdir(c.path+".new", 0o700); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCopy(t)
			if err := c.replace(first, time.Now()); err != nil {
				t.Fatal(err)
			}
			ring := c.keyring
			spoil(c)
			if err := c.add(deltas[0], then[0], time.Now()); err == nil {
				t.Fatal("no error")
			}
			if _, err := os.Stat(c.path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a copy without the change is left: %v", err)
			}
			// Once the disk is back, the next change writes everything.
			c.keyring = ring
			_ = os.Remove(c.path + ".new")
			if err := c.add(deltas[2], then[2], time.Now()); err != nil {
				t.Fatal(err)
			}
			got, _, _, err := c.read()
			if err != nil {
				t.Fatal(err)
			}
			wantSame(t, got, then[2])
		})
	}
}

// away is a tenant.Source without its database.
type away struct{}

func (away) Snapshot(context.Context) (*tenant.Snapshot, []tenant.Quarantined, error) {
	return nil, nil, errors.New("the database does not answer")
}

func (away) Watch(context.Context, tenant.Revision, func(tenant.Delta) error) error {
	return errors.New("the database does not answer")
}

// TestNodeStartsFromItsDisk starts a node while PostgreSQL is away: it serves
// what the process before it had in force, until that is too old.
func TestNodeStartsFromItsDisk(t *testing.T) {
	two := twoIdentity().must(t)
	first, _, _ := history(t)
	disk := newCopy(t)
	if err := disk.replace(first, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	for limit, serves := range map[time.Duration]bool{2 * time.Hour: true, 30 * time.Minute: false} {
		c := serveCell(t, ports{source: away{}, objects: enginetest.NewObjects(), disk: disk, ageLimit: limit})
		if err := c.ready(); (err == nil) != serves {
			t.Errorf("limit %s: ready: %v", limit, err)
		}
		conn, err := c.connect(t.Context(), oneIdentity().must(t))
		if err == nil {
			conn.Close()
		}
		if (err == nil) != serves {
			t.Errorf("limit %s: %v, want served %t", limit, err, serves)
		}
		if conn, err := c.connectBy(t.Context(), client.Config{Certificate: two}); err == nil {
			conn.Close()
			t.Error("a tenant that the copy does not hold is served")
		}
		if age := c.configuration.age(); age < time.Hour || age > time.Hour+time.Minute {
			t.Errorf("the configuration is %s old", age)
		}
	}
}

// TestCopyIsWrittenBeforeAnythingIsTold has every replacement on the disk by
// the time that the server hears of it.
func TestCopyIsWrittenBeforeAnythingIsTold(t *testing.T) {
	disk := newCopy(t)
	s := &script{
		snapshots: []func() (*tenant.Snapshot, []tenant.Quarantined, error){at(7)},
		watches: []func(func(tenant.Delta) error) error{func(apply func(tenant.Delta) error) error {
			return errors.Join(apply(tenant.Delta{After: tenant.Revision{Number: 7}, To: tenant.Revision{Number: 8}}), tenant.ErrTooOld)
		}},
	}
	c := &configuration{
		source: s, disk: disk, ageLimit: time.Hour, now: time.Now, log: slog.New(slog.DiscardHandler), metrics: newMetrics(obs.NewRegistry()),
	}
	told := 0
	c.replaced = func() {
		told++
		got, _, _, err := disk.read()
		if err != nil || got.Revision() != c.current.Load().Revision() {
			t.Errorf("told of %v with %v, %v on the disk", c.current.Load().Revision(), got, err)
		}
	}
	if err := c.read(t.Context(), false); !errors.Is(err, tenant.ErrTooOld) {
		t.Fatal(err)
	}
	if told != 2 {
		t.Errorf("told %d times, want 2", told)
	}
}
