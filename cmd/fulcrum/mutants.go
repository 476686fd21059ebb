package main

import (
	"fmt"
	"os"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	jepsen "fulcrum/jepsen-lite"
	"fulcrum/mutant"
)

// jepsenMutants exists only in builds that can be broken (-tags mutants).
func (a *app) jepsenMutants() *cobra.Command {
	source := "."
	c := &cobra.Command{
		Use: "mutants [NAME...]", Short: "Run every mutant of this build against what must kill it",
		RunE: func(cmd *cobra.Command, names []string) error {
			all := mutant.List()
			for _, name := range names {
				if !slices.ContainsFunc(all, func(m mutant.Mutant) bool { return m.Name == name }) {
					return usagef(cmd, "no mutant %q", name)
				}
			}
			if len(names) > 0 {
				all = slices.DeleteFunc(all, func(m mutant.Mutant) bool { return !slices.Contains(names, m.Name) })
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			alive := 0
			kills, err := jepsen.Hunt(cmd.Context(), all, self, source, func(k jepsen.Kill) {
				if k.By == "" {
					alive++
					k.By = "SURVIVED"
				}
				fmt.Fprintf(a.err, "%-26s %-24s %6.1f s  try %d  %s\n", k.Mutant, k.By, k.Seconds, k.Try, k.Why)
			})
			if err != nil {
				return err
			}
			if err := a.show(kills, func(w *tabwriter.Writer) { mutantTable(w, kills) }); err != nil {
				return err
			}
			if alive > 0 {
				return silent{exitInvalid}
			}
			return nil
		},
	}
	c.Flags().StringVar(&source, "source", source, "folder of the module, for the Go tests that kill what no run sees")
	return c
}

func mutantTable(w *tabwriter.Writer, kills []jepsen.Kill) {
	row(w, "MUTANT", "KILLED BY", "AFTER", "BREAKS")
	for _, k := range kills {
		by := k.By
		if by == "" {
			by = "nobody: it survived"
		}
		row(w, k.Mutant, by, fmt.Sprintf("%.1fs", k.Seconds), k.Breaks)
	}
	slices.SortFunc(kills, func(x, y jepsen.Kill) int { return int(1000 * (x.Seconds - y.Seconds)) })
	if n := len(kills); n > 0 {
		fmt.Fprintf(w, "\n%d mutants, median %.1f s\n", n, kills[n/2].Seconds)
	}
}
