package emulator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
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

// SeedInstance is a Key Protect (kms) or Hyper Protect Crypto Services (hs-crypto) instance.
type SeedInstance struct {
	Service string `json:"service"`
	GUID    string `json:"guid"`
	Account string `json:"account"`
	Region  string `json:"region"`
	Name    string `json:"name"`
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

// SeedServiceID is an IAM service ID; its IAM id is "iam-" and ID.
type SeedServiceID struct {
	ID      string       `json:"id"`
	Name    string       `json:"name"`
	Account string       `json:"account"`
	APIKey  string       `json:"api_key"`
	Access  []SeedAccess `json:"access"`
}

// SeedAccess grants roles on one instance of a service, or on the service.
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
	if err := decodeStrict(raw, seed); err != nil {
		return nil, fmt.Errorf("the seed %s is not valid: correct its JSON: %w", path, err)
	}
	if err := seed.check(); err != nil {
		return nil, fmt.Errorf("the seed %s is not valid:\n%w", path, err)
	}
	return seed, nil
}

// decodeStrict refuses unknown members and anything after the first value.
func decodeStrict(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one JSON value")
	}
	return nil
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
		if in.Service != serviceKMS && in.Service != serviceHPCS {
			c.add(at+".service", "%q is not a key manager: write kms or hs-crypto", in.Service)
		}
		if !uuidPattern.MatchString(in.GUID) {
			c.add(at+".guid", "%q is not a lower-case UUID: write it as 8-4-4-4-12 hexadecimal digits", in.GUID)
		}
		if _, seen := c.instances[in.GUID]; seen {
			c.add(at+".guid", "%q is there twice: give each instance its own", in.GUID)
		}
		c.instances[in.GUID] = in.Service
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
	if g.Service != serviceKMS && g.Service != serviceHPCS {
		if slices.Contains(g.Roles, "") {
			c.add(at+".roles", "a role is empty: name it or remove it")
		}
		return
	}
	if service, ok := c.instances[g.Instance]; !ok || service != g.Service {
		c.add(at+".instance", "%q is no %s instance of this seed: declare it under instances or name another", g.Instance, g.Service)
	}
	for _, r := range g.Roles {
		if roleBits[r] == 0 && !slices.Contains(platformRoles, r) {
			c.add(at+".roles", "%q is not a role of %s: use Reader, ReaderPlus, Writer or Manager, or a platform role", r, g.Service)
		}
	}
}

// applySeed writes what the seed names. An instance that exists keeps its service, account and
// region, because the CRNs of its keys hold them.
func (t *txn) applySeed(s *Seed, now time.Time) error {
	for _, a := range s.Accounts {
		if err := put(t.bucket(bucketAccounts), a.ID, account(a)); err != nil {
			return err
		}
	}
	var problems []error
	for i, in := range s.Instances {
		want := instance{GUID: in.GUID, Service: in.Service, Account: in.Account, Region: in.Region, Name: in.Name, Created: now.UTC()}
		have, err := load[instance](t.bucket(bucketInstances), in.GUID)
		if err != nil && !errors.Is(err, errNoRecord) {
			return err
		}
		if err == nil {
			if have.Service != want.Service || have.Account != want.Account || have.Region != want.Region {
				problems = append(problems, fmt.Errorf("instances[%d]: the data directory holds %s as %s of account %s in %s: use another guid or another --data-dir",
					i, in.GUID, have.Service, have.Account, have.Region))
				continue
			}
			want.Created = have.Created
		}
		if err := put(t.bucket(bucketInstances), in.GUID, want); err != nil {
			return err
		}
	}
	for i, u := range s.Users {
		p := principal{IAMID: u.IAMID, Account: u.Account, Name: u.Name, Email: u.Email}
		if err := t.applyPrincipal(p, u.APIKey, u.Access, now); err != nil {
			problems = append(problems, fmt.Errorf("users[%d].api_key: %w", i, err))
		}
	}
	for i, sid := range s.ServiceIDs {
		p := principal{IAMID: "iam-" + sid.ID, Account: sid.Account, Name: sid.Name}
		if err := t.applyPrincipal(p, sid.APIKey, sid.Access, now); err != nil {
			problems = append(problems, fmt.Errorf("service_ids[%d].api_key: %w", i, err))
		}
	}
	return errors.Join(problems...)
}

func (t *txn) applyPrincipal(p principal, key string, grants []SeedAccess, now time.Time) error {
	p.APIKey = hashAPIKey(key)
	for _, g := range grants {
		p.Access = append(p.Access, access(g))
	}
	keys := t.bucket(bucketAPIKeys)
	old, err := load[principal](t.bucket(bucketPrincipals), p.IAMID)
	if err != nil && !errors.Is(err, errNoRecord) {
		return err
	}
	if old.APIKey != p.APIKey {
		if holder, err := load[apiKey](keys, p.APIKey); err == nil {
			return fmt.Errorf("the data directory holds it for %s: give another", holder.IAMID)
		}
		if err := keys.Delete([]byte(old.APIKey)); err != nil {
			return err
		}
		if err := put(keys, p.APIKey, apiKey{ID: "ApiKey-" + uuid.NewString(), IAMID: p.IAMID, Created: now.UTC()}); err != nil {
			return err
		}
	}
	return put(t.bucket(bucketPrincipals), p.IAMID, p)
}
