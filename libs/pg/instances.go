package pg

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// The errors of Instances besides engine.ErrUnavailable, to compare with
// errors.Is. Both names below are of kind fault.Exists.
var (
	// ErrNotFound: the account has no such instance, or that no such
	// certificate. It equals engine.ErrNotFound.
	ErrNotFound = engine.ErrNotFound
	// ErrNameTaken: another instance of the account, or another certificate of
	// the instance, has the name.
	ErrNameTaken = fault.New(fault.Exists, "This name is taken. Choose another one.")
	// ErrFingerprintTaken: the certificate is registered already, for
	// whomever, or reserved for the account of a deleted instance.
	ErrFingerprintTaken = fault.New(fault.Exists,
		"This client certificate is registered already. If it is not one of yours, make a new certificate in vCenter.")
	// ErrRemoved: the instance is deleted, and can be restored.
	ErrRemoved = fault.New(fault.Illegal, "This instance is deleted. Restore it first.")
	// ErrStale: the instance is not in the state that the caller has asked
	// for.
	ErrStale = fault.New(fault.Conflict, "The instance was changed meanwhile. Read it again.")
	// ErrNoPort: every port for dedicated endpoints is taken. It is of kind
	// fault.Unavailable.
	ErrNoPort = fault.New(fault.Unavailable,
		"This cell has no port left for an endpoint of this instance's own. Tell the operator of the service.")
)

var errInstanceNotFound = fault.New(fault.NotFound, "There is no such instance.")

// Status is how far an instance has come in its life.
type Status string

// The statuses.
const (
	Installing  Status = "installing"  // being made
	Inactive    Status = "inactive"    // without a key manager
	Configuring Status = "configuring" // being changed
	Installed   Status = "installed"   // ready
	Removing    Status = "removing"    // deleted, restorable
)

// Instance is a customer's instance as the control plane sees it.
type Instance struct {
	ID        tenant.ID
	Account   string // IBM Cloud account
	Name      string // unique in the account
	Region    string
	Status    Status
	Shared    bool   // reached at the cell's shared endpoints
	Suspended bool   // not served
	CreatedBy string // IAM id
	CreatedAt time.Time
	UpdatedAt time.Time
	Revision  int64 // of its newest change that nodes have to know
	// RestorableUntil is zero unless the instance is deleted.
	RestorableUntil time.Time
	// UserName is the one of the credential that its KMIP clients have to send;
	// empty if they need none.
	UserName string
	// Cache and OutageGrace are the windows of tenant.Tenant, in whole seconds.
	Cache       time.Duration
	OutageGrace time.Duration
	// KeyManager is nil until there is one.
	KeyManager *tenant.KeyManager
}

// Tenant returns the instance for work on its keys, which may still lie in former
// key managers.
func (i Instance) Tenant(former []tenant.KeyManager) *tenant.Tenant {
	return &tenant.Tenant{ID: i.ID, Account: i.Account, Name: i.Name, Shared: i.Shared, KeyManager: i.KeyManager, Former: former}
}

// Endpoint is a host name and port of one instance alone.
type Endpoint struct {
	HostName          string // lower case
	Port              uint16 // as advertised; 0: that of the shared endpoints
	ServerCertificate []byte // leaf for HostName, in DER; nil: the shared one is shown
}

// Instances is the control plane's store. Its pool's role is kmip_control.
// Every call names an account and sees its rows alone; a foreign instance and
// an unknown one are ErrNotFound alike. Every change that nodes have to know
// takes a revision: the database does that at commit, whoever writes.
type Instances struct {
	pool *Pool
}

// NewInstances returns the store in a database.
func NewInstances(pool *Pool) *Instances { return &Instances{pool} }

// Create adds an instance to i.Account, and returns it with its times.
// i.KeyManager is not read. It returns ErrNameTaken.
func (s *Instances) Create(ctx context.Context, i Instance) (Instance, error) {
	var created Instance
	err := s.in(ctx, i.Account, func(q *queries.Queries) error {
		err := q.CreateInstance(ctx, queries.CreateInstanceParams{
			ID: string(i.ID), Account: i.Account, Name: i.Name, Region: i.Region, Status: string(i.Status),
			Suspended: i.Suspended, Shared: i.Shared, CreatedBy: i.CreatedBy,
		})
		if violates(err, "instances_name") {
			return ErrNameTaken
		}
		if err == nil {
			created, err = getChanged(ctx, q, i.Account, i.ID)
		}
		return err
	})
	return created, err
}

// Filter says which of an account's instances to list. Its zero value stands
// for all that are not deleted.
type Filter struct {
	Name   string
	Status Status // Removing: those that are deleted and can be restored
	After  tenant.ID
	Limit  int
}

// List returns the first Limit instances behind After, the oldest first, and
// how many there are on all pages. An After that the account does not have is
// ErrNotFound.
func (s *Instances) List(ctx context.Context, account string, f Filter) (page []Instance, total int, err error) {
	params := queries.ListInstancesParams{
		Account: account, Name: f.Name, Status: string(f.Status), Deleted: f.Status == Removing, Most: int32(f.Limit), //nolint:gosec // a page
	}
	err = s.in(ctx, account, func(q *queries.Queries) error {
		if f.After != "" {
			if _, err := getInstance(ctx, q, account, f.After); err != nil {
				return err
			}
			params.After = (*string)(&f.After)
		}
		rows, err := q.ListInstances(ctx, params)
		if err != nil {
			return err
		}
		for _, row := range rows {
			page = append(page, instanceOf(row))
		}
		count, err := q.CountInstances(ctx, queries.CountInstancesParams{
			Account: account, Name: params.Name, Status: params.Status, Deleted: params.Deleted,
		})
		total = int(count)
		return err
	})
	return page, total, err
}

// Get returns an instance, also a deleted one that can be restored, or
// ErrNotFound.
func (s *Instances) Get(ctx context.Context, account string, id tenant.ID) (Instance, error) {
	var found Instance
	err := s.in(ctx, account, func(q *queries.Queries) (err error) {
		found, err = getInstance(ctx, q, account, id)
		return err
	})
	return found, err
}

// Match says whether an instance is in a state that the caller expects. Nil
// expects nothing.
type Match func(Instance) bool

// Settings are what of an instance can be changed at any time; nil leaves it as
// it is.
type Settings struct {
	Name        *string
	Cache       *time.Duration
	OutageGrace *time.Duration
}

// Update changes an instance's settings. It returns ErrNameTaken, ErrRemoved,
// or ErrStale.
func (s *Instances) Update(ctx context.Context, account string, id tenant.ID, to Settings, match Match) (Instance, error) {
	return s.edit(ctx, account, id, match, func(q *queries.Queries, before Instance) (bool, error) {
		if before.Status == Removing {
			return false, ErrRemoved
		}
		return true, q.UpdateInstance(ctx, queries.UpdateInstanceParams{
			Account: account, ID: string(id), Name: to.Name,
			CacheSeconds: inSeconds(to.Cache), OutageGraceSeconds: inSeconds(to.OutageGrace),
		})
	})
}

// SetCredential makes an instance's KMIP clients send a credential from now on,
// or none if c is nil. It returns ErrRemoved.
func (s *Instances) SetCredential(ctx context.Context, account string, id tenant.ID, c *tenant.Credential) (Instance, error) {
	return s.edit(ctx, account, id, nil, func(q *queries.Queries, before Instance) (bool, error) {
		if before.Status == Removing {
			return false, ErrRemoved
		}
		params := queries.SetCredentialParams{Account: account, ID: string(id)}
		if c != nil {
			params.UserName, params.Digest = &c.UserName, c.Digest[:]
		}
		return true, q.SetCredential(ctx, params)
	})
}

// Delete takes an instance out of service. Its rows stay, so that it can be
// restored for 30 days and its endpoints and certificates stay reserved to its
// account as long. A deleted instance stays as it is. It returns ErrStale.
func (s *Instances) Delete(ctx context.Context, account string, id tenant.ID, match Match) (Instance, error) {
	return s.edit(ctx, account, id, match, func(q *queries.Queries, before Instance) (bool, error) {
		if before.Status == Removing {
			return false, nil
		}
		return true, q.DeleteInstance(ctx, queries.DeleteInstanceParams{Account: account, ID: string(id)})
	})
}

// Restore takes a deleted instance into service again, without the client
// certificates that the account has given to another one since. One that is
// not deleted stays as it is. It returns ErrNameTaken.
func (s *Instances) Restore(ctx context.Context, account string, id tenant.ID) (Instance, error) {
	return s.edit(ctx, account, id, nil, func(q *queries.Queries, before Instance) (bool, error) {
		if before.Status != Removing {
			return false, nil
		}
		return true, q.RestoreInstance(ctx, queries.RestoreInstanceParams{Account: account, ID: string(id)})
	})
}

// edit runs write on an instance that it holds locked and that matches, and
// returns it as it is then. Write tells whether it has changed something.
func (s *Instances) edit(ctx context.Context, account string, id tenant.ID, match Match, write func(*queries.Queries, Instance) (bool, error)) (Instance, error) {
	var after Instance
	err := s.in(ctx, account, func(q *queries.Queries) error {
		before, err := lockInstance(ctx, q, account, id)
		if err != nil {
			return err
		}
		if match != nil && !match(before) {
			return ErrStale
		}
		after = before
		changed, err := write(q, before)
		if violates(err, "instances_name") {
			return ErrNameTaken
		}
		if err == nil && changed {
			after, err = getChanged(ctx, q, account, id)
		}
		return err
	})
	return after, err
}

// SetKeyManager gives an instance its key manager, in place of the one it may
// have, and makes it Installed, or Configuring while keys are moved from another
// root key. An instance that has none yet and is given
// dedicated is from then on reached there and no longer at the shared
// endpoints; whoever has one keeps what its clients were told. Found is what
// trying the settings has shown. It returns ErrNoPort.
func (s *Instances) SetKeyManager(ctx context.Context, account string, id tenant.ID, k tenant.KeyManager, dedicated *Dedicated, found ...Condition) (Instance, error) {
	var changed Instance
	err := s.change(ctx, account, id, func(q *queries.Queries) error {
		before, err := getInstance(ctx, q, account, id)
		if err != nil {
			return err
		}
		if before.KeyManager == nil && before.Shared && dedicated != nil {
			if err := dedicated.assign(ctx, q, id); err != nil {
				return err
			}
		}
		if k.SealedAPIKey == nil {
			k.SealedAPIKey = []byte{} // null is no value
		}
		err = q.PutKeyManager(ctx, queries.PutKeyManagerParams{
			InstanceID: string(id), Type: string(k.Type), InstanceCrn: k.InstanceCRN,
			KeyRing: k.KeyRing, RootKeyID: k.RootKeyID, SealedApiKey: k.SealedAPIKey,
		})
		if err != nil {
			return err
		}
		err = errors.Join(beginMove(ctx, q, id, before.KeyManager, k), putConditions(ctx, q, id, found))
		if err != nil {
			return err
		}
		if err := q.SetInstalled(ctx, queries.SetInstalledParams{Account: account, ID: string(id)}); err != nil {
			return err
		}
		changed, err = getChanged(ctx, q, account, id)
		return err
	})
	return changed, err
}

// Dedicated is an endpoint to be given to one instance alone.
type Dedicated struct {
	HostName            string // lower case
	ServerCertificate   []byte // leaf for HostName, in DER
	FirstPort, LastPort uint16 // the lowest free one is taken
}

func (d *Dedicated) assign(ctx context.Context, q *queries.Queries, id tenant.ID) error {
	port, err := q.AssignEndpoint(ctx, queries.AssignEndpointParams{
		InstanceID: string(id), HostName: d.HostName, ServerCertificate: d.ServerCertificate,
		FirstPort: int32(d.FirstPort), LastPort: int32(d.LastPort),
	})
	if err == nil && port == 0 {
		return ErrNoPort
	}
	return err
}

// ListEndpoints returns an instance's own endpoints, none if it is reached at
// the shared ones, or ErrNotFound.
func (s *Instances) ListEndpoints(ctx context.Context, account string, id tenant.ID) ([]Endpoint, error) {
	var all []Endpoint
	err := s.in(ctx, account, func(q *queries.Queries) error {
		if _, err := getInstance(ctx, q, account, id); err != nil {
			return err
		}
		rows, err := q.ListEndpoints(ctx, string(id))
		for _, row := range rows {
			e := Endpoint{HostName: row.HostName, ServerCertificate: row.ServerCertificate}
			if row.Port != nil {
				e.Port = uint16(*row.Port) //nolint:gosec // the column's check
			}
			all = append(all, e)
		}
		return err
	})
	return all, err
}

// NoteCertificate records when the server certificate of an endpoint ends, as
// its next renewal is due by that.
func (s *Instances) NoteCertificate(ctx context.Context, account string, id tenant.ID, e Endpoint, notAfter time.Time) error {
	return s.change(ctx, account, id, func(q *queries.Queries) error {
		return q.NoteCertificate(ctx, queries.NoteCertificateParams{InstanceID: string(id), HostName: e.HostName, NotAfter: &notAfter, ServerCertificate: e.ServerCertificate})
	})
}

// RenewCertificate replaces the server certificate of an endpoint, in DER,
// unless it is no longer that of e.
func (s *Instances) RenewCertificate(ctx context.Context, account string, id tenant.ID, e Endpoint, der []byte, notAfter time.Time) error {
	return s.change(ctx, account, id, func(q *queries.Queries) error {
		return q.RenewCertificate(ctx, queries.RenewCertificateParams{
			InstanceID: string(id), HostName: e.HostName, Before: e.ServerCertificate, ServerCertificate: der, NotAfter: &notAfter,
		})
	})
}

// in runs do in a transaction that sees the account's rows alone.
func (s *Instances) in(ctx context.Context, account string, do func(*queries.Queries) error) error {
	return s.pool.transact(ctx, pgx.TxOptions{}, func(q *queries.Queries) error {
		if err := q.SetAccount(ctx, account); err != nil {
			return err
		}
		return do(q)
	})
}

// change runs write on an instance that it holds locked and that is not
// deleted, else it returns ErrRemoved.
func (s *Instances) change(ctx context.Context, account string, id tenant.ID, write func(*queries.Queries) error) error {
	return s.in(ctx, account, func(q *queries.Queries) error {
		before, err := lockInstance(ctx, q, account, id)
		if err != nil {
			return err
		}
		if before.Status == Removing {
			return ErrRemoved
		}
		return write(q)
	})
}

// lockInstance returns an instance that nobody else changes until this
// transaction ends.
func lockInstance(ctx context.Context, q *queries.Queries, account string, id tenant.ID) (Instance, error) {
	if uuid.Validate(string(id)) != nil {
		return Instance{}, errInstanceNotFound
	}
	if _, err := q.LockInstance(ctx, queries.LockInstanceParams{Account: account, ID: string(id)}); err != nil {
		return Instance{}, err
	}
	return getInstance(ctx, q, account, id)
}

// getChanged returns an instance that this transaction has changed, with the
// revision that it takes. From then to commit all changes of the cell wait for
// this one: call it last.
func getChanged(ctx context.Context, q *queries.Queries, account string, id tenant.ID) (Instance, error) {
	if err := q.TakeRevision(ctx); err != nil {
		return Instance{}, err
	}
	return getInstance(ctx, q, account, id)
}

func getInstance(ctx context.Context, q *queries.Queries, account string, id tenant.ID) (Instance, error) {
	if uuid.Validate(string(id)) != nil {
		return Instance{}, errInstanceNotFound
	}
	rows, err := q.ListInstances(ctx, queries.ListInstancesParams{Account: account, ID: (*string)(&id), Deleted: true, Most: 1})
	if err != nil {
		return Instance{}, err
	}
	if len(rows) == 0 {
		return Instance{}, errInstanceNotFound
	}
	return instanceOf(rows[0]), nil
}

// restorable is how long a deleted instance can be restored; the queries have
// it too.
const restorable = 30 * 24 * time.Hour

func seconds[N int32 | int64](n N) time.Duration { return time.Duration(n) * time.Second }

func inSeconds(d *time.Duration) *int32 {
	if d == nil {
		return nil
	}
	n := int32(*d / time.Second) //nolint:gosec // the column allows a day
	return &n
}

func instanceOf(row queries.ListInstancesRow) Instance {
	i := Instance{
		ID: tenant.ID(row.ID), Account: row.Account, Name: row.Name, Region: row.Region, Status: Status(row.Status),
		Shared: row.Shared, Suspended: row.Suspended, CreatedBy: row.CreatedBy, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt, Revision: row.Revision,
		Cache: seconds(row.CacheSeconds), OutageGrace: seconds(row.OutageGraceSeconds),
	}
	if row.KmipUserName != nil {
		i.UserName = *row.KmipUserName
	}
	if row.DeletedAt != nil {
		i.RestorableUntil = row.DeletedAt.Add(restorable)
	}
	if row.Type != nil {
		i.KeyManager = &tenant.KeyManager{
			Type: tenant.KeyManagerType(*row.Type), InstanceCRN: *row.InstanceCrn,
			KeyRing: *row.KeyRing, RootKeyID: *row.RootKeyID, SealedAPIKey: row.SealedApiKey,
		}
	}
	return i
}
