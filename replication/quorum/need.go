package quorum

import (
	"math/bits"
	"strconv"
	"strings"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/mutant"
)

// set is a set of replicas, by their place in Env.Replicas.
type set uint64

// maxReplicas is how many replicas a set can hold.
const maxReplicas = 64

func (s set) has(i int) bool    { return s&(1<<i) != 0 }
func (s set) with(i int) set    { return s | 1<<i }
func (s set) without(i int) set { return s &^ (1 << i) }
func (s set) len() int          { return bits.OnesCount64(uint64(s)) }

// need says which replicas must answer: of each part at least its count. Most
// levels have one part that holds every replica; the zone levels have others.
type need struct {
	parts []part
}

type part struct {
	of    set
	count int
	zone  string // empty: all zones
}

func (n need) met(by set) bool {
	for _, p := range n.parts {
		if (by & p.of).len() < p.count {
			return false
		}
	}
	return true
}

// scope is every replica that can count.
func (n need) scope() (s set) {
	for _, p := range n.parts {
		s |= p.of
	}
	return s
}

// total is how many replicas must answer at the least.
func (n need) total() (sum int) {
	for _, p := range n.parts {
		sum += p.count
	}
	return sum
}

// shortfall describes what by lacks, for an error.
func (n need) shortfall(by set) string {
	var b strings.Builder
	for _, p := range n.parts {
		if have := (by & p.of).len(); have < p.count {
			if b.Len() > 0 {
				b.WriteString(", ")
			}
			b.WriteString(strconv.Itoa(have) + " of the " + strconv.Itoa(p.count) + " replicas needed")
			if p.zone != "" {
				b.WriteString(" in zone " + strconv.Quote(p.zone))
			}
		}
	}
	return b.String()
}

// topology is what levels are computed from: the zone of each replica, in the
// order of Env.Replicas, and which of them this node is.
type topology struct {
	zones []string
	self  int
}

func (t topology) all() set { return set(1)<<len(t.zones) - 1 }

func (t topology) zone(z string) (s set) {
	for i, name := range t.zones {
		if name == z {
			s = s.with(i)
		}
	}
	return s
}

func majority(n int) int { return n/2 + 1 }

// writeNeed is what a write at the level waits for. Any, one and two ... count as
// Cassandra's do; linearizable is its second phase; session writes at quorum, so
// that session reads overlap with it.
func (t topology) writeNeed(l consistency.Level) (need, error) {
	n, err := t.need(l)
	if mutant.On("quorum-w-minus-one") {
		n = n.less() // mutant: W-1
	}
	return n, err
}

// readNeed is what a read at the level waits for. Any is a write level only.
func (t topology) readNeed(l consistency.Level) (need, error) {
	if l.Kind == consistency.Any {
		return need{}, refuseLevel(l, "level any is for writes")
	}
	n, err := t.need(l)
	if mutant.On("read-r-minus-one") {
		n = n.less() // mutant: R-1
	}
	return n, err
}

// less is n with one replica fewer of each part, but at least one.
func (n need) less() need {
	for i := range n.parts {
		n.parts[i].count = max(1, n.parts[i].count-1)
	}
	return n
}

func (t topology) need(l consistency.Level) (need, error) {
	n := len(t.zones)
	count := 0
	switch l.Kind {
	case consistency.Any, consistency.One:
		count = 1
	case consistency.Two:
		count = 2
	case consistency.Three:
		count = 3
	case consistency.Default, consistency.QuorumOf, consistency.Linearizable, consistency.Session:
		count = majority(n)
	case consistency.All:
		count = n
	case consistency.LocalOne:
		z := t.zones[t.self]
		return need{[]part{{t.zone(z), 1, z}}}, nil
	case consistency.LocalQuorum:
		z := t.zones[t.self]
		return need{[]part{{t.zone(z), majority(t.zone(z).len()), z}}}, nil
	case consistency.EachQuorum:
		var parts []part
		var seen set
		for _, z := range t.zones {
			if s := t.zone(z); s&seen == 0 {
				seen |= s
				parts = append(parts, part{s, majority(s.len()), z})
			}
		}
		return need{parts}, nil
	default:
		return need{}, refuseLevel(l, "quorum mode has no leader that could keep it")
	}
	if count > n {
		return need{}, fulcrum.Errorf(fulcrum.CodeUnavailable, "level %s needs %d replicas, this shard has %d", l, count, n).
			WithHint("use a lower level, or a keyspace with more replicas")
	}
	return need{[]part{{t.all(), count, ""}}}, nil
}

func refuseLevel(l consistency.Level, why string) error {
	return fulcrum.Errorf(fulcrum.CodeLevel, "quorum mode does not offer level %s here: %s", l, why).
		WithHint("use one of any (writes), one, two, three, quorum, all, local_one, local_quorum, each_quorum, session, linearizable")
}

// strong reports whether reads at the level block on read repair, so that no
// later read at such a level goes backwards.
func strong(l consistency.Level) bool {
	switch l.Kind {
	case consistency.Default, consistency.QuorumOf, consistency.All, consistency.LocalQuorum,
		consistency.EachQuorum, consistency.Linearizable, consistency.Session:
		return true
	}
	return false
}
