package keyprotect

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// instancePlaceholder stands for the instance's GUID in an address: Hyper
// Protect Crypto Services gives each instance a host name of its own.
const instancePlaceholder = "{guid}"

// Endpoints is the operator's table of key manager addresses, by service name
// and region of a CRN. An address never comes from a request.
type Endpoints map[string]string

// ParseEndpoints reads "kms/us-south=https://…,hs-crypto/us-south=https://{guid}.api…";
// {guid} stands for the instance's GUID.
func ParseEndpoints(text string) (Endpoints, error) {
	table := make(Endpoints)
	var problems []error
	for entry := range strings.SplitSeq(text, ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		where, address, _ := strings.Cut(entry, "=")
		service, region, _ := strings.Cut(where, "/")
		u, err := url.Parse(strings.ReplaceAll(address, instancePlaceholder, "guid"))
		if service == "" || region == "" || err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			problems = append(problems, fmt.Errorf("%q is no entry: want <service>/<region>=https://<host>, e.g. kms/us-south=https://us-south.kms.cloud.ibm.com", entry))
			continue
		}
		table[where] = strings.TrimSuffix(address, "/")
	}
	return table, errors.Join(problems...)
}

// URL returns the address of a key manager instance, without /api/v2.
func (e Endpoints) URL(c crn.CRN) (string, error) {
	address, ok := e[c.Service+"/"+c.Location]
	if !ok {
		return "", fault.Newf(fault.Invalid, "No key manager of service %s in region %s can be reached from here.", c.Service, c.Location)
	}
	return strings.ReplaceAll(address, instancePlaceholder, c.Instance), nil
}
