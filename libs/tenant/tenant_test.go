package tenant_test

import (
	"errors"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func fingerprint(b byte) tenant.Fingerprint { return tenant.Fingerprint{b} }

// tenants: one is reached at the shared endpoints, two by its own name and port.
func tenants() []tenant.Tenant {
	km := &tenant.KeyManager{Type: tenant.KeyProtect}
	return []tenant.Tenant{
		{
			ID: "one", Shared: true, KeyManager: km,
			Clients: []tenant.Client{
				{ID: "1a", Fingerprint: fingerprint(1), NotAfter: now.Add(time.Hour)},
				{ID: "1b", Fingerprint: fingerprint(11), NotAfter: now.Add(-time.Hour)},
			},
		},
		{
			ID: "two", Names: []string{"two.kmip.example"}, Ports: []uint16{5800}, KeyManager: km,
			Clients: []tenant.Client{{ID: "2a", Fingerprint: fingerprint(2), NotAfter: now.Add(time.Hour)}},
		},
		{
			ID: "three", Shared: true, Suspended: true, KeyManager: km,
			Clients: []tenant.Client{{ID: "3a", Fingerprint: fingerprint(3), NotAfter: now.Add(time.Hour)}},
		},
		{
			ID: "four", Shared: true,
			Clients: []tenant.Client{{ID: "4a", Fingerprint: fingerprint(4), NotAfter: now.Add(time.Hour)}},
		},
	}
}

func TestAdmit(t *testing.T) {
	s, quarantined := tenant.NewSnapshot(tenant.Revision{Number: 1}, tenants())
	if len(quarantined) != 0 || s.Len() != 4 {
		t.Fatalf("%d tenants, quarantined %v", s.Len(), quarantined)
	}
	const shared, own = 5696, 5800
	for name, c := range map[string]struct {
		serverName string
		port       uint16
		client     byte // 0: none
		tenant     tenant.ID
		cause      tenant.Cause
		addressed  tenant.ID
	}{
		"certificate on the shared port":        {"", shared, 1, "one", "", ""},
		"with a shared name":                    {"kmip-1.example", shared, 1, "one", "", ""},
		"own port without SNI":                  {"", own, 2, "two", "", ""},
		"own port with any SNI":                 {"kmip-1.example", own, 2, "two", "", ""},
		"own name on the shared port":           {"two.kmip.example", shared, 2, "two", "", ""},
		"own name in capitals with a dot":       {"TWO.kmip.example.", shared, 2, "two", "", ""},
		"own tenant without its name":           {"", shared, 2, "", tenant.NotShared, ""},
		"own tenant with another name":          {"kmip-1.example", shared, 2, "", tenant.NotShared, ""},
		"foreign certificate at own port":       {"", own, 1, "", tenant.ForeignCertificate, "two"},
		"foreign certificate at own name":       {"two.kmip.example", shared, 1, "", tenant.ForeignCertificate, "two"},
		"unknown certificate":                   {"", shared, 9, "", tenant.UnknownCertificate, ""},
		"unknown certificate at own port":       {"", own, 9, "", tenant.UnknownCertificate, "two"},
		"no certificate":                        {"", shared, 0, "", tenant.NoCertificate, ""},
		"no certificate at own name":            {"two.kmip.example", shared, 0, "", tenant.NoCertificate, "two"},
		"expired certificate":                   {"", shared, 11, "", tenant.ExpiredCertificate, ""},
		"suspended":                             {"", shared, 3, "", tenant.SuspendedTenant, ""},
		"no key manager":                        {"", shared, 4, "", tenant.Unconfigured, ""},
		"own port beats another tenant's name":  {"two.kmip.example", own, 2, "two", "", ""},
		"name of a tenant with one's own cert.": {"two.kmip.example", shared, 3, "", tenant.ForeignCertificate, "two"},
	} {
		a := tenant.Arrival{ServerName: c.serverName, Port: c.port, Client: fingerprint(c.client), HasClient: c.client != 0}
		got, client, err := s.Admit(a, now)
		if c.cause == "" {
			if err != nil || got.ID != c.tenant || client.Fingerprint != a.Client {
				t.Errorf("%s: %+v, %v, want tenant %s", name, got, err, c.tenant)
			}
			continue
		}
		var r *tenant.Refusal
		if !errors.As(err, &r) || got != nil || r.Cause != c.cause || s.Addressed(a) != c.addressed {
			t.Errorf("%s: %+v, %+v addressed to %q, want %s addressed to %q", name, got, r, s.Addressed(a), c.cause, c.addressed)
		}
	}
}

func TestApply(t *testing.T) {
	s, _ := tenant.NewSnapshot(tenant.Revision{Number: 1, ID: "a"}, tenants())
	changed := tenants()[0]
	changed.Clients = changed.Clients[1:]
	next, _, err := s.Apply(tenant.Delta{
		After: tenant.Revision{Number: 1, ID: "a"}, To: tenant.Revision{Number: 3, ID: "c"},
		Changed: []tenant.Tenant{changed}, Removed: []tenant.ID{"two"},
	})
	if err != nil {
		t.Fatal(err)
	}
	arrive := func(s *tenant.Snapshot, client byte) error {
		_, _, err := s.Admit(tenant.Arrival{Client: fingerprint(client), HasClient: true, Port: 5800}, now)
		return err
	}
	if err := arrive(next, 1); err == nil {
		t.Error("a removed certificate is still admitted")
	}
	if err := arrive(next, 2); err == nil {
		t.Error("a removed tenant is still admitted")
	}
	if err := arrive(s, 2); err != nil {
		t.Errorf("the older snapshot changed: %v", err)
	}
	if next.Revision().Number != 3 || len(next.Ports()) != 0 {
		t.Errorf("revision %v, ports %v", next.Revision(), next.Ports())
	}
	for _, after := range []tenant.Revision{{Number: 2, ID: "a"}, {Number: 1, ID: "b"}} {
		if _, _, err := s.Apply(tenant.Delta{After: after}); !errors.Is(err, tenant.ErrGap) {
			t.Errorf("delta after %v: %v, want ErrGap", after, err)
		}
	}
}

// TestQuarantine lets a tenant claim what another has: the other is served on,
// and the end of the conflict brings the first back.
func TestQuarantine(t *testing.T) {
	all := tenants()
	all[3].Clients = append(all[3].Clients, tenant.Client{Fingerprint: fingerprint(1)})
	s, quarantined := tenant.NewSnapshot(tenant.Revision{Number: 1}, all, tenant.Quarantined{ID: "new", Reason: "format 9"})
	if len(quarantined) != 2 || s.Tenant("one") != nil && s.Tenant("four") != nil {
		t.Fatalf("quarantined %v", quarantined)
	}
	if s.Tenant("two") == nil {
		t.Error("a tenant without part in the conflict is not served")
	}
	next, quarantined, err := s.Apply(tenant.Delta{
		After: tenant.Revision{Number: 1}, To: tenant.Revision{Number: 2},
		Removed: []tenant.ID{"four"}, Changed: []tenant.Tenant{{ID: "new"}},
	})
	if err != nil || len(quarantined) != 0 {
		t.Fatalf("after the conflict: %v, %v", quarantined, err)
	}
	if next.Tenant("one") == nil || next.Tenant("new") == nil {
		t.Error("a tenant is not served though its conflict ended")
	}
}
