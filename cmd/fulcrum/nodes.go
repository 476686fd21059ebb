package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/local"
)

func (a *app) nodeCommand() *cobra.Command {
	return group("node", "Start, stop, kill, pause, resume, add or remove a node of the local cluster",
		a.nodeAction("start", "Start a node that is stopped, and wait until it is ready", startNode),
		a.nodeAction("stop", "Stop a node in order (SIGTERM)", func(ctx context.Context, c *local.Cluster, n fulcrum.NodeID) error { return c.Stop(ctx, n) }),
		a.nodeAction("kill", "End a node as a crash does (SIGKILL)", func(ctx context.Context, c *local.Cluster, n fulcrum.NodeID) error { return c.Kill(ctx, n) }),
		a.nodeAction("pause", "Freeze a node (SIGSTOP), as a long pause of the machine would", func(_ context.Context, c *local.Cluster, n fulcrum.NodeID) error { return c.Pause(n) }),
		a.nodeAction("resume", "Let a paused node go on (SIGCONT)", func(_ context.Context, c *local.Cluster, n fulcrum.NodeID) error { return c.Resume(n) }),
		a.nodeAdd(), a.nodeRemove(),
	)
}

// startNode returns once the node is ready, and no status shows it as not live any more.
func startNode(ctx context.Context, c *local.Cluster, n fulcrum.NodeID) error {
	if err := c.Start(ctx, n); err != nil {
		return err
	}
	waitKnown(ctx, c, n)
	return nil
}

func (a *app) nodeAction(verb, short string, do func(context.Context, *local.Cluster, fulcrum.NodeID) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			cluster, err := a.cluster()
			if err != nil {
				return err
			}
			began := time.Now()
			if err := do(ctx, cluster, fulcrum.NodeID(names[0])); err != nil {
				return err
			}
			return a.showNode(cluster, fulcrum.NodeID(names[0]), verb, time.Since(began))
		},
	}
}

func (a *app) showNode(cluster *local.Cluster, name fulcrum.NodeID, verb string, took time.Duration) error {
	n, err := cluster.Node(name)
	if err != nil {
		return err
	}
	return a.show(n, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "%s: %s, done in %s\n", n.Name, verb, took.Round(time.Millisecond))
	})
}

func (a *app) nodeAdd() *cobra.Command {
	var zone string
	c := &cobra.Command{
		Use: "add [NAME]", Short: "Start one more node and have it join the cluster",
		Long: "Start one more node and have it join the cluster. Its name is the next one (n6 after n5). It coordinates requests at once. Keyspaces that have fewer replicas than they were made for, since nodes were removed, get one there; else only keyspaces that are created from now on place replicas on it.",
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			ctx, cancel := a.longDeadline(cmd, time.Minute)
			defer cancel()
			cluster, err := a.cluster()
			if err != nil {
				return err
			}
			if want := cluster.NextName(); len(names) == 1 && fulcrum.NodeID(names[0]) != want {
				if _, err := cluster.Node(fulcrum.NodeID(names[0])); err == nil {
					return fulcrum.Errorf(fulcrum.CodeExists, "the cluster has a node %q already", names[0])
				}
				return usagef(cmd, "the next node of this cluster is called %s", want)
			}
			began := time.Now()
			n, err := cluster.Add(ctx, zone)
			if err != nil {
				return err
			}
			waitKnown(ctx, cluster, n.Name)
			return a.showNode(cluster, n.Name, "added", time.Since(began))
		},
	}
	c.Flags().StringVar(&zone, "zone", "", "the node's zone")
	return c
}

func (a *app) nodeRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Move a node's replicas to others, forget it and stop it",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			ctx, cancel := a.longDeadline(cmd, 5*time.Minute)
			defer cancel()
			name := fulcrum.NodeID(names[0])
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			began := time.Now()
			if err := c.RemoveNode(ctx, name); err != nil {
				return err
			}
			bar := a.progress()
			total := -1
			for {
				left, err := replicasLeft(ctx, c, name)
				if err != nil {
					return err
				}
				if left < 0 {
					break
				}
				total = max(total, left)
				bar(total-left, total+1, fmt.Sprintf("%d replicas left on %s", left, name))
				select {
				case <-ctx.Done():
					return fmt.Errorf("%d replicas are still on %s; the cluster goes on moving them: see fulcrum status", left, name)
				case <-time.After(200 * time.Millisecond):
				}
			}
			bar(1, 1, "")
			cluster, err := a.cluster()
			if err == nil {
				if _, known := cluster.Node(name); known == nil {
					err = cluster.Forget(ctx, name)
				}
			} else if len(a.endpoints) > 0 {
				err = nil
			}
			return errors.Join(err, a.show(map[string]any{"removed": name}, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "%s: removed, done in %s\n", name, time.Since(began).Round(time.Millisecond))
			}))
		},
	}
}

// replicasLeft says how many replicas a node has that is being removed, or -1 once it
// is forgotten. The others are asked: it is not told of the end itself.
func replicasLeft(ctx context.Context, c *client.Client, name fulcrum.NodeID) (int, error) {
	info, err := c.Cluster(ctx)
	if err != nil {
		return 0, err
	}
	for _, other := range info.Nodes {
		if other.Name == name {
			continue
		}
		seen, askErr := c.Cluster(ctx, client.On(other.Name), client.NoRetry())
		if askErr != nil {
			err = askErr
			continue
		}
		for _, n := range seen.Nodes {
			if n.Name == name {
				return n.Replicas, nil
			}
		}
		return -1, nil
	}
	return 0, err
}

func cutPort(addr string) (host, port string, err error) { return net.SplitHostPort(addr) }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
