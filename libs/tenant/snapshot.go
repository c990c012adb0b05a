package tenant

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Snapshot is all tenants of a cell at one revision. It never changes once
// made and is safe for concurrent use.
type Snapshot struct {
	revision    Revision
	tenants     map[ID]*Tenant
	byName      map[string]*Tenant
	byPort      map[uint16]*Tenant
	byClient    map[Fingerprint]*Tenant
	quarantined map[ID]string
}

// NewSnapshot indexes all tenants at a revision. A tenant that claims a name,
// port or certificate of an earlier one (in the order of their ids) is
// quarantined: left out and reported.
func NewSnapshot(rev Revision, all []Tenant, unreadable ...Quarantined) (*Snapshot, []Quarantined) {
	tenants := make(map[ID]*Tenant, len(all))
	for i := range all {
		tenants[all[i].ID] = &all[i]
	}
	quarantined := make(map[ID]string)
	for _, q := range unreadable {
		quarantined[q.ID] = q.Reason
	}
	return index(rev, tenants, quarantined)
}

// Apply returns the snapshot that follows this one by d, or ErrGap.
func (s *Snapshot) Apply(d Delta) (*Snapshot, []Quarantined, error) {
	if d.After != s.revision {
		return nil, nil, fmt.Errorf("%w: have %d, delta begins after %d", ErrGap, s.revision.Number, d.After.Number)
	}
	tenants := maps.Clone(s.tenants)
	quarantined := maps.Clone(s.quarantined)
	for i := range d.Changed {
		tenants[d.Changed[i].ID] = &d.Changed[i]
		delete(quarantined, d.Changed[i].ID)
	}
	for _, id := range d.Removed {
		delete(tenants, id)
		delete(quarantined, id)
	}
	for _, q := range d.Unreadable {
		delete(tenants, q.ID)
		quarantined[q.ID] = q.Reason
	}
	next, all := index(d.To, tenants, quarantined)
	return next, all, nil
}

// All returns what NewSnapshot makes this snapshot of, in the order of ids.
func (s *Snapshot) All() (all []Tenant, unreadable []Quarantined) {
	for _, id := range slices.Sorted(maps.Keys(s.tenants)) {
		all = append(all, *s.tenants[id])
	}
	for _, id := range slices.Sorted(maps.Keys(s.quarantined)) {
		if s.tenants[id] == nil {
			unreadable = append(unreadable, Quarantined{ID: id, Reason: s.quarantined[id]})
		}
	}
	return all, unreadable
}

// Revision returns the revision of the snapshot.
func (s *Snapshot) Revision() Revision { return s.revision }

// Len returns the number of tenants that are served.
func (s *Snapshot) Len() int { return len(s.tenants) - s.conflicts() }

// Tenant returns the tenant with an id, or nil. The result is not to be changed.
func (s *Snapshot) Tenant(id ID) *Tenant {
	if _, out := s.quarantined[id]; out {
		return nil
	}
	return s.tenants[id]
}

// Ports returns the dedicated ports of all tenants, ascending.
func (s *Snapshot) Ports() []uint16 {
	return slices.Sorted(maps.Keys(s.byPort))
}

// conflicts counts the tenants that are known but quarantined.
func (s *Snapshot) conflicts() int {
	n := 0
	for id := range s.quarantined {
		if s.tenants[id] != nil {
			n++
		}
	}
	return n
}

// index builds the look-up tables. Tenants in conflict stay in tenants, so
// that the end of the conflict brings them back.
func index(rev Revision, tenants map[ID]*Tenant, unreadable map[ID]string) (*Snapshot, []Quarantined) {
	s := &Snapshot{
		revision: rev, tenants: tenants,
		byName:      make(map[string]*Tenant),
		byPort:      make(map[uint16]*Tenant),
		byClient:    make(map[Fingerprint]*Tenant, len(tenants)),
		quarantined: make(map[ID]string),
	}
	for id, reason := range unreadable {
		if tenants[id] == nil {
			s.quarantined[id] = reason
		}
	}
	for _, id := range slices.Sorted(maps.Keys(tenants)) {
		t := tenants[id]
		if reason := s.conflict(t); reason != "" {
			s.quarantined[id] = reason
			continue
		}
		for _, n := range t.Names {
			s.byName[n] = t
		}
		for _, p := range t.Ports {
			s.byPort[p] = t
		}
		for i := range t.Clients {
			s.byClient[t.Clients[i].Fingerprint] = t
		}
	}
	var out []Quarantined
	for _, id := range slices.Sorted(maps.Keys(s.quarantined)) {
		out = append(out, Quarantined{ID: id, Reason: s.quarantined[id]})
	}
	return s, out
}

// conflict says what of t another tenant holds already, or "". The database
// forbids it; this is the second lock.
func (s *Snapshot) conflict(t *Tenant) string {
	for _, n := range t.Names {
		if n != strings.ToLower(n) {
			return fmt.Sprintf("host name %s is not lower case", n)
		}
		if o := s.byName[n]; o != nil {
			return fmt.Sprintf("host name %s belongs to instance %s", n, o.ID)
		}
	}
	for _, p := range t.Ports {
		if o := s.byPort[p]; o != nil {
			return fmt.Sprintf("port %d belongs to instance %s", p, o.ID)
		}
	}
	for i := range t.Clients {
		if o := s.byClient[t.Clients[i].Fingerprint]; o != nil {
			return fmt.Sprintf("client certificate %s belongs to instance %s", t.Clients[i].Fingerprint, o.ID)
		}
	}
	return ""
}
