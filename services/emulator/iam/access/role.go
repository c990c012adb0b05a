package access

import (
	"slices"
	"strings"
)

// Services whose roles are known, by their names in CRNs.
const (
	serviceKMS    = "kms"
	serviceHPCS   = "hs-crypto"
	serviceVMware = "vmware-solutions"
)

// Names of the roles that may manage the policies of what they are held on.
const (
	administrator = "Administrator"
	manager       = "Manager"
)

// role is a set of actions on the resources of one service. Actions are whole ids,
// "kms.secrets.wrap".
type role struct {
	crn         string
	name        string // last segment of the CRN: VMwareKMIPManager
	displayName string // VMware KMIP Manager
	actions     []string
	ring        string // the only key ring it is about; empty: any
}

const (
	platformRole = "crn:v1:bluemix:public:iam::::role:"
	serviceRole  = "crn:v1:bluemix:public:iam::::serviceRole:"
)

// definedRole is the CRN of a role that a service defines itself.
func definedRole(service, name string) string {
	return "crn:v1:bluemix:public:" + service + "::::serviceRole:" + name
}

// Actions of the Key Protect API by role, each list added to the one before (Key Protect, managing
// user access; Hyper Protect Crypto Services has the same with its own name in front).
var (
	readerActions = []string{
		"secrets.list", "secrets.head", "secrets.readmetadata", "secrets.listkeyversions",
		"secrets.wrap", "secrets.unwrap", "secrets.rewrap", "keyrings.list", "registrations.list",
		"registrations.create", "registrations.delete", // of services, for their own resources; an assumption
	}
	readerPlusActions = append(slices.Clip(readerActions), "secrets.read")
	writerActions     = append(slices.Clip(readerPlusActions),
		"secrets.create", "secrets.rotate", "secrets.setkeyfordeletion", "secrets.unsetkeyfordeletion",
		"secrets.sync", "secrets.createalias", "keyrings.create", "importtoken.create", "importtoken.read")
	managerActions = append(slices.Clip(writerActions),
		"secrets.delete", "secrets.restore", "secrets.patch", "secrets.disable", "secrets.enable",
		"secrets.deletealias", "keyrings.delete", "policies.read", "policies.write",
		"instancepolicies.read", "instancepolicies.write",
		"kmip-management.create", "kmip-management.list", "kmip-management.read", "kmip-management.delete")

	kmipAdapterActions = []string{
		"kmip-management.create", "kmip-management.list", "kmip-management.read", "kmip-management.delete",
		"secrets.list", "secrets.head", "keyrings.list",
	}
	// vmwareKMIPActions is an assumption, see the package comment.
	vmwareKMIPActions = []string{
		"secrets.list", "secrets.create", "secrets.read", "secrets.readmetadata", "secrets.head",
		"secrets.wrap", "secrets.unwrap", "secrets.delete", "secrets.restore",
	}
)

// Actions of the platform roles on an instance, each list added to the one before (IAM roles and
// actions), and of VMware Solutions, whose service roles may stand for its platform roles (VMware
// Solutions, managing IAM access).
var (
	viewerActions = []string{"resource-controller.instance.retrieve"}
	editorActions = append(slices.Clip(viewerActions), "resource-controller.instance.create",
		"resource-controller.instance.update", "resource-controller.instance.delete")
	administratorActions = append(slices.Clip(editorActions), "iam.policy.create", "iam.policy.read",
		"iam.policy.update", "iam.policy.delete")

	vmwareViewActions  = []string{"instances.view"}
	vmwareEditActions  = append(slices.Clip(vmwareViewActions), "instances.update")
	vmwareAdminActions = append(slices.Clip(vmwareEditActions), "instances.create", "instances.delete", "account.update")
)

// roleSet are the roles that can be held on the resources of one service. If open, the service may
// define more, which have no actions here.
type roleSet struct {
	platform, service []role
	open              bool
}

func (s roleSet) all() []role { return slices.Concat(s.platform, s.service) }

// keyManagerRoles are common to Key Protect and Hyper Protect Crypto Services.
func keyManagerRoles(service string, more ...role) roleSet {
	return roleSet{
		platform: platformRoles(service, nil, nil, nil),
		service: slices.Concat(standardRoles(service, readerActions, writerActions, managerActions), []role{
			newRole(service, definedRole(service, "ReaderPlus"), "Reader Plus", readerPlusActions),
			newRole(service, definedRole(service, "KeyPurge"), "Key Purge", []string{"secrets.purge"}),
		}, more),
	}
}

// roleSets are the services that are known.
var roleSets = map[string]roleSet{
	serviceKMS: keyManagerRoles(serviceKMS,
		newRole(serviceKMS, definedRole(serviceKMS, "KmipAdapterManager"), "KMIP Adapter Manager", kmipAdapterActions)),
	serviceHPCS: keyManagerRoles(serviceHPCS,
		vmwareKMIPManager(),
		newRole(serviceHPCS, definedRole(serviceHPCS, "CertificateManager"), "Certificate Manager", nil),
		newRole(serviceHPCS, definedRole(serviceHPCS, "VaultAdministrator"), "Vault Administrator", nil),
		newRole(serviceHPCS, definedRole(serviceHPCS, "KeyCustodianCreator"), "Key Custodian - Creator", nil),
		newRole(serviceHPCS, definedRole(serviceHPCS, "KeyCustodianDeployer"), "Key Custodian - Deployer", nil)),
	serviceVMware: {
		platform: platformRoles(serviceVMware, vmwareViewActions, vmwareEditActions, vmwareAdminActions),
		service:  standardRoles(serviceVMware, vmwareViewActions, vmwareEditActions, vmwareAdminActions),
		open:     true,
	},
}

// newRole puts the service's name in front of its own actions.
func newRole(service, crn, displayName string, own []string) role {
	r := role{crn: crn, name: crn[strings.LastIndex(crn, ":")+1:], displayName: displayName, actions: []string{}}
	for _, a := range own {
		r.actions = append(r.actions, service+"."+a)
	}
	return r
}

func vmwareKMIPManager() role {
	r := newRole(serviceHPCS, definedRole(serviceHPCS, "VMwareKMIPManager"), "VMware KMIP Manager", vmwareKMIPActions)
	r.ring = "default"
	return r
}

// platformRoles are about instances as resources; a service may add its own actions to them.
func platformRoles(service string, view, edit, administer []string) []role {
	out := []role{
		newRole(service, platformRole+"Viewer", "Viewer", view),
		newRole(service, platformRole+"Operator", "Operator", view),
		newRole(service, platformRole+"Editor", "Editor", edit),
		newRole(service, platformRole+administrator, administrator, administer),
	}
	for i, platform := range [][]string{viewerActions, viewerActions, editorActions, administratorActions} {
		out[i].actions = slices.Concat(platform, out[i].actions)
	}
	return out
}

func standardRoles(service string, read, write, manage []string) []role {
	return []role{
		newRole(service, serviceRole+"Reader", "Reader", read),
		newRole(service, serviceRole+"Writer", "Writer", write),
		newRole(service, serviceRole+manager, manager, manage),
	}
}

// rolesOf are the roles on a service's resources; service may be unknown or empty, for all services.
func rolesOf(service string) roleSet {
	if set, known := roleSets[service]; known {
		return set
	}
	return roleSet{platformRoles(service, nil, nil, nil), standardRoles(service, nil, nil, nil), service != ""}
}

// findRole is what a role's CRN means on the resources of a service. IBM publishes the standard roles
// with iam and with the service's name in the CRN; both are understood.
func findRole(service, crn string) (role, bool) {
	set := rolesOf(service)
	standard := strings.Replace(crn, "crn:v1:bluemix:public:"+service+"::::", "crn:v1:bluemix:public:iam::::", 1)
	all := set.all()
	if i := slices.IndexFunc(all, func(r role) bool { return r.crn == crn || r.crn == standard }); i >= 0 {
		return all[i], true
	}
	if name, ok := strings.CutPrefix(crn, definedRole(service, "")); ok && set.open && name != "" {
		return newRole(service, crn, name, nil), true
	}
	return role{}, false
}

// roleNamed is the role that a seed names by the last segment of its CRN.
func roleNamed(service, name string) (role, bool) {
	all := rolesOf(service).all()
	if i := slices.IndexFunc(all, func(r role) bool { return r.name == name }); i >= 0 {
		return all[i], true
	}
	return findRole(service, definedRole(service, name))
}

// HasRole tells whether a role of this name can be held on a service's resources.
func HasRole(service, name string) bool {
	_, ok := roleNamed(service, name)
	return ok
}

// description is a sentence about the role; IBM's own are texts of its console.
func (r role) description() string {
	if r.name == "" {
		return ""
	}
	return "Actions of the role " + r.displayName + "."
}
