package node

import (
	"context"
	"crypto/x509"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Each certificate is reported at once when it was not used for a minute, else
// after that minute, and not at all if nothing new is to be told.
func TestAdmissionsAreDueOnceAMinute(t *testing.T) {
	u := admissions{latest: make(map[string]*admission)}
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	began := time.Now()
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	due := func(seconds int, want ...pg.CertificateUse) {
		t.Helper()
		got := u.due(at(seconds), admissionInterval)
		if len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
			t.Errorf("due after %d seconds: %+v, want %+v", seconds, got, want)
		}
	}
	due(0)
	u.note("a", one, at(1))
	u.note("a", two, at(2))
	due(3, pg.CertificateUse{Certificate: "a", From: two, Ago: time.Second})
	due(4, pg.CertificateUse{Certificate: "a", From: two, Ago: 2 * time.Second}) // the report was not taken
	u.note("a", one, at(5))                                                      // while it is under way
	u.reported([]pg.CertificateUse{{Certificate: "a", From: two, Ago: 2 * time.Second}}, at(4))
	due(63)
	due(64, pg.CertificateUse{Certificate: "a", From: one, Ago: 59 * time.Second})
	u.reported([]pg.CertificateUse{{Certificate: "a", From: one, Ago: 59 * time.Second}}, at(64))
	due(124)
	if len(u.latest) != 0 {
		t.Errorf("%d certificates are remembered that nobody used for a minute", len(u.latest))
	}
	u.note("a", one, at(125))
	due(125, pg.CertificateUse{Certificate: "a", From: one})
	u.reported([]pg.CertificateUse{{Certificate: "a", From: one}}, at(125))
	u.note("a", one, at(126))
	if got := u.due(at(126), 0); len(got) != 1 { // when the node ends
		t.Errorf("at the end: %+v", got)
	}
}

// TestAdmissionsAreReported connects as one of two certificates: the control plane
// sees the use of that one, also when the database takes a report only at the
// second time.
func TestAdmissionsAreReported(t *testing.T) {
	const account = "0123456789abcdef0123456789abcdef"
	database := pgtest.Database(t)
	instances := pg.NewInstances(openAs(t, database, "kmip_control"))
	pool := openAs(t, database, "kmip_node")
	c := serveCell(t, ports{source: pg.NewSource(pool), objects: enginetest.NewObjects()})
	instance, err := instances.Create(t.Context(), pg.Instance{
		ID: tenant.ID(uuid.NewString()), Account: account, Name: "i", Region: "us-south", Status: pg.Inactive, Shared: true, CreatedBy: "IBMid-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := instances.SetKeyManager(t.Context(), account, instance.ID, tenant.KeyManager{
		Type: tenant.KeyProtect, InstanceCRN: "crn", KeyRing: "default", RootKeyID: uuid.NewString(), SealedAPIKey: []byte("sealed"),
	}, nil); err != nil {
		t.Fatal(err)
	}
	var added [2]pg.Certificate
	pair, other := clientCertificate(t), clientCertificate(t)
	for n, name := range []string{"used", "unused"} {
		parsed, err := x509.ParseCertificate([...][]byte{pair.Certificate[0], other.Certificate[0]}[n])
		if err != nil {
			t.Fatal(err)
		}
		added[n], err = instances.AddCertificate(t.Context(), account, instance.ID, pg.Certificate{
			Name: name, DER: parsed.Raw, NotBefore: parsed.NotBefore, NotAfter: parsed.NotAfter,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	c.awaitAdmission(t, added[1].Fingerprint)
	c.mustConnectAs(t, pair)

	r := &reporter{reports: pg.NewReports(pool, "node-1"), server: c.server, uses: c.uses}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	list := func() []pg.Certificate {
		t.Helper()
		all, err := instances.ListCertificates(t.Context(), account, instance.ID)
		if err != nil || len(all) != 2 {
			t.Fatalf("%+v, %v", all, err)
		}
		return all
	}
	r.admissions(over, admissionInterval)
	if all := list(); !all[0].FirstUsedAt.IsZero() {
		t.Errorf("after a report that failed: %+v", all[0])
	}
	r.admissions(t.Context(), admissionInterval)
	all := list()
	if used := all[0]; used.LastUsedFrom != loopback || used.FirstUsedAt.Before(used.CreatedAt) || !used.LastUsedAt.Equal(used.FirstUsedAt) {
		t.Errorf("used: %+v", used)
	}
	if unused := all[1]; !unused.FirstUsedAt.IsZero() || unused.LastUsedFrom.IsValid() {
		t.Errorf("unused: %+v", unused)
	}
	// A request on an open connection is a use too; the node's end tells it.
	conn := c.mustConnectAs(t, pair)
	if _, err := conn.DiscoverVersions(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.admissions(t.Context(), admissionInterval)
	if again := list()[0]; !again.LastUsedAt.Equal(all[0].LastUsedAt) {
		t.Errorf("reported twice within a minute: %+v", again)
	}
	r.signOff(t.Context())
	if again := list()[0]; !again.LastUsedAt.After(all[0].LastUsedAt) || !again.FirstUsedAt.Equal(all[0].FirstUsedAt) {
		t.Errorf("after the node's end: %+v", again)
	}
}
