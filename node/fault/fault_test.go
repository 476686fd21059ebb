package fault_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/node/fault"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func ms(n int) fulcrum.Duration { return fulcrum.Duration(time.Duration(n) * time.Millisecond) }

func set(t testing.TB, faults ...fulcrum.Fault) *fault.Set {
	t.Helper()
	s := fault.NewSet()
	for _, f := range faults {
		if err := s.Add(f, noon); err != nil {
			t.Fatalf("Add(%+v): %v", f, err)
		}
	}
	return s
}

func TestLink(t *testing.T) {
	type id = fulcrum.NodeID
	partition := fulcrum.Fault{Kind: "partition", Sides: [][]id{{"n1", "n2"}, {"n3", "n4"}}}
	cut := fault.Effect{Drop: true}
	tests := []struct {
		name     string
		faults   []fulcrum.Fault
		from, to id
		layer    fault.Layer
		want     fault.Effect
	}{
		{"nothing is broken", nil, "n1", "n2", fault.Peers, fault.Effect{}},
		{"a partition cuts across", []fulcrum.Fault{partition}, "n1", "n3", fault.Peers, cut},
		{"and back", []fulcrum.Fault{partition}, "n4", "n2", fault.Gossip, cut},
		{"not inside a side", []fulcrum.Fault{partition}, "n1", "n2", fault.Peers, fault.Effect{}},
		{"nor for a node on no side", []fulcrum.Fault{partition}, "n1", "n5", fault.Peers, fault.Effect{}},
		{"nor from one", []fulcrum.Fault{partition}, "n5", "n4", fault.Peers, fault.Effect{}},
		{"an isolated node hears nobody", []fulcrum.Fault{{Kind: "isolate", Node: "n1"}}, "n2", "n1", fault.Peers, cut},
		{"and nobody hears it", []fulcrum.Fault{{Kind: "isolate", Node: "n1"}}, "n1", "n5", fault.Peers, cut},
		{"but itself", []fulcrum.Fault{{Kind: "isolate", Node: "n1"}}, "n1", "n1", fault.Peers, fault.Effect{}},
		{"the others go on", []fulcrum.Fault{{Kind: "isolate", Node: "n1"}}, "n2", "n3", fault.Peers, fault.Effect{}},
		{"a link fault goes both ways", []fulcrum.Fault{{Kind: "link", From: "n1", To: "n2", Drop: true}}, "n2", "n1", fault.Peers, cut},
		{"unless it is one way", []fulcrum.Fault{{Kind: "link", From: "n1", To: "n2", Drop: true, OneWay: true}}, "n2", "n1", fault.Peers, fault.Effect{}},
		{"then only forth", []fulcrum.Fault{{Kind: "link", From: "n1", To: "n2", Drop: true, OneWay: true}}, "n1", "n2", fault.Peers, cut},
		{"a gossip fault spares peers", []fulcrum.Fault{{Kind: "isolate", Node: "n1", Only: "gossip"}}, "n1", "n2", fault.Peers, fault.Effect{}},
		{"and hits gossip", []fulcrum.Fault{{Kind: "isolate", Node: "n1", Only: "gossip"}}, "n1", "n2", fault.Gossip, cut},
		{"losing everything is a cut", []fulcrum.Fault{{Kind: "link", From: "n1", To: "n2", Loss: 1}}, "n1", "n2", fault.Peers, fault.Effect{Drop: true, Loss: 1}},
		{"delays and jitters add, losses combine, the slower rate holds", []fulcrum.Fault{
			{Kind: "link", From: "n1", To: "n2", Delay: ms(10), Jitter: ms(1), Loss: 0.5, Rate: 1000},
			{Kind: "link", From: "n2", To: "n1", Delay: ms(20), Jitter: ms(2), Loss: 0.5, Rate: 500},
			{Kind: "link", From: "n2", To: "n3", Delay: ms(40)},
		}, "n1", "n2", fault.Peers, fault.Effect{Delay: 30 * time.Millisecond, Jitter: 3 * time.Millisecond, Loss: 0.75, Rate: 500}},
		{"drop wins over delay", []fulcrum.Fault{{Kind: "link", From: "n1", To: "n2", Delay: ms(10)}, partition, {Kind: "isolate", Node: "n2"}},
			"n1", "n2", fault.Peers, fault.Effect{Drop: true, Delay: 10 * time.Millisecond}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, set(t, tc.faults...).Link(tc.from, tc.to, tc.layer)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestClockAndDisk(t *testing.T) {
	s := set(t,
		fulcrum.Fault{Kind: "clock", Node: "n3", Skew: fulcrum.Duration(30 * time.Second)},
		fulcrum.Fault{Kind: "clock", Node: "n3", Skew: fulcrum.Duration(-10 * time.Second)},
		fulcrum.Fault{Kind: "disk", Node: "n2", Stall: ms(5000)},
		fulcrum.Fault{Kind: "disk", Node: "n2", Full: true})
	if got := s.Skew("n3"); got != 20*time.Second {
		t.Errorf("Skew(n3) = %v, want 20s", got)
	}
	if got := s.Skew("n1"); got != 0 {
		t.Errorf("Skew(n1) = %v, want 0", got)
	}
	if got, want := s.Disk("n2"), (fault.DiskEffect{Stall: 5 * time.Second, Full: true}); got != want {
		t.Errorf("Disk(n2) = %+v, want %+v", got, want)
	}
	if got := s.Disk("n3"); !got.None() {
		t.Errorf("Disk(n3) = %+v, want none", got)
	}
	s.Heal(nil)
	if s.Skew("n3") != 0 || !s.Disk("n2").None() || s.Broken() {
		t.Error("something is still broken after healing all")
	}
}

func TestAddRefuses(t *testing.T) {
	tests := []struct {
		name string
		f    fulcrum.Fault
		says string
	}{
		{"an unknown kind, and lists those there are", fulcrum.Fault{Kind: "meteor"}, "partition, isolate, link, clock, disk"},
		{"no kind", fulcrum.Fault{}, "want one of"},
		{"a partition without sides", fulcrum.Fault{Kind: "partition"}, "needs sides"},
		{"a partition with one side", fulcrum.Fault{Kind: "partition", Sides: [][]fulcrum.NodeID{{"n1"}}}, "at least two sides"},
		{"an empty side", fulcrum.Fault{Kind: "partition", Sides: [][]fulcrum.NodeID{{"n1"}, {}}}, "side 2 is empty"},
		{"a node on both sides", fulcrum.Fault{Kind: "partition", Sides: [][]fulcrum.NodeID{{"n1"}, {"n1"}}}, "n1 is named twice"},
		{"isolating nobody", fulcrum.Fault{Kind: "isolate"}, "needs node"},
		{"a link without an end", fulcrum.Fault{Kind: "link", From: "n1", Drop: true}, "needs to"},
		{"a link to itself", fulcrum.Fault{Kind: "link", From: "n1", To: "n1", Drop: true}, "always reaches itself"},
		{"a link that is not broken", fulcrum.Fault{Kind: "link", From: "n1", To: "n2"}, "at least one of drop, delay, jitter, loss, rate"},
		{"drop with delay", fulcrum.Fault{Kind: "link", From: "n1", To: "n2", Drop: true, Delay: ms(1)}, "drop lets nothing through"},
		{"a loss above 1", fulcrum.Fault{Kind: "link", From: "n1", To: "n2", Loss: 5}, "want 0 to 1"},
		{"a loss that is no number", fulcrum.Fault{Kind: "link", From: "n1", To: "n2", Loss: math.NaN()}, "want 0 to 1"},
		{"a negative delay", fulcrum.Fault{Kind: "link", From: "n1", To: "n2", Delay: ms(-1)}, "delay -1ms"},
		{"an endless delay", fulcrum.Fault{Kind: "link", From: "n1", To: "n2", Delay: math.MaxInt64}, "want 0 to 1h"},
		{"a negative rate", fulcrum.Fault{Kind: "link", From: "n1", To: "n2", Rate: -1}, "rate -1"},
		{"an unknown layer", fulcrum.Fault{Kind: "isolate", Node: "n1", Only: "http"}, "want peers, gossip"},
		{"a clock that is right", fulcrum.Fault{Kind: "clock", Node: "n1"}, "needs skew"},
		{"a clock that loses packets", fulcrum.Fault{Kind: "clock", Node: "n1", Skew: ms(1), Loss: 0.5}, "loss has no meaning here (allowed: node, skew)"},
		{"a skew of centuries", fulcrum.Fault{Kind: "clock", Node: "n1", Skew: math.MinInt64}, "skew"},
		{"a healthy disk", fulcrum.Fault{Kind: "disk", Node: "n1"}, "at least one of stall, full, fail"},
		{"a name that is no name", fulcrum.Fault{Kind: "isolate", Node: "n 1"}, `"n 1"`},
		{"an id that is no id", fulcrum.Fault{ID: "a/b", Kind: "isolate", Node: "n1"}, `"a/b"`},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := fault.NewSet()
			err := s.Add(tc.f, noon)
			if !errors.Is(err, fulcrum.ErrInvalid) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("Add = %v, want invalid, saying %q", err, tc.says)
			}
			if s.Broken() {
				t.Error("what was refused is active")
			}
		})
	}
}

func TestValidateNamesUnknownNodes(t *testing.T) {
	known := []fulcrum.NodeID{"n1", "n2"}
	f := fulcrum.Fault{Kind: "partition", Sides: [][]fulcrum.NodeID{{"n1", "n8"}, {"n9"}}}
	err := fault.Validate(f, known)
	if !errors.Is(err, fulcrum.ErrInvalid) || !strings.Contains(err.Error(), "no node named n8, n9 (known: n1, n2)") {
		t.Errorf("Validate = %v, want it to name n8 and n9 and list n1, n2", err)
	}
	if err := fault.Validate(f, nil); err != nil {
		t.Errorf("Validate without known nodes = %v", err)
	}
	if err := fault.Validate(fulcrum.Fault{Kind: "isolate", Node: "n2"}, known); err != nil {
		t.Errorf("Validate of a known node = %v", err)
	}
}

func TestIDs(t *testing.T) {
	s := set(t, fulcrum.Fault{ID: "isolate-1", Kind: "isolate", Node: "n1"}, fulcrum.Fault{Kind: "isolate", Node: "n2"})
	if err := s.Add(fulcrum.Fault{ID: "isolate-1", Kind: "isolate", Node: "n3"}, noon); !errors.Is(err, fulcrum.ErrExists) {
		t.Errorf("Add of an id in use = %v, want exists", err)
	}
	list := s.List()
	if len(list) != 2 || list[1].ID == "" || list[1].ID == list[0].ID || !list[1].Since.Equal(noon) {
		t.Errorf("List = %+v, want two with different ids, since noon", list)
	}
	if healed := s.Heal([]string{"isolate-1", "unknown"}); len(healed) != 1 || healed[0].Node != "n1" {
		t.Errorf("Heal = %+v, want n1's", healed)
	}
	if healed := s.Heal([]string{}); len(healed) != 0 || !s.Cut("n2", "n3", fault.Peers) {
		t.Errorf("healing no ids healed %+v", healed)
	}
	want := map[string]int{"partition": 0, "isolate": 1, "link": 0, "clock": 0, "disk": 0}
	if diff := cmp.Diff(want, s.Active()); diff != "" {
		t.Error(diff)
	}
}

func TestSetIsBounded(t *testing.T) {
	s := fault.NewSet()
	for range fault.MaxActive {
		if err := s.Add(fulcrum.Fault{Kind: "isolate", Node: "n1"}, noon); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Add(fulcrum.Fault{Kind: "isolate", Node: "n1"}, noon); !errors.Is(err, fulcrum.ErrOverloaded) {
		t.Errorf("one more = %v, want overloaded", err)
	}
}

func TestChangedFires(t *testing.T) {
	s := fault.NewSet()
	fired := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	c := s.Changed()
	s.Heal(nil)
	if fired(c) {
		t.Error("healing nothing is no change")
	}
	if err := s.Add(fulcrum.Fault{ID: "x", Kind: "isolate", Node: "n1"}, noon); err != nil {
		t.Fatal(err)
	}
	if !fired(c) || fired(s.Changed()) {
		t.Error("want one change by Add, and none since")
	}
	c = s.Changed()
	s.Heal([]string{"x"})
	if !fired(c) {
		t.Error("healing is a change")
	}
}

// A caller that keeps or changes the slices it gave or got changes nothing.
func TestSetKeepsItsOwnCopy(t *testing.T) {
	sides := [][]fulcrum.NodeID{{"n1"}, {"n2"}}
	s := set(t, fulcrum.Fault{Kind: "partition", Sides: sides})
	sides[0][0] = "n9"
	s.List()[0].Sides[0][0] = "n8"
	if got := s.List()[0].Sides[0][0]; got != "n1" {
		t.Errorf("side 1 is now %s", got)
	}
}

// Whatever is added and healed, in whatever order: when all is healed nothing is
// broken, and order does not matter to what a link suffers.
func TestComposition(t *testing.T) {
	node := rapid.SampledFrom([]fulcrum.NodeID{"n1", "n2", "n3", "n4"})
	link := rapid.Custom(func(t *rapid.T) fulcrum.Fault {
		return fulcrum.Fault{
			Kind: "link", From: node.Draw(t, "from"), To: node.Draw(t, "to"),
			OneWay: rapid.Bool().Draw(t, "oneway"),
			Delay:  fulcrum.Duration(rapid.IntRange(1, 1e9).Draw(t, "delay")),
			Rate:   rapid.Int64Range(0, 1e6).Draw(t, "rate"),
			Only:   rapid.SampledFrom([]string{"", "peers", "gossip"}).Draw(t, "only"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		faults := rapid.SliceOfN(link.Filter(func(f fulcrum.Fault) bool { return f.From != f.To }), 0, 8).Draw(t, "faults")
		forth, back := fault.NewSet(), fault.NewSet()
		for i := range faults {
			if err := errors.Join(forth.Add(faults[i], noon), back.Add(faults[len(faults)-1-i], noon)); err != nil {
				t.Fatal(err)
			}
		}
		from, to := node.Draw(t, "asked from"), node.Draw(t, "asked to")
		e := forth.Link(from, to, fault.Peers)
		if diff := cmp.Diff(e, back.Link(from, to, fault.Peers)); diff != "" {
			t.Fatalf("order matters: %s", diff)
		}
		if from == to && !e.None() {
			t.Fatalf("%s does not reach itself: %+v", from, e)
		}
		forth.Heal(nil)
		if !forth.Link(from, to, fault.Peers).None() || len(forth.List()) != 0 {
			t.Fatal("something is left after healing all")
		}
	})
}

func BenchmarkLinkWhenNothingIsBroken(b *testing.B) {
	s := fault.NewSet()
	for b.Loop() {
		if !s.Link("n1", "n2", fault.Peers).None() {
			b.Fatal("broken")
		}
	}
}

// Each fault that a message meets counts, by kind, and no other.
func TestHits(t *testing.T) {
	type id = fulcrum.NodeID
	s := set(t,
		fulcrum.Fault{Kind: "partition", Sides: [][]id{{"n1"}, {"n2"}}, Only: "peers"},
		fulcrum.Fault{Kind: "isolate", Node: "n1"},
		fulcrum.Fault{Kind: "link", From: "n3", To: "n2", Drop: true, OneWay: true},
	)
	s.HitLink("n1", "n2", fault.Peers)
	s.HitLink("n2", "n1", fault.Gossip)
	s.HitLink("n3", "n2", fault.Peers)
	s.HitLink("n2", "n3", fault.Peers) // the way that is not broken
	s.HitLink("n1", "n1", fault.Peers)
	s.Hit("disk")
	s.Hit("earthquake")
	want := map[string]uint64{"partition": 1, "isolate": 2, "link": 1, "clock": 0, "disk": 1}
	if diff := cmp.Diff(want, s.Hits()); diff != "" {
		t.Error(diff)
	}
	s.Heal(nil)
	s.HitLink("n1", "n2", fault.Peers)
	if diff := cmp.Diff(want, s.Hits()); diff != "" {
		t.Errorf("after healing: %s", diff)
	}
}
