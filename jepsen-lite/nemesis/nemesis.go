// Package nemesis breaks a cluster on purpose, by plan, and mends it again.
//
// A Nemesis is one way to break things, known by its name. New draws a Plan from a
// seed: what happens when, and to whom. Nothing is left to chance after that but what
// only the running cluster knows, such as who leads. Plan.Run carries it out against
// a Cluster, simulated or real, and writes down what was done and how often it was
// seen to act. Mend ends everything that anybody broke.
//
// Start reading at catalogue (what there is), then plan.go, run.go and act.go.
package nemesis

import (
	"slices"
	"strings"
	"time"

	"fulcrum"
)

// Nemesis is one way to break a cluster.
type Nemesis struct {
	Name  string
	About string   // one line for people
	Needs []string // what Cluster.Can must allow
}

// List returns every nemesis, in the order in which people should read them.
func List() []Nemesis {
	var out []Nemesis
	for _, k := range catalogue() {
		out = append(out, k.Nemesis)
	}
	return out
}

// Find returns the nemesis of that name. Its error, CodeInvalid, lists what there is.
func Find(name string) (Nemesis, error) {
	k, err := find(name)
	return k.Nemesis, err
}

func find(name string) (kind, error) {
	all := catalogue()
	if i := slices.IndexFunc(all, func(k kind) bool { return k.Name == name }); i >= 0 {
		return all[i], nil
	}
	names := make([]string, len(all))
	for i, k := range all {
		names[i] = k.Name
	}
	return kind{}, fulcrum.Errorf(fulcrum.CodeInvalid, "no nemesis is named %q: there is %s", name, strings.Join(names, ", "))
}

// Names that stand for no step of their own.
const (
	None     = "none"
	Combined = "combined"
)

// Switches reports whether the nemesis of that name changes the keyspace's mode.
func Switches(name string) bool {
	k, err := find(name)
	return err == nil && k.class == modes
}

// class groups those that get into each other's way: of one class, one at a time.
type class string

const (
	cuts    class = "cut"
	slows   class = "slow"
	packets class = "packets"
	clocks  class = "clock"
	disks   class = "disk"
	modes   class = "mode"
	lives   class = "life" // of processes; last, because what is paused hears of no other fault
)

// order is that in which the faults of one round begin; they end in the opposite one,
// so that a switch is waited for once nothing holds it up.
func (c class) order() int {
	return slices.Index([]class{modes, cuts, slows, packets, clocks, disks, lives}, c)
}

// kind is a Nemesis and how its steps are drawn.
type kind struct {
	Nemesis
	class  class
	hits   []string               // the kinds of Cluster.Hits that it shows in
	nodes  int                    // so many nodes it needs at least
	alone  bool                   // never drawn by "combined"
	settle time.Duration          // more quiet time after it
	plan   func(d *draw, s *Step) // fills in what is to be done
}

// goesWith reports whether two may be at work at the same time, and each be seen to act.
func (k kind) goesWith(o kind) bool {
	return k.class != o.class && !slices.ContainsFunc(k.hits, func(h string) bool { return slices.Contains(o.hits, h) })
}

func nemesis(name, about string, needs ...string) Nemesis {
	return Nemesis{Name: name, About: about, Needs: needs}
}

// catchUp is what a node with an empty disk is given to become a full replica again,
// before the next disk may be lost.
const catchUp = 20 * time.Second

// catalogue is the one source of what there is.
func catalogue() []kind {
	all := []kind{{Nemesis: nemesis(None, "nothing is broken")}}
	all = append(all, partitions()...)
	all = append(all, links()...)
	all = append(all, processes()...)
	all = append(all, clocksAndDisks()...)
	all = append(all,
		kind{Nemesis: nemesis("switch", "the keyspace's mode is changed while it is in use", "switch"), class: modes, hits: []string{"switch"}, nodes: 1, plan: planSwitch},
		kind{Nemesis: nemesis("switch-behind", "the keyspace's mode is changed while a replica is cut off and lacks writes", "switch", "faults"), class: modes, hits: []string{"switch"}, nodes: 3, alone: true, plan: planSwitchBehind},
		kind{Nemesis: nemesis("transfer", "the leader is stopped as for maintenance, so that leadership moves, and started again", "kill"), class: lives, nodes: 2, plan: planTransfer},
		kind{Nemesis: nemesis(Combined, "two of the others at the same time, others each round")},
	)
	return all
}

func partitions() []kind {
	part, link := []string{"partition"}, []string{"link"}
	return []kind{
		{Nemesis: nemesis("partition-one", "one node is cut off from the others", "faults"), class: cuts, hits: part, nodes: 2, plan: planPartitionOne},
		{Nemesis: nemesis("partition-halves", "two halves that do not reach each other", "faults"), class: cuts, hits: part, nodes: 2, plan: planHalves("")},
		{Nemesis: nemesis("partition-majorities-ring", "every node hears a majority, and no two the same", "faults"), class: cuts, hits: link, nodes: 3, plan: planRing},
		{Nemesis: nemesis("partition-bridge", "two halves, and one node that reaches both", "faults"), class: cuts, hits: part, nodes: 3, plan: planBridge},
		{Nemesis: nemesis("partition-one-way", "one node hears the others but is not heard, or the reverse", "faults"), class: cuts, hits: link, nodes: 2, plan: planOneWay},
		{Nemesis: nemesis("partition-leader", "the leader is alone", "faults"), class: cuts, hits: []string{"isolate"}, nodes: 2, plan: planLeaderAlone},
		{Nemesis: nemesis("partition-laggard", "a replica hears nothing from the leader for a while, then it hears the others again and the leader is alone", "faults"), class: cuts, hits: []string{"isolate"}, nodes: 3, plan: planLaggard},
		{Nemesis: nemesis("partition-gossip", "gossip is cut between two halves, everything else gets through", "faults"), class: cuts, hits: part, nodes: 2, plan: planHalves("gossip")},
		{Nemesis: nemesis("partition-peers", "only gossip gets through between two halves", "faults"), class: cuts, hits: part, nodes: 2, plan: planHalves("peers")},
		{Nemesis: nemesis("partition-flapping", "one node is cut off and reached again, over and over", "faults"), class: cuts, hits: part, nodes: 2, plan: planFlapping},
	}
}

func links() []kind {
	link := []string{"link"}
	return []kind{
		{Nemesis: nemesis("delay", "some links are slow", "faults"), class: slows, hits: link, nodes: 2, plan: planDelay},
		{Nemesis: nemesis("jitter", "links are slow now and fast then", "faults"), class: slows, hits: link, nodes: 2, plan: planJitter},
		{Nemesis: nemesis("loss", "links lose packets", "faults"), class: slows, hits: link, nodes: 2, plan: planLoss},
		{Nemesis: nemesis("duplicate", "packets arrive twice", "packets"), class: packets, hits: []string{"duplicate"}, nodes: 2, plan: planDuplicate},
	}
}

func processes() []kind {
	kill, pause := []string{"kill"}, []string{"pause"}
	return []kind{
		{Nemesis: nemesis("kill-one", "one node crashes, and is started later", "kill"), class: lives, hits: kill, nodes: 1, plan: planKill(one)},
		{Nemesis: nemesis("kill-minority", "as many nodes crash as a majority survives", "kill"), class: lives, hits: kill, nodes: 3, plan: planKill(minority)},
		{Nemesis: nemesis("kill-majority", "a majority crashes", "kill"), class: lives, hits: kill, nodes: 1, plan: planKill(majority)},
		{Nemesis: nemesis("kill-all", "all nodes crash at the same moment", "kill"), class: lives, hits: kill, nodes: 1, plan: planKill(all)},
		{Nemesis: nemesis("pause-one", "one node stands still, for longer than leases and elections last", "pause"), class: lives, hits: pause, nodes: 1, plan: planPause(one)},
		{Nemesis: nemesis("pause-leader", "the leader stands still, and wakes up deposed", "pause"), class: lives, hits: pause, nodes: 1, plan: planPauseLeader},
		{Nemesis: nemesis("pause-majority", "a majority stands still", "pause"), class: lives, hits: pause, nodes: 1, plan: planPause(majority)},
		{Nemesis: nemesis("rolling-restart", "all nodes are restarted, one after another", "kill"), class: lives, nodes: 1, plan: planRolling},
	}
}

func clocksAndDisks() []kind {
	clock, disk, damage := []string{"clock"}, []string{"disk"}, []string{"damage", "kill"}
	return []kind{
		{Nemesis: nemesis("clock-bump", "clocks jump ahead or back", "faults"), class: clocks, hits: clock, nodes: 1, plan: planClock(false)},
		{Nemesis: nemesis("clock-strobe", "clocks jump to and fro", "faults"), class: clocks, hits: clock, nodes: 1, plan: planClock(true)},
		{Nemesis: nemesis("disk-stall", "a disk takes long to sync", "faults"), class: disks, hits: disk, nodes: 1, plan: planDisk("stall")},
		{Nemesis: nemesis("disk-error", "syncs of a disk fail", "faults"), class: disks, hits: disk, nodes: 1, plan: planDisk("error")},
		{Nemesis: nemesis("disk-full", "a disk is full", "faults"), class: disks, hits: disk, nodes: 1, plan: planDisk("full")},
		{Nemesis: nemesis("disk-torn", "a crash tears the tail of a log", "kill", "damage"), class: lives, hits: damage, nodes: 1, plan: planDamage(TornTail)},
		{Nemesis: nemesis("disk-bit-flip", "a bit of a crashed node's disk flips; what it then refuses is wiped", "kill", "damage"), class: lives, hits: damage, nodes: 3, alone: true, settle: catchUp, plan: planDamage(BitFlip)},
		{Nemesis: nemesis("disk-wipe", "a node crashes and loses its whole disk", "kill", "damage"), class: lives, hits: damage, nodes: 3, alone: true, settle: catchUp, plan: planDamage(Wipe)},
	}
}

// How many of n nodes.
func one(int) int        { return 1 }
func minority(n int) int { return (n - 1) / 2 }
func majority(n int) int { return n/2 + 1 }
func all(n int) int      { return n }
