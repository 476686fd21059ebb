package fault

import (
	"slices"
	"time"

	"fulcrum"
)

// snapshot is one state of a Set, made for fast questions. It never changes.
type snapshot struct {
	faults []fulcrum.Fault // oldest first
	rules  []rule          // those of them that concern links
	skew   map[fulcrum.NodeID]time.Duration
	disk   map[fulcrum.NodeID]DiskEffect
}

// rule is one fault as a question about a directed link.
type rule struct {
	kind    int                    // its place in kinds()
	only    string                 // "", or the only layer it concerns
	side    map[fulcrum.NodeID]int // partition: which side a node is on
	node    fulcrum.NodeID         // isolate
	from    fulcrum.NodeID         // link
	to      fulcrum.NodeID
	bothWay bool
	effect  Effect
}

// compile returns nil when nothing is broken.
func compile(faults []fulcrum.Fault) *snapshot {
	if len(faults) == 0 {
		return nil
	}
	s := &snapshot{
		faults: faults,
		skew:   make(map[fulcrum.NodeID]time.Duration),
		disk:   make(map[fulcrum.NodeID]DiskEffect),
	}
	for _, f := range faults {
		switch f.Kind {
		case KindClock:
			s.skew[f.Node] += time.Duration(f.Skew)
		case KindDisk:
			d := s.disk[f.Node]
			s.disk[f.Node] = DiskEffect{Stall: d.Stall + time.Duration(f.Stall), Full: d.Full || f.Full, Fail: d.Fail || f.Fail}
		default:
			s.rules = append(s.rules, ruleOf(f))
		}
	}
	return s
}

func ruleOf(f fulcrum.Fault) rule {
	all := kinds()
	r := rule{kind: slices.Index(all[:], f.Kind), only: f.Only, node: f.Node, from: f.From, to: f.To, bothWay: !f.OneWay, effect: Effect{Drop: true}}
	switch f.Kind {
	case KindPartition:
		r.side = make(map[fulcrum.NodeID]int)
		for i, side := range f.Sides {
			for _, n := range side {
				r.side[n] = i
			}
		}
	case KindLink:
		r.effect = Effect{
			Drop:   f.Drop || f.Loss == 1,
			Delay:  time.Duration(f.Delay),
			Jitter: time.Duration(f.Jitter),
			Loss:   f.Loss,
			Rate:   f.Rate,
		}
	}
	return r
}

// concerns reports whether r says something about messages from one node to another,
// which are not the same, on a layer.
func (r *rule) concerns(from, to fulcrum.NodeID, layer Layer) bool {
	return (r.only == "" || r.only == layer.String()) && r.matches(from, to)
}

// matches reports whether r concerns messages from one node to another, which
// are not the same.
func (r *rule) matches(from, to fulcrum.NodeID) bool {
	switch {
	case r.side != nil:
		a, inA := r.side[from]
		b, inB := r.side[to]
		return inA && inB && a != b
	case r.node != "":
		return r.node == from || r.node == to
	}
	return r.from == from && r.to == to || r.bothWay && r.from == to && r.to == from
}

func (s *snapshot) link(from, to fulcrum.NodeID, layer Layer) Effect {
	var e Effect
	if from == to {
		return e
	}
	for i := range s.rules {
		r := &s.rules[i]
		if r.concerns(from, to, layer) {
			e = e.and(r.effect)
		}
	}
	return e
}

// list returns the faults; it works on nil. The caller must not modify them.
func (s *snapshot) list() []fulcrum.Fault {
	if s == nil {
		return nil
	}
	return s.faults
}
