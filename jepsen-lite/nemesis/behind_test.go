package nemesis_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
)

// The replica must still lack what it missed when the leader goes: the cut comes
// before it hears the leader again, and what is cut is the leader.
func TestTheLaggardIsBehindWhenTheLeaderGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(3)
		cuts := 0
		f.seen = func(f *fake) {
			link, isolated := one(f, "link"), one(f, "isolate")
			switch {
			case link != nil && (link.From != "n1" || link.To == "n1" || !link.OneWay || !link.Drop):
				t.Errorf("not the way from the leader to another: %+v", *link)
			case isolated != nil && isolated.Node != "n1":
				t.Errorf("%s is alone and n1 leads", isolated.Node)
			case isolated != nil && link != nil:
				cuts++
			}
		}
		p := plan(t, f, 1, time.Minute, "partition-laggard")
		run(t, t.Context(), p, f)
		if cuts != len(p.Steps) {
			t.Errorf("the leader of %d steps was cut off %d times while a replica was behind", len(p.Steps), cuts)
		}
	})
}

// A switch without a replica, once it was away long enough to miss something.
func TestASwitchComesWhileAReplicaIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(3)
		var began time.Time
		switches, early := 0, 0
		f.seen = func(f *fake) {
			switch last := f.log[len(f.log)-1]; {
			case strings.HasPrefix(last, "inject"):
				began = time.Now()
			case strings.HasPrefix(last, "switch"):
				if switches++; one(f, "partition") == nil || time.Since(began) < 300*time.Millisecond {
					t.Errorf("a switch %v after the cut, with %d faults", time.Since(began), len(f.faults))
				}
			case last == "heal" && strings.HasPrefix(f.log[len(f.log)-2], "switch") && time.Since(began) < 2100*time.Millisecond:
				early++
			}
		}
		p := plan(t, f, 3, 5*time.Minute, "switch-behind")
		run(t, t.Context(), p, f)
		if switches != len(p.Steps) || early == 0 || early == switches {
			t.Errorf("%d switches in %d steps, after %d of which the replica was back at once", switches, len(p.Steps), early)
		}
	})
}

// A switch that nobody answered for has bitten when it comes late, and one that was refused
// has not.
func TestASwitchThatNobodyAnsweredForCounts(t *testing.T) {
	for _, tc := range []struct {
		name string
		bad  func(f *fake)
		hits int64
	}{
		{"late", func(f *fake) { f.late = true }, 1},
		{"never", func(f *fake) { f.failOn = failing("switch", context.DeadlineExceeded) }, 0},
		{"refused", func(f *fake) { f.failOn = failing("switch", fulcrum.ErrConflict) }, 0},
	} {
		for _, name := range []string{"switch", "switch-behind"} {
			t.Run(tc.name+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFake(3)
					tc.bad(f)
					p := plan(t, f, 3, time.Minute, name)
					for i := range p.Steps {
						p.Steps[i].For = p.Steps[i].Every + fulcrum.Duration(time.Second)
					}
					for _, e := range run(t, t.Context(), p, f).Events {
						if e.F == "stop" && (e.Hits != tc.hits || e.Hits == 0 && e.Value == "done") {
							t.Errorf("%d hits, %q, %s; want %d", e.Hits, e.Value, e.Error, tc.hits)
						}
					}
				})
			})
		}
	}
}

// failing fails what begins with a word.
func failing(word string, err error) func(what string) error {
	return func(what string) error {
		if strings.HasPrefix(what, word) {
			return err
		}
		return nil
	}
}

// one returns the fault of that kind, nil when there is none.
func one(f *fake, kind string) *fulcrum.Fault {
	for _, ft := range f.faults {
		if ft.Kind == kind {
			return &ft
		}
	}
	return nil
}
