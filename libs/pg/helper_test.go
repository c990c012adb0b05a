package pg

import (
	"context"
	"crypto/rand"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Two customers.
const (
	account  = "0123456789abcdef0123456789abcdef"
	stranger = "fedcba9876543210fedcba9876543210"
)

// openAs returns a pool on a database as a role.
func openAs(t *testing.T, database, role string) *Pool {
	t.Helper()
	p, err := Open(t.Context(), Config{URL: pgtest.URL(t, database, role), MaxConnections: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// connectAs returns a plain connection to a database as a role.
func connectAs(t *testing.T, database, role string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), pgtest.URL(t, database, role))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// run executes statements as the role of a connection.
func run(t *testing.T, c *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// superuser returns a connection that no policy binds.
func superuser(t *testing.T, database string) *pgx.Conn {
	t.Helper()
	return connectAs(t, database, "postgres")
}

func databaseName(t *testing.T, database string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	return u.Path[1:]
}

// newInstance creates an instance in an account.
func newInstance(t *testing.T, s *Instances, account, name string) Instance {
	t.Helper()
	i, err := s.Create(t.Context(), Instance{
		ID: tenant.ID(uuid.NewString()), Account: account, Name: name, Region: "us-south",
		Status: Inactive, Shared: true, CreatedBy: "IBMid-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// newCertificate returns a certificate of bytes that nobody else has.
func newCertificate(name string) Certificate {
	der := make([]byte, 300)
	rand.Read(der)
	return Certificate{
		Name: name, DER: der, NotBefore: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), NotAfter: time.Date(2036, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func addCertificate(t *testing.T, s *Instances, i Instance, c Certificate) Certificate {
	t.Helper()
	added, err := s.AddCertificate(t.Context(), i.Account, i.ID, c)
	if err != nil {
		t.Fatal(err)
	}
	return added
}

func newKeyManager() tenant.KeyManager {
	sealed := make([]byte, 120) // longer than a line of base64
	rand.Read(sealed)
	return tenant.KeyManager{
		Type: tenant.HPCS, InstanceCRN: "crn:v1:bluemix:public:hs-crypto:us-south:a/acc:inst::", KeyRing: "ring",
		RootKeyID: uuid.NewString(), SealedAPIKey: sealed,
	}
}

// cut ends the nodes' sessions on a connection's database.
func cut(t *testing.T, admin *pgx.Conn) {
	t.Helper()
	run(t, admin, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'kmip_node'")
}
