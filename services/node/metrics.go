package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// metrics are what this node tells of itself.
type metrics struct {
	revision, tenants, quarantined, connections prometheus.Gauge
	handshakes                                  *prometheus.CounterVec   // outcome
	items                                       *prometheus.CounterVec   // tenant, operation, result
	duration                                    *prometheus.HistogramVec // operation of the first item
	keyManager                                  *prometheus.CounterVec   // tenant, action, result
	windows                                     *prometheus.CounterVec   // tenant, window
	panics                                      prometheus.Counter
	doors                                       *prometheus.GaugeVec // state: open, missing
	reportsFailed                               prometheus.Counter
	copyFailed                                  prometheus.Counter
	eventsLost                                  prometheus.Counter
	eventsMissed                                *prometheus.CounterVec // tenant
}

func newMetrics(r prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		r.MustRegister(g)
		return g
	}
	m := &metrics{
		revision:    gauge("kmip_configuration_revision", "Number of the configuration revision in force."),
		tenants:     gauge("kmip_configuration_tenants", "Tenants that are served."),
		quarantined: gauge("kmip_configuration_quarantined_tenants", "Tenants that are not served because their configuration can't be applied."),
		connections: gauge("kmip_connections", "Open connections of KMIP clients."),
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmip_handshakes_total", Help: "Connections by how they began: admitted, or why not.",
		}, []string{"outcome"}),
		items: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmip_batch_items_total", Help: "Batch items answered, by tenant, operation and result (success or the kind of failure).",
		}, []string{"tenant", "operation", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kmip_request_duration_seconds", Help: "From a request's last byte to its answer's, by the operation of its first item.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"operation"}),
		keyManager: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmip_key_manager_calls_total", Help: "Calls to tenants' key managers, by tenant, action and result (success or the kind of failure).",
		}, []string{"tenant", "action", "result"}),
		windows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmip_window_keys_total", Help: "Keys served within a window of the tenant's, without the key manager's word: cache or grace.",
		}, []string{"tenant", "window"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kmip_connection_panics_total", Help: "Connections that ended by a panic: a mistake of this program.",
		}),
		doors: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kmip_dedicated_ports", Help: "Ports of single tenants by state: open, or missing because they can't be listened on.",
		}, []string{"state"}),
		reportsFailed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kmip_reports_failed_total", Help: "Reports of the configuration in force, and of refusals, that PostgreSQL did not take. Refusals are reported again.",
		}),
		copyFailed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kmip_configuration_copy_failed_total", Help: "Times that the configuration could not be written to the disk.",
		}),
		eventsLost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kmip_audit_lines_lost_total", Help: "Events that could not be written to the standard output; their numbers are left out there.",
		}),
		eventsMissed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmip_audit_events_missed_total", Help: "Events, by tenant, that are on the standard output alone: too many waited for PostgreSQL, or it did not take them.",
		}, []string{"tenant"}),
	}
	r.MustRegister(m.eventsLost, m.eventsMissed, m.copyFailed, m.handshakes, m.items, m.duration, m.keyManager, m.windows, m.panics, m.doors, m.reportsFailed)
	return m
}

// forget ends what is told of a tenant that is gone.
func (m *metrics) forget(id tenant.ID) {
	m.items.DeletePartialMatch(prometheus.Labels{"tenant": string(id)})
	m.keyManager.DeletePartialMatch(prometheus.Labels{"tenant": string(id)})
	m.windows.DeletePartialMatch(prometheus.Labels{"tenant": string(id)})
	m.eventsMissed.DeletePartialMatch(prometheus.Labels{"tenant": string(id)})
}

// newAge tells how old the configuration is.
func newAge(r prometheus.Registerer, c *configuration) {
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kmip_configuration_age_seconds", Help: "Time since the configuration in force was known to be the newest; 0 before there is one.",
	}, func() float64 { return c.age().Seconds() }))
}

// newHeldKeys tells how many keys are held within the tenants' windows.
func newHeldKeys(r prometheus.Registerer, e *engine.Engine) {
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kmip_held_keys", Help: "Keys in memory within tenants' windows; each is wiped when its window has passed.",
	}, func() float64 { return float64(e.Held()) }))
}
