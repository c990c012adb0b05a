// Package crn reads and writes IBM Cloud resource names:
// crn:v1:bluemix:public:kms:us-south:a/<account>:<instance>:<type>:<resource>.
package crn

import (
	"fmt"
	"strings"
)

// CRN is an IBM Cloud resource name, version 1. Empty segments are legal.
type CRN struct {
	Name         string // "bluemix"; "staging" for IBM's test cloud
	Type         string // public, dedicated or local
	Service      string // "kms", "hs-crypto", "vmware-solutions"
	Location     string // region, e.g. "us-south"
	Scope        string // "a/<account>" for everything of a customer
	Instance     string // GUID of the service instance
	ResourceType string // "key"
	Resource     string // may itself hold ':' and '/'
}

// Parse splits text into its ten segments. The last may contain colons.
func Parse(text string) (CRN, error) {
	s := strings.SplitN(text, ":", 10)
	if len(s) != 10 || s[0] != "crn" || s[1] != "v1" || s[2] == "" || s[4] == "" {
		return CRN{}, fmt.Errorf("%q is not a CRN, which is crn:v1:bluemix:public:<service>:<region>:a/<account>:<instance>:: and may name a resource", text)
	}
	return CRN{s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9]}, nil
}

// String writes the name with all ten segments, trailing empty ones included.
func (c CRN) String() string {
	return strings.Join([]string{"crn", "v1", c.Name, c.Type, c.Service, c.Location, c.Scope, c.Instance, c.ResourceType, c.Resource}, ":")
}

// Account returns the account id of an account-scoped name, or "".
func (c CRN) Account() string {
	account, ok := strings.CutPrefix(c.Scope, "a/")
	if !ok {
		return ""
	}
	return account
}
