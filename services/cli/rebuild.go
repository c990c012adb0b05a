package cli

import (
	"context"
	"fmt"
	"io"
	"sync"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

const (
	// rebuiltAbreast is how many instances are rebuilt at once.
	rebuiltAbreast = 4
	// progressEvery is after how many objects of an instance a line tells so.
	progressEvery = 100
)

// rebuilt is what `kmipctl admin rebuild` prints of an instance.
type rebuilt struct {
	Instance tenant.ID `json:"instance_id"`
	engine.Rebuilt
	Error string `json:"error,omitempty"` // why the rest of it could not be rebuilt
}

func newRebuild() *cobra.Command {
	var id string
	var all, dryRun bool
	c := &cobra.Command{
		Use: "rebuild (--instance <id> | --all)", Short: "Write lost rows of the ledger again", Args: cobra.NoArgs,
		Long: "Write the rows of the ledger again that the database has lost and the key managers hold, marked as\n" +
			"recovered. Each standard key has to open with its tenant's root key. What was changed after a key was made,\n" +
			"its state and attributes, does not come back. It can be stopped at any time and done again, and runs beside\n" +
			"control planes and nodes. The exit code is 1 if a key could not be recorded.",
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
			var subjects []pg.Subject
			if all {
				subjects, err = cell.instances.Connected(c.Context())
			} else {
				subjects = make([]pg.Subject, 1)
				subjects[0], err = cell.subject(c.Context(), id)
			}
			if err != nil {
				return err
			}
			results := cell.rebuildAll(c.Context(), subjects, dryRun, c.ErrOrStderr())
			if toJSON {
				err = printJSON(c.OutOrStdout(), results)
			} else {
				err = printRebuilt(c.OutOrStdout(), results)
			}
			if err != nil {
				return err
			}
			if err := c.Context().Err(); err != nil {
				return fmt.Errorf("stopped: %w; do it again for the rest", err)
			}
			for _, r := range results {
				if r.Error != "" || len(r.Failed) > 0 {
					return errFound
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&id, "instance", "", "`id` of the instance")
	c.Flags().BoolVar(&all, "all", false, "all instances that have a key manager")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "try everything and write nothing")
	outputFlag(c)
	c.MarkFlagsOneRequired("instance", "all")
	c.MarkFlagsMutuallyExclusive("instance", "all")
	return c
}

// rebuildAll rebuilds instances, some at once, and tells how far it is.
func (x *cell) rebuildAll(ctx context.Context, subjects []pg.Subject, dryRun bool, progress io.Writer) []rebuilt {
	results := make([]rebuilt, len(subjects))
	var mu sync.Mutex
	tell := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(progress, format+"\n", args...)
	}
	var g errgroup.Group
	g.SetLimit(rebuiltAbreast)
	for n, s := range subjects {
		g.Go(func() error {
			r := rebuilt{Instance: s.Instance}
			var err error
			r.Rebuilt, err = x.rebuild(ctx, s, engine.Rebuilding{DryRun: dryRun, Progress: func(done, total int) {
				if done%progressEvery == 0 || done == total {
					tell("%s: %d of %d", s.Instance, done, total)
				}
			}})
			if err != nil {
				r.Error = fault.Public(err)
				tell("%s: %v", s.Instance, err)
			}
			results[n] = r
			return nil
		})
	}
	_ = g.Wait() // what is wrong with one is its Error
	return results
}

func (x *cell) rebuild(ctx context.Context, s pg.Subject, how engine.Rebuilding) (engine.Rebuilt, error) {
	t, err := x.tenant(ctx, s)
	if err != nil {
		return engine.Rebuilt{}, err
	}
	r, err := engine.Rebuild(ctx, t, x.ledger, x.open, how)
	if err != nil || how.DryRun || r.Written == 0 {
		return r, err
	}
	return r, x.instances.ReconcileSoon(ctx, s.Account, s.Instance)
}

func printRebuilt(out io.Writer, results []rebuilt) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "INSTANCE\tRECORDED BEFORE\tWRITTEN\tOTHERS'\tFAILED\t")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\n", r.Instance, r.Recorded, r.Written, r.Foreign, len(r.Failed), r.Error)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		for _, f := range r.Failed {
			if _, err := fmt.Fprintf(out, "%s: %s: %s\n", r.Instance, f.Object, f.Reason); err != nil {
				return err
			}
		}
	}
	return nil
}
