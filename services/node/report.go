package node

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"github.com/kmip-for-vmware/kmip/libs/pg"
)

const (
	reportInterval = time.Second // so often the control plane hears of this node
	reportTimeout  = 3 * time.Second
)

// reporter tells the database what is in force on this node, who was turned
// away, whose key managers served it and which client certificates are used.
// While the database is away all but the first wait in memory.
type reporter struct {
	reports *pg.Reports
	server  *server
	uses    *uses
	rival   rate.Sometimes // bounds the log
}

// run reports until ctx ends, and then that the node counts no longer.
func (r *reporter) run(ctx context.Context) {
	defer r.signOff(context.WithoutCancel(ctx))
	tick := time.NewTicker(reportInterval)
	defer tick.Stop()
	for {
		select {
		case <-r.server.told:
			r.inForce(ctx)
		case <-tick.C:
			r.inForce(ctx)
			r.refusals(ctx)
			r.used(ctx)
			r.admissions(ctx, admissionInterval)
		case <-ctx.Done():
			return
		}
	}
}

// signOff reports for the last time.
func (r *reporter) signOff(ctx context.Context) {
	r.refusals(ctx)
	r.used(ctx)
	r.admissions(ctx, 0)
	r.try(ctx, r.reports.SignOff)
}

func (r *reporter) inForce(ctx context.Context) {
	at := r.server.inForce.Load()
	if at == nil {
		return
	}
	r.try(ctx, func(ctx context.Context) error {
		contested, err := r.reports.InForce(ctx, *at)
		if contested {
			r.rival.Do(func() {
				r.server.log.Error("another process reports under this node's name: give each node its own KMIP_NODE_NAME")
			})
		}
		return err
	})
}

func (r *reporter) refusals(ctx context.Context) {
	counted := r.server.refusals.take()
	if len(counted) == 0 {
		return
	}
	r.try(ctx, func(ctx context.Context) error {
		err := r.reports.CountRefused(ctx, counted)
		if err != nil {
			// One whose outcome is unknown may be counted twice.
			r.server.refusals.add(counted)
		}
		return err
	})
}

func (r *reporter) used(ctx context.Context) {
	served, denied := r.uses.take(r.server.now())
	if len(served)+len(denied) == 0 {
		return
	}
	r.try(ctx, func(ctx context.Context) error {
		err := r.reports.Used(ctx, served, denied)
		if err != nil {
			r.uses.again(append(served, denied...)...)
		}
		return err
	})
}

// admissions reports the certificates that were used, unless they were reported
// within an interval before.
func (r *reporter) admissions(ctx context.Context, interval time.Duration) {
	now := r.server.now()
	due := r.server.admissions.due(now, interval)
	if len(due) == 0 {
		return
	}
	r.try(ctx, func(ctx context.Context) error {
		err := r.reports.RecordCertificateUses(ctx, due)
		if err == nil {
			r.server.admissions.reported(due, now)
		}
		return err
	})
}

// try makes one report. That the database is away is logged by those who need
// it more.
func (r *reporter) try(ctx context.Context, report func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	if err := report(ctx); err != nil {
		r.server.metrics.reportsFailed.Inc()
		r.server.log.Debug("a report was not taken", "error", err)
	}
}
