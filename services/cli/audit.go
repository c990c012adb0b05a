package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmip-for-vmware/kmip/libs/audit"
)

func newAudit() *cobra.Command {
	return group("audit", "Check the record of who did what", newAuditVerify())
}

func newAuditVerify() *cobra.Command {
	output := "table"
	c := &cobra.Command{
		Use:   "verify [file...]",
		Short: "Tell whether lines are missing, altered or out of order",
		Long: `Reads what nodes and control planes have written to their standard output and
checks the chains of audit lines in it; other lines are left out. Several files
are the parts of one log, the oldest first; "-", and no file at all, stand for
the standard input.

The exit code is 0 if every chain is whole, 1 if something is wrong or there is
no audit line, 2 if the log could not be read.`,
		RunE: func(c *cobra.Command, files []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("--output is %q; choose table or json", output)
			}
			var v audit.Verifier
			if len(files) == 0 {
				files = []string{"-"}
			}
			for _, file := range files {
				if err := readInto(&v, file, c.InOrStdin()); err != nil {
					return err
				}
			}
			r := v.Report()
			if err := printReport(c.OutOrStdout(), r, output); err != nil {
				return err
			}
			if !r.Whole() {
				return errFound
			}
			return nil
		},
	}
	c.Flags().StringVar(&output, "output", output, "`form` of the report: table or json")
	return c
}

func readInto(v *audit.Verifier, file string, stdin io.Reader) error {
	if file == "-" {
		return v.Read("standard input", stdin)
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return v.Read(file, f)
}

func printReport(w io.Writer, r *audit.Report, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(struct {
			Whole bool `json:"whole"`
			*audit.Report
		}{r.Whole(), r})
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tBOOT\tLINES\tNUMBERS\tFROM\tTO\tSTATE")
	for _, c := range r.Chains {
		fmt.Fprintf(t, "%s\t%s\t%d\t%d-%d\t%s\t%s\t%s\n", c.Node, c.Boot, c.Lines, c.First, c.Last,
			c.FirstTime.Format(time.RFC3339), c.LastTime.Format(time.RFC3339), stateOf(c))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, c := range r.Chains {
		for _, p := range c.Problems {
			fmt.Fprintf(w, "%s %s: %s\n", c.Node, c.Boot, sentence(p))
		}
		if c.More > 0 {
			fmt.Fprintf(w, "%s %s: %d more problems\n", c.Node, c.Boot, c.More)
		}
		if !c.Ended {
			fmt.Fprintf(w, "%s %s: warning: ended without a last line: it still runs, was killed, or the end is missing\n", c.Node, c.Boot)
		}
	}
	for _, u := range r.Unreadable {
		fmt.Fprintf(w, "%s: line %d: an audit line that can't be read\n", u.File, u.Line)
	}
	if r.MoreUnreadable > 0 {
		fmt.Fprintf(w, "%d more lines can't be read\n", r.MoreUnreadable)
	}
	verdict := "Nothing is missing or altered."
	switch {
	case len(r.Chains)+len(r.Unreadable) == 0:
		verdict = "There is no audit line."
	case !r.Whole():
		verdict = "The record is not whole."
	}
	_, err := fmt.Fprintln(w, verdict)
	return err
}

func stateOf(c *audit.Chain) string {
	switch {
	case len(c.Problems) > 0:
		return "not whole"
	case !c.Ended:
		return "whole, no end"
	default:
		return "whole"
	}
}

// sentence tells a problem.
func sentence(p audit.Problem) string {
	lines := fmt.Sprintf("line %d", p.From)
	if p.To > p.From {
		lines = fmt.Sprintf("lines %d to %d", p.From, p.To)
	}
	switch p.Kind {
	case audit.Missing:
		return "gap: " + lines + " missing"
	case audit.Lost:
		return "gap: " + lines + " could not be written by the program"
	case audit.Altered:
		return "altered: " + lines + ": one of them is not what was written"
	case audit.Duplicate:
		return "duplicate: " + lines
	default:
		return "out of order: " + lines
	}
}
