package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/pg"
)

// NewFindings returns the metric of what comparisons of ledgers with key
// managers have found.
func NewFindings(reg prometheus.Registerer) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kmip_reconciliation_findings_total",
		Help: "Objects about which a tenant's ledger and key manager disagreed, at each comparison, by kind.",
	}, []string{"tenant", "kind"})
	reg.MustRegister(c)
	return c
}

// reconcile compares an instance's ledger with its key managers and records
// what it has found. It changes neither.
func (w *Worker) reconcile(ctx context.Context, job pg.Reconcile) error {
	i, there, err := w.subject(ctx, job.Subject)
	if !there || err != nil {
		return err
	}
	move, _, err := w.Instances.GetMove(ctx, i.Account, i.ID)
	if err != nil {
		return err
	}
	began := w.Now()
	found, err := engine.Compare(ctx, i.Tenant(move.Former), w.Ledger, w.Open, false)
	if errors.Is(err, engine.ErrDenied) {
		w.Log.WarnContext(ctx, "a ledger could not be compared", "tenant", i.ID, "error", err)
		return nil // key_manager_ready says what is wrong
	}
	if err != nil {
		return err
	}
	took := w.Now().Sub(began)
	level := slog.LevelInfo
	if found.Wrong() > 0 {
		level = slog.LevelWarn
	}
	w.Log.Log(ctx, level, "ledger compared with key manager", "tenant", i.ID, "took", took.String(), "rows", found.Rows, "standard_keys", found.StandardKeys,
		"loaded", found.Loaded, "unchecked", found.Unchecked, "pending", found.Pending, "destroying", found.Destroying, "findings", found.Counts)
	for _, kind := range engine.FindingKinds {
		w.Findings.WithLabelValues(string(i.ID), string(kind)).Add(float64(found.Counts[kind]))
	}
	return w.Instances.SetReconciliation(ctx, i.Account, i.ID, *i.KeyManager, found, took, Reconciled(found))
}

// findings says what each kind of finding means to the customer and what to do.
var findings = map[engine.FindingKind][2]string{
	engine.Mismatched: {"Keys recorded with a standard key that holds something else", "They can't be read; tell the operator of the service."},
	engine.KeyMissing: {"Keys without their standard key", "They can't be read. If that is not wanted, restore the standard keys in the key manager, for 30 days after their deletion."},
	engine.Unrecorded: {"Standard keys that hold a key without a record", "They are recorded again when a client asks for them, or by the operator of the service."},
}

// shown is how many identifiers of each kind a condition names.
const shown = 3

// Reconciled says in a condition what a comparison has found.
func Reconciled(found engine.Comparison) pg.Condition {
	c := pg.Condition{
		Type: pg.KeysReconciled, Status: pg.True, Reason: "matching",
		Message: fmt.Sprintf("The key manager holds a standard key for each recorded key: %d.", found.Rows),
	}
	var sentences []string
	for _, kind := range engine.FindingKinds {
		text, wrong := findings[kind]
		if !wrong || found.Counts[kind] == 0 {
			continue
		}
		if c.Status == pg.True {
			c.Status, c.Reason = pg.False, string(kind)
		}
		var named []string
		for _, f := range found.Findings {
			if f.Kind == kind && len(named) < shown {
				named = append(named, fmt.Sprintf("`%s`", f.Object))
			}
		}
		if found.Counts[kind] > len(named) {
			named = append(named, "…")
		}
		sentences = append(sentences, fmt.Sprintf("%s: %d (%s). %s", text[0], found.Counts[kind], strings.Join(named, ", "), text[1]))
	}
	if c.Status == pg.False {
		c.Message = strings.Join(sentences, " ")
	}
	return c
}
