package nemesis_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/nemesis"
)

func plan(t testing.TB, f *fake, seed uint64, long time.Duration, names ...string) *nemesis.Plan {
	t.Helper()
	p, err := nemesis.New(names, nemesis.Options{Rand: rand.New(rand.NewPCG(seed, 0)), Nodes: f.nodes, Keyspace: "ks", Duration: long, Can: f.Can})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// run carries a plan out in virtual time and returns its events.
func run(t *testing.T, ctx context.Context, p *nemesis.Plan, f *fake) *history.History {
	t.Helper()
	h, began := &history.History{}, time.Now()
	since := func() time.Duration { return time.Since(began) }
	if err := p.Run(ctx, f, since, func(e history.Event) { h.Events = append(h.Events, e) }); err != nil {
		t.Errorf("Run: %v", err)
	}
	if broken := f.broken(); broken != "" {
		t.Errorf("left behind: %s", broken)
	}
	return h
}

// every calls check with each nemesis that has steps, in virtual time.
func every(t *testing.T, check func(t *testing.T, name string)) {
	for _, n := range nemesis.List() {
		if n.Name == nemesis.None {
			continue
		}
		t.Run(n.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { check(t, n.Name) })
		})
	}
}

func TestEachNemesisActsIsSeenAndLeavesNothing(t *testing.T) {
	every(t, func(t *testing.T, name string) {
		f := newFake(5)
		h := run(t, t.Context(), plan(t, f, 1, 10*time.Minute, name), f)
		faults := h.Faults()
		if len(faults) < 5 {
			t.Errorf("%d faults in ten minutes, want at least 5: %v", len(faults), faults)
		}
		for _, ft := range faults {
			if ft.Hits <= 0 || ft.End <= ft.Start || ft.Value == "" {
				t.Errorf("not a fault that was seen to act and to end: %+v", ft)
			}
		}
		for _, e := range h.Events {
			if e.Error != "" {
				t.Errorf("%s %s: %s", e.F, e.Fault, e.Error)
			}
		}
	})
}

func TestNobodyElseIsHurt(t *testing.T) {
	for name, most := range map[string]int{
		"kill-one": 1, "kill-minority": 2, "kill-majority": 3, "kill-all": 5, "pause-one": 1, "pause-leader": 1, "pause-majority": 3,
		"rolling-restart": 1, "transfer": 1, "disk-torn": 1, "disk-bit-flip": 1, "disk-wipe": 1, "partition-halves": 0,
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(5)
			run(t, t.Context(), plan(t, f, 2, 5*time.Minute, name), f)
			if f.mostDown != most {
				t.Errorf("%s: %d nodes were down or paused at the same time, want %d", name, f.mostDown, most)
			}
		})
	}
}

func TestWhoHearsWhom(t *testing.T) {
	type heard = map[fulcrum.NodeID][]fulcrum.NodeID
	count := func(h heard) (counts []int) {
		for _, from := range h {
			counts = append(counts, len(from))
		}
		slices.Sort(counts)
		return counts
	}
	checks := map[string]func(n int, h heard) error{
		"partition-one": func(n int, h heard) error {
			if c := count(h); c[0] != 1 || c[1] != n-1 {
				return fmt.Errorf("want one node alone")
			}
			return nil
		},
		"partition-halves": func(n int, h heard) error {
			if c := count(h); c[0] != n/2 || c[n-1] != n-n/2 {
				return fmt.Errorf("want halves")
			}
			return nil
		},
		"partition-leader": func(n int, h heard) error {
			if len(h["n1"]) != 1 || len(h["n2"]) != n-1 {
				return fmt.Errorf("want n1, the leader, alone")
			}
			return nil
		},
		"partition-majorities-ring": func(n int, h heard) error {
			seen := map[string]bool{}
			for to, from := range h {
				if len(from) != n/2+1 || !slices.Contains(from, to) || seen[fmt.Sprint(from)] {
					return fmt.Errorf("%s hears %v: want majorities, no two the same", to, from)
				}
				seen[fmt.Sprint(from)] = true
			}
			return nil
		},
		"partition-bridge": func(n int, h heard) error {
			c := count(h)
			if c[n-1] != n || c[n-2] > n-n/2+1 || c[n-2] == n || c[0] < 2 {
				return fmt.Errorf("want one node that hears all, and two halves")
			}
			return nil
		},
		"partition-one-way": func(n int, h heard) error {
			c := count(h)
			if !(c[0] == n-1 && c[n-1] == n) && !(c[0] == 1 && c[1] == n) {
				return fmt.Errorf("want one node that is not heard, or that hears nobody")
			}
			return nil
		},
	}
	for name, check := range checks {
		for _, n := range []int{3, 4, 5, 6, 7} {
			synctest.Test(t, func(t *testing.T) {
				f, cuts := newFake(n), 0
				p := plan(t, f, uint64(n), 5*time.Minute, name)
				var want int
				f.seen = func(f *fake) {
					if len(f.faults) == 0 {
						want = 0
						return
					}
					if want++; want < len(p.Steps[cuts].Faults) { // not all of them are in yet
						return
					}
					if err := check(n, f.heard()); err != nil {
						t.Errorf("%s of %d: %v: %v", name, n, f.heard(), err)
					}
					if cuts < len(p.Steps)-1 {
						cuts++
					}
				}
				run(t, t.Context(), p, f)
				if cuts == 0 {
					t.Errorf("%s of %d: nothing was cut", name, n)
				}
			})
		}
	}
}

func TestTheLayerOfAGossipCut(t *testing.T) {
	for name, only := range map[string]string{"partition-gossip": "gossip", "partition-peers": "peers", "partition-halves": ""} {
		for _, s := range plan(t, newFake(4), 3, time.Minute, name).Steps {
			if len(s.Faults) != 1 || s.Faults[0].Only != only {
				t.Errorf("%s cuts %+v, want only %q", name, s.Faults, only)
			}
		}
	}
}

func TestASeedGivesThePlan(t *testing.T) {
	var names []string
	for _, n := range nemesis.List() {
		names = append(names, n.Name)
	}
	text := func(seed uint64) string {
		b, err := json.Marshal(plan(t, newFake(5), seed, time.Hour, names...))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if first, second := text(7), text(7); first != second {
		t.Error("one seed gave two plans")
	}
	if text(7) == text(8) {
		t.Error("two seeds gave the same plan")
	}
	p := plan(t, newFake(5), 7, time.Hour, names...)
	var again nemesis.Plan
	if err := json.Unmarshal([]byte(text(7)), &again); err != nil || again.String() != p.String() {
		t.Errorf("from JSON (%v) the plan is\n%swant\n%s", err, again.String(), p)
	}
	for _, want := range names {
		if want != nemesis.None && want != nemesis.Combined && !strings.Contains(p.String(), want) {
			t.Errorf("an hour of everything has no %s", want)
		}
	}
}

func TestRoundsKeepTheirTimes(t *testing.T) {
	f := newFake(5)
	p := plan(t, f, 9, time.Hour, nemesis.Combined)
	type round struct{ at, end fulcrum.Duration }
	rounds := map[round][]string{}
	var order []round
	for _, s := range p.Steps {
		r := round{s.At, s.At + s.For}
		if rounds[r] == nil {
			order = append(order, r)
		}
		rounds[r] = append(rounds[r], s.Name)
	}
	before := fulcrum.Duration(0)
	for _, r := range order {
		if names := rounds[r]; len(names) != 2 || names[0] == names[1] {
			t.Errorf("at %v: %v, want two at a time", time.Duration(r.at), names)
		}
		if r.at < before+fulcrum.Duration(3*time.Second) || r.end > fulcrum.Duration(time.Hour) {
			t.Errorf("from %v to %v, after %v: want 3s of quiet, and an end within the hour", time.Duration(r.at), time.Duration(r.end), time.Duration(before))
		}
		before = r.end
	}
}

func TestNamesComposeAsFarAsTheyGoTogether(t *testing.T) {
	p := plan(t, newFake(5), 4, time.Hour, "kill-one", "pause-one", "partition-halves", "clock-bump")
	at := map[fulcrum.Duration][]string{}
	for _, s := range p.Steps {
		at[s.At] = append(at[s.At], s.Name)
	}
	first := map[string]int{}
	for _, names := range at {
		if len(names) != 3 || names[0] != "partition-halves" || names[1] != "clock-bump" {
			t.Errorf("a round of %v, want the partition, the clock and one of the others", names)
		}
		first[names[2]]++
	}
	if d := first["kill-one"] - first["pause-one"]; d < -1 || d > 1 {
		t.Errorf("turns were taken as %v", first)
	}
}

func TestAnEndOfTheContextUndoesEverything(t *testing.T) {
	every(t, func(t *testing.T, name string) {
		for seed := range uint64(20) {
			f := newFake(5)
			p := plan(t, f, seed, time.Hour, name)
			rnd := rand.New(rand.NewPCG(seed, 1))
			within := time.Duration(p.Steps[0].At) + time.Duration(rnd.Int64N(int64(p.Steps[0].For)))
			ctx, cancel := context.WithTimeout(t.Context(), within)
			h := run(t, ctx, p, f)
			cancel()
			for _, ft := range h.Faults() {
				if ft.Hits < 0 {
					t.Errorf("seed %d: %s was not stopped", seed, ft.Name)
				}
			}
		}
	})
}

// A round that is late when the run ends does not begin its last steps, and what was then
// being set did not fail.
func TestARoundThatTheEndOverrunsHasNotFailed(t *testing.T) {
	for name, c := range map[string]struct {
		after time.Duration // of the round's begin
		slow  string        // what takes a second then
		want  []string
	}{
		"before the second step":   {100 * time.Millisecond, "", []string{"partition-halves"}},
		"while the first is set":   {100 * time.Millisecond, "inject", []string{"partition-halves"}},
		"while the second is done": {300 * time.Millisecond, "pause", []string{"partition-halves", "pause-one"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(3)
				p := plan(t, f, 3, 10*time.Minute, "pause-one", "partition-halves")
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(p.Steps[0].At)+c.after)
				defer cancel()
				f.failOn = func(what string) error {
					if c.slow == "" || !strings.HasPrefix(what, c.slow) || ctx.Err() != nil {
						return nil
					}
					time.Sleep(time.Second)
					return context.DeadlineExceeded
				}
				var begun []string
				h := run(t, ctx, p, f)
				for _, e := range h.Events {
					if e.F == "start" {
						begun = append(begun, e.Fault)
					}
					if e.Error != "" {
						t.Errorf("%s of %s failed: %s", e.F, e.Fault, e.Error)
					}
				}
				if !slices.Equal(begun, c.want) || len(h.Events) != 2*len(begun) {
					t.Errorf("begun was %v, want %v: %+v", begun, c.want, h.Events)
				}
			})
		})
	}
}

// The end of a run comes while nodes are being killed: they are not left dead.
func TestACrashIsNotGivenUpHalfWay(t *testing.T) {
	for _, name := range []string{"kill-all", "disk-bit-flip"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(3)
				f.lags = true
				p := plan(t, f, 3, 10*time.Minute, name)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(p.Steps[0].At)+300*time.Millisecond)
				defer cancel()
				run(t, ctx, p, f)
				time.Sleep(2 * time.Second)
				if f.hits["kill"] == 0 || f.broken() != "" {
					t.Errorf("%d were killed; left behind: %s", f.hits["kill"], f.broken())
				}
			})
		})
	}
}

func TestAStepThatFailsSaysSoAndTheRestGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(3)
		f.failOn = func(what string) error {
			if strings.HasPrefix(what, "pause") {
				return fmt.Errorf("no permission")
			}
			return nil
		}
		h := run(t, t.Context(), plan(t, f, 5, 10*time.Minute, "pause-one", "kill-one"), f)
		pauses, kills := 0, 0
		for _, e := range h.Events {
			switch {
			case e.F == "start" && e.Fault == "pause-one" && strings.Contains(e.Error, "no permission"):
				pauses++
			case e.F == "stop" && e.Fault == "pause-one" && e.Hits != 0:
				t.Errorf("a pause that did not happen has %d hits", e.Hits)
			case e.F == "stop" && e.Fault == "kill-one" && e.Error == "" && e.Hits == 1:
				kills++
			}
		}
		if pauses < 2 || kills < 2 {
			t.Errorf("%d failed pauses and %d kills: %+v", pauses, kills, h.Events)
		}
	})
}

func TestANodeThatRefusesItsDamagedDiskIsReplaced(t *testing.T) {
	for name, set := range map[string]func(*fake){
		"at once":      func(f *fake) { f.refuse = true },
		"a bit later":  func(f *fake) { f.dies = true },
		"or it is not": func(*fake) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(3)
				set(f)
				h := run(t, t.Context(), plan(t, f, 6, time.Minute, "disk-bit-flip"), f)
				wiped := slices.ContainsFunc(h.Events, func(e history.Event) bool { return strings.Contains(e.Value, "was wiped") })
				if want := name != "or it is not"; wiped != want {
					t.Errorf("wiped is %v, want %v: %+v", wiped, want, h.Events)
				}
			})
		})
	}
}

// A node that a failing disk took along is started again by whoever broke the disk.
func TestWhoEndsByItselfIsStartedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(3)
		f.seen = func(f *fake) {
			for _, ft := range f.faults {
				f.down[ft.Node] = true
			}
		}
		h := run(t, t.Context(), plan(t, f, 6, time.Minute, "disk-error"), f)
		if e := h.Events[1]; !strings.Contains(e.Value, "had ended and was started") {
			t.Errorf("the event does not say that a node was started: %+v", e)
		}
	})
}

func TestSwitchGoesRoundTheModes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(3)
		p, err := nemesis.New([]string{"switch"}, nemesis.Options{Rand: rand.New(rand.NewPCG(1, 1)), Nodes: f.nodes, Duration: 5 * time.Minute, Modes: []string{"raft", "leader-follower"}})
		if err != nil {
			t.Fatal(err)
		}
		run(t, t.Context(), p, f)
		for i, what := range f.log {
			if want := []string{"switch leader-follower", "switch raft"}[i%2]; what != want {
				t.Errorf("%d: %s, want %s", i, what, want)
			}
		}
	})
}

func TestMendEndsWhatAnybodyBroke(t *testing.T) {
	f := newFake(3)
	ctx := t.Context()
	for _, err := range []error{f.Inject(ctx, fulcrum.Fault{ID: "x", Kind: "isolate", Node: "n1"}), f.Pause(ctx, "n2"), f.Kill(ctx, "n3"), f.Duplicate(ctx, 0.5)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := new(nemesis.Plan).Mend(ctx, f); err != nil || f.broken() != "" {
		t.Errorf("Mend: %v, and left %s", err, f.broken())
	}
}

func TestWhatCannotBeIsRefused(t *testing.T) {
	tests := []struct {
		name    string
		nodes   int
		nemeses []string
		modes   []string
		want    string
	}{
		{"an unknown name", 3, []string{"earthquake"}, nil, "partition-bridge"},
		{"what the cluster cannot do", 3, []string{"none", "duplicate"}, nil, "this cluster cannot packets"},
		{"too few nodes", 2, []string{"partition-bridge"}, nil, "needs 3 nodes and there are 2"},
		{"nothing to switch to", 3, []string{"switch"}, []string{"raft"}, "at least two modes"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(tc.nodes)
			f.cannot = "packets"
			_, err := nemesis.New(tc.nemeses, nemesis.Options{Rand: rand.New(rand.NewPCG(1, 1)), Nodes: f.nodes, Duration: time.Minute, Modes: tc.modes, Can: f.Can})
			if e := fulcrum.AsError(err); e == nil || e.Code != fulcrum.CodeInvalid || !strings.Contains(e.Error(), tc.want) {
				t.Errorf("New = %v, want CodeInvalid with %q", err, tc.want)
			}
		})
	}
	if p := plan(t, newFake(1), 1, time.Minute, "none"); len(p.Steps) != 0 {
		t.Errorf("none has steps: %v", p)
	}
	if p := plan(t, newFake(3), 1, 3*time.Second, "kill-one"); len(p.Steps) != 1 {
		t.Errorf("a short run has the plan %q, want one step", p)
	}
}
