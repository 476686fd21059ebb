package node

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
	"fulcrum/node/catalog"
	"fulcrum/node/fault"
	"fulcrum/replication"
)

// replica is a group of which only reading matters.
type replica struct {
	replication.Group // what no test calls
	read              func(ctx context.Context, call int) error

	mu    sync.Mutex
	calls int
}

func (r *replica) Read(ctx context.Context, req replication.ReadRequest) (replication.ReadReply, error) {
	r.mu.Lock()
	r.calls++
	call := r.calls
	r.mu.Unlock()
	if err := r.read(ctx, call); err != nil {
		return replication.ReadReply{}, err
	}
	var rep replication.ReadReply
	for _, k := range req.Keys {
		rep.Entries = append(rep.Entries, fulcrum.Entry{Key: k, Value: append([]byte("of "), k...), Version: fulcrum.Version{Time: 1}})
	}
	return rep, nil
}

func (r *replica) Scan(context.Context, replication.ScanRequest) (replication.ScanReply, error) {
	return replication.ScanReply{}, nil
}

func (r *replica) Handle(context.Context, fulcrum.NodeID, []byte) ([]byte, error) { return nil, nil }

func (r *replica) Changes(context.Context, replication.ChangesRequest) (replication.ChangesReply, error) {
	return replication.ChangesReply{}, nil
}

// reader is a node n1 with replicas of the four shards of keyspace k, in mode raft.
func reader(t *testing.T, read func(ctx context.Context, call int) error) *Node {
	t.Helper()
	n := coordinator("n1")
	n.opt.Now, n.faults = time.Now, fault.NewSet()
	settings, err := catalog.Check(fulcrum.KeyspaceSpec{Name: "k", Shards: 4, Replicas: 3}, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	commands := []catalog.Command{{CreateKeyspace: &catalog.CreateKeyspace{Spec: settings}}}
	for _, id := range []fulcrum.NodeID{"n3", "n2", "n1"} {
		commands = slices.Insert(commands, 0, catalog.Command{Register: &catalog.Node{Name: id, PeerAddr: string(id) + ":1", Incarnation: "x"}})
	}
	for i, c := range commands {
		b, err := catalog.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		if err, failed := n.machine.Apply(uint64(i+1), b).(error); failed {
			t.Fatal(err)
		}
	}
	n.machine.State().Groups(func(ref catalog.ShardRef) {
		n.host.groups[ref.Shard.Group] = &hosted{shard: ref.Shard.Group, epoch: ref.Shard.Epoch, group: &replica{read: read}}
	})
	return n
}

func someKeys(n int) (keys [][]byte) {
	for i := range n {
		keys = append(keys, fmt.Appendf(nil, "key %d", i))
	}
	return keys
}

func (n *Node) readAt(ctx context.Context, level consistency.Kind, keys [][]byte) ([]fulcrum.Entry, *operation, error) {
	op := &operation{n: n, call: api.Call{Keyspace: "k", Level: consistency.L(level)}, access: consistency.Read, began: time.Now()}
	entries, err := op.read(ctx, keys)
	return entries, op, err
}

func checkEntries(t *testing.T, keys [][]byte, entries []fulcrum.Entry, op *operation, err error) {
	t.Helper()
	if err != nil || len(entries) != len(keys) {
		t.Fatalf("%d entries for %d keys, error %v", len(entries), len(keys), err)
	}
	for i, k := range keys {
		if string(entries[i].Value) != "of "+string(k) {
			t.Errorf("%q is answered with %q", k, entries[i].Value)
		}
	}
	if op.parts != 4 || op.receipt.Acks != 0 || !op.receipt.Found {
		t.Errorf("%d parts in the receipt %+v", op.parts, op.receipt)
	}
}

// What replicas here answer at once is read one after another, without goroutines.
func TestReadsThatWaitForNobody(t *testing.T) {
	before := 0
	n := reader(t, func(context.Context, int) error {
		if now := runtime.NumGoroutine(); now > before {
			t.Errorf("%d goroutines, %d before", now, before)
		}
		return nil
	})
	keys := someKeys(64)
	before = runtime.NumGoroutine()
	entries, op, err := n.readAt(t.Context(), consistency.One, keys)
	checkEntries(t, keys, entries, op, err)
}

// What has to wait waits side by side: at a level that asks the leader from the
// beginning, and at level one once the replicas here have refused.
func TestReadsThatWaitDoSoTogether(t *testing.T) {
	for _, tt := range []struct {
		level consistency.Kind
		call  int // the one that waits
	}{{consistency.Linearizable, 1}, {consistency.One, 2}} {
		t.Run(tt.level.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var together sync.WaitGroup
			together.Add(4)
			all := make(chan struct{})
			go func() { together.Wait(); close(all) }()
			n := reader(t, func(ctx context.Context, call int) error {
				if call < tt.call {
					return &fulcrum.Error{Code: fulcrum.CodeEpoch}
				}
				together.Done()
				select {
				case <-all:
					return nil
				case <-ctx.Done():
					return fulcrum.Errorf(fulcrum.CodeInternal, "the other shards were not asked meanwhile")
				}
			})
			keys := someKeys(64)
			entries, op, err := n.readAt(ctx, tt.level, keys)
			checkEntries(t, keys, entries, op, err)
		})
	}
}

// A replica that stops does not wait for those who read. Its State may be empty by the time
// they look: a node wipes what was left behind when the shard went to its next epoch.
func TestAReadDoesNotOutliveItsReplica(t *testing.T) {
	for _, level := range []consistency.Kind{consistency.Linearizable, consistency.Session, consistency.One} {
		t.Run(level.String(), func(t *testing.T) {
			var n *Node
			var ref catalog.ShardRef
			n = reader(t, func(_ context.Context, call int) error {
				if call == 1 { // Run has returned, and the read goes on
					n.host.mu.Lock()
					defer n.host.mu.Unlock()
					hd := n.host.groups[ref.Shard.Group]
					hd.stopped.Store(true)
					n.host.groups[ref.Shard.Group] = &hosted{shard: hd.shard, epoch: hd.epoch, group: hd.group}
				}
				return nil
			})
			st := n.machine.State()
			keys := someKeys(1)
			ref, _ = st.Group(st.ShardOf(st.Keyspaces["k"], keys[0]).Group)
			replica := n.host.groups[ref.Shard.Group].group.(*replica)
			if _, _, err := n.readAt(t.Context(), level, keys); err != nil {
				t.Fatal(err)
			}
			if replica.calls != 2 {
				t.Errorf("the replica was asked %d times, want a second time, as it had stopped before it answered", replica.calls)
			}
			gone := &hosted{shard: ref.Shard.Group, epoch: ref.Shard.Epoch, group: replica}
			gone.stopped.Store(true)
			if _, err := gone.scan(t.Context(), n, replication.ScanRequest{}); !errors.Is(err, fulcrum.ErrEpoch) {
				t.Errorf("a scan of a replica that has stopped: %v", err)
			}
			if _, err := gone.handle(t.Context(), n, "n2", nil); !errors.Is(err, fulcrum.ErrEpoch) {
				t.Errorf("a message to a replica that has stopped: %v", err)
			}
			if _, err := gone.changes(t.Context(), n, replication.ChangesRequest{}); !errors.Is(err, fulcrum.ErrEpoch) {
				t.Errorf("a watch of a replica that has stopped: %v", err)
			}
		})
	}
}

// A session may ask for what the replica here has yet to apply.
func TestASessionIsNotReadInHaste(t *testing.T) {
	n := reader(t, func(context.Context, int) error { return nil })
	ref := n.machine.State().Keyspaces["k"].Shards[0]
	one := api.Call{Keyspace: "k", Level: consistency.L(consistency.One)}
	never := func(context.Context, catalog.ShardRef, consistency.Level, fulcrum.NodeID) error {
		t.Error("a replica was asked")
		return nil
	}
	op := &operation{n: n, call: one, access: consistency.Read, token: consistency.Marks{ref.Group: {Epoch: ref.Epoch, Index: 9}}}
	if err := op.tryShard(t.Context(), ref.Group, true, never); err != errLater {
		t.Errorf("got %v, want %v", err, errLater)
	}
	asked := false
	op = &operation{n: n, call: one, access: consistency.Read}
	if err := op.tryShard(t.Context(), ref.Group, true, func(context.Context, catalog.ShardRef, consistency.Level, fulcrum.NodeID) error {
		asked = true
		return nil
	}); err != nil || !asked {
		t.Errorf("without a session: asked %v, error %v", asked, err)
	}
}

// A replica that asked for an election which nobody heard of is ahead of the leader in term, and
// behind it in the log (raft: TestAReplicaBehindMayBeAheadInTerm). A session that has read there,
// and then writes, must see what it wrote.
func TestASessionSeesItsWriteAfterAReadAtAReplicaAheadInTerm(t *testing.T) {
	n := reader(t, nil)
	n.tokenKey = []byte("k")
	shard := n.machine.State().Keyspaces["k"].Shards[0]
	behind := replication.Outcome{Position: replication.Position{Term: 6, Index: 100}}
	written := replication.Outcome{Position: replication.Position{Term: 5, Index: 110}}
	for _, requests := range [][][]replication.Outcome{{{behind}, {written}}, {{behind, written}}, {{written}, {behind}}, {{written}, {behind, written}}} {
		var token consistency.Token
		for _, outcomes := range requests {
			op := &operation{n: n, call: api.Call{Keyspace: "k", Session: token}}
			if _, _, err := op.keyspace(); err != nil {
				t.Fatal(err)
			}
			for _, o := range outcomes {
				op.note(catalog.ShardRef{Shard: shard}, consistency.L(consistency.Session), o, nil)
			}
			op.session.Key = n.tokenKey
			token = op.session.Token()
		}
		op := &operation{n: n, call: api.Call{Keyspace: "k", Session: token}}
		if _, _, err := op.keyspace(); err != nil {
			t.Fatal(err)
		}
		if floor := op.floor(shard); floor.Index != written.Position.Index {
			t.Errorf("after %v a replica at %d may answer, and the session wrote at %d", requests, floor.Index, written.Position.Index)
		}
	}
}

// While a keyspace is switched its shards may be in two modes. The receipt of a request over
// several says what the weakest kept: its mode, the level there, and what was given.
func TestAReceiptOverTwoModesSaysWhatTheWeakerKept(t *testing.T) {
	n := coordinator("n1")
	n.opt.Now, n.faults = time.Now, fault.NewSet()
	linearizable, quorum := consistency.L(consistency.Linearizable), consistency.L(consistency.QuorumOf)
	raft := catalog.ShardRef{Shard: &catalog.Shard{Group: 1, Epoch: 1, Mode: consistency.Raft}}
	leaderless := catalog.ShardRef{Shard: &catalog.Shard{Group: 2, Epoch: 2, Mode: consistency.Quorum}}
	for _, tt := range []struct {
		name string
		note func(op *operation)
	}{
		{"the weaker last", func(op *operation) {
			op.note(raft, linearizable, replication.Outcome{Given: linearizable}, nil)
			op.note(leaderless, quorum, replication.Outcome{Given: quorum}, nil)
		}},
		{"the weaker first", func(op *operation) {
			op.note(leaderless, quorum, replication.Outcome{Given: quorum}, nil)
			op.note(raft, linearizable, replication.Outcome{Given: linearizable}, nil)
		}},
	} {
		op := &operation{n: n, access: consistency.Read}
		tt.note(op)
		if r := op.receipt; r.Mode != consistency.Quorum || r.Level != quorum || r.Given != quorum {
			t.Errorf("%s: mode %s, level %s, given %s; want quorum in mode quorum", tt.name, r.Mode, r.Level, r.Given)
		}
	}
}

func TestSplitPutsEachKeyToItsShard(t *testing.T) {
	n := reader(t, nil)
	st := n.machine.State()
	ks := st.Keyspaces["k"]
	for _, count := range []int{0, 1, 2, 7, 100} {
		keys := someKeys(count)
		seen := make([]int, count)
		for _, p := range split(st, ks, count, func(i int) []byte { return keys[i] }) {
			at := p.at
			if at == nil {
				for i := range keys {
					at = append(at, i)
				}
			}
			if !slices.IsSorted(at) || len(at) == 0 {
				t.Errorf("%d keys: shard %d has %v", count, p.group, at)
			}
			for _, i := range at {
				seen[i]++
				if st.ShardOf(ks, keys[i]).Group != p.group {
					t.Errorf("%d keys: %q is in another shard than %d", count, keys[i], p.group)
				}
			}
		}
		if slices.ContainsFunc(seen, func(n int) bool { return n != 1 }) {
			t.Errorf("%d keys: they come %v times", count, seen)
		}
	}
}

func TestRequestsCountInTheirSeries(t *testing.T) {
	n := reader(t, nil)
	n.opt.Registry = prometheus.NewRegistry()
	m := newMetrics(n)
	requests := []struct {
		keyspace, op string
		mode         consistency.Mode
		level        consistency.Kind
		err          error
	}{
		{"k", "read", consistency.Raft, consistency.One, nil},
		{"k", "write", consistency.Raft, consistency.One, nil},
		{"k", "read", consistency.Quorum, consistency.One, nil},
		{"k", "read", consistency.Raft, consistency.Linearizable, nil},
		{"k", "read", consistency.Raft, consistency.One, fulcrum.ErrUnavailable},
		{"made up", "read", consistency.Raft, consistency.One, nil},
		{"made up too", "read", consistency.Raft, consistency.One, nil},
	}
	for i, r := range requests {
		for range i + 1 {
			m.request(&consistency.Receipt{Keyspace: r.keyspace, Mode: r.mode, Level: consistency.L(r.level), Staleness: -1}, r.op, r.err)
		}
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.requests, m.duration)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var counts, observed []int
	for _, f := range families {
		for _, s := range f.Metric {
			if f.GetName() == "fulcrum_requests_total" {
				counts = append(counts, int(s.GetCounter().GetValue()))
			} else {
				observed = append(observed, int(s.GetHistogram().GetSampleCount()))
			}
		}
	}
	slices.Sort(counts)
	slices.Sort(observed)
	if want := []int{1, 2, 3, 4, 5, 13}; !slices.Equal(counts, want) {
		t.Errorf("requests are counted as %v, want %v", counts, want)
	}
	if want := []int{2, 3, 4, 6, 13}; !slices.Equal(observed, want) { // outcomes share a histogram
		t.Errorf("durations are counted as %v, want %v", observed, want)
	}
}
