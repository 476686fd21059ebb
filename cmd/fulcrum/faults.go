package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fulcrum"
	"fulcrum/client"
)

func (a *app) faultCommand() *cobra.Command {
	return group("fault", "Break the running cluster on purpose: partitions, slow links, wrong clocks, bad disks",
		a.faultPartition(), a.faultIsolate(), a.faultLink(), a.faultClock(), a.faultDisk(), a.faultList(), a.faultHeal())
}

func (a *app) faultPartition() *cobra.Command {
	var only string
	c := &cobra.Command{
		Use:     "partition SIDE/SIDE[/SIDE...]",
		Short:   "Cut the network into sides, such as n1,n2/n3,n4,n5",
		Example: "  fulcrum fault partition n1,n2/n3,n4,n5",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, in []string) error {
			f := fulcrum.Fault{Kind: "partition", Only: only}
			for _, side := range strings.Split(in[0], "/") {
				var nodes []fulcrum.NodeID
				for _, name := range strings.Split(side, ",") {
					if name = strings.TrimSpace(name); name != "" {
						nodes = append(nodes, fulcrum.NodeID(name))
					}
				}
				f.Sides = append(f.Sides, nodes)
			}
			if len(f.Sides) < 2 {
				return usagef(cmd, "%q has one side: separate sides by '/', as in n1,n2/n3,n4,n5", in[0])
			}
			return a.inject(cmd, f)
		},
	}
	c.Flags().StringVar(&only, "only", "", "peers or gossip: cut only that traffic")
	return c
}

func (a *app) faultIsolate() *cobra.Command {
	var only string
	c := &cobra.Command{
		Use: "isolate NODE", Short: "Cut one node off from all others", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, in []string) error {
			return a.inject(cmd, fulcrum.Fault{Kind: "isolate", Node: fulcrum.NodeID(in[0]), Only: only})
		},
	}
	c.Flags().StringVar(&only, "only", "", "peers or gossip: cut only that traffic")
	return c
}

func (a *app) faultLink() *cobra.Command {
	f := fulcrum.Fault{Kind: "link"}
	var delay, jitter time.Duration
	var loss, rate string
	c := &cobra.Command{
		Use:     "link FROM TO",
		Short:   "Drop, delay, lose or slow down what goes between two nodes",
		Example: "  fulcrum fault link n1 n2 --delay 100ms --jitter 20ms\n  fulcrum fault link n1 n2 --oneway --drop\n  fulcrum fault link n1 n2 --loss 5%",
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, in []string) (err error) {
			f.From, f.To = fulcrum.NodeID(in[0]), fulcrum.NodeID(in[1])
			f.Delay, f.Jitter = fulcrum.Duration(delay), fulcrum.Duration(jitter)
			if f.Loss, err = parseShare(loss); err != nil {
				return usage(cmd, err)
			}
			if f.Rate, err = parseBytes(rate); err != nil {
				return usage(cmd, err)
			}
			return a.inject(cmd, f)
		},
	}
	fl := c.Flags()
	fl.BoolVar(&f.OneWay, "oneway", false, "only from FROM to TO")
	fl.BoolVar(&f.Drop, "drop", false, "nothing gets through")
	fl.DurationVar(&delay, "delay", 0, "added to every packet")
	fl.DurationVar(&jitter, "jitter", 0, "a random share of this is added to the delay")
	fl.StringVar(&loss, "loss", "", "share of packets lost, such as 5% or 0.05")
	fl.StringVar(&rate, "rate", "", "bytes a second, such as 100k or 1M")
	fl.StringVar(&f.Only, "only", "", "peers or gossip")
	return c
}

func (a *app) faultClock() *cobra.Command {
	var skew time.Duration
	c := &cobra.Command{
		Use: "clock NODE --skew DURATION", Short: "Set a node's wall clock off", Example: "  fulcrum fault clock n3 --skew 30s\n  fulcrum fault clock n3 --skew -5m",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, in []string) error {
			return a.inject(cmd, fulcrum.Fault{Kind: "clock", Node: fulcrum.NodeID(in[0]), Skew: fulcrum.Duration(skew)})
		},
	}
	c.Flags().DurationVar(&skew, "skew", 0, "how far ahead (or, negative, behind)")
	return c
}

func (a *app) faultDisk() *cobra.Command {
	f := fulcrum.Fault{Kind: "disk"}
	var stall time.Duration
	c := &cobra.Command{
		Use: "disk NODE", Short: "Make a node's disk slow, full or failing", Example: "  fulcrum fault disk n2 --stall 5s\n  fulcrum fault disk n2 --full",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, in []string) error {
			f.Node, f.Stall = fulcrum.NodeID(in[0]), fulcrum.Duration(stall)
			return a.inject(cmd, f)
		},
	}
	c.Flags().DurationVar(&stall, "stall", 0, "each sync takes this much longer")
	c.Flags().BoolVar(&f.Full, "full", false, "writes fail as on a full disk")
	c.Flags().BoolVar(&f.Fail, "fail", false, "writes that must be synced are refused before anything is written (a real failed sync ends the node)")
	return c
}

// inject gives a fault to every node, as each of them must obey it. When one of them
// refuses, the fault is taken back everywhere: a half-made partition would show
// something nobody asked for.
func (a *app) inject(cmd *cobra.Command, f fulcrum.Fault) error {
	ctx, cancel := a.deadline(cmd.Context())
	defer cancel()
	var id [4]byte
	_, _ = rand.Read(id[:])
	f.ID = f.Kind + "-" + hex.EncodeToString(id[:])
	var refused []error
	err := a.everyNode(ctx, func(name fulcrum.NodeID, c *client.Client) error {
		err := c.AddFault(ctx, name, f)
		if err != nil && unreachable(err) {
			fmt.Fprintf(a.err, "fulcrum: %s was not told: %v\n", name, err)
			return nil
		}
		return err
	})
	if err != nil {
		refused = append(refused, err)
		refused = append(refused, a.everyNode(ctx, func(name fulcrum.NodeID, c *client.Client) error {
			if err := c.HealFaults(ctx, name, f.ID); err != nil && !unreachable(err) {
				return err
			}
			return nil
		}))
		return errors.Join(refused...)
	}
	return a.show(f, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "Injected %s: %s. Mend it with: fulcrum fault heal\n", f.ID, describeFault(f))
	})
}

// unreachable reports whether a node could not be asked at all: stopped, or paused.
func unreachable(err error) bool {
	return errors.Is(err, fulcrum.ErrUnavailable) || errors.Is(err, fulcrum.ErrUnknown)
}

// everyNode calls f for each node of the cluster, and stops at the first error.
func (a *app) everyNode(ctx context.Context, f func(fulcrum.NodeID, *client.Client) error) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	info, err := c.Cluster(ctx)
	if err != nil {
		return err
	}
	for _, n := range info.Nodes {
		if err := f(n.Name, c); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) faultList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List active faults", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			byID := map[string]fulcrum.Fault{}
			if err := a.everyNode(ctx, func(name fulcrum.NodeID, c *client.Client) error {
				fs, err := c.Faults(ctx, name)
				for _, f := range fs {
					byID[f.ID] = f
				}
				if err != nil && unreachable(err) {
					return nil
				}
				return err
			}); err != nil {
				return err
			}
			faults := make([]fulcrum.Fault, 0, len(byID))
			for _, f := range byID {
				faults = append(faults, f)
			}
			slices.SortFunc(faults, func(a, b fulcrum.Fault) int { return a.Since.Compare(b.Since) })
			return a.show(faults, func(w *tabwriter.Writer) {
				if len(faults) == 0 {
					fmt.Fprintln(w, "No faults are active.")
					return
				}
				faultTable(w, faults)
			})
		},
	}
}

func faultTable(w *tabwriter.Writer, faults []fulcrum.Fault) {
	row(w, "FAULT", "WHAT", "FOR")
	for _, f := range faults {
		row(w, f.ID, describeFault(f), time.Since(f.Since).Round(time.Second))
	}
}

func (a *app) faultHeal() *cobra.Command {
	return &cobra.Command{
		Use: "heal [FAULT...]", Short: "Mend all faults, or those named",
		RunE: func(cmd *cobra.Command, ids []string) error {
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			healed := map[string]bool{}
			err := a.everyNode(ctx, func(name fulcrum.NodeID, c *client.Client) error {
				before, err := c.Faults(ctx, name)
				if err == nil {
					for _, f := range before {
						healed[f.ID] = len(ids) == 0 || slices.Contains(ids, f.ID)
					}
					err = c.HealFaults(ctx, name, ids...)
				}
				if err != nil && unreachable(err) {
					fmt.Fprintf(a.err, "fulcrum: %s was not told: %v\n", name, err)
					return nil
				}
				return err
			})
			if err != nil {
				return err
			}
			names := []string{}
			for id, done := range healed {
				if done {
					names = append(names, id)
				}
			}
			slices.Sort(names)
			for _, id := range ids {
				if !slices.Contains(names, id) {
					return fulcrum.Errorf(fulcrum.CodeNotFound, "no active fault %q", id).WithHint("see fulcrum fault list")
				}
			}
			return a.show(map[string]any{"healed": names}, func(w *tabwriter.Writer) {
				if len(names) == 0 {
					fmt.Fprintln(w, "Nothing was broken.")
					return
				}
				fmt.Fprintf(w, "Healed %s.\n", strings.Join(names, ", "))
			})
		},
	}
}

// describeFault says in words what a fault does.
func describeFault(f fulcrum.Fault) string {
	var b strings.Builder
	switch f.Kind {
	case "partition":
		for i, side := range f.Sides {
			if i > 0 {
				b.WriteString(" / ")
			}
			for j, n := range side {
				if j > 0 {
					b.WriteString(",")
				}
				b.WriteString(string(n))
			}
		}
	case "isolate":
		fmt.Fprintf(&b, "%s is cut off", f.Node)
	case "link":
		arrow := "<->"
		if f.OneWay {
			arrow = "->"
		}
		fmt.Fprintf(&b, "%s %s %s", f.From, arrow, f.To)
	case "clock":
		fmt.Fprintf(&b, "%s: clock off by %s", f.Node, time.Duration(f.Skew))
	case "disk":
		fmt.Fprintf(&b, "%s: disk", f.Node)
	}
	for _, part := range []struct {
		set  bool
		text string
	}{
		{f.Drop, "nothing gets through"}, {f.Delay > 0, "delay " + time.Duration(f.Delay).String()}, {f.Jitter > 0, "jitter " + time.Duration(f.Jitter).String()},
		{f.Loss > 0, fmt.Sprintf("loss %g%%", f.Loss*100)}, {f.Rate > 0, fmt.Sprintf("%d bytes/s", f.Rate)},
		{f.Stall > 0, "syncs take " + time.Duration(f.Stall).String() + " longer"}, {f.Full, "is full"}, {f.Fail, "fails"}, {f.Only != "", f.Only + " only"},
	} {
		if part.set {
			b.WriteString(", " + part.text)
		}
	}
	return b.String()
}

// parseShare reads 5% or 0.05.
func parseShare(s string) (float64, error) {
	if s == "" {
		return 0, nil
	}
	number, percent := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(number, 64)
	if percent {
		v /= 100
	}
	if err != nil || v < 0 || v > 1 {
		return 0, fmt.Errorf("share %q: want 0%% to 100%%, or 0 to 1", s)
	}
	return v, nil
}

// parseBytes reads 1500, 100k or 1M.
func parseBytes(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	number, unit := s, int64(1)
	for suffix, u := range map[string]int64{"k": 1 << 10, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			number, unit = n, u
		}
	}
	v, err := strconv.ParseInt(number, 10, 64)
	if err != nil || v <= 0 || v > (1<<60)/unit {
		return 0, fmt.Errorf("rate %q: want bytes a second, such as 100k or 1M", s)
	}
	return v * unit, nil
}
