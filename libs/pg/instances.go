package pg

import (
	"context"
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
	// ErrNoPort: every port for dedicated endpoints is taken. It is of kind
	// fault.Unavailable.
	ErrNoPort = fault.New(fault.Unavailable,
		"This cell has no port left for an endpoint of this instance's own. Tell the operator of the service.")
)

var (
	errInstanceNotFound    = fault.New(fault.NotFound, "There is no such instance.")
	errCertificateNotFound = fault.New(fault.NotFound, "There is no such client certificate.")
)

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
	// KeyManager is nil until there is one.
	KeyManager *tenant.KeyManager
}

// Endpoint is a host name and port of one instance alone.
type Endpoint struct {
	HostName          string // lower case
	Port              uint16 // as advertised; 0: that of the shared endpoints
	ServerCertificate []byte // leaf for HostName, in DER; nil: the shared one is shown
}

// Certificate is a client certificate of an instance.
type Certificate struct {
	ID          string // UUID
	Name        string // unique in the instance
	DER         []byte
	Fingerprint tenant.Fingerprint // made of DER by the database
	NotBefore   time.Time
	NotAfter    time.Time
	CreatedAt   time.Time
	Revision    int64 // that added it
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

// List returns the account's instances, the oldest first.
func (s *Instances) List(ctx context.Context, account string) ([]Instance, error) {
	var all []Instance
	err := s.in(ctx, account, func(q *queries.Queries) error {
		rows, err := q.ListInstances(ctx, queries.ListInstancesParams{Account: account})
		for _, row := range rows {
			all = append(all, instanceOf(row))
		}
		return err
	})
	return all, err
}

// Get returns an instance, or ErrNotFound.
func (s *Instances) Get(ctx context.Context, account string, id tenant.ID) (Instance, error) {
	var found Instance
	err := s.in(ctx, account, func(q *queries.Queries) (err error) {
		found, err = getInstance(ctx, q, account, id)
		return err
	})
	return found, err
}

// Delete takes an instance out of service. Its rows stay, so that it can be
// restored and its certificates stay reserved to its account.
func (s *Instances) Delete(ctx context.Context, account string, id tenant.ID) error {
	return s.change(ctx, account, id, func(q *queries.Queries) error {
		return q.DeleteInstance(ctx, queries.DeleteInstanceParams{Account: account, ID: string(id)})
	})
}

// SetKeyManager gives an instance its key manager, in place of the one it may
// have, and makes it Installed. An instance that has none yet and is given
// dedicated is from then on reached there and no longer at the shared
// endpoints; whoever has one keeps what its clients were told. It returns
// ErrNoPort.
func (s *Instances) SetKeyManager(ctx context.Context, account string, id tenant.ID, k tenant.KeyManager, dedicated *Dedicated) (Instance, error) {
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

// in runs do in a transaction that sees the account's rows alone.
func (s *Instances) in(ctx context.Context, account string, do func(*queries.Queries) error) error {
	return s.pool.transact(ctx, pgx.TxOptions{}, func(q *queries.Queries) error {
		if err := q.SetAccount(ctx, account); err != nil {
			return err
		}
		return do(q)
	})
}

// change runs write on an instance that it holds locked.
func (s *Instances) change(ctx context.Context, account string, id tenant.ID, write func(*queries.Queries) error) error {
	if uuid.Validate(string(id)) != nil {
		return errInstanceNotFound
	}
	return s.in(ctx, account, func(q *queries.Queries) error {
		locked, err := q.LockInstance(ctx, queries.LockInstanceParams{Account: account, ID: string(id)})
		if err != nil {
			return err
		}
		if len(locked) == 0 {
			return errInstanceNotFound
		}
		return write(q)
	})
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
	rows, err := q.ListInstances(ctx, queries.ListInstancesParams{Account: account, ID: (*string)(&id)})
	if err != nil {
		return Instance{}, err
	}
	if len(rows) == 0 {
		return Instance{}, errInstanceNotFound
	}
	return instanceOf(rows[0]), nil
}

func instanceOf(row queries.ListInstancesRow) Instance {
	i := Instance{
		ID: tenant.ID(row.ID), Account: row.Account, Name: row.Name, Region: row.Region, Status: Status(row.Status),
		Shared: row.Shared, Suspended: row.Suspended, CreatedBy: row.CreatedBy, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt, Revision: row.Revision,
	}
	if row.Type != nil {
		i.KeyManager = &tenant.KeyManager{
			Type: tenant.KeyManagerType(*row.Type), InstanceCRN: *row.InstanceCrn,
			KeyRing: *row.KeyRing, RootKeyID: *row.RootKeyID, SealedAPIKey: row.SealedApiKey,
		}
	}
	return i
}
