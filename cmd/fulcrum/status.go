package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"fulcrum"
)

// clusterStatus is what status prints as JSON.
type clusterStatus struct {
	fulcrum.ClusterInfo
	Shards []fulcrum.ShardInfo `json:"shards"`
}

func (a *app) statusCommand() *cobra.Command {
	var node string
	c := &cobra.Command{
		Use: "status", Short: "Show nodes, keyspaces, shards, leaders, lag and active faults", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			cl, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer cl.Close()
			var s clusterStatus
			if s.ClusterInfo, err = cl.Cluster(ctx, on(node)...); err != nil {
				return err
			}
			if s.Shards, err = cl.Shards(ctx, "", on(node)...); err != nil {
				return err
			}
			processes := a.processes()
			return a.show(s, func(w *tabwriter.Writer) { s.table(w, processes) })
		},
	}
	c.Flags().StringVar(&node, "node", "", "ask this node, and see the cluster as it does")
	return c
}

// processes says of each local node what its process does.
func (a *app) processes() map[fulcrum.NodeID]string {
	out := map[fulcrum.NodeID]string{}
	cluster, err := a.cluster()
	if err != nil {
		return out
	}
	for i := range cluster.Nodes {
		n := &cluster.Nodes[i]
		switch {
		case !n.Running():
			out[n.Name] = "stopped"
		case n.Paused:
			out[n.Name] = "paused"
		default:
			out[n.Name] = fmt.Sprintf("pid %d", n.PID)
		}
	}
	return out
}

func (s clusterStatus) table(w *tabwriter.Writer, processes map[fulcrum.NodeID]string) {
	leader := string(s.CatalogLeader)
	if leader == "" {
		leader = "none known: the cluster cannot be changed now"
	}
	fmt.Fprintf(w, "Cluster %s, as %s sees it. Catalog leader: %s.\n\n", s.ClusterID, s.Node, leader)
	row(w, "NODE", "ZONE", "LIVE", "GOSSIP", "REPLICAS", "LEADS", "REDIS", "HTTP", "PROCESS")
	for _, n := range s.Nodes {
		live := "no"
		if n.Live {
			live = "yes"
		}
		if n.State != "active" {
			live += ", " + n.State
		}
		row(w, n.Name, orDash(n.Zone), live, n.Gossip, n.Replicas, n.Leaders, n.RedisAddr, n.HTTPAddr, orDash(processes[n.Name]))
	}
	fmt.Fprintln(w)
	row(w, "KEYSPACE", "DB", "MODE", "SHARDS", "REPLICAS", "WRITE", "READ", "KEYS", "LEADERS", "BEHIND")
	for _, k := range s.Keyspaces {
		keys, leaders, behind := s.figures(k.Name)
		mode := k.Mode
		if k.Target != k.Mode {
			mode = fmt.Sprintf("%s -> %s (%d/%d)", k.Mode, k.Target, k.Switch.Done, k.Switch.Total)
		}
		row(w, k.Name, k.ID, mode, fmt.Sprintf("%d by %s", k.Shards, k.ShardBy), replicasOf(k), k.WriteLevel, k.ReadLevel, keys, leaders, behind)
	}
	fmt.Fprintln(w)
	if len(s.Faults) == 0 {
		fmt.Fprintln(w, "No faults are active.")
		return
	}
	faultTable(w, s.Faults)
}

// replicasOf is how many replicas each shard of a keyspace has: where nodes were removed
// without another to take over, some have fewer than they should.
func replicasOf(k fulcrum.KeyspaceInfo) string {
	if k.Placed < k.Replicas {
		return fmt.Sprintf("%d of %d", k.Placed, k.Replicas)
	}
	return strconv.Itoa(k.Replicas)
}

// figures sums up a keyspace's shards: keys, who leads how many, how far replicas
// are behind.
func (s clusterStatus) figures(keyspace string) (keys int, leaders, behind string) {
	leads := map[fulcrum.NodeID]int{}
	var lag []string
	none := 0
	for _, sh := range s.Shards {
		if sh.Keyspace != keyspace {
			continue
		}
		most := 0
		for _, r := range sh.Replicas {
			most = max(most, r.Keys)
			switch {
			case r.Damaged != "":
				lag = append(lag, string(r.Node)+" damaged, to be rebuilt")
			case r.CatchingUp:
				lag = append(lag, string(r.Node)+" catching up")
			case r.Behind > 0:
				lag = append(lag, fmt.Sprintf("%s %d", r.Node, r.Behind))
			case r.Hints > 0:
				lag = append(lag, fmt.Sprintf("%s keeps %d hints", r.Node, r.Hints))
			}
		}
		for _, r := range sh.Learners {
			lag = append(lag, string(r.Node)+" learning")
		}
		keys += most
		if sh.Leader == "" {
			none++
		} else {
			leads[sh.Leader]++
		}
		if sh.Mode == "quorum" {
			none = 0
		}
	}
	var parts []string
	for id, n := range leads {
		parts = append(parts, fmt.Sprintf("%s:%d", id, n))
	}
	slices.Sort(parts)
	if none > 0 {
		parts = append(parts, fmt.Sprintf("none:%d", none))
	}
	slices.Sort(lag)
	return keys, orDash(strings.Join(parts, " ")), orDash(strings.Join(slices.Compact(lag), ", "))
}
