package pg

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

var (
	errObjectNotFound = fault.New(fault.NotFound, "There is no such object.")
	errObjectExists   = fault.New(fault.Exists, "An object with this unique identifier exists already.")
	errNameExists     = fault.New(fault.Exists, "Another object has this name.")
	errObjectConflict = fault.New(fault.Conflict, "The object was changed by another request.")
)

// Objects is the ledger of managed objects. Its pool's role is kmip_node.
type Objects struct {
	pool *Pool
	jobs bool // the role is kmip_control, which becomes kmip_jobs for each transaction
}

var _ engine.Objects = (*Objects)(nil)

// NewObjects returns the ledger in a database.
func NewObjects(pool *Pool) *Objects { return &Objects{pool: pool} }

// Create implements engine.Objects.
func (o *Objects) Create(ctx context.Context, t tenant.ID, r engine.Record) error {
	object, location, err := encodeRecord(r)
	if err != nil {
		return err
	}
	return o.in(ctx, t, func(q *queries.Queries) error {
		err := q.CreateObject(ctx, queries.CreateObjectParams{
			Tenant: string(t), ID: string(r.Object.ID), Phase: string(r.Phase), Object: object, Location: location,
			KeyRef: string(r.KeyRef), Recovered: r.Recovered, PendingSeconds: r.PendingFor.Seconds(),
			Names: hashNames(r.HeldNames()),
		})
		switch {
		case violates(err, "objects_pkey"):
			return errObjectExists
		case violates(err, "object_names_pkey"):
			return errNameExists
		case err == nil && r.Withheld():
			return q.WithholdObject(ctx, queries.WithholdObjectParams{Tenant: string(t), ID: string(r.Object.ID)})
		}
		return err
	})
}

// Get implements engine.Objects.
func (o *Objects) Get(ctx context.Context, t tenant.ID, id kmip.ObjectID) (engine.Record, error) {
	if !storable(id) {
		return engine.Record{}, errObjectNotFound
	}
	var row queries.GetObjectRow
	err := o.in(ctx, t, func(q *queries.Queries) (err error) {
		row, err = q.GetObject(ctx, queries.GetObjectParams{Tenant: string(t), ID: string(id)})
		if errors.Is(err, pgx.ErrNoRows) {
			return errObjectNotFound
		}
		return err
	})
	if err != nil {
		return engine.Record{}, err
	}
	r := engine.Record{Phase: engine.Phase(row.Phase), KeyRef: engine.KeyRef(row.KeyRef), Recovered: row.Recovered, Version: row.Version}
	return r, errors.Join(json.Unmarshal(row.Object, &r.Object), json.Unmarshal(row.Location, &r.Location))
}

// Replace implements engine.Objects.
func (o *Objects) Replace(ctx context.Context, t tenant.ID, records ...engine.Record) error {
	return o.in(ctx, t, func(q *queries.Queries) error {
		for _, r := range records {
			if err := replaceObject(ctx, q, t, r); err != nil {
				return err
			}
		}
		return nil
	})
}

func replaceObject(ctx context.Context, q *queries.Queries, t tenant.ID, r engine.Record) error {
	if !storable(r.Object.ID) {
		return errObjectNotFound
	}
	object, location, err := encodeRecord(r)
	if err != nil {
		return err
	}
	replaced, err := q.ReplaceObject(ctx, queries.ReplaceObjectParams{
		Phase: string(r.Phase), Object: object, Location: location, KeyRef: string(r.KeyRef), Recovered: r.Recovered,
		Tenant: string(t), ID: string(r.Object.ID), Version: r.Version, Names: hashNames(r.HeldNames()),
	})
	if err == nil && replaced == 1 && r.Withheld() {
		err = q.WithholdObject(ctx, queries.WithholdObjectParams{Tenant: string(t), ID: string(r.Object.ID)})
	}
	switch {
	case violates(err, "object_names_pkey"):
		return errNameExists
	case err != nil || replaced == 1:
		return err
	}
	exists, err := q.ObjectExists(ctx, queries.ObjectExistsParams{Tenant: string(t), ID: string(r.Object.ID)})
	switch {
	case err != nil:
		return err
	case exists:
		return errObjectConflict
	}
	return errObjectNotFound
}

// locatePage is how many rows Locate holds at once.
const locatePage = 1000

// Locate implements engine.Objects. States depend on the clock and values on
// their types, so objects are compared here and not in SQL; a name leads to
// the one object that holds it.
func (o *Objects) Locate(ctx context.Context, t tenant.ID, query engine.Query) (engine.Located, error) {
	var all []kmip.ObjectID
	enough := query.Offset + query.Maximum
	if query.Count || query.Oldest {
		enough = math.MaxInt
	}
	take := func(encoded []byte) error {
		var object kmip.Object
		err := json.Unmarshal(encoded, &object)
		if err == nil && query.Filter.Matches(&object, query.Now) {
			all = append(all, object.ID)
		}
		return err
	}
	err := o.in(ctx, t, func(q *queries.Queries) error {
		if name, ok := query.Filter.Name(); ok {
			object, err := q.ObjectNamed(ctx, queries.ObjectNamedParams{Tenant: string(t), Name: hashNames([]string{name})[0]})
			if errors.Is(err, pgx.ErrNoRows) {
				return nil
			}
			if err != nil {
				return err
			}
			return take(object)
		}
		for before := int64(math.MaxInt64); ; {
			rows, err := q.ListObjects(ctx, queries.ListObjectsParams{Tenant: string(t), Before: before, Page: locatePage})
			if err != nil {
				return err
			}
			for _, row := range rows {
				before = row.Place
				if err := take(row.Object); err != nil || len(all) == enough {
					return err
				}
			}
			if len(rows) < locatePage {
				return nil
			}
		}
	})
	return query.Page(all), err
}

// in runs do in a transaction that sees the tenant's rows alone.
func (o *Objects) in(ctx context.Context, t tenant.ID, do func(*queries.Queries) error) error {
	return o.pool.transact(ctx, pgx.TxOptions{}, func(q *queries.Queries) error {
		if o.jobs {
			if err := q.BecomeJobs(ctx); err != nil {
				return err
			}
		}
		if err := q.SetTenant(ctx, string(t)); err != nil {
			return err
		}
		return do(q)
	})
}

// hashNames returns the SHA-256 of each name.
func hashNames(names []string) [][]byte {
	hashed := make([][]byte, 0, len(names)) // not nil: an array, not NULL
	for _, name := range names {
		sum := sha256.Sum256([]byte(name))
		hashed = append(hashed, sum[:])
	}
	return hashed
}

// storable reports whether PostgreSQL's text can hold a client's identifier.
func storable(id kmip.ObjectID) bool {
	return utf8.ValidString(string(id)) && !strings.ContainsRune(string(id), 0)
}

func encodeRecord(r engine.Record) (object, location []byte, err error) {
	if object, err = json.Marshal(r.Object); err != nil {
		return nil, nil, err
	}
	location, err = json.Marshal(r.Location)
	return object, location, err
}
