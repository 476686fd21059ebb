package main

import (
	"github.com/spf13/cobra"
)

func (a *app) labCommand() *cobra.Command {
	return group("lab", "Run the guide's examples as live experiments")
}
