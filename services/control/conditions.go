package control

import (
	"context"
	"crypto/x509"
	"fmt"
	"math"
	"time"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// conditions returns the conditions of instances of one account: those that are
// stored, and those that follow from certificates now.
func (h *handlers) conditions(ctx context.Context, instances ...pg.Instance) (map[tenant.ID][]api.Condition, error) {
	if len(instances) == 0 {
		return nil, nil
	}
	ids := make([]tenant.ID, 0, len(instances))
	for _, i := range instances {
		ids = append(ids, i.ID)
	}
	standings, err := h.instances.Standings(ctx, instances[0].Account, ids...)
	all := make(map[tenant.ID][]api.Condition, len(instances))
	for _, i := range instances {
		all[i.ID] = []api.Condition{}
		standing := standings[i.ID]
		if standing == nil {
			standing = new(pg.Standing)
		}
		if i.Status == pg.Removing {
			continue
		}
		for _, c := range standing.Stored {
			all[i.ID] = append(all[i.ID], api.Condition{
				Type: api.ConditionType(c.Type), Status: api.ConditionStatus(c.Status), Reason: c.Reason, Message: c.Message, Since: timestamp(c.Since),
			})
		}
		all[i.ID] = append(all[i.ID], clientCertificates(i, standing.FirstToEnd, h.now()))
		if c, own := endpointCertificate(standing.ServerCertificates, h.now()); own {
			all[i.ID] = append(all[i.ID], c)
		}
	}
	return all, err
}

// warnBefore is how long before its end a certificate is complained about.
const warnBefore = 30 * 24 * time.Hour

// clientCertificates tells whether the client certificate that ends first does
// so soon; nil: there is none.
func clientCertificates(i pg.Instance, first *pg.Certificate, now time.Time) api.Condition {
	c := api.Condition{
		Type: api.ConditionTypeClientCertificates, Status: api.ConditionStatusFalse, Reason: "none", Since: timestamp(i.CreatedAt),
		Message: "No client certificate is allowed. Add that of vCenter.",
	}
	if first == nil {
		return c
	}
	left := first.NotAfter.Sub(now)
	days := int(math.Floor(left.Hours() / 24))
	switch {
	case left <= 0:
		c.Reason, c.Since = "expired", timestamp(first.NotAfter)
		c.Message = fmt.Sprintf("Client certificate `%s` has expired; who uses it is refused. Make a new one in vCenter, add that, and remove this one.", first.Name)
	case left < warnBefore:
		c.Reason, c.Since = "ends_soon", timestamp(first.NotAfter.Add(-warnBefore))
		c.Message = fmt.Sprintf("Client certificate `%s` ends in %d days, at %s. Make a new one in vCenter, add that, and remove this one.", first.Name, days, timestamp(first.NotAfter).Format(time.RFC3339))
	default:
		c.Status, c.Reason, c.Since = api.ConditionStatusTrue, "valid", timestamp(first.CreatedAt)
		c.Message = fmt.Sprintf("The first client certificate to end, `%s`, has %d days left.", first.Name, days)
	}
	return c
}

// endpointCertificate tells whether the server certificates of an instance's
// own host names are renewed in time; own is false if it has none.
func endpointCertificate(all [][]byte, now time.Time) (c api.Condition, own bool) {
	var first *x509.Certificate
	for _, der := range all {
		leaf, err := x509.ParseCertificate(der)
		if err == nil && (first == nil || leaf.NotAfter.Before(first.NotAfter)) {
			first = leaf
		}
	}
	if first == nil {
		return c, false
	}
	end := timestamp(first.NotAfter).Format(time.RFC3339)
	c = api.Condition{
		Type: api.ConditionTypeEndpointCertificate, Status: api.ConditionStatusTrue, Reason: "valid", Since: timestamp(first.NotBefore),
		Message: fmt.Sprintf("The server certificate ends at %s and is renewed 60 days before.", end),
	}
	if first.NotAfter.Sub(now) < warnBefore {
		c.Status, c.Reason, c.Since = api.ConditionStatusFalse, "renewal_overdue", timestamp(first.NotAfter.Add(-warnBefore))
		c.Message = fmt.Sprintf("The server certificate ends at %s and was not renewed. Tell the operator of the service.", end)
	}
	return c, true
}
