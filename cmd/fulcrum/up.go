package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/local"
)

func (a *app) upCommand() *cobra.Command {
	var spec local.Spec
	c := &cobra.Command{
		Use:   "up",
		Short: "Start a local cluster in the background and wait until it is ready",
		Long: `Start a local cluster in the background and wait until it is ready.

A new cluster gets four keyspaces: default and cp (raft), ap (quorum) and lf
(leader-follower). Where everything is, is written to DATA/cluster.json; the other
commands find it there. A cluster that was stopped starts again with its data.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.longDeadline(cmd, time.Minute)
			defer cancel()
			spec.Dir, spec.Progress = a.data, a.progress()
			switch { // a 0 would mean the default
			case spec.Nodes < 1:
				return usagef(cmd, "--nodes %d: want 1 to %d", spec.Nodes, local.MaxNodes)
			case spec.BasePort < 1:
				return usagef(cmd, "--base-port %d: want the first of the ports, such as 7000", spec.BasePort)
			}
			if fl := cmd.Flags(); fl.Changed("nodes") || fl.Changed("base-port") || fl.Changed("zones") {
				if old, err := local.Load(a.data); err == nil {
					return usagef(cmd, "there is a cluster of %d nodes in %s already: start it without --nodes, --base-port and --zones, or remove it with fulcrum down --wipe", len(old.Nodes), a.data)
				}
			}
			cluster, err := local.Up(ctx, spec)
			if err != nil {
				return err
			}
			if err := createKeyspaces(ctx, cluster); err != nil {
				return errors.Join(err, cluster.Down(context.WithoutCancel(ctx), false))
			}
			return a.showUp(ctx, cluster)
		},
	}
	c.Flags().IntVar(&spec.Nodes, "nodes", 5, "how many nodes")
	c.Flags().IntVar(&spec.BasePort, "base-port", 7000, "ports of node i: Redis base+i, HTTP base+100+i, peers base+200+i, gossip base+300+i")
	c.Flags().StringSliceVar(&spec.Zones, "zones", nil, "zones, given to the nodes in turn")
	return c
}

// keyspaces are what a new cluster begins with, so that the trade-offs are there at
// once: all but default have a replica on every node, so that both sides of any cut
// hold every key.
func keyspaces(nodes int) []fulcrum.KeyspaceSpec {
	wide := min(nodes, 5)
	return []fulcrum.KeyspaceSpec{
		{Name: "default", Mode: "raft", ShardBy: "hash", Replicas: min(nodes, 3)},
		{Name: "cp", Mode: "raft", ShardBy: "hash", Replicas: wide},
		{Name: "ap", Mode: "quorum", ShardBy: "hash", Replicas: wide},
		{Name: "lf", Mode: "leader-follower", ShardBy: "range", Replicas: wide},
	}
}

func createKeyspaces(ctx context.Context, cluster *local.Cluster) error {
	c, err := client.New(ctx, cluster.Endpoints())
	if err != nil {
		return err
	}
	defer c.Close()
	have, err := c.Keyspaces(ctx)
	if err != nil {
		return err
	}
	if len(have) == 0 {
		for _, spec := range keyspaces(len(cluster.Nodes)) {
			if _, err := c.CreateKeyspace(ctx, spec); err != nil && !errors.Is(err, fulcrum.ErrExists) {
				return fmt.Errorf("create keyspace %s: %w", spec.Name, err)
			}
		}
	}
	return waitServing(ctx, c, cluster)
}

// waitServing returns once every node is ready with all the replicas that the
// keyspaces gave it, and takes every other for live.
func waitServing(ctx context.Context, c *client.Client, cluster *local.Cluster) error {
	for i := range cluster.Nodes {
		if err := cluster.Nodes[i].WaitReady(ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, acquaintance)
	defer cancel()
	for _, name := range cluster.Names() {
		waitSees(ctx, c, name, cluster.Names())
	}
	return nil
}

// waitKnown returns once a node that has just started and those that run take each other
// for live, as far as they can.
func waitKnown(ctx context.Context, cluster *local.Cluster, fresh fulcrum.NodeID) {
	ctx, cancel := context.WithTimeout(ctx, acquaintance)
	defer cancel()
	c, err := client.New(ctx, cluster.Endpoints())
	if err != nil {
		return
	}
	defer c.Close()
	var running []fulcrum.NodeID
	for i := range cluster.Nodes {
		if n := &cluster.Nodes[i]; n.Running() && !n.Paused {
			running = append(running, n.Name)
		}
	}
	waitSees(ctx, c, fresh, running)
	for _, name := range running {
		waitSees(ctx, c, name, []fulcrum.NodeID{fresh})
	}
}

// acquaintance bounds how long nodes that are ready are given to hear of each other's
// leases, which they renew every second. One that has not is no reason to stop them all.
const acquaintance = 5 * time.Second

// waitSees returns once a node takes others for live, or when ctx ends.
func waitSees(ctx context.Context, c *client.Client, name fulcrum.NodeID, others []fulcrum.NodeID) {
	for !sees(ctx, c, name, others) && ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond)
	}
}

// sees reports whether a node takes all of others for live, by their leases and by gossip.
func sees(ctx context.Context, c *client.Client, name fulcrum.NodeID, others []fulcrum.NodeID) bool {
	info, err := c.Cluster(ctx, client.On(name), client.NoRetry())
	if err != nil {
		return false
	}
	live := map[fulcrum.NodeID]bool{}
	for _, n := range info.Nodes {
		live[n.Name] = n.Live && n.Gossip == "alive"
	}
	return !slices.ContainsFunc(others, func(id fulcrum.NodeID) bool { return !live[id] })
}

func (a *app) showUp(ctx context.Context, cluster *local.Cluster) error {
	c, err := client.New(ctx, cluster.Endpoints())
	if err != nil {
		return err
	}
	defer c.Close()
	spaces, err := c.Keyspaces(ctx)
	if err != nil {
		return err
	}
	first, bin := cluster.Nodes[0], "bin/fulcrum"
	if err := a.show(struct {
		*local.Cluster
		Keyspaces []fulcrum.KeyspaceInfo `json:"keyspaces"`
	}{cluster, spaces}, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "A cluster of %d nodes is up; its data is in %s.\n\n", len(cluster.Nodes), cluster.Dir)
		row(w, "NODE", "ZONE", "REDIS", "HTTP", "PID", "LOG")
		for _, n := range cluster.Nodes {
			row(w, n.Name, orDash(n.Zone), n.RedisAddr, "http://"+n.HTTPAddr, n.PID, n.Log)
		}
		fmt.Fprintln(w)
		row(w, "KEYSPACE", "DB", "MODE", "SHARDS", "REPLICAS", "WRITE", "READ")
		for _, k := range spaces {
			row(w, k.Name, k.ID, k.Mode, fmt.Sprintf("%d by %s", k.Shards, k.ShardBy), k.Replicas, k.WriteLevel, k.ReadLevel)
		}
	}); err != nil || a.asJSON() {
		return err
	}
	_, port, _ := cutPort(first.RedisAddr)
	partition := ""
	if sides := halves(cluster.Names()); sides != "" {
		partition = fmt.Sprintf("\n  %-46s  cut the network; fault heal mends it", bin+" fault partition "+sides)
	}
	fmt.Fprintf(a.out, `
Try next:
  %[1]s put -k cp balance 100 --receipt
  %[1]s get -k cp balance
  redis-cli -p %[2]s -n 2 set likes 7
  curl -si http://%[3]s/v1/kv/ap/likes%[4]s
  %[1]s keyspace alter ap --mode raft       switch a mode, online
  %[1]s lab run cap                         the CAP theorem, measured
  %[1]s down                                stop it
`, bin, port, first.HTTPAddr, partition)
	return nil
}

// halves are the sides of a cut with the majority on the second; "" where there is
// nothing to cut.
func halves(names []fulcrum.NodeID) string {
	if len(names) < 2 {
		return ""
	}
	k := max(1, (len(names)-1)/2)
	return joinNodes(names[:k]) + "/" + joinNodes(names[k:])
}

func (a *app) downCommand() *cobra.Command {
	var wipe bool
	c := &cobra.Command{
		Use:   "down",
		Short: "Stop the local cluster",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			cluster, err := a.cluster()
			if err != nil {
				return err
			}
			if err := cluster.Down(ctx, wipe); err != nil {
				return err
			}
			return a.show(map[string]any{"stopped": cluster.Names(), "wiped": wipe}, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "Stopped %d nodes.", len(cluster.Nodes))
				if wipe {
					fmt.Fprintf(w, " Removed their data.")
				} else {
					fmt.Fprintf(w, " Their data is in %s; fulcrum up starts them again.", cluster.Dir)
				}
				fmt.Fprintln(w)
			})
		},
	}
	c.Flags().BoolVar(&wipe, "wipe", false, "remove the data too")
	return c
}
