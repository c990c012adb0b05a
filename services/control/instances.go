package control

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net/url"
	"regexp"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/services/control/access"
	"github.com/kmip-for-vmware/kmip/services/control/ibmcloud"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

// handlers carries out the operations of the customer API. Every method acts
// for the caller that authenticate noted, on that caller's account alone.
type handlers struct {
	instances *pg.Instances
	ledger    *pg.Ledger // how many keys there are
	region    string
	public    *url.URL      // of this API, as customers reach it; nil: as the request did
	endpoints []pg.Endpoint // the cell's shared ones, in the order to enter them in vCenter
	authority *x509.Certificate
	dedicated *dedicated // nil: no instance has its own
	manager   keyManagers
	cloud     *ibmcloud.Client
	roles     *access.Roles
	now       func() time.Time
}

var _ server.StrictServerInterface = (*handlers)(nil)

var (
	identifier = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	nameForm   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9 ._-]*[A-Za-z0-9])?$`)
)

const (
	maxName = 63 // characters

	// The longest windows: a boot of many hosts, and a day without the key
	// manager. A revocation may take as long.
	maxCache       = time.Hour
	maxOutageGrace = 24 * time.Hour
)

// errNoInstance is the answer for an unknown and for a foreign instance alike.
var errNoInstance = fault.New(fault.NotFound, "Your account has no instance with this id. GET /v1/instances lists those it has.")

// ListInstances lists a page of the account's instances.
func (h *handlers) ListInstances(ctx context.Context, request server.ListInstancesRequestObject) (server.ListInstancesResponseObject, error) {
	limit, err := pageLimit(request.Params.Limit)
	filter := pg.Filter{Limit: limit + 1} // one more tells that there is another page
	problems := []error{err}
	if name := request.Params.Name; name != nil {
		filter.Name = *name
		if len(*name) > maxName || !nameForm.MatchString(*name) {
			problems = append(problems, inParameter("name", "Query parameter `name` can't be an instance's name. Correct its spelling."))
		}
	}
	if status := request.Params.Status; status != nil {
		filter.Status = pg.Status(*status)
		if !status.Valid() {
			problems = append(problems, inParameter("status", "Query parameter `status` has to be installing, inactive, configuring, installed or removing."))
		}
	}
	if start := request.Params.Start; start != nil {
		filter.After = tenant.ID(*start)
		if !identifier.MatchString(*start) {
			problems = append(problems, errStart)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	found, total, err := h.instances.List(ctx, exchangeOf(ctx).caller.Account, filter)
	if fault.KindOf(err) == fault.NotFound {
		return nil, errStart
	}
	if err != nil {
		return nil, err
	}
	nodes, err := h.instances.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	page := api.InstanceCollection{
		Instances: []api.Instance{}, Limit: int32(limit), TotalCount: int32(total), //nolint:gosec // a page; a count of rows
		First: api.PageLink{Href: h.pageURL(ctx, "", limit)},
	}
	if len(found) > limit {
		found = found[:limit]
		last := string(found[limit-1].ID)
		page.Next = &api.NextPageLink{Href: h.pageURL(ctx, last, limit), Start: last}
	}
	conditions, err := h.conditions(ctx, found...)
	if err != nil {
		return nil, err
	}
	for _, i := range found {
		page.Instances = append(page.Instances, instanceModel(i, nodes, conditions[i.ID]))
	}
	return server.ListInstances200JSONResponse(page), nil
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
		body, tag, err := h.show(ctx, made)
		return server.CreateInstance202JSONResponse{
			Body:    body,
			Headers: server.CreateInstance202ResponseHeaders{ETag: tag, Location: "/v1/instances/" + string(made.ID)},
		}, err
	}
}

// GetInstance returns an instance.
func (h *handlers) GetInstance(ctx context.Context, request server.GetInstanceRequestObject) (server.GetInstanceResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	body, tag, err := h.show(ctx, instance)
	return server.GetInstance200JSONResponse{Body: body, Headers: server.GetInstance200ResponseHeaders{ETag: tag}}, err
}

// UpdateInstance changes an instance's name or windows; an empty patch changes
// nothing.
func (h *handlers) UpdateInstance(ctx context.Context, request server.UpdateInstanceRequestObject) (server.UpdateInstanceResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	match, err := matches(&request.Params.IfMatch)
	problems := []error{err}
	to := pg.Settings{Name: request.Body.Name}
	if to.Name != nil {
		problems = append(problems, checkName(*to.Name))
	}
	for _, w := range []struct {
		field string
		given *int32
		most  time.Duration
		to    **time.Duration
	}{
		{"cache_seconds", request.Body.CacheSeconds, maxCache, &to.Cache},
		{"outage_grace_seconds", request.Body.OutageGraceSeconds, maxOutageGrace, &to.OutageGrace},
	} {
		if w.given == nil {
			continue
		}
		window := time.Duration(*w.given) * time.Second
		if *w.to = &window; window < 0 || window > w.most {
			problems = append(problems, inField(w.field, fault.Invalid, "Field `%s` has to be a number from 0 to %d.", w.field, w.most/time.Second))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	updated, err := h.instances.Update(ctx, instance.Account, instance.ID, to, match)
	switch {
	case errors.Is(err, pg.ErrNameTaken):
		return nil, inField("name", fault.Exists, "Your account has an instance named `%s` already. Choose another name.", *to.Name)
	case err != nil:
		return nil, refused(err)
	}
	body, tag, err := h.show(ctx, updated)
	return server.UpdateInstance200JSONResponse{Body: body, Headers: server.UpdateInstance200ResponseHeaders{ETag: tag}}, err
}

// DeleteInstance deletes an instance; its keys stay in the key manager.
func (h *handlers) DeleteInstance(ctx context.Context, request server.DeleteInstanceRequestObject) (server.DeleteInstanceResponseObject, error) {
	if !identifier.MatchString(request.ID) {
		return nil, errNoInstance
	}
	match, err := matches(request.Params.IfMatch)
	if err != nil {
		return nil, err
	}
	deleted, err := h.instances.Delete(ctx, exchangeOf(ctx).caller.Account, tenant.ID(request.ID), match)
	if err != nil {
		return nil, refused(err)
	}
	body, tag, err := h.show(ctx, deleted)
	return server.DeleteInstance202JSONResponse{Body: body, Headers: server.DeleteInstance202ResponseHeaders{ETag: tag}}, err
}

// RestoreInstance restores a deleted instance.
func (h *handlers) RestoreInstance(ctx context.Context, request server.RestoreInstanceRequestObject) (server.RestoreInstanceResponseObject, error) {
	instance, err := h.instance(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	restored, err := h.instances.Restore(ctx, instance.Account, instance.ID)
	switch {
	case errors.Is(err, pg.ErrNameTaken):
		return nil, fault.Newf(fault.Exists, "Your account has another instance named `%s` by now. Rename or delete that one, then restore this one.", instance.Name)
	case err != nil:
		return nil, refused(err)
	}
	body, _, err := h.show(ctx, restored)
	return server.RestoreInstance202JSONResponse(body), err
}

// show returns an instance as the API shows it, with its entity tag.
func (h *handlers) show(ctx context.Context, i pg.Instance) (api.Instance, string, error) {
	nodes, err := h.instances.Nodes(ctx)
	if err != nil {
		return api.Instance{}, "", err
	}
	conditions, err := h.conditions(ctx, i)
	return instanceModel(i, nodes, conditions[i.ID]), etag(i), err
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

// refused gives what a store refused the sentence for the customer.
func refused(err error) error {
	if errors.Is(err, pg.ErrStale) {
		return errStale
	}
	return orNoInstance(err)
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

func instanceModel(i pg.Instance, nodes []pg.Node, conditions []api.Condition) api.Instance {
	model := api.Instance{
		ID: string(i.ID), Name: i.Name, Region: i.Region, Status: api.InstanceStatus(i.Status),
		Suspended: i.Suspended, InForce: inForce(nodes, i.Revision), Conditions: conditions,
		CacheSeconds: int32(i.Cache / time.Second), OutageGraceSeconds: int32(i.OutageGrace / time.Second), //nolint:gosec // a day at most
		CRN:       (&tenant.Tenant{ID: i.ID, Account: i.Account}).CRN(i.Region),
		CreatedAt: timestamp(i.CreatedAt), UpdatedAt: timestamp(i.UpdatedAt),
	}
	if !i.RestorableUntil.IsZero() {
		until := timestamp(i.RestorableUntil)
		model.RestorableUntil = &until
	}
	if i.UserName != "" {
		model.KmipUserName = &i.UserName
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
