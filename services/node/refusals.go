package node

import (
	"maps"
	"net/netip"
	"strings"
	"sync"

	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Limits of what is kept of refusals until it is stored.
const (
	maxRefusals   = 256 // told apart; more are counted without their source
	maxServerName = 255 // bytes of a name that anybody may send
)

// refusals counts who was turned away since they were taken last.
type refusals struct {
	mu      sync.Mutex
	counted map[pg.Refused]pg.Seen
}

// note counts one refused connection or request.
func (s *server) note(x *session, cause tenant.Cause) {
	snapshot := s.configuration.current.Load()
	if snapshot == nil {
		return // nobody is served, and the log tells it
	}
	a, _ := x.shown()
	name := a.ServerName[:min(len(a.ServerName), maxServerName)]
	name = strings.ReplaceAll(strings.ToValidUTF8(name, "?"), "\x00", "?")
	s.refusals.add(map[pg.Refused]pg.Seen{
		{Addressed: snapshot.Addressed(a), Cause: cause, Source: x.address}: {
			ServerName: name, Port: a.Port, Client: a.Client, HasClient: a.HasClient, Times: 1,
		},
	})
}

// add counts; also what was taken and could not be stored.
func (r *refusals) add(more map[pg.Refused]pg.Seen) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for who, seen := range more {
		if _, known := r.counted[who]; !known && len(r.counted) >= maxRefusals {
			who.Source = netip.Addr{} // causes, and tenants that are addressed, are few
		}
		seen.Times += r.counted[who].Times
		r.counted[who] = seen
	}
}

// take returns what was counted since the last time.
func (r *refusals) take() map[pg.Refused]pg.Seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := maps.Clone(r.counted)
	clear(r.counted)
	return all
}
