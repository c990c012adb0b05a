package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// reconciled is what `kmipctl admin reconcile` prints as JSON.
type reconciled struct {
	Instance   tenant.ID `json:"instance_id"`
	FinishedAt time.Time `json:"finished_at"`
	Seconds    float64   `json:"seconds"`
	engine.Comparison
}

func newReconcile() *cobra.Command {
	var id string
	var deep, last bool
	c := &cobra.Command{
		Use: "reconcile --instance <id>", Short: "Compare an instance's ledger with its key manager", Args: cobra.NoArgs,
		Long: "Compare an instance's ledger with its key manager and print what they disagree about. Nothing is changed.\n" +
			"The control planes do it once a day; this does it now. The exit code is 1 if something is wrong.",
		RunE: func(c *cobra.Command, _ []string) error {
			toJSON, err := asJSON(c)
			if err != nil {
				return err
			}
			cell, err := openCell(c.Context())
			if err != nil {
				return err
			}
			defer cell.pool.Close()
			subject, err := cell.subject(c.Context(), id)
			if err != nil {
				return err
			}
			var r reconciled
			if last {
				r, err = cell.lastCompared(c.Context(), subject)
			} else {
				r, err = cell.compare(c.Context(), subject, deep)
			}
			if err != nil {
				return err
			}
			if toJSON {
				err = printJSON(c.OutOrStdout(), r)
			} else {
				err = r.print(c.OutOrStdout())
			}
			if err != nil {
				return err
			}
			if r.Wrong() > 0 {
				return errFound
			}
			return nil
		},
	}
	c.Flags().StringVar(&id, "instance", "", "`id` of the instance")
	c.Flags().BoolVar(&deep, "deep", false, "look into every standard key, not only into a sample: one call of the key manager for each")
	c.Flags().BoolVar(&last, "last", false, "print what the control plane has found last, and compare nothing")
	outputFlag(c)
	_ = c.MarkFlagRequired("instance") // it is there
	c.MarkFlagsMutuallyExclusive("deep", "last")
	return c
}

func (x *cell) compare(ctx context.Context, s pg.Subject, deep bool) (reconciled, error) {
	t, err := x.tenant(ctx, s)
	if err != nil {
		return reconciled{}, err
	}
	began := obs.Now()
	found, err := engine.Compare(ctx, t, x.ledger, x.open, deep)
	if err != nil {
		return reconciled{}, err
	}
	now := obs.Now()
	return reconciled{s.Instance, now.UTC(), now.Sub(began).Seconds(), found}, nil
}

func (x *cell) lastCompared(ctx context.Context, s pg.Subject) (reconciled, error) {
	r, err := x.instances.GetReconciliation(ctx, s.Account, s.Instance)
	if errors.Is(err, pg.ErrNotFound) {
		return reconciled{}, errors.New("the instance's ledger has not been compared yet; leave out --last")
	}
	return reconciled{s.Instance, r.FinishedAt.UTC(), r.Took.Seconds(), r.Found}, err
}

func (r reconciled) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "instance\t%s\n", r.Instance)
	fmt.Fprintf(w, "compared\t%s, in %.1f s\n", r.FinishedAt.Format(time.RFC3339), r.Seconds)
	fmt.Fprintf(w, "recorded keys\t%d\n", r.Rows)
	fmt.Fprintf(w, "standard keys\t%d, other instances' in the same key manager included\n", r.StandardKeys)
	fmt.Fprintf(w, "looked into\t%d; not looked into: %d\n", r.Loaded, r.Unchecked)
	fmt.Fprintf(w, "overdue\t%d pending, %d destroying; the control plane finishes them\n", r.Pending, r.Destroying)
	for _, kind := range engine.FindingKinds {
		fmt.Fprintf(w, "%s\t%d\n", kind, r.Counts[kind])
	}
	if err := w.Flush(); err != nil || len(r.Findings) == 0 {
		return err
	}
	fmt.Fprintln(w, "\nKIND\tUNIQUE IDENTIFIER\tSTANDARD KEY\t")
	for _, f := range r.Findings {
		note := ""
		if f.Restorable {
			note = "deleted; restorable for 30 days"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.Kind, f.Object, f.KeyRef, note)
	}
	return w.Flush()
}
