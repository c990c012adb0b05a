package pg

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Whoever writes what nodes read takes one revision for each transaction, and
// writing anything else takes none.
func TestEveryWriteTakesARevision(t *testing.T) {
	f := newFeed(t)
	owner := superuser(t, f.database)
	i := newInstance(t, f.instances, account, "one")
	other := newInstance(t, f.instances, account, "two")
	c := addCertificate(t, f.instances, i, newCertificate("vc"))
	if _, err := f.instances.SetKeyManager(t.Context(), account, i.ID, newKeyManager(), nil); err != nil {
		t.Fatal(err)
	}
	at := int64(4)
	if s, _ := f.snapshot(t); s.Revision().Number != at {
		t.Fatalf("revision %d, want %d", s.Revision().Number, at)
	}
	for _, c := range []struct {
		sql   string
		takes int64
	}{
		{"UPDATE instances SET suspended = true WHERE id = $1", 1},
		{"UPDATE instances SET suspended = false WHERE id = $1", 1},
		{"UPDATE instances SET status = 'configuring', updated_at = now() WHERE id = $1", 0},
		{"UPDATE key_managers SET key_ring = 'other' WHERE instance_id = $1", 1},
		{"INSERT INTO endpoints VALUES ('a.example.com', $1, 6001), ('b.example.com', $1, 6002)", 1},
		{"DELETE FROM endpoints WHERE instance_id = $1", 1},
		{"UPDATE client_certificates SET revision = revision WHERE instance_id = $1", 0},
		{"UPDATE client_certificates SET last_used_at = now(), replaced_by = id WHERE instance_id = $1", 0},
		{"DELETE FROM client_certificates WHERE instance_id = $1", 1},
		{"SELECT configuration_changed($1)", 1},
		{"UPDATE instances SET deleted_at = now() WHERE id = $1", 1},
		{"DELETE FROM instances WHERE id = $1", 2}, // the instance, and then what it took along
	} {
		run(t, owner, c.sql, string(i.ID))
		s, _ := f.snapshot(t)
		if got := s.Revision().Number - at; got != c.takes {
			t.Errorf("%s: %d revisions, want %d", c.sql, got, c.takes)
		}
		at = s.Revision().Number
	}
	again, err := f.instances.Get(t.Context(), account, other.ID)
	if err != nil || again.Revision != other.Revision || c.Revision != i.Revision+2 {
		t.Errorf("the other instance's revision went from %d to %d, %v; the certificate took %d after %d", other.Revision, again.Revision, err, c.Revision, i.Revision)
	}
}

func TestNodesReport(t *testing.T) {
	f := newFeed(t)
	i := newInstance(t, f.instances, account, "one")
	s, _ := f.snapshot(t)
	pool := openAs(t, f.database, "kmip_node")
	first, second := NewReports(pool, "node-1"), NewReports(pool, "node-2")
	report := func(r *Reports, at tenant.Revision, contested bool) {
		t.Helper()
		if got, err := r.InForce(t.Context(), at); err != nil || got != contested {
			t.Errorf("report: contested %t, %v; want %t", got, err, contested)
		}
	}
	nodes := func(want ...Node) {
		t.Helper()
		if got, err := f.instances.Nodes(t.Context()); err != nil || !slices.Equal(got, want) {
			t.Errorf("nodes %+v, %v; want %+v", got, err, want)
		}
	}
	nodes()
	report(first, tenant.Revision{}, false)
	report(second, s.Revision(), false)
	nodes(Node{"node-1", 0, true}, Node{"node-2", i.Revision, true})

	// A revision of another history counts for nothing.
	report(first, tenant.Revision{Number: 1, ID: uuid.NewString()}, false)
	nodes(Node{"node-1", 1, false}, Node{"node-2", i.Revision, true})
	report(first, s.Revision(), false)

	// A silent node is unknown, for three days.
	owner := superuser(t, f.database)
	run(t, owner, "UPDATE nodes SET reported_at = now() - interval '6 seconds' WHERE name = 'node-1'")
	nodes(Node{"node-1", 1, false}, Node{"node-2", 1, true})
	run(t, owner, "UPDATE nodes SET reported_at = now() - interval '73 hours' WHERE name = 'node-1'")
	nodes(Node{"node-2", 1, true})

	// A successor after a crash is no rival; another live process is.
	successor := NewReports(pool, "node-1")
	report(successor, s.Revision(), false)
	report(first, s.Revision(), true)
	report(successor, s.Revision(), true)

	// The end of a predecessor does not sign its successor off.
	if err := first.SignOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	nodes(Node{"node-1", 1, true}, Node{"node-2", 1, true})
	if err := successor.SignOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	nodes(Node{"node-2", 1, true})
	report(NewReports(pool, "node-1"), s.Revision(), false)

	c := connectAs(t, f.database, "kmip_node")
	for _, forbidden := range []string{"SELECT FROM nodes", "UPDATE nodes SET revision = 9", "DELETE FROM nodes"} {
		if _, err := c.Exec(t.Context(), forbidden); err == nil {
			t.Errorf("kmip_node may %s", forbidden)
		}
	}
}

// Two tenants get endpoints of their own: names, ports and certificates that
// nobody else has, until 30 days after the instance's end.
func TestDedicatedEndpoints(t *testing.T) {
	database := pgtest.Database(t)
	s := NewInstances(openAs(t, database, "kmip_control"))
	set := func(account string, id tenant.ID) (Instance, error) {
		return s.SetKeyManager(t.Context(), account, id, newKeyManager(), &Dedicated{
			HostName: string(id) + ".kmip.example.com", ServerCertificate: []byte("leaf of " + id), FirstPort: 7000, LastPort: 7001,
		})
	}
	wantEndpoint := func(i Instance, port uint16) {
		t.Helper()
		got, err := s.ListEndpoints(t.Context(), i.Account, i.ID)
		if err != nil || len(got) != 1 || got[0].HostName != string(i.ID)+".kmip.example.com" || got[0].Port != port || string(got[0].ServerCertificate) != "leaf of "+string(i.ID) {
			t.Errorf("endpoints of %s: %+v, %v; want port %d", i.Name, got, err, port)
		}
	}
	mine, theirs, late := newInstance(t, s, account, "mine"), newInstance(t, s, stranger, "theirs"), newInstance(t, s, account, "late")
	var err error
	if mine, err = set(account, mine.ID); err != nil || mine.Shared {
		t.Fatalf("mine: %+v, %v", mine, err)
	}
	if theirs, err = set(stranger, theirs.ID); err != nil || theirs.Shared {
		t.Fatalf("theirs: %+v, %v", theirs, err)
	}
	wantEndpoint(mine, 7000)
	wantEndpoint(theirs, 7001)
	if _, err := set(account, late.ID); !errors.Is(err, ErrNoPort) {
		t.Errorf("without a free port: %v, want ErrNoPort", err)
	}
	if again, err := s.Get(t.Context(), account, late.ID); err != nil || !again.Shared || again.KeyManager != nil {
		t.Errorf("after that: %+v, %v; want it as before", again, err)
	}
	// A second key manager changes nothing of what clients were told.
	if _, err := set(account, mine.ID); err != nil {
		t.Error(err)
	}
	wantEndpoint(mine, 7000)
	if _, err := s.ListEndpoints(t.Context(), account, theirs.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("endpoints of a foreign instance: %v, want ErrNotFound", err)
	}
	snapshot, _, err := NewSource(openAs(t, database, "kmip_node")).Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := snapshot.ServerCertificate(string(theirs.ID) + ".KMIP.example.com."); string(got) != "leaf of "+string(theirs.ID) {
		t.Errorf("the nodes' certificate for theirs: %q", got)
	}

	if _, err := s.Delete(t.Context(), account, mine.ID, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := set(account, late.ID); !errors.Is(err, ErrNoPort) {
		t.Errorf("the port of an instance that can be restored: %v, want ErrNoPort", err)
	}
	run(t, superuser(t, database), "UPDATE instances SET deleted_at = now() - interval '31 days' WHERE id = $1", string(mine.ID))
	if late, err = set(account, late.ID); err != nil {
		t.Fatal(err)
	}
	wantEndpoint(late, 7000)

	// The role can't take one for another account, nor write the table.
	c := connectAs(t, database, "kmip_control")
	run(t, c, "SELECT set_config('kmip.account', $1, false)", account)
	for _, forbidden := range []string{
		"SELECT assign_endpoint('" + string(theirs.ID) + "', 'x.example.com', 'x', 8000, 8001)",
		"INSERT INTO endpoints VALUES ('x.example.com', '" + string(late.ID) + "', 8000)",
	} {
		if _, err := c.Exec(t.Context(), forbidden); err == nil {
			t.Errorf("kmip_control may %s", forbidden)
		}
	}
}
