package nemesis

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"fulcrum"
)

// draw is what a step is drawn from.
type draw struct {
	*rand.Rand
	nodes []fulcrum.NodeID
	modes []string
}

// some returns k different nodes, in any order.
func (d *draw) some(k int) []fulcrum.NodeID {
	nodes := slices.Clone(d.nodes)
	d.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	return nodes[:k]
}

// between draws a time, in whole milliseconds, so that a plan is easy to read.
func (d *draw) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return (lo + time.Duration(d.Int64N(int64(hi-lo)))).Round(time.Millisecond)
}

func (d *draw) percent(lo, hi int) float64 { return float64(lo+d.IntN(hi-lo+1)) / 100 }

func words(nodes []fulcrum.NodeID) string {
	s := make([]string, len(nodes))
	for i, n := range nodes {
		s[i] = string(n)
	}
	return strings.Join(s, " ")
}

func sides(s *Step, only string, sides ...[]fulcrum.NodeID) {
	var text []string
	for _, side := range sides {
		slices.Sort(side)
		text = append(text, words(side))
	}
	s.Act, s.Value = Break, strings.Join(text, " | ")
	s.Faults = []fulcrum.Fault{{Kind: "partition", Sides: sides, Only: only}}
}

func planPartitionOne(d *draw, s *Step) {
	nodes := d.some(len(d.nodes))
	sides(s, "", nodes[:1], nodes[1:])
}

func planHalves(only string) func(*draw, *Step) {
	return func(d *draw, s *Step) {
		nodes := d.some(len(d.nodes))
		half := len(nodes) / 2
		sides(s, only, nodes[:half], nodes[half:])
		if only != "" {
			s.Value += ", " + only + " only"
		}
	}
}

// planBridge names the bridge on no side: such a node reaches all.
func planBridge(d *draw, s *Step) {
	nodes := d.some(len(d.nodes))
	half := 1 + (len(nodes)-1)/2
	sides(s, "", nodes[1:half], nodes[half:])
	s.Nodes = nodes[:1]
	s.Value += ", bridge " + string(nodes[0])
}

// planRing cuts what node i of a ring hears down to a window of a majority around
// it. For some sizes a window cannot be symmetric: there a link is cut one way.
func planRing(d *draw, s *Step) {
	ring := d.some(len(d.nodes))
	n, m := len(ring), majority(len(ring))
	hears := func(i, j int) bool { return (j-i+m/2+n)%n < m }
	for i := range ring {
		for j := i + 1; j < n; j++ {
			f := fulcrum.Fault{Kind: "link", From: ring[j], To: ring[i], Drop: true}
			switch there, back := hears(i, j), hears(j, i); {
			case there && back:
				continue
			case there: // i hears j, so only the way from i to j is cut
				f.From, f.To, f.OneWay = ring[i], ring[j], true
			case back:
				f.OneWay = true
			}
			s.Faults = append(s.Faults, f)
		}
	}
	s.Act, s.Value = Break, "ring "+words(ring)
}

func planOneWay(d *draw, s *Step) {
	nodes, deaf := d.some(len(d.nodes)), d.IntN(2) == 0
	for _, other := range nodes[1:] {
		f := fulcrum.Fault{Kind: "link", From: nodes[0], To: other, OneWay: true, Drop: true}
		if deaf {
			f.From, f.To = f.To, f.From
		}
		s.Faults = append(s.Faults, f)
	}
	s.Act, s.Value = Break, string(nodes[0])+" is not heard"
	if deaf {
		s.Value = string(nodes[0]) + " hears nobody"
	}
}

func planLeaderAlone(d *draw, s *Step) {
	s.Act, s.Leader, s.Nodes = Break, true, d.some(1)
	s.Value = "the leader"
}

// planSwitchBehind switches while a replica is behind, and brings it back either before
// the switch is over, or when the others have long gone on without it.
func planSwitchBehind(d *draw, s *Step) {
	planSwitch(d, s)
	planPartitionOne(d, s)
	s.Act, s.Every = Leave, fulcrum.Duration(d.between(300*time.Millisecond, 2*time.Second))
	if d.IntN(2) == 0 {
		s.Until = s.Every + fulcrum.Duration(d.between(time.Millisecond, 30*time.Millisecond))
	}
	s.For = s.Every + fulcrum.Duration(time.Second)
}

// planLaggard lasts long enough for a lease to run out and another leader to work.
func planLaggard(d *draw, s *Step) {
	s.Act, s.Leader, s.Nodes = Overtake, true, d.some(2) // two: one of them does not lead
	s.Every = fulcrum.Duration(d.between(300*time.Millisecond, 2*time.Second))
	s.For = s.Every + fulcrum.Duration(leaseOver) + fulcrum.Duration(d.between(time.Second, 4*time.Second))
	s.Value = fmt.Sprintf("the leader, once a replica has lagged for %v", time.Duration(s.Every))
}

func planFlapping(d *draw, s *Step) {
	planPartitionOne(d, s)
	s.Act, s.Every = Strobe, fulcrum.Duration(d.between(200*time.Millisecond, 3*time.Second))
	s.Value += fmt.Sprintf(", on and off every %v", time.Duration(s.Every))
}

// eachLink breaks every link, or each with a chance of one half but at least one.
func eachLink(d *draw, s *Step, every bool, effect func() fulcrum.Fault) {
	nodes := d.some(len(d.nodes))
	s.Act = Break
	for i, from := range nodes {
		for _, to := range nodes[i+1:] {
			if !every && len(s.Faults) > 0 && d.IntN(2) == 0 {
				continue
			}
			f := effect()
			f.Kind, f.From, f.To = "link", from, to
			s.Faults = append(s.Faults, f)
		}
	}
}

func planDelay(d *draw, s *Step) {
	var worst time.Duration
	eachLink(d, s, false, func() fulcrum.Fault {
		delay := d.between(10*time.Millisecond, 400*time.Millisecond)
		worst = max(worst, delay)
		return fulcrum.Fault{Delay: fulcrum.Duration(delay)}
	})
	s.Value = fmt.Sprintf("%d links by up to %v", len(s.Faults), worst)
}

func planJitter(d *draw, s *Step) {
	jitter := d.between(50*time.Millisecond, 500*time.Millisecond)
	eachLink(d, s, true, func() fulcrum.Fault { return fulcrum.Fault{Jitter: fulcrum.Duration(jitter)} })
	s.Value = fmt.Sprintf("all links by up to %v", jitter)
}

func planLoss(d *draw, s *Step) {
	loss := d.percent(2, 30)
	eachLink(d, s, true, func() fulcrum.Fault { return fulcrum.Fault{Loss: loss} })
	s.Value = fmt.Sprintf("%.0f%% on all links", loss*100)
}

func planDuplicate(d *draw, s *Step) {
	s.Act, s.Probability = Duplicate, d.percent(5, 50)
	s.Value = fmt.Sprintf("%.0f%% of packets", s.Probability*100)
}

func planKill(many func(int) int) func(*draw, *Step) {
	return func(d *draw, s *Step) {
		s.Act, s.Nodes = Kill, d.some(many(len(d.nodes)))
		s.Value = words(s.Nodes)
	}
}

func planPause(many func(int) int) func(*draw, *Step) {
	return func(d *draw, s *Step) {
		s.Act, s.Nodes = Pause, d.some(many(len(d.nodes)))
		s.Value = words(s.Nodes)
	}
}

func planPauseLeader(d *draw, s *Step) {
	s.Act, s.Leader, s.Nodes = Pause, true, d.some(1)
	s.Value = "the leader"
}

// planRolling takes the time it needs: each node is away for Every, and the next one
// goes when this one has had time to come back.
func planRolling(d *draw, s *Step) {
	s.Act, s.Nodes = Roll, d.some(len(d.nodes))
	s.Every = fulcrum.Duration(d.between(500*time.Millisecond, 3*time.Second))
	s.For = fulcrum.Duration(len(s.Nodes)) * (s.Every + fulcrum.Duration(comesBack))
	s.Value = words(s.Nodes)
}

func planTransfer(d *draw, s *Step) {
	s.Act, s.Leader, s.Nodes = Stop, true, d.some(1)
	s.Value = "away from the leader"
}

// planClock skews 1 to all clocks, each by 50 ms to 30 s either way; small skews are
// as likely as large ones.
func planClock(strobe bool) func(*draw, *Step) {
	return func(d *draw, s *Step) {
		var text []string
		for _, node := range d.some(1 + d.IntN(len(d.nodes))) {
			skew := d.between(50*time.Millisecond, 60*time.Millisecond<<d.IntN(10))
			if d.IntN(2) == 0 {
				skew = -skew
			}
			s.Faults = append(s.Faults, fulcrum.Fault{Kind: "clock", Node: node, Skew: fulcrum.Duration(skew)})
			text = append(text, fmt.Sprintf("%s %+v", node, skew))
		}
		s.Act, s.Value = Break, strings.Join(text, ", ")
		if strobe {
			s.Act, s.Every = Strobe, fulcrum.Duration(d.between(50*time.Millisecond, time.Second))
			s.Value += fmt.Sprintf(", on and off every %v", time.Duration(s.Every))
		}
	}
}

func planDisk(what string) func(*draw, *Step) {
	return func(d *draw, s *Step) {
		node := d.some(1)
		f := fulcrum.Fault{Kind: "disk", Node: node[0]}
		s.Act, s.Nodes, s.Value = Break, node, string(node[0])
		switch what {
		case "stall":
			f.Stall = fulcrum.Duration(d.between(100*time.Millisecond, 3*time.Second))
			s.Value += fmt.Sprintf(" by %v", time.Duration(f.Stall))
		case "error":
			f.Fail = true
		case "full":
			f.Full = true
		}
		s.Faults = []fulcrum.Fault{f}
	}
}

// planDamage keeps the node down for Every before its disk is damaged. Who comes back
// with another disk must not meet its own lease of before.
func planDamage(what Damage) func(*draw, *Step) {
	return func(d *draw, s *Step) {
		s.Act, s.Damage, s.Nodes, s.Seed = Harm, what, d.some(1), d.Uint64()
		s.Every = fulcrum.Duration(d.between(100*time.Millisecond, 3*time.Second))
		if what == Wipe {
			s.Every += fulcrum.Duration(leaseOver)
		}
		s.For = s.Every + fulcrum.Duration(comesBack)
		s.Value = string(s.Nodes[0])
	}
}

func planSwitch(d *draw, s *Step) {
	s.Act, s.Modes, s.Value = Switch, d.modes, "to the next of "+strings.Join(d.modes, ", ")
}
