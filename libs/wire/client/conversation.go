package client

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/secret"
)

// What vCenter asks for and says of every key.
const (
	keyBits      = 256
	vendor       = "VMware, Inc."
	product      = "VMware vSphere"
	componentVM  = "Virtual Machine"
	componentESX = "ESXi Server"
)

// Usage is what vCenter notes at a key when it is first used.
type Usage struct {
	Identifier string // x-Identifier: VM instance UUID or host UUID
	Component  string // x-Component
	Name       string // x-Name: VM name or host address
}

// ForVM is the usage of a virtual machine's key.
func ForVM(instanceUUID, name string) Usage {
	return Usage{Identifier: instanceUUID, Component: componentVM, Name: name}
}

// ForHost is the usage of a host's key.
func ForHost(hostUUID, address string) Usage {
	return Usage{Identifier: hostUUID, Component: componentESX, Name: address}
}

// Fetched is a key as one server gave it.
type Fetched struct {
	ID         kmip.ObjectID
	Server     string // Config.Address
	Connection string // label
	State      kmip.State
	Key        *secret.Bytes // 32 bytes; the caller wipes them
}

// Trust plays the end of adding a key provider: certificates are compared, then
// the server is asked what it is. Connections trust-1 to trust-6; 2 and 3 are
// open at once. A refused Query is an error, but the rest is played.
func (v *VCenter) Trust(ctx context.Context) error {
	if err := v.bare(ctx, "trust-1"); err != nil {
		return err
	}
	err := together(
		func() error { return v.bare(ctx, "trust-2") },
		func() error { return v.health(ctx, "trust-3") },
	)
	if err != nil {
		return err
	}
	queried := v.on(ctx, "trust-4", func(at *visit) error {
		return at.step("Query", "", showsNothing, func() error {
			answer, err := at.conn.Query(ctx, QueryServerInformation)
			if err == nil && answer.VendorIdentification == "" {
				err = fmt.Errorf("%w: no vendor identification", errUnwanted)
			}
			return err
		})
	})
	// The user interface refreshes.
	return errors.Join(queried, v.poll(ctx, "trust-5", "trust-6"))
}

// HealthPoll plays what vCenter does every 300 s with each server. Connections
// poll-1 and poll-2.
func (v *VCenter) HealthPoll(ctx context.Context) error {
	return v.poll(ctx, "poll-1", "poll-2")
}

func (v *VCenter) poll(ctx context.Context, bare, health string) error {
	if err := v.bare(ctx, bare); err != nil {
		return err
	}
	return v.health(ctx, health)
}

// health sends Discover Versions once more, now with a batch item id.
func (v *VCenter) health(ctx context.Context, connection string) error {
	return v.on(ctx, connection, func(at *visit) error { return at.discover(ctx) })
}

// CreateKey makes an AES-256 key on one connection and returns its unique
// identifier.
func (v *VCenter) CreateKey(ctx context.Context, connection string) (id kmip.ObjectID, err error) {
	err = v.on(ctx, connection, func(at *visit) error {
		return at.step("Create", "", showsTaskFails, func() (err error) {
			id, err = at.conn.Create(ctx,
				kmip.Attribute{Name: kmip.AttributeCryptographicAlgorithm, Value: kmip.Enum(kmip.AES)},
				kmip.Attribute{Name: kmip.AttributeCryptographicUsageMask, Value: kmip.Int(int32(kmip.Encrypt | kmip.Decrypt))},
				kmip.Attribute{Name: kmip.AttributeCryptographicLength, Value: kmip.Int(keyBits)})
			return err
		})
	})
	return id, err
}

// Describe notes vendor, product and version at a new key.
func (v *VCenter) Describe(ctx context.Context, connection string, id kmip.ObjectID) error {
	version := v.ProductVersion
	if version == "" {
		version = DefaultProductVersion
	}
	return v.note(ctx, connection, id, "x-Product_Version", version, "x-Vendor", vendor, "x-Product", product)
}

// Use notes at a key what it is used for.
func (v *VCenter) Use(ctx context.Context, connection string, id kmip.ObjectID, u Usage) error {
	return v.note(ctx, connection, id, "x-Identifier", u.Identifier, "x-Component", u.Component, "x-Name", u.Name)
}

// note asks for each attribute, which must not be set yet, and then adds all in
// one batch. What vCenter does with one that is set is not known, so that is a
// Problem here.
func (v *VCenter) note(ctx context.Context, connection string, id kmip.ObjectID, pairs ...string) error {
	return v.on(ctx, connection, func(at *visit) error {
		var list []kmip.Attribute
		for n := 0; n < len(pairs); n += 2 {
			a := kmip.Attribute{Name: pairs[n], Value: kmip.Text(pairs[n+1])}
			list = append(list, a)
			err := at.step("Get Attributes "+a.Name, id, showsNothing, func() error {
				set, err := at.conn.GetAttributes(ctx, id, a.Name)
				if err == nil && len(set) > 0 {
					err = fmt.Errorf("%w: %s is set already", errUnwanted, a.Name)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		return at.step(fmt.Sprintf("Add Attribute ×%d", len(list)), id, showsNothing, func() error {
			return at.conn.AddAttributes(ctx, id, list...)
		})
	})
}

// FetchKey gets a key for its first use: Get, State and, while it is
// Pre-Active, Activate on one connection. Fetched.State is the one before.
func (v *VCenter) FetchKey(ctx context.Context, connection string, id kmip.ObjectID) (Fetched, error) {
	return v.fetch(ctx, connection, id, true)
}

// HostBoot plays a host that gets its keys again, a connection for each: Get
// and State. Connections boot-1 and on. A key that can't be had does not stop
// the others: they are returned, in order, beside the error.
func (v *VCenter) HostBoot(ctx context.Context, ids ...kmip.ObjectID) ([]Fetched, error) {
	var (
		keys []Fetched
		errs []error
	)
	for n, id := range ids {
		key, err := v.fetch(ctx, "boot-"+strconv.Itoa(n+1), id, false)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		keys = append(keys, key)
	}
	return keys, errors.Join(errs...)
}

// VSANBoot plays the hosts of a vSAN cluster after a power loss: all at once,
// each from its own address but with the certificate that vCenter gave them
// all, they get the cluster's keys. Connections vsan-1-1 and on, by host and
// key. It returns each host's keys as HostBoot does.
func (v *VCenter) VSANBoot(ctx context.Context, hosts []netip.Addr, ids ...kmip.ObjectID) ([][]Fetched, error) {
	keys, errs := make([][]Fetched, len(hosts)), make([]error, len(hosts))
	var booting sync.WaitGroup
	for n, address := range hosts {
		booting.Go(func() {
			from := &VCenter{Report: v.tell, Server: func(connection string) Config {
				cfg := v.Server(connection)
				cfg.LocalAddress = address
				return cfg
			}}
			for m, id := range ids {
				key, err := from.fetch(ctx, fmt.Sprintf("vsan-%d-%d", n+1, m+1), id, false)
				if err != nil {
					errs[n] = errors.Join(errs[n], fmt.Errorf("host %s: %w", address, err))
					continue
				}
				keys[n] = append(keys[n], key)
			}
		})
	}
	booting.Wait()
	return keys, errors.Join(errs...)
}

func (v *VCenter) fetch(ctx context.Context, connection string, id kmip.ObjectID, activate bool) (Fetched, error) {
	out := Fetched{ID: id, Connection: connection}
	err := v.on(ctx, connection, func(at *visit) error {
		out.Server = at.cfg.Address
		cannotGet := fmt.Sprintf(showsCannotGet, id)
		err := at.step("Get", id, cannotGet, func() (err error) {
			out.Key, err = at.get(ctx, id)
			return err
		})
		if err != nil {
			return err
		}
		err = at.step("Get Attributes State", id, fmt.Sprintf(showsStateNotGiven, id), func() (err error) {
			out.State, err = at.state(ctx, id)
			return err
		})
		if err != nil || !activate || out.State != kmip.PreActive {
			return err
		}
		return at.step("Activate", id, cannotGet, func() error { return at.conn.Activate(ctx, id) })
	})
	if err != nil {
		out.Key.Wipe()
		return Fetched{}, err
	}
	return out, nil
}

// get wants a key of the length that was asked for at Create.
func (at *visit) get(ctx context.Context, id kmip.ObjectID) (*secret.Bytes, error) {
	key, err := at.conn.Get(ctx, id)
	var result *ResultError
	if errors.As(err, &result) && result.Reason == uint32(kmip14.ResultReasonItemNotFound) {
		return nil, &Problem{Step: "Get", Shows: showsMissing, Err: err}
	}
	if err != nil {
		return nil, err
	}
	if key.Len()*8 != keyBits {
		n := key.Len() * 8
		key.Wipe()
		return nil, fmt.Errorf("%w: a key of %d bits", errUnwanted, n)
	}
	return key, nil
}

// state wants Pre-Active or Active.
func (at *visit) state(ctx context.Context, id kmip.ObjectID) (kmip.State, error) {
	list, err := at.conn.GetAttributes(ctx, id, kmip.AttributeState)
	if err != nil {
		return 0, err
	}
	if len(list) != 1 || list[0].Value.Type != kmip.Enumeration {
		return 0, fmt.Errorf("%w: no State", errUnwanted)
	}
	state := kmip.State(list[0].Value.Number) //nolint:gosec // an Enumeration has 32 bits
	if state != kmip.PreActive && state != kmip.Active {
		err := fmt.Errorf("%w: state %d %s", errUnwanted, state, state)
		return 0, &Problem{Step: "Get Attributes State", Shows: showsNotActive, Err: err}
	}
	return state, nil
}

// Encrypted is what EncryptFirstVM leaves.
type Encrypted struct {
	VM, Host Fetched
}

// EncryptFirstVM plays the encryption of the first virtual machine on a host:
// connections A to H, of which B and C, then D and E, are open at once. vCenter
// goes on when attributes can't be noted, and so does this; the error tells of
// it all the same. With an error no keys are returned.
func (v *VCenter) EncryptFirstVM(ctx context.Context, vm, host Usage) (Encrypted, error) {
	var (
		out            Encrypted
		vmKey, hostKey kmip.ObjectID
		noted          [4]error // of B, E, F, H
		err            error
	)
	if vmKey, err = v.CreateKey(ctx, "A"); err != nil {
		return Encrypted{}, err
	}
	err = together(
		func() error { noted[0] = v.Describe(ctx, "B", vmKey); return nil },
		func() (err error) { hostKey, err = v.CreateKey(ctx, "C"); return err },
	)
	if err == nil {
		err = together(
			func() (err error) { out.Host, err = v.FetchKey(ctx, "D", hostKey); return err },
			func() error { noted[1] = v.Describe(ctx, "E", hostKey); return nil },
		)
	}
	if err == nil {
		noted[2] = v.Use(ctx, "F", hostKey, host)
		out.VM, err = v.FetchKey(ctx, "G", vmKey)
	}
	if err == nil {
		noted[3] = v.Use(ctx, "H", vmKey, vm)
	}
	if err = errors.Join(append(noted[:], err)...); err != nil {
		out.VM.Key.Wipe()
		out.Host.Key.Wipe()
		return Encrypted{}, err
	}
	return out, nil
}
