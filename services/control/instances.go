package control

import (
	"context"
	"crypto/rand"
	"errors"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

// handlers carries out the operations of the customer API. Every method acts
// for the caller that authenticate noted, on that caller's account alone.
type handlers struct {
	instances *pg.Instances
	region    string
	endpoints api.EndpointCollection // the cell's shared ones
	dedicated *dedicated             // nil: no instance has its own
	manager   keyManagers
	now       func() time.Time
}

var _ server.StrictServerInterface = (*handlers)(nil)

var (
	identifier = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	nameForm   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9 ._-]*[A-Za-z0-9])?$`)
)

const maxName = 63 // characters

// errNoInstance is the answer for an unknown and for a foreign instance alike.
var errNoInstance = fault.New(fault.NotFound, "Your account has no instance with this id. GET /v1/instances lists those it has.")

// GetDocument returns the customer API's document.
func (h *handlers) GetDocument(context.Context, server.GetDocumentRequestObject) (server.GetDocumentResponseObject, error) {
	return server.GetDocument200ApplicationYamlResponse{
		Body: strings.NewReader(api.CustomerDocument), ContentLength: int64(len(api.CustomerDocument)),
	}, nil
}

// ListInstances lists the account's instances.
func (h *handlers) ListInstances(ctx context.Context, _ server.ListInstancesRequestObject) (server.ListInstancesResponseObject, error) {
	all, err := h.instances.List(ctx, exchangeOf(ctx).caller.Account)
	if err != nil {
		return nil, err
	}
	nodes, err := h.instances.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]api.Instance, 0, len(all))
	for _, i := range all {
		list = append(list, instanceModel(i, nodes))
	}
	return server.ListInstances200JSONResponse{Instances: list}, nil
}

// CreateInstance creates an instance. One transaction does it, so it never
// shows the status installing.
func (h *handlers) CreateInstance(ctx context.Context, request server.CreateInstanceRequestObject) (server.CreateInstanceResponseObject, error) {
	name, given := "", request.Body.Name != nil
	if given {
		name = *request.Body.Name
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	const attempts = 8 // two letters make 676 names
	caller := exchangeOf(ctx).caller
	for attempt := 1; ; attempt++ {
		if !given {
			name = "kmip-" + twoLetters()
		}
		made, err := h.instances.Create(ctx, pg.Instance{
			ID: tenant.ID(uuid.NewString()), Account: caller.Account, Name: name, Region: h.region,
			Status: pg.Inactive, Shared: true, CreatedBy: caller.IAMID,
		})
		switch {
		case errors.Is(err, pg.ErrNameTaken) && !given && attempt < attempts:
			continue
		case errors.Is(err, pg.ErrNameTaken):
			return nil, inField("name", fault.Exists, "Your account has an instance named `%s` already. Choose another name.", name)
		case err != nil:
			return nil, err
		}
		nodes, err := h.instances.Nodes(ctx)
		if err != nil {
			return nil, err
		}
		return server.CreateInstance202JSONResponse{
			Body:    instanceModel(made, nodes),
			Headers: server.CreateInstance202ResponseHeaders{Location: "/v1/instances/" + string(made.ID)},
		}, nil
	}
}

// GetInstance returns an instance.
func (h *handlers) GetInstance(ctx context.Context, request server.GetInstanceRequestObject) (server.GetInstanceResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	nodes, err := h.instances.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	return server.GetInstance200JSONResponse(instanceModel(instance, nodes)), nil
}

// DeleteInstance deletes an instance; its keys stay in the key manager.
func (h *handlers) DeleteInstance(ctx context.Context, request server.DeleteInstanceRequestObject) (server.DeleteInstanceResponseObject, error) {
	if !identifier.MatchString(request.ID) {
		return nil, errNoInstance
	}
	if err := h.instances.Delete(ctx, exchangeOf(ctx).caller.Account, tenant.ID(request.ID)); err != nil {
		return nil, orNoInstance(err)
	}
	return server.DeleteInstance204Response{}, nil
}

// ListEndpoints returns the addresses to enter in vCenter.
func (h *handlers) ListEndpoints(ctx context.Context, request server.ListEndpointsRequestObject) (server.ListEndpointsResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil || instance.Shared {
		return server.ListEndpoints200JSONResponse(h.endpoints), err
	}
	own, err := h.instances.ListEndpoints(ctx, instance.Account, instance.ID)
	if err != nil {
		return nil, orNoInstance(err)
	}
	collection := api.EndpointCollection{CACertificate: h.endpoints.CACertificate}
	for _, e := range own {
		collection.Endpoints = append(collection.Endpoints, api.Endpoint{Hostname: e.HostName, Port: int32(e.Port)})
	}
	return server.ListEndpoints200JSONResponse(collection), nil
}

// instance returns the caller's instance with an id, or errNoInstance.
func (h *handlers) instance(ctx context.Context, id string) (pg.Instance, error) {
	if !identifier.MatchString(id) {
		return pg.Instance{}, errNoInstance
	}
	instance, err := h.instances.Get(ctx, exchangeOf(ctx).caller.Account, tenant.ID(id))
	return instance, orNoInstance(err)
}

// orNoInstance gives a store's "not found" the sentence for the customer.
func orNoInstance(err error) error {
	if fault.KindOf(err) == fault.NotFound {
		return errNoInstance
	}
	return err
}

// inForce says on how many nodes a revision is in force.
func inForce(nodes []pg.Node, revision int64) api.InForce {
	var f api.InForce
	for _, n := range nodes {
		f.Total++
		switch {
		case !n.Heard:
			f.Unknown++
		case n.Revision >= revision:
			f.Nodes++
		}
	}
	return f
}

func instanceModel(i pg.Instance, nodes []pg.Node) api.Instance {
	model := api.Instance{
		ID: string(i.ID), Name: i.Name, Region: i.Region, Status: api.InstanceStatus(i.Status),
		Suspended: i.Suspended, InForce: inForce(nodes, i.Revision),
		CRN:       (&tenant.Tenant{ID: i.ID, Account: i.Account}).CRN(i.Region),
		CreatedAt: timestamp(i.CreatedAt), UpdatedAt: timestamp(i.UpdatedAt),
	}
	if i.KeyManager != nil {
		settings := keyManagerModel(*i.KeyManager)
		model.KeyManager = &settings
	}
	return model
}

// checkName checks a name against the rules of the document's schema Name.
func checkName(name string) error {
	switch {
	case name == "":
		return inField("name", fault.Missing, "Field `name` is missing or empty.")
	case len(name) > maxName:
		return inField("name", fault.Invalid, "Field `name` is longer than %d characters.", maxName)
	case !nameForm.MatchString(name):
		return inField("name", fault.Invalid, "Field `name` has to consist of letters, digits, spaces, dots, hyphens and underscores, and to begin and end with a letter or digit.")
	}
	return nil
}

// timestamp truncates to whole seconds of UTC, as the document promises.
func timestamp(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

func twoLetters() string {
	var b [2]byte
	rand.Read(b[:]) // never fails
	return string([]byte{'a' + b[0]%26, 'a' + b[1]%26})
}
