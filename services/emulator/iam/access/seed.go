package access

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// Grant are roles by the last segment of their CRN, on one instance of a service or, if Instance is
// empty, on all of them in Account.
type Grant struct {
	Account, Service, Instance string
	Roles                      []string
}

// seeded is the space of the ids that seeded policies get, so that a later seed finds them.
var seeded = uuid.MustParse("5c7f0d3e-92a4-4c57-8e0f-2f1f6b0d5a11")

// Seed writes what an identity is granted as access policies; those of an earlier seed go. Call it
// before New.
func Seed(tx *bbolt.Tx, iamID string, grants []Grant, now time.Time) error {
	prefix := uuid.NewSHA1(seeded, []byte(iamID)).String()[:24] // all but the last group
	var stale [][]byte
	cursor := policies(tx).Cursor()
	for id, _ := cursor.Seek([]byte(prefix)); strings.HasPrefix(string(id), prefix); id, _ = cursor.Next() {
		stale = append(stale, slices.Clone(id))
	}
	for _, id := range stale {
		if err := policies(tx).Delete(id); err != nil {
			return err
		}
	}
	for i, g := range grants {
		p := policy{
			ID: fmt.Sprintf("%s%012x", prefix, i), Type: typeAccess, Description: "from the seed", State: stateActive,
			Subject:  attributeSet{Attributes: []attribute{{Name: "iam_id", Value: iamID}}},
			Resource: attributeSet{Attributes: []attribute{{Name: "accountId", Value: g.Account}, {Name: "serviceName", Value: g.Service}}},
			Revision: 1, Created: now, CreatedBy: iamID, Modified: now, ModifiedBy: iamID,
		}
		if g.Instance != "" {
			p.Resource.Attributes = append(p.Resource.Attributes, attribute{Name: "serviceInstance", Value: g.Instance})
		}
		for _, name := range g.Roles {
			r, ok := roleNamed(g.Service, name)
			if !ok {
				return fmt.Errorf("%s has no role %s", g.Service, name)
			}
			p.Roles = append(p.Roles, r.crn)
		}
		if err := records.Put(policies(tx), p.ID, p); err != nil {
			return err
		}
	}
	return nil
}
