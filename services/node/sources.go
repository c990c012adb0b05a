package node

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// sources bounds what one address may do before a tenant is known: how fast it
// opens connections, and how many of them stand at the door. Nobody is banned:
// the allowance comes back within two seconds.
type sources struct {
	mu   sync.Mutex
	seen map[netip.Addr]*source
	door int // connections of all sources that are not admitted yet
}

type source struct {
	pace *rate.Limiter
	door int // connections that are not admitted yet
}

// enter charges a source with a new connection. It returns how long that has
// to wait for its turn, or why it is turned away. Call leave once if it is not.
func (s *sources) enter(a netip.Addr, now time.Time) (wait time.Duration, refused string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := s.seen[a]
	switch {
	case s.door >= maxDoor:
		return 0, "too_many_handshakes"
	case from == nil && !s.room(now):
		return 0, "too_many_sources"
	case from == nil:
		from = &source{pace: rate.NewLimiter(sourceRate, sourceBurst)}
		s.seen[a] = from
	case from.door >= sourceDoor:
		return 0, "too_many_handshakes_of_source"
	}
	turn := from.pace.ReserveN(now, 1)
	if wait = turn.DelayFrom(now); wait > sourceWait {
		turn.CancelAt(now)
		return 0, "source_too_fast"
	}
	from.door++
	s.door++
	return wait, ""
}

// room reports whether another source can be remembered. Those whose allowance
// is whole again are forgotten for it.
func (s *sources) room(now time.Time) bool {
	if len(s.seen) < maxSources {
		return true
	}
	for a, from := range s.seen {
		if from.door == 0 && from.pace.TokensAt(now) >= sourceBurst {
			delete(s.seen, a)
		}
	}
	return len(s.seen) < maxSources
}

// leave takes a connection from the door: it was admitted, or has ended.
func (s *sources) leave(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[a].door--
	s.door--
}

// addressOf returns the address at the other end of a connection.
func addressOf(conn net.Conn) netip.Addr {
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// sourceOf returns what is charged for an address: itself, or the /64 that an
// IPv6 host chooses its addresses from.
func sourceOf(a netip.Addr) netip.Addr {
	if a.Is6() {
		network, _ := a.Prefix(64) // never fails: 64 bits are there
		return network.Addr()
	}
	return a
}
