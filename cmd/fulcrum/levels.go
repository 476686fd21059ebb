package main

import (
	"text/tabwriter"

	"github.com/spf13/cobra"

	"fulcrum/consistency"
)

func (a *app) levelsCommand() *cobra.Command {
	var mode string
	var all bool
	c := &cobra.Command{
		Use: "levels", Short: "Print the promise table: what each mode guarantees at each level", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var only *consistency.Mode
			if mode != "" {
				m, err := consistency.ParseMode(mode)
				if err != nil {
					return usage(cmd, err)
				}
				only = &m
			}
			var table []consistency.Promise
			for _, p := range consistency.Table() {
				if (only == nil || p.Mode == *only) && (p.Offered || all) {
					table = append(table, p)
				}
			}
			return a.show(table, func(w *tabwriter.Writer) {
				row(w, "MODE", "", "LEVEL", "ASKED", "NEEDED", "TRIPS", "MINORITY SIDE", "GUARANTEE")
				for _, p := range table {
					if !p.Offered {
						row(w, p.Mode, p.Access, p.Kind, "", "", "", "", "refused")
						continue
					}
					row(w, p.Mode, p.Access, p.Kind, p.Asked, p.Needed, p.RoundTrips, p.Minority, p.Guarantee)
				}
			})
		},
	}
	c.Flags().StringVar(&mode, "mode", "", "only this mode")
	c.Flags().BoolVar(&all, "all", false, "also the levels that a mode refuses")
	return c
}
