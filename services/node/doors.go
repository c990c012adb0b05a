package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"
)

// doorRetry is the pause between attempts to open ports that can't be had.
const doorRetry = 5 * time.Second

// doors are the listeners on tenants' own ports. Its methods are called by one
// goroutine.
type doors struct {
	host    string // as in the shared listener's address
	offset  int    // from the advertised port to the one that is listened on
	log     *slog.Logger
	metrics *metrics
	open    map[uint16]net.Listener // by advertised port
	missing map[uint16]string       // why a port can't be listened on
}

// set closes the listeners that are not among the given advertised ports, and
// opens the others. It hands each new one to accept.
func (d *doors) set(ctx context.Context, ports []uint16, accept func(l net.Listener, port uint16)) {
	for port, l := range d.open {
		if _, wanted := slices.BinarySearch(ports, port); !wanted {
			l.Close()
			delete(d.open, port)
			d.log.Info("a tenant's own port is closed", "port", port)
		}
	}
	maps.DeleteFunc(d.missing, func(port uint16, _ string) bool {
		_, wanted := slices.BinarySearch(ports, port)
		return !wanted
	})
	for _, port := range ports {
		if d.open[port] != nil {
			continue
		}
		l, err := d.listen(ctx, port)
		if err != nil {
			if d.missing[port] != err.Error() && ctx.Err() == nil {
				d.missing[port] = err.Error()
				d.log.Error("a tenant's own port can't be listened on: its clients don't reach this node; trying on", "port", port, "error", err)
			}
			continue
		}
		d.open[port] = l
		delete(d.missing, port)
		d.log.Info("a tenant's own port is open", "port", port, "address", l.Addr().String())
		accept(l, port)
	}
	d.metrics.doors.WithLabelValues("open").Set(float64(len(d.open)))
	d.metrics.doors.WithLabelValues("missing").Set(float64(len(d.missing)))
}

func (d *doors) listen(ctx context.Context, port uint16) (net.Listener, error) {
	bound := int(port) + d.offset
	if bound < 1 || bound > maxPort {
		return nil, fmt.Errorf("port %d with the offset %d of KMIP_DEDICATED_PORT_OFFSET is no port", port, d.offset)
	}
	return new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(d.host, strconv.Itoa(bound)))
}

// close closes all.
func (d *doors) close() {
	for _, l := range d.open {
		l.Close()
	}
}

// keepDoors opens and closes tenants' own ports as the configuration changes,
// until door ends. Only then is a revision in force.
func (s *server) keepDoors(door, work context.Context) {
	defer s.doors.close()
	retry := time.NewTicker(doorRetry)
	defer retry.Stop()
	for {
		if snapshot := s.configuration.current.Load(); snapshot != nil {
			s.doors.set(door, snapshot.Ports(), func(l net.Listener, port uint16) {
				s.running.Go(func() {
					if err := s.acceptAll(door, work, l, port); err != nil && !errors.Is(err, net.ErrClosed) {
						s.log.Error("a tenant's own port is no longer served", "port", port, "error", err)
					}
				})
			})
			at := snapshot.Revision()
			s.inForce.Store(&at)
			signal(s.told)
		}
		select {
		case <-s.changed:
		case <-retry.C:
		case <-door.Done():
			return
		}
	}
}
