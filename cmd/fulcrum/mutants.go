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
	source, seed := ".", uint64(1)
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
			kills, err := jepsen.Hunt(cmd.Context(), all, seed, self, source, func(k jepsen.Kill) {
				if k.By == "" {
					alive++
					k.By = "SURVIVED"
				}
				fmt.Fprintf(a.err, "%-26s %-24s %6.1f s  %s\n", k.Mutant, k.By, k.Seconds, k.Why)
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
	c.Flags().Uint64Var(&seed, "seed", seed, "the first seed that is tried; each of some more follows while a mutant lives")
	return c
}

func mutantTable(w *tabwriter.Writer, kills []jepsen.Kill) {
	row(w, "MUTANT", "KILLED BY", "AFTER", "SEED", "BREAKS")
	alive := 0
	var took []float64
	for _, k := range kills {
		by, seed := k.By, "-"
		if by == "" {
			by = "nobody: it survived"
			alive++
		}
		if k.Seed > 0 {
			seed = fmt.Sprint(k.Seed)
		}
		row(w, k.Mutant, by, fmt.Sprintf("%.1fs", k.Seconds), seed, k.Breaks)
		took = append(took, k.Seconds)
	}
	if slices.Sort(took); len(took) > 0 {
		fmt.Fprintf(w, "\n%d mutants, %d survived. Half of them took less than %.1f s, none more than %.1f s.\n", len(kills), alive, took[len(took)/2], took[len(took)-1])
	}
	fmt.Fprint(w, "\nAgain:\n")
	for _, k := range kills {
		fmt.Fprintf(w, "  %s\n", k.Again)
	}
	for _, k := range kills {
		for _, run := range k.Whole {
			fmt.Fprintf(w, "\nThe whole program fails this run too, so it killed nothing (for %s): %s\n", k.Mutant, run)
		}
	}
}
