package access

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/services/control/ibmcloud"
)

// Roles are read again after a minute, are kept per account and caller, and for
// a bounded number of callers.
func TestRolesAreKeptForAMinute(t *testing.T) {
	now, reads, away, role := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), 0, false, "crn:v1:bluemix:public:iam::::role:Viewer"
	r := New(Config{
		Region: "us-south", Now: func() time.Time { return now },
		Policies: func(_ context.Context, account, _, _ string) ([]ibmcloud.Policy, error) {
			if reads++; away {
				return nil, fault.Wrap(fault.Unavailable, "away", errors.New("away"))
			}
			return []ibmcloud.Policy{{
				Roles: []string{role}, Resource: []ibmcloud.Attribute{{Name: "accountId", Value: account}, {Name: "serviceName", Value: "vmware-solutions"}},
			}}, nil
		},
	})
	permit := func(account string, want fault.Kind, wantReads int, when string) {
		t.Helper()
		err := r.Permit(t.Context(), iam.Identity{Account: account, IAMID: "IBMid-1"}, ViewInstances, "")
		if err != nil && fault.KindOf(err) != want || err == nil && want != fault.Internal || reads != wantReads {
			t.Errorf("%s: %v after %d readings, want %s after %d", when, err, reads, want, wantReads)
		}
	}
	const permitted = fault.Internal // no error at all
	permit("a", permitted, 1, "first")
	role = "crn:v1:bluemix:public:iam::::role:None"
	now = now.Add(rolesFor - time.Second)
	permit("a", permitted, 1, "within the minute")
	permit("b", fault.Denied, 2, "the same caller in another account")
	now = now.Add(time.Second)
	permit("a", fault.Denied, 3, "after the minute")
	away = true
	permit("a", fault.Denied, 3, "refused and known")
	now = now.Add(rolesFor)
	permit("a", fault.Unavailable, 4, "away, and known too long ago")
	away, role = false, "crn:v1:bluemix:public:iam::::role:Viewer"
	for i := range maxCallers + 10 {
		if err := r.Permit(t.Context(), iam.Identity{Account: "a", IAMID: fmt.Sprint(i)}, ViewInstances, ""); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.callers) > maxCallers {
		t.Errorf("%d callers are kept, want at most %d", len(r.callers), maxCallers)
	}
}
