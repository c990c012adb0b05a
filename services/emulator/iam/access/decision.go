package access

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// crnRealm is what the IAM id of an instance begins with; its CRN follows.
const crnRealm = "crn-"

// subjectOf are the attributes by which policies find a principal; nil for an IAM id without form.
func subjectOf(iamID string) Attributes {
	if name, ok := strings.CutPrefix(iamID, crnRealm); ok {
		a, _ := AttributesOf(name)
		return a
	}
	return Attributes{"iam_id": iamID}
}

// rulebook holds the active policies in memory, as the decision sees them: each with the time from
// which it counts and the time until which it does.
type rulebook struct {
	now func() time.Time

	mu      sync.RWMutex
	delay   time.Duration
	entries map[string][]entry // by subjectKey of the policy
	keys    map[string]string  // policy id → its newest subjectKey
}

type entry struct {
	policy
	from, until time.Time // zero: always, for ever
}

func newRulebook(now func() time.Time) *rulebook {
	return &rulebook{now: now, entries: map[string][]entry{}, keys: map[string]string{}}
}

// subjectKey narrows down whom a policy can be about; "" is nobody.
func (p policy) subjectKey() string {
	if p.Type == typeAccess {
		return p.Subject.get("iam_id")
	}
	return p.Subject.get("accountId")
}

// set makes p count after the delay, and what was known under its id no longer from then on. A policy
// that is not active counts for nothing.
func (b *rulebook) set(p policy) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	var effective time.Time
	if b.delay > 0 {
		effective = now.Add(b.delay)
	}
	if key, ok := b.keys[p.ID]; ok {
		for i, e := range b.entries[key] {
			if e.ID == p.ID && e.until.IsZero() {
				b.entries[key][i].until = effective
			}
		}
		b.entries[key] = slices.DeleteFunc(b.entries[key], func(e entry) bool {
			return e.ID == p.ID && e.until.IsZero() || !e.until.IsZero() && !now.Before(e.until)
		})
		delete(b.keys, p.ID)
	}
	if p.State == stateActive {
		b.keys[p.ID] = p.subjectKey()
		b.entries[p.subjectKey()] = append(b.entries[p.subjectKey()], entry{policy: p, from: effective})
	}
}

// holds tells whether a subject has a role that passes on a resource, now.
func (b *rulebook) holds(subject, on Attributes, passes func(role) bool) bool {
	key := subject["iam_id"]
	if key == "" {
		key = subject["accountId"]
	}
	if key == "" {
		return false
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	now := b.now()
	return slices.ContainsFunc(b.entries[key], func(e entry) bool {
		return !now.Before(e.from) && (e.until.IsZero() || now.Before(e.until)) && e.grants(subject, on, passes)
	})
}

func withAction(action string) func(role) bool {
	return func(r role) bool { return slices.Contains(r.actions, action) }
}

// May is the decision: may the principal do the action, "kms.secrets.wrap", on a resource whose
// attributes are on. A resource of a key manager names accountId, serviceName and serviceInstance,
// and keyRing, resourceType and resource as far as the call is about them.
func (s *Service) May(iamID, action string, on Attributes) bool {
	return s.rules.holds(subjectOf(iamID), on, withAction(action))
}

// mayManage tells whether the principal may see and change policies on a resource.
func (s *Service) mayManage(iamID string, on Attributes) bool {
	return s.rules.holds(subjectOf(iamID), on, func(r role) bool { return r.name == administrator || r.name == manager })
}

// mayRead tells whether the principal may see a policy: one that names it, or that it may change.
func (s *Service) mayRead(iamID string, p policy) bool {
	return iamID != "" && p.Subject.get("iam_id") == iamID || s.mayManage(iamID, p.Resource.attributes())
}

// SetDecisionDelay makes changes of policies count that long after they were made; those already made
// keep their time. It is forgotten when the emulator stops.
func (s *Service) SetDecisionDelay(d time.Duration) {
	s.rules.mu.Lock()
	defer s.rules.mu.Unlock()
	s.rules.delay = d
}
