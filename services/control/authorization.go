package control

import (
	"context"
	"net/http"
	"slices"

	"github.com/IBM/platform-services-go-sdk/iampolicymanagementv1"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
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
	answer := api.ServiceAuthorization{Policy: authorizationPolicy(instance, target)}
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
	policy := authorizationPolicy(instance, target)
	made, status, err := h.cloud.createAuthorization(ctx, policy, "KMIP for VMware instance "+instance.Name)
	switch {
	case err == nil:
	case status == http.StatusConflict: // one that the caller may not read
		return nil, exists
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return nil, fault.Newf(fault.Denied, "IAM does not let you create this service authorization. It takes the platform role Administrator on the key manager instance %s; ask who has it to create the policy that GET shows.", target.Instance)
	default:
		return nil, cloudFailure(policyManagement, status)
	}
	return server.CreateInstanceServiceAuthorization201JSONResponse{
		Body:    api.ServiceAuthorization{Exists: true, PolicyID: &made, Policy: policy},
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

// authorizationAttributes are those of the policy's subject and resource.
func authorizationAttributes(instance pg.Instance, target crn.CRN) (subject, resource map[string]string) {
	return map[string]string{"accountId": instance.Account, "serviceName": tenant.ServiceName, "serviceInstance": string(instance.ID)},
		map[string]string{"accountId": target.Account(), "serviceName": target.Service, "serviceInstance": target.Instance}
}

// authorizationPolicy is the narrowest policy with which the instance is let in.
func authorizationPolicy(instance pg.Instance, target crn.CRN) api.AuthorizationPolicy {
	list := func(of map[string]string) []api.PolicyAttributes {
		var all []api.PolicyAttribute
		for _, name := range []string{"accountId", "serviceName", "serviceInstance"} {
			all = append(all, api.PolicyAttribute{Name: name, Value: of[name]})
		}
		return []api.PolicyAttributes{{Attributes: all}}
	}
	subject, resource := authorizationAttributes(instance, target)
	policy := api.AuthorizationPolicy{Type: api.AuthorizationPolicyTypeAuthorization, Subjects: list(subject), Resources: list(resource)}
	for _, role := range authorizationRoles {
		policy.Roles = append(policy.Roles, api.PolicyRole{RoleID: role})
	}
	return policy
}

// authorizationID returns the id of an active policy that lets the instance in,
// or nil when the caller sees none.
func (h *handlers) authorizationID(ctx context.Context, instance pg.Instance, target crn.CRN) (*string, error) {
	policies, err := h.cloud.listPolicies(ctx, instance.Account, "authorization", "")
	if err != nil {
		return nil, err
	}
	subject, resource := authorizationAttributes(instance, target)
	for _, p := range policies {
		if p.ID != nil && authorizes(p, subject, resource) {
			return p.ID, nil
		}
	}
	return nil, nil
}

// authorizes reports whether a policy grants all roles that are needed.
func authorizes(p iampolicymanagementv1.PolicyTemplateMetaData, subject, resource map[string]string) bool {
	if len(p.Subjects) != 1 || !grantOf(p).about(resource) {
		return false
	}
	for _, a := range p.Subjects[0].Attributes {
		if a.Name == nil || a.Value == nil || subject[*a.Name] != *a.Value {
			return false
		}
	}
	return !slices.ContainsFunc(authorizationRoles, func(needed string) bool {
		return !slices.ContainsFunc(p.Roles, func(r iampolicymanagementv1.PolicyRole) bool { return r.RoleID != nil && *r.RoleID == needed })
	})
}
