package pg

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// documentFormat is the version of a tenant's document that this program
// reads; the function configuration_since writes it.
const documentFormat = 1

// document is a tenant's configuration as nodes read it.
type document struct {
	Format    int      `json:"format"`
	Account   string   `json:"account"`
	Name      string   `json:"name"`
	Suspended bool     `json:"suspended"`
	Shared    bool     `json:"shared"`
	Names     []string `json:"names"`
	Ports     []uint16 `json:"ports"`
	// In DER by host name; absent for tenants without names of their own.
	ServerCertificates map[string][]byte `json:"server_certificates"`
	Clients            []clientDocument  `json:"clients"`
	// Absent for tenants whose clients need none.
	Credential *credentialDocument `json:"credential"`
	// Absent for tenants without that window.
	CacheSeconds       int64 `json:"cache_seconds"`
	OutageGraceSeconds int64 `json:"outage_grace_seconds"`
	// Absent for tenants that have revoked and destroyed nothing.
	Withheld    []string            `json:"withheld"`
	WithheldAll bool                `json:"withheld_all"`
	KeyManager  *keyManagerDocument `json:"key_manager"`
	// Absent unless keys are being moved.
	FormerKeyManagers []keyManagerDocument `json:"former_key_managers"`
}

type keyManagerDocument struct {
	Type         tenant.KeyManagerType `json:"type"`
	InstanceCRN  string                `json:"instance_crn"`
	KeyRing      string                `json:"key_ring"`
	RootKeyID    string                `json:"root_key_id"`
	SealedAPIKey []byte                `json:"sealed_api_key"`
}

func (k keyManagerDocument) decode() (tenant.KeyManager, error) {
	if k.Type != tenant.KeyProtect && k.Type != tenant.HPCS {
		return tenant.KeyManager{}, fmt.Errorf("key manager type %q is not known to this version", k.Type)
	}
	return tenant.KeyManager(k), nil
}

type credentialDocument struct {
	UserName string `json:"user_name"`
	Digest   []byte `json:"digest"`
}

type clientDocument struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Fingerprint []byte    `json:"fingerprint"`
	NotAfter    time.Time `json:"not_after"`
}

// decodeTenant reads a document strictly: an unknown format, field or key
// manager is an error, since serving a tenant without a setting that it made
// may be serving it wrongly.
func decodeTenant(id tenant.ID, text []byte) (tenant.Tenant, error) {
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return tenant.Tenant{}, err
	}
	if version.Format != documentFormat {
		return tenant.Tenant{}, fmt.Errorf("format %d is not known to this version", version.Format)
	}
	var d document
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		return tenant.Tenant{}, err
	}
	t := tenant.Tenant{
		ID: id, Account: d.Account, Name: d.Name, Suspended: d.Suspended, Shared: d.Shared, Names: d.Names, Ports: d.Ports,
		ServerCertificates: d.ServerCertificates, WithheldAll: d.WithheldAll,
		Cache: seconds(d.CacheSeconds), OutageGrace: seconds(d.OutageGraceSeconds),
		Withheld: slices.Sorted(slices.Values(d.Withheld)), // the database's order may be a language's
	}
	for _, c := range d.Clients {
		client := tenant.Client{ID: c.ID, Name: c.Name, NotAfter: c.NotAfter}
		if copy(client.Fingerprint[:], c.Fingerprint) != len(client.Fingerprint) {
			return tenant.Tenant{}, fmt.Errorf("client certificate %s: fingerprint is too short", c.ID)
		}
		t.Clients = append(t.Clients, client)
	}
	if d.Credential != nil {
		t.Credential = &tenant.Credential{UserName: d.Credential.UserName}
		if copy(t.Credential.Digest[:], d.Credential.Digest) != len(t.Credential.Digest) {
			return tenant.Tenant{}, errors.New("credential: the digest is too short")
		}
	}
	if d.KeyManager != nil {
		k, err := d.KeyManager.decode()
		if err != nil {
			return tenant.Tenant{}, err
		}
		t.KeyManager = &k
	}
	for _, former := range d.FormerKeyManagers {
		k, err := former.decode()
		if err != nil {
			return tenant.Tenant{}, err
		}
		t.Former = append(t.Former, k)
	}
	return t, nil
}

// decodeDelta sorts rows into the tenants that are readable, gone and
// unreadable.
func decodeDelta(after, to tenant.Revision, rows []queries.ConfigurationSinceRow) tenant.Delta {
	d := tenant.Delta{After: after, To: to}
	for _, row := range rows {
		id := tenant.ID(row.InstanceID)
		if row.Deleted {
			d.Removed = append(d.Removed, id)
			continue
		}
		t, err := decodeTenant(id, row.Document)
		if err != nil {
			d.Unreadable = append(d.Unreadable, tenant.Quarantined{ID: id, Reason: "stored configuration: " + err.Error()})
			continue
		}
		d.Changed = append(d.Changed, t)
	}
	return d
}
