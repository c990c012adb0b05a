package pg

import (
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/migrations"
)

// TestNamesOfEarlierObjects applies the migration to a database whose objects
// had their names before names were unique: the first object of a name holds it.
func TestNamesOfEarlierObjects(t *testing.T) {
	database := pgtest.Database(t)
	admin := superuser(t, database)
	objects := NewObjects(openAs(t, database, "kmip_node"))
	one, two := enginetest.NewTenantID(), enginetest.NewTenantID()
	add := func(id tenant.ID, state kmip.State, names ...string) kmip.ObjectID {
		r := enginetest.NewRecord()
		r.Phase, r.Object.State = engine.Live, state
		r.Object.ClientAttributes = append(enginetest.Names(names...), kmip.Attribute{Name: "x-Name", Value: kmip.Text("db")})
		run(t, admin, "DELETE FROM object_names") // as if nothing held one
		if err := objects.Create(t.Context(), id, r); err != nil {
			t.Fatal(err)
		}
		return r.Object.ID
	}
	add(one, kmip.Destroyed, "db")
	first, other := add(one, kmip.Active, "db", "Zürich 😀"), add(two, kmip.Active, "db")
	add(one, kmip.PreActive, "db")
	for _, file := range []string{"0008_names.down.sql", "0008_names.up.sql"} {
		sql, err := migrations.FS.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		run(t, connectAs(t, database, "kmip_owner"), string(sql))
	}
	for _, c := range []struct {
		tenant tenant.ID
		name   string
		want   kmip.ObjectID
	}{{one, "db", first}, {one, "Zürich 😀", first}, {two, "db", other}} {
		found, err := objects.Locate(t.Context(), c.tenant, engine.Query{Filter: kmip.NameFilter(c.name), Now: time.Now(), Maximum: 10})
		if err != nil || len(found.IDs) != 1 || found.IDs[0] != c.want {
			t.Errorf("%q of %s: %v, %v, want %s", c.name, c.tenant, found.IDs, err, c.want)
		}
	}
}
