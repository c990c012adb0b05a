package keyprotect

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// guidMark stands for the instance's GUID in an address: each HPCS instance
// has a host name of its own (IBM Cloud, HPCS service endpoints).
const guidMark = "{guid}"

// Endpoints is the operator's table of key manager addresses: of a service in
// a region, or of one instance that has an address of its own, as those of Key
// Protect Dedicated have. There is no built-in one: a program reaches what it
// was told to.
type Endpoints struct {
	addresses map[string]string // "kms/us-south", or an instance's CRN -> "https://us-south.kms.cloud.ibm.com"
}

// ParseEndpoints reads a table such as
//
//	kms/us-south=https://private.us-south.kms.cloud.ibm.com,
//	hs-crypto/us-south=https://{guid}.api.private.us-south.hs-crypto.appdomain.cloud,
//	crn:v1:bluemix:public:kms:us-south:a/<account>:<guid>::=https://<host>
//
// Entries are separated by commas; blank ones are skipped. Plain http is
// accepted for this machine alone. A table without entries is a mistake; all
// mistakes are reported together.
func ParseEndpoints(text string) (Endpoints, error) {
	table := Endpoints{addresses: make(map[string]string)}
	var mistakes []error
	for entry := range strings.SplitSeq(text, ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		place, address, _ := strings.Cut(entry, "=")
		address = strings.TrimSuffix(address, "/")
		switch err := checkAddress(address); {
		case !isPlace(place):
			mistakes = append(mistakes, fmt.Errorf("key manager address %q: want <service>/<region>=<address> or <CRN of an instance>=<address>", entry))
		case table.addresses[place] != "":
			mistakes = append(mistakes, fmt.Errorf("key manager address %q: %s has one already", entry, place))
		case err != nil:
			mistakes = append(mistakes, fmt.Errorf("key manager address %q: %w", entry, err))
		default:
			table.addresses[place] = address
		}
	}
	if len(table.addresses)+len(mistakes) == 0 {
		mistakes = append(mistakes, errors.New("no key manager address"))
	}
	if len(mistakes) > 0 {
		return Endpoints{}, errors.Join(mistakes...)
	}
	return table, nil
}

// isPlace reports whether text is <service>/<region> or an instance's CRN.
func isPlace(text string) bool {
	if name, err := crn.Parse(text); err == nil {
		return uuid.Validate(name.Instance) == nil && name.ResourceType == "" && name.Resource == ""
	}
	service, region, _ := strings.Cut(text, "/")
	return service != "" && region != "" && !strings.Contains(text, ":") && !strings.Contains(region, "/")
}

// URL returns the address of a key manager instance, without a path: its own,
// or its service's in its region. It is fault.Invalid when the table holds
// neither.
func (e Endpoints) URL(instance crn.CRN) (string, error) {
	instance.ResourceType, instance.Resource = "", ""
	address := e.addresses[instance.String()]
	if address == "" {
		address = e.addresses[instance.Service+"/"+instance.Location]
	}
	if address == "" {
		return "", fault.Newf(fault.Invalid, "Key managers of the service %q in %q are not reached from here.", instance.Service, instance.Location)
	}
	if uuid.Validate(instance.Instance) != nil {
		return "", errInstance
	}
	return strings.ReplaceAll(address, guidMark, strings.ToLower(instance.Instance)), nil
}

// Serves reports whether some key manager of a service in a region is reached.
func (e Endpoints) Serves(service, region string) bool {
	if e.addresses[service+"/"+region] != "" {
		return true
	}
	for place := range e.addresses {
		if name, err := crn.Parse(place); err == nil && name.Service == service && name.Location == region {
			return true
		}
	}
	return false
}

var errInstance = fault.New(fault.Invalid, "The key manager's CRN does not name a service instance.")

func checkAddress(address string) error {
	u, err := url.Parse(strings.ReplaceAll(address, guidMark, "guid"))
	switch {
	case err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return errors.New("want https://<host>")
	case u.Scheme == "https" || u.Scheme == "http" && local(u.Hostname()):
		return nil
	default:
		return errors.New("want https; http is for this machine alone")
	}
}

// local reports whether host is this machine.
func local(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
