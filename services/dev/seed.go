package dev

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// region is the cell's region.
const region = "us-south"

// seed is the file that tells the emulator which accounts, key managers and
// identities there are. Ids and API keys in it are random, and kept: every run
// finds what the file holds by name and adds what is missing.
type seed struct {
	Accounts   []*seedAccount   `json:"accounts"`
	Instances  []*seedInstance  `json:"instances"`
	Users      []*seedIdentity  `json:"users"`
	ServiceIDs []*seedServiceID `json:"service_ids"`
}

type seedAccount struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

type seedInstance struct {
	Service string `json:"service"`
	GUID    string `json:"guid"`
	Account string `json:"account"`
	Region  string `json:"region"`
	Name    string `json:"name"`
}

type seedIdentity struct {
	IAMID   string       `json:"iam_id"`
	Email   string       `json:"email"`
	Name    string       `json:"name"`
	Account string       `json:"account"`
	APIKey  string       `json:"api_key"`
	Access  []seedAccess `json:"access"`
}

type seedServiceID struct {
	ID      string       `json:"id"`
	Service string       `json:"service,omitempty"` // whose instances it may act for
	Name    string       `json:"name"`
	Account string       `json:"account"`
	APIKey  string       `json:"api_key"`
	Access  []seedAccess `json:"access"`
}

// seedAccess grants roles on one instance of a service, or on the service.
type seedAccess struct {
	Service  string   `json:"service"`
	Instance string   `json:"instance,omitempty"`
	Roles    []string `json:"roles"`
}

// The names of services in IAM.
const (
	serviceVMware = "vmware-solutions"
	serviceKMS    = "kms"
	serviceHPCS   = "hs-crypto"
)

// customer is one account with what its administrator starts from.
type customer struct {
	number     int    // 1: on Key Protect, 2: on HPCS
	account    string // 32 hexadecimal digits
	apiKey     string // of the administrator
	keyManager seedInstance
	// serviceKey is the API key of the service ID that the instance works with;
	// empty: it works under a service authorization.
	serviceKey string
}

// cast is who acts in a stack.
type cast struct {
	customers     [2]customer
	supportAPIKey string
	serviceAPIKey string // of the operator's own service ID, which acts for instances
}

// castFrom reads the seed file, adds what is missing and writes it back.
func castFrom(f folder) (cast, error) {
	path := f.path(seedFile)
	s := &seed{}
	text, err := os.ReadFile(path)
	if err == nil {
		if err := json.Unmarshal(text, s); err != nil {
			return cast{}, fmt.Errorf("%s is damaged: start afresh with `make clean`: %w", path, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return cast{}, err
	}
	c := s.complete()
	if text, err = json.MarshalIndent(s, "", "  "); err != nil {
		return cast{}, err
	}
	return c, writeFile(path, append(text, '\n'), 0o600)
}

func (s *seed) complete() cast {
	first := s.account("Customer 1")
	keys := s.instance(serviceKMS, first.ID, "Keys of customer 1")
	admin := s.user("Ada Admin", "ada@customer-1.example", first.ID,
		seedAccess{Service: serviceVMware, Roles: []string{"Administrator"}},
		seedAccess{Service: serviceKMS, Instance: keys.GUID, Roles: []string{"Viewer", "Manager"}})
	service := s.serviceID("kmip-for-vmware", first.ID,
		seedAccess{Service: serviceKMS, Instance: keys.GUID, Roles: []string{"Viewer", "Manager"}})

	second := s.account("Customer 2")
	crypto := s.instance(serviceHPCS, second.ID, "Crypto of customer 2")
	boss := s.user("Ben Boss", "ben@customer-2.example", second.ID,
		seedAccess{Service: serviceVMware, Roles: []string{"Administrator"}},
		seedAccess{Service: serviceHPCS, Instance: crypto.GUID, Roles: []string{"Administrator", "Manager"}})

	operator := s.account("Operator")
	support := s.user("Sam Support", "sam@operator.example", operator.ID,
		seedAccess{Service: serviceVMware, Roles: []string{"Support"}})

	ours := s.serviceID("kmip-for-vmware-operator", operator.ID)
	ours.Service = serviceVMware

	return cast{
		customers: [2]customer{
			{number: 1, account: first.ID, apiKey: admin.APIKey, keyManager: *keys, serviceKey: service.APIKey},
			{number: 2, account: second.ID, apiKey: boss.APIKey, keyManager: *crypto},
		},
		supportAPIKey: support.APIKey, serviceAPIKey: ours.APIKey,
	}
}

func (s *seed) account(name string) *seedAccount {
	return named(&s.Accounts, func(a *seedAccount) bool { return a.Name == name }, func() *seedAccount {
		return &seedAccount{ID: randomHex(16), Name: name}
	})
}

func (s *seed) instance(service, account, name string) *seedInstance {
	return named(&s.Instances, func(i *seedInstance) bool { return i.Name == name }, func() *seedInstance {
		return &seedInstance{Service: service, GUID: newUUID(), Account: account, Region: region, Name: name}
	})
}

func (s *seed) user(name, email, account string, access ...seedAccess) *seedIdentity {
	u := named(&s.Users, func(u *seedIdentity) bool { return u.Email == email }, func() *seedIdentity {
		return &seedIdentity{IAMID: "IBMid-" + strings.ToUpper(randomHex(5)), Email: email, Name: name, Account: account, APIKey: newAPIKey()}
	})
	u.Access = access
	return u
}

func (s *seed) serviceID(name, account string, access ...seedAccess) *seedServiceID {
	id := named(&s.ServiceIDs, func(i *seedServiceID) bool { return i.Name == name && i.Account == account }, func() *seedServiceID {
		return &seedServiceID{ID: "ServiceId-" + newUUID(), Name: name, Account: account, APIKey: newAPIKey()}
	})
	id.Access = access
	return id
}

// named returns the element of list that is wanted, or adds a new one.
func named[T any](list *[]*T, wanted func(*T) bool, create func() *T) *T {
	for _, e := range *list {
		if wanted(e) {
			return e
		}
	}
	e := create()
	*list = append(*list, e)
	return e
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b) // never fails (Go 1.24)
	return hex.EncodeToString(b)
}

// newAPIKey has 52 characters; IBM Cloud's have 44.
func newAPIKey() string { return rand.Text() + rand.Text() }

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails (Go 1.24)
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
