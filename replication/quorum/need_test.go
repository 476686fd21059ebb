package quorum

import (
	"errors"
	"testing"

	"fulcrum"
	"fulcrum/consistency"
)

func TestNeed(t *testing.T) {
	five := topology{zones: []string{"a", "a", "b", "b", "c"}, self: 0}
	two := topology{zones: []string{"", ""}, self: 1}
	one := topology{zones: []string{""}}
	of := func(is ...int) (s set) {
		for _, i := range is {
			s = s.with(i)
		}
		return s
	}
	for _, c := range []struct {
		name   string
		topo   topology
		kind   consistency.Kind
		total  int
		enough set
		short  set
	}{
		{"any takes one of five", five, consistency.Any, 1, of(4), of()},
		{"one takes one of five", five, consistency.One, 1, of(3), of()},
		{"two takes two", five, consistency.Two, 2, of(1, 3), of(1)},
		{"three takes three", five, consistency.Three, 3, of(0, 2, 4), of(0, 2)},
		{"quorum of five is three", five, consistency.QuorumOf, 3, of(2, 3, 4), of(2, 3)},
		{"the default is quorum", five, consistency.Default, 3, of(2, 3, 4), of(2, 3)},
		{"linearizable is a majority", five, consistency.Linearizable, 3, of(0, 1, 2), of(0, 1)},
		{"session is a majority", five, consistency.Session, 3, of(0, 1, 2), of(0, 1)},
		{"all is all", five, consistency.All, 5, of(0, 1, 2, 3, 4), of(0, 1, 2, 3)},
		{"local_one counts its own zone", five, consistency.LocalOne, 1, of(1), of(2, 3, 4)},
		{"local_quorum counts its own zone", five, consistency.LocalQuorum, 2, of(0, 1), of(0, 2, 3, 4)},
		{"each_quorum counts every zone", five, consistency.EachQuorum, 5, of(0, 1, 2, 3, 4), of(0, 1, 2, 3)},
		{"quorum of two is both", two, consistency.QuorumOf, 2, of(0, 1), of(1)},
		{"quorum of one is itself", one, consistency.QuorumOf, 1, of(0), of()},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := c.topo.writeNeed(consistency.L(c.kind))
			if err != nil {
				t.Fatal(err)
			}
			if n.total() != c.total || !n.met(c.enough) || n.met(c.short) {
				t.Fatalf("total %d, want %d; met(%b) %v; met(%b) %v", n.total(), c.total, c.enough, n.met(c.enough), c.short, n.met(c.short))
			}
			if got := n.shortfall(c.short); got == "" {
				t.Fatal("no words for a shortfall")
			}
		})
	}
}

func TestNeedRefuses(t *testing.T) {
	three := topology{zones: make([]string, 3)}
	two := topology{zones: make([]string, 2)}
	for _, c := range []struct {
		name string
		get  func() (need, error)
		want error
	}{
		{"a lease", func() (need, error) { return three.readNeed(consistency.L(consistency.Lease)) }, fulcrum.ErrLevel},
		{"a bound", func() (need, error) { return three.readNeed(consistency.L(consistency.Bounded)) }, fulcrum.ErrLevel},
		{"a prefix", func() (need, error) { return three.readNeed(consistency.L(consistency.Prefix)) }, fulcrum.ErrLevel},
		{"reading a hint", func() (need, error) { return three.readNeed(consistency.L(consistency.Any)) }, fulcrum.ErrLevel},
		{"three of two", func() (need, error) { return two.writeNeed(consistency.L(consistency.Three)) }, fulcrum.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := c.get(); !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
		})
	}
}
