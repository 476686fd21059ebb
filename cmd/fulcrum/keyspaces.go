package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fulcrum"
	"fulcrum/client"
)

func (a *app) keyspaceCommand() *cobra.Command {
	return group("keyspace", "Create, list, describe, alter or drop keyspaces",
		a.keyspaceCreate(), a.keyspaceList(), a.keyspaceDescribe(), a.keyspaceAlter(), a.keyspaceDrop())
}

func (a *app) keyspaceCreate() *cobra.Command {
	var spec fulcrum.KeyspaceSpec
	c := &cobra.Command{
		Use: "create NAME", Short: "Create a keyspace", Args: args(cobra.ExactArgs(1)),
		Example: "  fulcrum keyspace create orders --mode raft --shards 8 --replicas 3\n  fulcrum keyspace create likes --mode quorum --write-level one --read-level one",
		RunE: func(cmd *cobra.Command, in []string) error {
			spec.Name = in[0]
			for what, n := range map[string]int{"shards": spec.Shards, "replicas": spec.Replicas} {
				if cmd.Flags().Changed(what) && n < 1 {
					return usagef(cmd, "--%s %d: want 1 or more; leave it out for the default", what, n)
				}
			}
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				info, err := c.CreateKeyspace(ctx, spec)
				if err != nil {
					return err
				}
				return a.show(info, func(w *tabwriter.Writer) {
					fmt.Fprintf(w, "Created keyspace %s: %s, %d shards by %s, %d replicas, Redis database %d.\n", info.Name, info.Mode, info.Shards, info.ShardBy, info.Replicas, info.ID)
				})
			})
		},
	}
	fl := c.Flags()
	fl.StringVar(&spec.Mode, "mode", "raft", "raft, quorum or leader-follower")
	fl.StringVar(&spec.ShardBy, "shard-by", "hash", "hash, range or zone")
	fl.IntVar(&spec.Shards, "shards", 0, "how many shards (default 4)")
	fl.IntVar(&spec.Replicas, "replicas", 0, "replicas of each shard (default 3, or as many as there are nodes)")
	fl.StringVar(&spec.ReadLevel, "read-level", "", "level of reads that name none (default: the mode's safe one)")
	fl.StringVar(&spec.WriteLevel, "write-level", "", "level of writes that name none (default: the mode's safe one)")
	fl.StringVar(&spec.Durability, "durability", "fsync", "fsync, interval or memory: what a replica does before it acknowledges")
	fl.StringVar(&spec.Conflict, "conflict", "lww", "how concurrent writes of mode quorum are settled: lww")
	fl.StringVar(&spec.Engine, "engine", "bbolt", "what holds the state: bbolt")
	return c
}

// withClient runs f with a connected client, inside the command's deadline.
func (a *app) withClient(cmd *cobra.Command, f func(context.Context, *client.Client) error) error {
	ctx, cancel := a.deadline(cmd.Context())
	defer cancel()
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(ctx, c)
}

func (a *app) keyspaceList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List keyspaces", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				list, err := c.Keyspaces(ctx)
				if err != nil {
					return err
				}
				return a.show(list, func(w *tabwriter.Writer) {
					row(w, "KEYSPACE", "DB", "MODE", "SHARDS", "REPLICAS", "WRITE", "READ", "DURABILITY")
					for _, k := range list {
						row(w, k.Name, k.ID, k.Mode, fmt.Sprintf("%d by %s", k.Shards, k.ShardBy), replicasOf(k), k.WriteLevel, k.ReadLevel, k.Durability)
					}
				})
			})
		},
	}
}

func (a *app) keyspaceDescribe() *cobra.Command {
	return &cobra.Command{
		Use: "describe NAME", Short: "Show a keyspace with its shards and replicas", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, in []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				k, err := c.Keyspace(ctx, in[0])
				if err != nil {
					return err
				}
				return a.show(k, func(w *tabwriter.Writer) { describeKeyspace(w, k) })
			})
		},
	}
}

func describeKeyspace(w *tabwriter.Writer, k fulcrum.KeyspaceInfo) {
	for _, line := range [][2]any{{"Keyspace", k.Name}, {"Redis database", k.ID}, {"Mode", k.Mode}, {"Sharding", fmt.Sprintf("%d by %s", k.Shards, k.ShardBy)},
		{"Replicas", replicasOf(k)}, {"Write level", k.WriteLevel}, {"Read level", k.ReadLevel}, {"Durability", k.Durability}, {"Conflicts", k.Conflict}, {"Engine", k.Engine}} {
		row(w, line[0], line[1])
	}
	if s := k.Switch; s != nil {
		row(w, "Last switch", fmt.Sprintf("%s -> %s, %s, %d of %d shards, %d late writes %s", s.From, s.To, s.State, s.Done, s.Total, s.LateKeys, s.Message))
	}
	fmt.Fprintln(w)
	row(w, "SHARD", "FROM", "MODE", "EPOCH", "PHASE", "LEADER", "REPLICAS (applied, behind)")
	for _, sh := range k.ShardList {
		var reps string
		for _, r := range sh.Replicas {
			switch {
			case !r.Known:
				reps += fmt.Sprintf("%s(?) ", r.Node)
			case r.CatchingUp:
				reps += fmt.Sprintf("%s(catching up) ", r.Node)
			default:
				reps += fmt.Sprintf("%s(%d,%d) ", r.Node, r.Applied, r.Behind)
			}
		}
		for _, r := range sh.Learners {
			reps += fmt.Sprintf("%s(learning, %d,%d) ", r.Node, r.Applied, r.Behind)
		}
		row(w, sh.Group, sh.Start, sh.Mode, sh.Epoch, sh.Phase, orDash(string(sh.Leader)), reps)
	}
}

func (a *app) keyspaceAlter() *cobra.Command {
	var mode, readLevel, writeLevel, durability, conflict string
	var noWait, abort bool
	c := &cobra.Command{
		Use: "alter NAME", Short: "Change a keyspace: its levels, or, online, its mode", Args: args(cobra.ExactArgs(1)),
		Long: `Change a keyspace: its levels, or, online, its mode.

With --mode, every shard is fenced, its replicas are brought to the same state, and
the new mode starts there, while clients go on: their requests wait for a moment and
none is lost. The command shows progress and returns when the switch is done
(--no-wait: at once). --abort goes back as long as no shard runs in the new mode.`,
		Example: "  fulcrum keyspace alter ap --mode raft\n  fulcrum keyspace alter lf --write-level one --read-level prefix",
		RunE: func(cmd *cobra.Command, in []string) error {
			patch := fulcrum.KeyspacePatch{Abort: abort}
			given := abort
			for name, v := range map[string]struct {
				text string
				into **string
			}{"mode": {mode, &patch.Mode}, "read-level": {readLevel, &patch.ReadLevel}, "write-level": {writeLevel, &patch.WriteLevel},
				"durability": {durability, &patch.Durability}, "conflict": {conflict, &patch.Conflict}} {
				if cmd.Flags().Changed(name) {
					text := v.text
					*v.into, given = &text, true
				}
			}
			if !given {
				return usagef(cmd, "nothing to change: give --mode, --read-level, --write-level, --durability, --conflict or --abort")
			}
			ctx, cancel := a.longDeadline(cmd, 2*time.Minute)
			defer cancel()
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			before, err := c.Keyspace(ctx, in[0])
			if err != nil {
				return err
			}
			k, err := c.AlterKeyspace(ctx, in[0], patch)
			if err != nil {
				return err
			}
			if (patch.Mode != nil || abort) && !noWait {
				if k, err = a.followSwitch(ctx, c, k); err != nil {
					return err
				}
			}
			return a.show(k, func(w *tabwriter.Writer) { alterText(w, before, k, patch) })
		},
	}
	fl := c.Flags()
	fl.StringVar(&mode, "mode", "", "raft, quorum or leader-follower")
	fl.StringVar(&readLevel, "read-level", "", "level of reads that name none")
	fl.StringVar(&writeLevel, "write-level", "", "level of writes that name none")
	fl.StringVar(&durability, "durability", "", "fsync, interval or memory; counts from the next start of each replica")
	fl.StringVar(&conflict, "conflict", "", "lww")
	fl.BoolVar(&noWait, "no-wait", false, "return as soon as the switch has begun")
	fl.BoolVar(&abort, "abort", false, "give the switch that is running up and go back")
	return c
}

// alterText says what became of a patch. The switch that is told of a keyspace is its
// last one, which may be older than the patch.
func alterText(w io.Writer, before, k fulcrum.KeyspaceInfo, patch fulcrum.KeyspacePatch) {
	switch s := k.Switch; {
	case s != nil && patch.Mode != nil && s.State == "done" && before.Switch != nil && before.Switch.State == "done" && s.Started.Equal(before.Switch.Started):
		fmt.Fprintf(w, "Keyspace %s runs in mode %s already.\n", k.Name, k.Mode)
	case s != nil && (patch.Mode != nil || patch.Abort) && s.State == "done":
		fmt.Fprintf(w, "Keyspace %s runs in mode %s: %d shards switched in %s.\n", k.Name, k.Mode, s.Total, s.Finished.Sub(s.Started).Round(time.Millisecond))
	case s != nil && (patch.Mode != nil || patch.Abort):
		fmt.Fprintf(w, "Keyspace %s: switch %s -> %s %s, %d of %d shards.\n", k.Name, s.From, s.To, s.State, s.Done, s.Total)
	default:
		fmt.Fprintf(w, "Keyspace %s: %s, writes at %s, reads at %s, durability %s.\n", k.Name, k.Mode, k.WriteLevel, k.ReadLevel, k.Durability)
	}
}

// followSwitch shows a switch until it has ended.
func (a *app) followSwitch(ctx context.Context, c *client.Client, k fulcrum.KeyspaceInfo) (fulcrum.KeyspaceInfo, error) {
	bar := a.progress()
	for {
		s := k.Switch
		if s == nil || s.State == "done" || s.State == "aborted" {
			bar(1, 1, "")
			return k, nil
		}
		bar(s.Done, s.Total+1, fmt.Sprintf("%s -> %s: %d of %d shards %s", s.From, s.To, s.Done, s.Total, s.Message))
		select {
		case <-ctx.Done():
			return k, fmt.Errorf("the switch of %s is %s, %d of %d shards done; it goes on: see fulcrum keyspace describe %s", k.Name, s.State, s.Done, s.Total, k.Name)
		case <-time.After(100 * time.Millisecond):
		}
		next, err := c.Keyspace(ctx, k.Name)
		switch {
		case err == nil:
			k = next
		case !errors.Is(err, fulcrum.ErrUnavailable) && !errors.Is(err, fulcrum.ErrUnknown):
			return k, err
		}
	}
}

func (a *app) keyspaceDrop() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "drop NAME --yes", Short: "Drop a keyspace and all its data", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, in []string) error {
			if !yes {
				return usagef(cmd, "dropping %s removes all its data for good: say --yes", in[0])
			}
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				if err := c.DropKeyspace(ctx, in[0]); err != nil {
					return err
				}
				return a.show(map[string]any{"dropped": in[0]}, func(w *tabwriter.Writer) { fmt.Fprintf(w, "Dropped keyspace %s.\n", in[0]) })
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "really drop it")
	return c
}
