package control

import (
	"context"
	"errors"
	"slices"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/services/control/access"
	"github.com/kmip-for-vmware/kmip/services/control/ibmcloud"
	"github.com/kmip-for-vmware/kmip/services/control/server"
)

// authorizationRoles let an instance use an HPCS instance (Hyper Protect Crypto
// Services, managing user access; KMIP for VMware, ordering).
var authorizationRoles = []string{
	"crn:v1:bluemix:public:iam::::role:Viewer",
	"crn:v1:bluemix:public:hs-crypto::::serviceRole:VMwareKMIPManager",
}

// GetInstanceServiceAuthorization shows the policy that an instance needs.
func (h *handlers) GetInstanceServiceAuthorization(ctx context.Context, request server.GetInstanceServiceAuthorizationRequestObject) (server.GetInstanceServiceAuthorizationResponseObject, error) {
	instance, target, err := h.authorizationTarget(ctx, request.ID, request.Params.KeyManagerCRN, inParameter)
	if err != nil {
		return nil, err
	}
	answer := api.ServiceAuthorization{Policy: policyModel(authorizationPolicy(instance, target))}
	answer.PolicyID, err = h.authorizationID(ctx, instance, target)
	answer.Exists = answer.PolicyID != nil
	return server.GetInstanceServiceAuthorization200JSONResponse(answer), err
}

// CreateInstanceServiceAuthorization creates that policy with the caller's
// token.
func (h *handlers) CreateInstanceServiceAuthorization(ctx context.Context, request server.CreateInstanceServiceAuthorizationRequestObject) (server.CreateInstanceServiceAuthorizationResponseObject, error) {
	instance, target, err := h.authorizationTarget(ctx, request.ID, request.Body.KeyManagerCRN, func(name, format string, args ...any) error {
		return inField(name, fault.Invalid, format, args...)
	})
	if err != nil {
		return nil, err
	}
	exists := fault.Newf(fault.Exists, "The service authorization exists already. If the key manager still refuses, wait some minutes: IAM needs them until a policy counts everywhere.")
	id, err := h.authorizationID(ctx, instance, target)
	if err != nil {
		return nil, err
	}
	if id != nil {
		return nil, exists
	}
	made, err := h.cloud.Authorize(ctx, authorizationPolicy(instance, target), "KMIP for VMware instance "+instance.Name)
	switch {
	case errors.Is(err, ibmcloud.ErrExists): // somebody was faster, or the caller may not read it
		return nil, exists
	case errors.Is(err, ibmcloud.ErrDenied):
		return nil, fault.Newf(fault.Denied, "IAM does not let you create this service authorization. It takes the platform role Administrator on the key manager instance %s; ask who has it to create the policy that GET shows.", target.Instance)
	case err != nil:
		return nil, err
	}
	return server.CreateInstanceServiceAuthorization201JSONResponse{
		Body:    api.ServiceAuthorization{Exists: true, PolicyID: &made, Policy: policyModel(authorizationPolicy(instance, target))},
		Headers: server.CreateInstanceServiceAuthorization201ResponseHeaders{Location: "/v1/instances/" + string(instance.ID) + "/service_authorization"},
	}, nil
}

// authorizationTarget returns an instance and the key manager that is given, or
// the one it is connected to. A wrong one is refused by refuse.
func (h *handlers) authorizationTarget(ctx context.Context, id string, given *string, refuse func(name, format string, args ...any) error) (pg.Instance, crn.CRN, error) {
	const parameter = "key_manager_crn"
	instance, err := h.instance(ctx, id)
	if err != nil {
		return instance, crn.CRN{}, err
	}
	if !h.manager.authorized {
		return instance, crn.CRN{}, fault.New(fault.Illegal, "Service authorizations are not used here: the operator of this cell owns no IAM service. Give the key manager an API key.")
	}
	var text string
	switch {
	case given != nil:
		text = *given
	case instance.KeyManager != nil:
		text = instance.KeyManager.InstanceCRN
	default:
		return instance, crn.CRN{}, refuse(parameter, "`"+parameter+"` is missing. The instance is not connected yet, so name the key manager instance by its CRN.")
	}
	target, wrong := keyManagerCRN(text, instance)
	switch {
	case wrong != "":
		return instance, crn.CRN{}, refuse(parameter, "`%s` %s", parameter, wrong)
	case target.Service != kmsServices[api.KeyManagerTypeHpcs] && given == nil:
		return instance, crn.CRN{}, fault.New(fault.Illegal, "The instance is connected to Key Protect with an API key; it needs no service authorization.")
	case target.Service != kmsServices[api.KeyManagerTypeHpcs]:
		return instance, crn.CRN{}, refuse(parameter, "`"+parameter+"` is of Key Protect, which takes an API key. Service authorizations are for Hyper Protect Crypto Services.")
	}
	return instance, target, nil
}

// authorizationPolicy is the narrowest policy with which the instance is let in.
func authorizationPolicy(instance pg.Instance, target crn.CRN) ibmcloud.Policy {
	about := func(account, service, instance string) []ibmcloud.Attribute {
		return []ibmcloud.Attribute{{Name: "accountId", Value: account}, {Name: "serviceName", Value: service}, {Name: "serviceInstance", Value: instance}}
	}
	return ibmcloud.Policy{
		Subject:  about(instance.Account, tenant.ServiceName, string(instance.ID)),
		Resource: about(target.Account(), target.Service, target.Instance),
		Roles:    authorizationRoles,
	}
}

func policyModel(p ibmcloud.Policy) api.AuthorizationPolicy {
	list := func(attributes []ibmcloud.Attribute) []api.PolicyAttributes {
		var all []api.PolicyAttribute
		for _, a := range attributes {
			all = append(all, api.PolicyAttribute{Name: a.Name, Value: a.Value})
		}
		return []api.PolicyAttributes{{Attributes: all}}
	}
	model := api.AuthorizationPolicy{Type: api.AuthorizationPolicyTypeAuthorization, Subjects: list(p.Subject), Resources: list(p.Resource)}
	for _, role := range p.Roles {
		model.Roles = append(model.Roles, api.PolicyRole{RoleID: role})
	}
	return model
}

// authorizationID returns the id of an active policy that lets the instance in,
// or nil when the caller sees none.
func (h *handlers) authorizationID(ctx context.Context, instance pg.Instance, target crn.CRN) (*string, error) {
	policies, err := h.cloud.Policies(ctx, instance.Account, ibmcloud.Authorization, "")
	if err != nil {
		return nil, err
	}
	needed := authorizationPolicy(instance, target)
	for _, p := range policies {
		if p.ID != "" && includes(p, needed) {
			return &p.ID, nil
		}
	}
	return nil, nil
}

// includes reports whether a policy grants all that another does.
func includes(p, needed ibmcloud.Policy) bool {
	resource := make(map[string]string)
	for _, a := range needed.Resource {
		resource[a.Name] = a.Value
	}
	return access.About(p, resource) &&
		!slices.ContainsFunc(p.Subject, func(a ibmcloud.Attribute) bool { return !slices.Contains(needed.Subject, a) }) &&
		!slices.ContainsFunc(needed.Roles, func(role string) bool { return !slices.Contains(p.Roles, role) })
}
