package ibmcloud

import (
	"context"
	"net/http"
	"net/url"

	"github.com/IBM/platform-services-go-sdk/resourcecontrollerv2"

	"github.com/kmip-for-vmware/kmip/libs/crn"
	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// ErrNotFound is the answer for an unknown and for a foreign instance alike.
var ErrNotFound = fault.New(fault.NotFound, "You see no key manager with this id in your account. GET /v1/key_managers lists those that you see.")

// Instance is an active service instance.
type Instance struct {
	CRN  crn.CRN
	Name string
}

// Instances returns the account's instances of some services that the caller
// may see. HPCS has no public id in the catalog, so the CRN decides.
func (c *Client) Instances(ctx context.Context, account string, ofService func(name string) bool) ([]Instance, error) {
	kind, limit := "service_instance", int64(pageSize)
	options := &resourcecontrollerv2.ListResourceInstancesOptions{Type: &kind, Limit: &limit}
	var all []Instance
	for range maxPages {
		page, response, err := c.resources.ListResourceInstancesWithContext(ctx, options)
		if err != nil {
			return nil, failure(resourceController, statusOf(response))
		}
		for _, r := range page.Resources {
			if i, ok := instanceOf(&r); ok && i.CRN.Account() == account && ofService(i.CRN.Service) {
				all = append(all, i)
			}
		}
		start := startOf(page.NextURL)
		if start == "" {
			return all, nil
		}
		options.Start = &start
	}
	return nil, tooMany(resourceController)
}

// startOf is the token of the next page in next_url, which may be relative.
func startOf(next *string) string {
	if next == nil {
		return ""
	}
	u, err := url.Parse(*next)
	if err != nil {
		return ""
	}
	return u.Query().Get("start")
}

// Instance returns the account's instance with a GUID, or ErrNotFound: it has
// none that the caller may see.
func (c *Client) Instance(ctx context.Context, account, guid string) (Instance, error) {
	r, response, err := c.resources.GetResourceInstanceWithContext(ctx, &resourcecontrollerv2.GetResourceInstanceOptions{ID: &guid})
	status := statusOf(response)
	if err != nil && status != http.StatusNotFound && status != http.StatusForbidden {
		return Instance{}, failure(resourceController, status)
	}
	if err == nil {
		if i, ok := instanceOf(r); ok && i.CRN.Account() == account && i.CRN.Instance == guid {
			return i, nil
		}
	}
	return Instance{}, ErrNotFound
}

// instanceOf reads an instance that is active.
func instanceOf(r *resourcecontrollerv2.ResourceInstance) (Instance, bool) {
	if r.CRN == nil || r.Name == nil || r.State == nil || *r.State != "active" {
		return Instance{}, false
	}
	name, err := crn.Parse(*r.CRN)
	return Instance{name, *r.Name}, err == nil
}
