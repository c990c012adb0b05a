// Package access plays the part of IBM Cloud IAM that decides: roles, policies, and the question
// whether a principal may do something.
//
// A principal is a user, a service ID, or an instance of a service, whose IAM id is "crn-" and the
// instance's CRN. It holds a role on a resource when an active policy says so: an access policy with
// its iam_id as subject, or, for an instance, an authorization policy whose subject attributes match
// the CRN's. All attributes of the policy's resource have to match the resource's; an attribute that
// the resource does not have matches nothing, so a policy for a key ring says nothing about calls
// that name no key ring. The access lists of a seed become access policies. Access groups are stored
// and never match.
//
// Roles and their actions are IBM's published ones (Key Protect and Hyper Protect Crypto Services,
// managing user access), with these assumptions:
//
//   - The role VMware KMIP Manager grants list, create, read, readmetadata, head, wrap, unwrap,
//     delete and restore of keys in the default key ring of an hs-crypto instance. At IBM the role
//     belongs to a KMIP server inside the instance and its actions are not public; here it is what a
//     KMIP server outside the instance needs.
//   - Whoever is Administrator or Manager on all that a policy's resource names may read, create,
//     change and delete that policy. IBM asks for the granted level at least.
//   - An identity may read the access policies that name it, as IBM's console shows everybody their
//     own access.
//   - A service role does not show an instance in the resource controller; a platform role does.
//
// A change of policies counts at once, or after the decision delay: IBM caches decisions for minutes.
package access

import (
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

const bucketPolicies = "iam_policies" // policy id → policy

// Buckets are the top-level buckets that Config.DB must have.
var Buckets = []string{bucketPolicies}

func policies(tx *bbolt.Tx) *bbolt.Bucket { return tx.Bucket([]byte(bucketPolicies)) }

// Config is what a Service needs of its surroundings; every field is required.
type Config struct {
	DB  *bbolt.DB // holds Buckets; a change is on disk before its answer leaves
	Now func() time.Time
	Log *slog.Logger

	Caller func(*http.Request) (iamID string, err error)
	// Locked tells whether an IAM id is that of a locked service ID, which gets no more access.
	Locked func(tx *bbolt.Tx, iamID string) (bool, error)
}

// Service is policy management and the decision. It is safe for concurrent use.
type Service struct {
	cfg   Config
	rules *rulebook
	// changing is held while policies are written and taken over into rules, to keep their order.
	changing sync.Mutex
}

// New loads the policies.
func New(cfg Config) (*Service, error) {
	s := &Service{cfg: cfg, rules: newRulebook(cfg.Now)}
	return s, cfg.DB.View(func(tx *bbolt.Tx) error {
		return records.Each(policies(tx), func(p policy) error {
			s.rules.set(p)
			return nil
		})
	})
}

// Remove deletes an identity's access policies for good, in the transaction with which change deletes
// the identity itself.
func (s *Service) Remove(iamID string, change func(*bbolt.Tx) error) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	var gone []policy
	err := s.cfg.DB.Update(func(tx *bbolt.Tx) error {
		err := records.Each(policies(tx), func(p policy) error {
			if p.Subject.get("iam_id") == iamID {
				p.State = stateDeleted
				gone = append(gone, p)
			}
			return nil
		})
		for _, p := range gone {
			err = errors.Join(err, policies(tx).Delete([]byte(p.ID)))
		}
		return errors.Join(err, change(tx))
	})
	if err == nil {
		for _, p := range gone {
			s.rules.set(p)
		}
	}
	return err
}

// absent turns records.ErrNone into another error.
func absent(err, instead error) error {
	if errors.Is(err, records.ErrNone) {
		return instead
	}
	return err
}
