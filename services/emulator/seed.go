package emulator

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/iam"
	"github.com/kmip-for-vmware/kmip/services/emulator/iam/access"
	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/resourcecontroller"
)

const maxSeedBytes = 4 << 20

// Services whose instances the seed declares, by their names in CRNs.
const (
	serviceKMS  = "kms"
	serviceHPCS = "hs-crypto"
)

// Seed is the content of a seed file; the package comment describes it by example.
type Seed struct {
	Accounts   []SeedAccount   `json:"accounts"`
	Instances  []SeedInstance  `json:"instances"`
	Users      []SeedUser      `json:"users"`
	ServiceIDs []SeedServiceID `json:"service_ids"`
}

// SeedAccount is an IBM Cloud account; ID is the bss claim of its tokens.
type SeedAccount struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// SeedInstance is a Key Protect (kms) or Hyper Protect Crypto Services (hs-crypto) instance. Until the
// crypto units of the latter are initialized it refuses every call; without Initialized they are.
type SeedInstance struct {
	Service     string `json:"service"`
	GUID        string `json:"guid"`
	Account     string `json:"account"`
	Region      string `json:"region"`
	Name        string `json:"name"`
	Initialized *bool  `json:"initialized,omitempty"`
}

// SeedUser is a person with an IBMid.
type SeedUser struct {
	IAMID   string       `json:"iam_id"`
	Email   string       `json:"email"`
	Name    string       `json:"name"`
	Account string       `json:"account"`
	APIKey  string       `json:"api_key"`
	Access  []SeedAccess `json:"access"`
}

// SeedServiceID is an IAM service ID; its IAM id is "iam-" and ID. With Service it belongs to that
// service and may act for its instances.
type SeedServiceID struct {
	ID      string       `json:"id"`
	Service string       `json:"service,omitempty"`
	Name    string       `json:"name"`
	Account string       `json:"account"`
	APIKey  string       `json:"api_key"`
	Access  []SeedAccess `json:"access"`
}

// SeedAccess grants roles on one instance of a service, or on all of them in the account.
type SeedAccess struct {
	Service  string   `json:"service"`
	Instance string   `json:"instance"`
	Roles    []string `json:"roles"`
}

var (
	accountPattern   = regexp.MustCompile(`^[0-9a-f]{32}$`)
	uuidPattern      = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	regionPattern    = regexp.MustCompile(`^[a-z]{2}-[a-z]{2,8}$`)
	servicePattern   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	ibmidPattern     = regexp.MustCompile(`^IBMid-[0-9A-Za-z]+$`)
	serviceIDPattern = regexp.MustCompile(`^ServiceId-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

// minAPIKeyLength is IAM's rule for API keys whose value the caller chooses (IAM identity API).
const minAPIKeyLength = 32

// LoadSeed reads a seed file strictly and checks it; its error lists every problem with its remedy.
func LoadSeed(path string) (*Seed, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the seed: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxSeedBytes+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the seed: %w", err)
	}
	if len(raw) > maxSeedBytes {
		return nil, fmt.Errorf("the seed %s is larger than %d bytes: make it smaller", path, maxSeedBytes)
	}
	seed := &Seed{}
	if err := jsonhttp.Decode(raw, seed); err != nil {
		return nil, fmt.Errorf("the seed %s is not valid: correct its JSON: %w", path, err)
	}
	if err := seed.check(); err != nil {
		return nil, fmt.Errorf("the seed %s is not valid:\n%w", path, err)
	}
	return seed, nil
}

// seedCheck collects problems; the maps know what has been seen, to find doubles and loose ends.
type seedCheck struct {
	problems  []error
	accounts  map[string]bool
	instances map[string]string // GUID → service
	iamIDs    map[string]bool
	apiKeys   map[string]string // API key → field that gave it first
}

func (c *seedCheck) add(field, format string, args ...any) {
	c.problems = append(c.problems, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
}

func (s *Seed) check() error {
	c := &seedCheck{accounts: map[string]bool{}, instances: map[string]string{}, iamIDs: map[string]bool{}, apiKeys: map[string]string{}}
	for i, a := range s.Accounts {
		at := fmt.Sprintf("accounts[%d]", i)
		if !accountPattern.MatchString(a.ID) {
			c.add(at+".id", "%q is not an account id: give 32 lower-case hexadecimal digits", a.ID)
		}
		if c.accounts[a.ID] {
			c.add(at+".id", "%q is there twice: remove one", a.ID)
		}
		c.accounts[a.ID] = true
		c.name(at, a.Name)
	}
	for i, in := range s.Instances {
		at := fmt.Sprintf("instances[%d]", i)
		if !isKeyManager(in.Service) {
			c.add(at+".service", "%q is not a key manager: write kms or hs-crypto", in.Service)
		}
		if !uuidPattern.MatchString(in.GUID) {
			c.add(at+".guid", "%q is not a lower-case UUID: write it as 8-4-4-4-12 hexadecimal digits", in.GUID)
		}
		if _, seen := c.instances[in.GUID]; seen {
			c.add(at+".guid", "%q is there twice: give each instance its own", in.GUID)
		}
		c.instances[in.GUID] = in.Service
		if in.Initialized != nil && in.Service != serviceHPCS {
			c.add(at+".initialized", "an instance of %q has no crypto units: remove it", in.Service)
		}
		if !regionPattern.MatchString(in.Region) {
			c.add(at+".region", "%q is not a region: write it as us-south", in.Region)
		}
		c.account(at, in.Account)
		c.name(at, in.Name)
	}
	for i, u := range s.Users {
		at := fmt.Sprintf("users[%d]", i)
		if !ibmidPattern.MatchString(u.IAMID) {
			c.add(at+".iam_id", "%q is not an IBMid: write it as IBMid-270004ABCD", u.IAMID)
		}
		if !strings.Contains(strings.Trim(u.Email, "@"), "@") {
			c.add(at+".email", "%q is not an e-mail address: write it as name@example.com", u.Email)
		}
		c.principal(at, "iam_id", u.IAMID, u.Name, u.Account, u.APIKey, u.Access)
	}
	for i, sid := range s.ServiceIDs {
		at := fmt.Sprintf("service_ids[%d]", i)
		if !serviceIDPattern.MatchString(sid.ID) {
			c.add(at+".id", "%q is not a service ID: write ServiceId- and a lower-case UUID", sid.ID)
		}
		if sid.Service != "" && !servicePattern.MatchString(sid.Service) {
			c.add(at+".service", "%q is not a service name: write it as in CRNs, for example vmware-solutions", sid.Service)
		}
		c.principal(at, "id", sid.ID, sid.Name, sid.Account, sid.APIKey, sid.Access)
	}
	return errors.Join(c.problems...)
}

func (c *seedCheck) name(at, name string) {
	if strings.TrimSpace(name) == "" {
		c.add(at+".name", "it is empty: give a name")
	}
}

func (c *seedCheck) account(at, id string) {
	if !c.accounts[id] {
		c.add(at+".account", "%q is not among the accounts: declare it there or name another", id)
	}
}

func (c *seedCheck) principal(at, idField, id, name, account, key string, grants []SeedAccess) {
	if c.iamIDs[id] {
		c.add(at+"."+idField, "%q is there twice: remove one", id)
	}
	c.iamIDs[id] = true
	c.name(at, name)
	c.account(at, account)
	if len(key) < minAPIKeyLength {
		c.add(at+".api_key", "it has %d characters: give at least %d", len(key), minAPIKeyLength)
	} else if other, seen := c.apiKeys[key]; seen {
		c.add(at+".api_key", "it is the same as %s: give each its own", other)
	} else {
		c.apiKeys[key] = at + ".api_key"
	}
	for i, g := range grants {
		c.access(fmt.Sprintf("%s.access[%d]", at, i), g)
	}
}

func (c *seedCheck) access(at string, g SeedAccess) {
	if !servicePattern.MatchString(g.Service) {
		c.add(at+".service", "%q is not a service name: write it as in CRNs, for example kms", g.Service)
	}
	if len(g.Roles) == 0 {
		c.add(at+".roles", "it is empty: name at least one role or remove the entry")
	}
	if service, ok := c.instances[g.Instance]; isKeyManager(g.Service) && g.Instance != "" && (!ok || service != g.Service) {
		c.add(at+".instance", "%q is no %s instance of this seed: declare it under instances, name another or leave it out", g.Instance, g.Service)
	}
	for _, r := range g.Roles {
		if !access.HasRole(g.Service, r) {
			c.add(at+".roles", "%q is not a role of %s: use Reader, ReaderPlus, Writer, Manager or another of its roles, or a platform role", r, g.Service)
		}
	}
}

func isKeyManager(service string) bool { return service == serviceKMS || service == serviceHPCS }

// applySeed writes what the seed names.
func applySeed(tx *bbolt.Tx, s *Seed, now time.Time) error {
	for _, a := range s.Accounts {
		if err := resourcecontroller.SeedAccount(tx, resourcecontroller.Account(a)); err != nil {
			return err
		}
	}
	var problems []error
	accounts := map[string]string{} // of instances
	for i, in := range s.Instances {
		accounts[in.GUID] = in.Account
		err := resourcecontroller.Seed(tx, resourcecontroller.Instance{
			GUID: in.GUID, Service: in.Service, Account: in.Account, Region: in.Region, Name: in.Name, Created: now.UTC(),
			Uninitialized: in.Initialized != nil && !*in.Initialized,
		})
		if err != nil {
			problems = append(problems, fmt.Errorf("instances[%d]: %w", i, err))
		}
	}
	// grants gives access on an instance in the instance's account, any other in the identity's own.
	grants := func(account string, list []SeedAccess) (out []access.Grant) {
		for _, g := range list {
			out = append(out, access.Grant{
				Account: cmp.Or(accounts[g.Instance], account), Service: g.Service, Instance: g.Instance, Roles: g.Roles,
			})
		}
		return out
	}
	for i, u := range s.Users {
		err := iam.Seed(tx, iam.Identity{
			IAMID: u.IAMID, Account: u.Account, Name: u.Name, Email: u.Email, APIKey: u.APIKey, Access: grants(u.Account, u.Access),
		}, now)
		if err != nil {
			problems = append(problems, fmt.Errorf("users[%d]: %w", i, err))
		}
	}
	for i, sid := range s.ServiceIDs {
		err := iam.Seed(tx, iam.Identity{
			IAMID: "iam-" + sid.ID, Account: sid.Account, Name: sid.Name, Service: sid.Service, APIKey: sid.APIKey,
			Access: grants(sid.Account, sid.Access),
		}, now)
		if err != nil {
			problems = append(problems, fmt.Errorf("service_ids[%d]: %w", i, err))
		}
	}
	return errors.Join(problems...)
}
