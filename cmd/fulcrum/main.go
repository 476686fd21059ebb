// Command fulcrum is the whole store in one binary: a node (serve), a local cluster
// (up, down, node), and the tools to use, turn and break it.
//
// Each file holds one group of commands; settings.go says where flags come from,
// exit.go which exit codes there are.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Set by the linker.
var (
	version = "dev"
	commit  = "" // of the source
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr, process: true})
	stop()
	os.Exit(code)
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, t terminal) int {
	out := &output{w: t.out}
	t.out = out
	root := newRoot(t)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if lost := out.lost(err); lost != nil {
		err = lost
	}
	return report(t, err)
}

func newRoot(t terminal) *cobra.Command {
	a := &app{terminal: t}
	root := &cobra.Command{
		Use:   "fulcrum",
		Short: "A distributed key-value store whose consistency is a dial",
		Long: `fulcrum is a distributed key-value store whose consistency is a dial.

Every keyspace runs in a mode: raft (CP), quorum (AP) or leader-follower; it can be
switched to another mode online. Every request picks its level. Faults can be
injected into a running cluster, to see what each promise is worth.

Try:
  fulcrum up                                start five nodes on this machine
  fulcrum put -k cp balance 100             write, and fulcrum get -k cp balance
  fulcrum fault partition n1,n2/n3,n4,n5    cut the network; fulcrum fault heal mends it
  fulcrum levels                            what each mode promises at each level
  fulcrum lab run cap                       the CAP theorem, measured
  fulcrum bench -k cp --load                how fast it is

Flags can also come from the environment (FULCRUM_NODES for --nodes) and from
./fulcrum.yaml (nodes: 5): a flag beats the environment, which beats the file.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 unavailable (definitely not done),
4 outcome unknown.`,
		Version:           version,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: a.settle,
		Args:              noArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(t.out)
	root.SetErr(t.err)
	root.SetFlagErrorFunc(flagError)
	flags := root.PersistentFlags()
	flags.StringVar(&a.data, "data", "data", "data directory of the local cluster (serve: of the node)")
	flags.StringSliceVar(&a.endpoints, "endpoint", nil, "HTTP address of a node, such as http://127.0.0.1:7101; default: the nodes of the local cluster")
	flags.StringVarP(&a.output, "output", "o", "", "table or json; default: table on a terminal, json otherwise")
	flags.DurationVar(&a.timeout, "timeout", defaultTimeout, "how long a command may take; up, node add, node remove and keyspace alter take longer where it is not given")
	flags.StringVar(&a.config, "config", "", "settings file; default: ./fulcrum.yaml if it is there")
	root.AddCommand(
		a.upCommand(), a.downCommand(), a.serveCommand(), a.nodeCommand(), a.statusCommand(),
		a.getCommand(), a.putCommand(), a.deleteCommand(), a.incrCommand(), a.casCommand(), a.scanCommand(), a.watchCommand(),
		a.keyspaceCommand(), a.faultCommand(), a.levelsCommand(), a.labCommand(), a.benchCommand(), a.jepsenCommand(),
	)
	return root
}
