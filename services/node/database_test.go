package node

import (
	"crypto/x509"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

func openAs(t *testing.T, database, role string) *pg.Pool {
	t.Helper()
	pool, err := pg.Open(t.Context(), pg.Config{URL: pgtest.URL(t, database, role)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// TestTwoNodesOnPostgreSQL goes the whole way from a customer's change in the
// database to KMIP on two nodes: a certificate is admitted within seconds, a
// key made on one node is read on the other, and the removal of the
// certificate closes an open connection.
func TestTwoNodesOnPostgreSQL(t *testing.T) {
	const account = "0123456789abcdef0123456789abcdef"
	database := pgtest.Database(t)
	instances := pg.NewInstances(openAs(t, database, "kmip_control"))
	pool := openAs(t, database, "kmip_node")
	one := serveCell(t, ports{source: pg.NewSource(pool), objects: pg.NewObjects(pool)})
	two := serveCell(t, ports{source: pg.NewSource(pool), objects: pg.NewObjects(pool), vault: one.vault})

	instance, err := instances.Create(t.Context(), pg.Instance{
		ID: tenant.ID(uuid.NewString()), Account: account, Name: "i", Region: "us-south", Status: pg.Inactive, Shared: true, CreatedBy: "IBMid-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := instances.SetKeyManager(t.Context(), account, instance.ID, tenant.KeyManager{
		Type: tenant.KeyProtect, InstanceCRN: "crn:v1:bluemix:public:kms:us-south:a/" + account + ":" + uuid.NewString() + "::",
		KeyRing: "default", RootKeyID: uuid.NewString(), SealedAPIKey: []byte("sealed"),
	}, nil); err != nil {
		t.Fatal(err)
	}
	pair := clientCertificate(t)
	parsed, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := instances.AddCertificate(t.Context(), account, instance.ID, pg.Certificate{
		Name: "vcenter", DER: parsed.Raw, NotBefore: parsed.NotBefore, NotAfter: parsed.NotAfter,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*cell{one, two} {
		c.awaitAdmission(t, tenant.FingerprintOf(parsed.Raw))
	}

	id, err := one.mustConnectAs(t, pair).Create(t.Context(), vSphere...)
	if err != nil {
		t.Fatal(err)
	}
	open := two.mustConnectAs(t, pair)
	state, err := open.GetAttributes(t.Context(), id, kmip.AttributeState)
	if err != nil || len(state) != 1 {
		t.Errorf("state on the other node: %v, %v", state, err)
	}
	key, err := open.Get(t.Context(), id)
	if err != nil || key.Len() != 32 {
		t.Errorf("key on the other node: %v", err)
	}
	key.Wipe()

	idle := two.raw(t, pair)
	began := time.Now()
	if err := instances.DeleteCertificate(t.Context(), account, instance.ID, certificate.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection outlives its certificate: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second { // the target is one; this machine may be busy
		t.Errorf("it was closed after %s", took)
	}
	if _, err := open.DiscoverVersions(t.Context()); err == nil {
		t.Error("an open connection outlives its certificate")
	}
}
