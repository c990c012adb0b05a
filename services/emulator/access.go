package emulator

// role is a set of service roles on one key manager instance.
type role uint8

const (
	reader role = 1 << iota
	readerPlus
	writer
	manager

	anyRole = reader | readerPlus | writer | manager
)

// roleBits are the service roles by their names in IAM (Key Protect, managing user access).
var roleBits = map[string]role{
	"Reader":     reader,
	"ReaderPlus": readerPlus,
	"Writer":     writer,
	"Manager":    manager,
}

// platformRoles are about instances as resources: they permit no call of a key manager's own API.
var platformRoles = []string{"Viewer", "Operator", "Editor", "Administrator"}

// action is what a call needs, named as in IAM without the service in front.
type action string

// permits says which roles hold an action (Key Protect and Hyper Protect Crypto Services, managing
// user access, roles and actions). An action that is not here is nobody's.
var permits = map[action]role{
	"secrets.create":          writer | manager,
	"secrets.read":            readerPlus | writer | manager,
	"secrets.readmetadata":    anyRole,
	"secrets.head":            anyRole,
	"secrets.list":            anyRole,
	"secrets.listkeyversions": anyRole,
	"secrets.wrap":            anyRole,
	"secrets.unwrap":          anyRole,
	"secrets.rewrap":          anyRole,
	"secrets.rotate":          writer | manager,
	"secrets.disable":         manager,
	"secrets.enable":          manager,
	"secrets.delete":          manager,
	"secrets.restore":         manager,
	"keyrings.create":         writer | manager,
	"keyrings.list":           anyRole,
}

// may tells whether p holds a on the instance.
func (p principal) may(a action, in instance) bool {
	for _, g := range p.Access {
		if g.Service != in.Service || g.Instance != in.GUID {
			continue
		}
		for _, name := range g.Roles {
			if permits[a]&roleBits[name] != 0 {
				return true
			}
		}
	}
	return false
}
