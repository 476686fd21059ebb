package nemesis_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/nemesis"
)

// fake is a cluster that only remembers. Every injected fault hits once.
type fake struct {
	nodes  []fulcrum.NodeID
	leader fulcrum.NodeID
	cannot string // what it cannot do
	refuse bool   // a node with a flipped bit does not start
	dies   bool   // a node with a flipped bit ends a second after it was started
	lags   bool   // a node that is killed runs for a second longer
	late   bool   // who asks for a switch hears nothing, and it begins two seconds later

	mu        sync.Mutex
	down      map[fulcrum.NodeID]bool
	paused    map[fulcrum.NodeID]bool
	flipped   map[fulcrum.NodeID]bool
	faults    map[string]fulcrum.Fault
	duplicate float64
	mode      string
	hits      map[string]int64
	log       []string                // what was done, in order
	mostDown  int                     // at the same time
	seen      func(f *fake)           // called under mu after each change
	failOn    func(what string) error // what was asked for fails
}

func newFake(n int) *fake {
	f := &fake{leader: "n1", mode: "raft", down: map[fulcrum.NodeID]bool{}, paused: map[fulcrum.NodeID]bool{}, flipped: map[fulcrum.NodeID]bool{},
		faults: map[string]fulcrum.Fault{}, hits: map[string]int64{}}
	for i := range n {
		f.nodes = append(f.nodes, fulcrum.NodeID(fmt.Sprintf("n%d", i+1)))
	}
	return f
}

// do changes the fake and notes it.
func (f *fake) do(ctx context.Context, what string, change func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	f.log = append(f.log, what)
	if f.failOn != nil {
		if err := f.failOn(what); err != nil {
			return err
		}
	}
	err := change()
	f.mostDown = max(f.mostDown, len(f.down)+len(f.paused))
	if f.seen != nil {
		f.seen(f)
	}
	return err
}

func (f *fake) each(ctx context.Context, what string, nodes []fulcrum.NodeID, change func(n fulcrum.NodeID) error) error {
	sorted := slices.Sorted(slices.Values(nodes))
	return f.do(ctx, strings.TrimSpace(fmt.Sprint(what, sorted)), func() error {
		for _, n := range sorted {
			if err := change(n); err != nil {
				return fmt.Errorf("%s %s: %w", what, n, err)
			}
		}
		return nil
	})
}

func (f *fake) Nodes() []fulcrum.NodeID { return slices.Clone(f.nodes) }

func (f *fake) Can(what string) error {
	if what == f.cannot {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "this cluster cannot %s", what)
	}
	return nil
}

func (f *fake) Inject(ctx context.Context, ft fulcrum.Fault) error {
	return f.do(ctx, "inject "+ft.Kind, func() error {
		if _, ok := f.faults[ft.ID]; ok || ft.ID == "" {
			return fmt.Errorf("fault id %q is in use", ft.ID)
		}
		f.faults[ft.ID] = ft
		f.hits[ft.Kind]++
		return nil
	})
}

func (f *fake) Heal(ctx context.Context, ids ...string) error {
	return f.do(ctx, "heal", func() error {
		for id := range f.faults {
			if len(ids) == 0 || slices.Contains(ids, id) {
				delete(f.faults, id)
			}
		}
		return nil
	})
}

func (f *fake) stop(n fulcrum.NodeID) error {
	if f.down[n] || f.paused[n] {
		return fmt.Errorf("it does not run")
	}
	f.down[n] = true
	return nil
}

func (f *fake) Kill(ctx context.Context, nodes ...fulcrum.NodeID) error {
	if f.lags {
		killed := make(chan error, 1)
		time.AfterFunc(time.Second, func() { killed <- f.kill(context.Background(), nodes) })
		select {
		case err := <-killed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return f.kill(ctx, nodes)
}

func (f *fake) kill(ctx context.Context, nodes []fulcrum.NodeID) error {
	return f.each(ctx, "kill", nodes, func(n fulcrum.NodeID) error {
		f.hits["kill"]++
		return f.stop(n)
	})
}

func (f *fake) Stop(ctx context.Context, nodes ...fulcrum.NodeID) error {
	return f.each(ctx, "stop", nodes, f.stop)
}

func (f *fake) Start(ctx context.Context, nodes ...fulcrum.NodeID) error {
	return f.each(ctx, "start", nodes, func(n fulcrum.NodeID) error {
		switch {
		case !f.down[n]:
			return fmt.Errorf("it runs")
		case f.flipped[n] && f.refuse:
			return fmt.Errorf("checksum mismatch")
		case f.flipped[n] && f.dies:
			time.AfterFunc(time.Second, func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.down[n] = true
			})
		}
		delete(f.down, n)
		return nil
	})
}

func (f *fake) Running() []fulcrum.NodeID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.nodes), func(n fulcrum.NodeID) bool { return f.down[n] })
}

func (f *fake) Pause(ctx context.Context, nodes ...fulcrum.NodeID) error {
	return f.each(ctx, "pause", nodes, func(n fulcrum.NodeID) error {
		if f.down[n] {
			return fmt.Errorf("it does not run")
		}
		f.hits["pause"]++
		f.paused[n] = true
		return nil
	})
}

func (f *fake) Resume(ctx context.Context, nodes ...fulcrum.NodeID) error {
	return f.each(ctx, "resume", nodes, func(n fulcrum.NodeID) error {
		delete(f.paused, n)
		return nil
	})
}

func (f *fake) Damage(ctx context.Context, n fulcrum.NodeID, what nemesis.Damage, _ uint64) error {
	return f.do(ctx, string(what)+" "+string(n), func() error {
		if !f.down[n] {
			return fmt.Errorf("%s runs", n)
		}
		f.flipped[n] = what == nemesis.BitFlip
		f.hits["damage"]++
		return nil
	})
}

func (f *fake) Leader(context.Context, string) fulcrum.NodeID { return f.leader }

func (f *fake) Mode(ctx context.Context, _ string) (now, target string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mode, f.mode, ctx.Err()
}

func (f *fake) Switch(ctx context.Context, _, mode string) error {
	return f.do(ctx, "switch "+mode, func() error {
		change := func() {
			f.mode = mode
			f.hits["switch"]++
		}
		if !f.late {
			change()
			return nil
		}
		time.AfterFunc(2*time.Second, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			change()
		})
		return context.DeadlineExceeded
	})
}

func (f *fake) Duplicate(ctx context.Context, p float64) error {
	return f.do(ctx, "duplicate", func() error {
		if f.duplicate = p; p > 0 {
			f.hits["duplicate"]++
		}
		return nil
	})
}

func (f *fake) Hits(context.Context) map[string]int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.hits)
}

// broken says what is not as it should be.
func (f *fake) broken() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.down)+len(f.paused)+len(f.faults) == 0 && f.duplicate == 0 {
		return ""
	}
	return fmt.Sprintf("down %v, paused %v, faults %v, duplicate %v", f.down, f.paused, f.faults, f.duplicate)
}

// hears reports whether packets from one node reach another, by the faults alone.
func (f *fake) hears(to, from fulcrum.NodeID) bool {
	for _, ft := range f.faults {
		switch ft.Kind {
		case "isolate":
			if ft.Node == to || ft.Node == from {
				return false
			}
		case "link":
			if ft.Drop && (ft.From == from && ft.To == to || !ft.OneWay && ft.From == to && ft.To == from) {
				return false
			}
		case "partition":
			side := func(n fulcrum.NodeID) int {
				return slices.IndexFunc(ft.Sides, func(s []fulcrum.NodeID) bool { return slices.Contains(s, n) })
			}
			if a, b := side(to), side(from); a >= 0 && b >= 0 && a != b {
				return false
			}
		}
	}
	return true
}

// heard returns whom each node hears, itself included.
func (f *fake) heard() map[fulcrum.NodeID][]fulcrum.NodeID {
	out := map[fulcrum.NodeID][]fulcrum.NodeID{}
	for _, to := range f.nodes {
		for _, from := range f.nodes {
			if to == from || f.hears(to, from) {
				out[to] = append(out[to], from)
			}
		}
	}
	return out
}

var _ nemesis.Cluster = (*fake)(nil)
