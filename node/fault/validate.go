package fault

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"fulcrum"
)

// Limits of what can be asked for. They are far beyond what shows anything new,
// and keep sums of faults from overflowing.
const (
	MaxDelay = time.Hour            // of Delay, Jitter and Stall
	MaxSkew  = 366 * 24 * time.Hour // either way
	maxName  = 64                   // bytes of a node's name or a fault's id
)

// field is one optional field of fulcrum.Fault, for telling which are allowed.
type field struct {
	name string
	set  func(f fulcrum.Fault) bool
}

func fields() []field {
	return []field{
		{"sides", func(f fulcrum.Fault) bool { return len(f.Sides) > 0 }},
		{"node", func(f fulcrum.Fault) bool { return f.Node != "" }},
		{"from", func(f fulcrum.Fault) bool { return f.From != "" }},
		{"to", func(f fulcrum.Fault) bool { return f.To != "" }},
		{"oneway", func(f fulcrum.Fault) bool { return f.OneWay }},
		{"drop", func(f fulcrum.Fault) bool { return f.Drop }},
		{"delay", func(f fulcrum.Fault) bool { return f.Delay != 0 }},
		{"jitter", func(f fulcrum.Fault) bool { return f.Jitter != 0 }},
		{"loss", func(f fulcrum.Fault) bool { return f.Loss != 0 }},
		{"rate", func(f fulcrum.Fault) bool { return f.Rate != 0 }},
		{"only", func(f fulcrum.Fault) bool { return f.Only != "" }},
		{"skew", func(f fulcrum.Fault) bool { return f.Skew != 0 }},
		{"stall", func(f fulcrum.Fault) bool { return f.Stall != 0 }},
		{"full", func(f fulcrum.Fault) bool { return f.Full }},
		{"fail", func(f fulcrum.Fault) bool { return f.Fail }},
	}
}

// shape says which fields a kind of fault has.
type shape struct {
	kind  string
	needs []string // all of them
	oneOf []string // at least one of them
	may   []string
}

func shapes() []shape {
	return []shape{
		{kind: KindPartition, needs: []string{"sides"}, may: []string{"only"}},
		{kind: KindIsolate, needs: []string{"node"}, may: []string{"only"}},
		{kind: KindLink, needs: []string{"from", "to"}, oneOf: []string{"drop", "delay", "jitter", "loss", "rate"}, may: []string{"oneway", "only"}},
		{kind: KindClock, needs: []string{"node", "skew"}},
		{kind: KindDisk, needs: []string{"node"}, oneOf: []string{"stall", "full", "fail"}},
	}
}

// kindCount is how many kinds there are.
const kindCount = 5

func kinds() [kindCount]string {
	return [...]string{KindPartition, KindIsolate, KindLink, KindClock, KindDisk}
}

// Validate reports everything wrong with f at once, as a *fulcrum.Error with
// CodeInvalid. Nodes that are not in known are wrong too; nil skips that.
func Validate(f fulcrum.Fault, known []fulcrum.NodeID) error {
	i := slices.IndexFunc(shapes(), func(s shape) bool { return s.kind == f.Kind })
	if i < 0 {
		all := kinds()
		return invalid("fault kind %q: want one of %s", f.Kind, strings.Join(all[:], ", "))
	}
	wrong := shapes()[i].wrong(f)
	wrong = append(wrong, wrongValues(f)...)
	wrong = append(wrong, wrongNames(f, known)...)
	if len(wrong) > 0 {
		return invalid("%s fault: %s", f.Kind, strings.Join(wrong, "; "))
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fulcrum.Errorf(fulcrum.CodeInvalid, format, args...)
}

// wrong reports the fields that are missing or out of place.
func (s shape) wrong(f fulcrum.Fault) (wrong []string) {
	var missing, extra []string
	one := len(s.oneOf) == 0
	for _, fd := range fields() {
		set := fd.set(f)
		switch {
		case slices.Contains(s.needs, fd.name):
			if !set {
				missing = append(missing, fd.name)
			}
		case slices.Contains(s.oneOf, fd.name):
			one = one || set
		case set && !slices.Contains(s.may, fd.name):
			extra = append(extra, fd.name)
		}
	}
	if len(missing) > 0 {
		wrong = append(wrong, "needs "+strings.Join(missing, " and "))
	}
	if !one {
		wrong = append(wrong, "needs at least one of "+strings.Join(s.oneOf, ", "))
	}
	if len(extra) > 0 {
		all := slices.Concat(s.needs, s.oneOf, s.may)
		wrong = append(wrong, fmt.Sprintf("%s has no meaning here (allowed: %s)", strings.Join(extra, ", "), strings.Join(all, ", ")))
	}
	return wrong
}

func wrongValues(f fulcrum.Fault) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"delay", time.Duration(f.Delay)}, {"jitter", time.Duration(f.Jitter)}, {"stall", time.Duration(f.Stall)}} {
		if d.value < 0 || d.value > MaxDelay {
			bad("%s %v: want 0 to %v", d.name, d.value, MaxDelay)
		}
	}
	if s := time.Duration(f.Skew); s < -MaxSkew || s > MaxSkew {
		bad("skew %v: want %v to %v", s, -MaxSkew, MaxSkew)
	}
	if math.IsNaN(f.Loss) || f.Loss < 0 || f.Loss > 1 {
		bad("loss %v: want 0 to 1 (0.05 is 5%%)", f.Loss)
	}
	if f.Rate < 0 {
		bad("rate %d: want bytes a second, 0 for no limit", f.Rate)
	}
	if f.Only != "" && f.Only != Peers.String() && f.Only != Gossip.String() {
		bad("only %q: want %s, %s or nothing for both", f.Only, Peers, Gossip)
	}
	if f.Drop && (f.Delay != 0 || f.Jitter != 0 || f.Loss != 0 || f.Rate != 0) {
		bad("drop lets nothing through, so delay, jitter, loss and rate cannot go with it")
	}
	if f.Kind == KindLink && f.From != "" && f.From == f.To {
		bad("from and to are both %s: a node always reaches itself", f.From)
	}
	if f.ID != "" && !goodName(f.ID) {
		bad("id %q: want 1 to %d of letters, digits, dot, dash and underscore", f.ID, maxName)
	}
	return wrong
}

func wrongNames(f fulcrum.Fault, known []fulcrum.NodeID) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	seen := make(map[fulcrum.NodeID]bool)
	if len(f.Sides) == 1 {
		bad("needs at least two sides, as in n1,n2/n3")
	}
	var names []fulcrum.NodeID
	for i, side := range f.Sides {
		if len(side) == 0 {
			bad("side %d is empty", i+1)
		}
		for _, n := range side {
			if seen[n] {
				bad("%s is named twice", n)
			}
			seen[n] = true
			names = append(names, n)
			if n == "" {
				bad("side %d names a node without a name", i+1)
			}
		}
	}
	var unknown []string
	for _, n := range append(names, f.Node, f.From, f.To) {
		switch {
		case n == "":
		case !goodName(string(n)):
			bad("node name %q: want 1 to %d of letters, digits, dot, dash and underscore", n, maxName)
		case known != nil && !slices.Contains(known, n):
			unknown = append(unknown, string(n))
		}
	}
	if len(unknown) > 0 {
		bad("no node named %s (known: %s)", strings.Join(unknown, ", "), joinNames(known))
	}
	return wrong
}

func goodName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	}) < 0
}

func joinNames(ids []fulcrum.NodeID) string {
	s := make([]string, len(ids))
	for i, id := range ids {
		s[i] = string(id)
	}
	return strings.Join(s, ", ")
}
