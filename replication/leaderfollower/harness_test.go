package leaderfollower

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/replicationtest"
)

const leaseFor = 3 * time.Second

// world plays the catalog: it keeps liveness leases and assigns leaderships as the
// node's controller does.
type world struct {
	*replicationtest.Cluster
	dir    string
	opt    Options
	hands  bool // no automatic promotion
	mu     sync.Mutex
	until  map[fulcrum.NodeID]time.Time
	silent map[fulcrum.NodeID]bool // does not renew
	term   uint64
	leader fulcrum.NodeID
	groups map[fulcrum.NodeID]*Group
	counts map[fulcrum.NodeID]*counter
	ready  chan struct{} // Cluster is set
}

type counter struct {
	replication.NoMetrics
	mu   sync.Mutex
	lost int
}

func (c *counter) LostAcknowledged(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost += n
}

func newWorld(tb testing.TB, n int, opt Options, hands bool) *world {
	return newWorldWith(tb, n, opt, hands, replicationtest.Options{})
}

func newWorldWith(tb testing.TB, n int, opt Options, hands bool, copt replicationtest.Options) *world {
	w := &world{opt: opt, hands: hands, term: 2, leader: "n1", dir: tb.TempDir(),
		until: map[fulcrum.NodeID]time.Time{}, silent: map[fulcrum.NodeID]bool{},
		groups: map[fulcrum.NodeID]*Group{}, counts: map[fulcrum.NodeID]*counter{}, ready: make(chan struct{})}
	copt.Govern = w.govern
	w.Cluster = replicationtest.NewCluster(tb, n, w.open, copt)
	close(w.ready)
	return w
}

func (w *world) open(env replication.Env) (replication.Group, error) {
	opt := w.opt
	opt.LostDir = w.dir
	opt.Lease = func() (time.Time, bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		until, ok := w.until[env.Node]
		return until, ok
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.counts[env.Node] == nil {
		w.counts[env.Node] = &counter{}
	}
	env.Metrics = w.counts[env.Node]
	g, err := Open(env, opt)
	if err != nil {
		return nil, err
	}
	w.groups[env.Node] = g
	w.until[env.Node] = time.Now().Add(leaseFor)
	g.Lead(w.term, w.leader)
	return g, nil
}

// reaches reports whether id can talk to a majority, so to the catalog.
func (w *world) reaches(id fulcrum.NodeID) bool {
	n := 1
	for _, other := range w.IDs {
		if other != id && w.Net.Reachable(id, other) && w.Net.Reachable(other, id) {
			n++
		}
	}
	return n > len(w.IDs)/2
}

// govern renews leases and promotes when the leader's has ended.
func (w *world) govern(ctx context.Context, _ *replicationtest.Cluster) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	<-w.ready
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.mu.Lock()
		for _, id := range w.Alive() {
			if !w.silent[id] && w.reaches(id) {
				w.until[id] = time.Now().Add(leaseFor)
			}
		}
		expired := !time.Now().Before(w.until[w.leader])
		w.mu.Unlock()
		if w.hands {
			continue
		}
		if expired {
			w.promote(ctx)
		} else {
			w.spread()
		}
	}
}

func (w *world) group(id fulcrum.NodeID) *Group {
	if w.Group(id) == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.groups[id]
}

// spread tells every replica that reaches the catalog who leads.
func (w *world) spread() {
	w.mu.Lock()
	term, leader := w.term, w.leader
	w.mu.Unlock()
	for _, id := range w.Alive() {
		if g := w.group(id); g != nil && w.reaches(id) {
			g.Lead(term, leader)
		}
	}
}

// promote collects promises from who reaches the catalog and assigns the longest.
func (w *world) promote(ctx context.Context) (fulcrum.NodeID, error) {
	w.mu.Lock()
	term := w.term + 1
	w.mu.Unlock()
	var best fulcrum.NodeID
	var longest Promise
	votes := 0
	for _, id := range w.Alive() {
		g := w.group(id)
		if g == nil || !w.reaches(id) {
			continue
		}
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		p, err := g.Promise(short, term)
		cancel()
		if err != nil {
			continue
		}
		if votes++; best == "" || longest.Less(p) {
			best, longest = id, p
		}
	}
	if votes <= len(w.IDs)/2 {
		return "", errors.New("no majority promises")
	}
	w.mu.Lock()
	w.term, w.leader = term, best
	w.mu.Unlock()
	w.spread()
	return best, nil
}

// who leads, as the catalog has it.
func (w *world) who() fulcrum.NodeID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leader
}

// silence stops the renewal of id's lease, renew prolongs it once.
func (w *world) silence(id fulcrum.NodeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent[id] = true
}

func (w *world) renew(id fulcrum.NodeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.until[id] = time.Now().Add(leaseFor)
}

func (w *world) lost(id fulcrum.NodeID) int {
	w.mu.Lock()
	c := w.counts[id]
	w.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// inWorld runs f over a new world in a bubble.
func inWorld(t *testing.T, n int, opt Options, hands bool, f func(t *testing.T, w *world)) {
	t.Helper()
	dirs := t // TempDir must outlive the bubble's cleanup order
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(dirs, n, opt, hands)
		defer w.Close()
		time.Sleep(300 * time.Millisecond)
		f(t, w)
	})
}

// inBrokenWorld is inWorld of three replicas whose Run may end with an error.
func inBrokenWorld(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	outer := t
	synctest.Test(t, func(t *testing.T) {
		w := newWorldWith(outer, 3, Options{}, true, replicationtest.Options{RunMayFail: true})
		defer w.Close()
		time.Sleep(300 * time.Millisecond)
		f(t, w)
	})
}

func put(k, v string, level consistency.Kind) replication.WriteRequest {
	return replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte(k), Value: []byte(v)}}, Level: consistency.L(level)}
}

func get(k string, level consistency.Level) replication.ReadRequest {
	return replication.ReadRequest{Keys: [][]byte{[]byte(k)}, Level: level}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func mustPut(t *testing.T, w *world, at fulcrum.NodeID, k, v string, level consistency.Kind) replication.WriteReply {
	t.Helper()
	r, err := w.Group(at).Write(within(t, 2*time.Second), put(k, v, level))
	if err != nil {
		t.Fatalf("put %s=%s at %s on %s: %v", k, v, consistency.L(level), at, err)
	}
	return r
}

func wantRead(t *testing.T, g replication.Group, k string, level consistency.Level, want string) {
	t.Helper()
	r, err := g.Read(within(t, 2*time.Second), get(k, level))
	if err != nil {
		t.Errorf("get %s at %s: %v", k, level, err)
		return
	}
	e := r.Entries[0]
	if got := string(e.Value); got != want || (want != "") != e.Live(time.Now().UnixMilli()) {
		t.Errorf("get %s at %s = %q, want %q", k, level, got, want)
	}
}

func wantCode(t *testing.T, what string, err error, codes ...fulcrum.Code) {
	t.Helper()
	for _, c := range codes {
		if errors.Is(err, &fulcrum.Error{Code: c}) {
			return
		}
	}
	t.Errorf("%s: got %v, want %v", what, err, codes)
}
