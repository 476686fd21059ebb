package raft_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

var linearizable = consistency.L(consistency.Linearizable)

// readAll is read with everything that the reply says.
func readAll(c *replicationtest.Cluster, at fulcrum.NodeID, key string, level consistency.Level, min replication.Position) (string, replication.Outcome, error) {
	ctx, cancel := within(5 * time.Second)
	defer cancel()
	r, err := c.Group(at).Read(ctx, replication.ReadRequest{Keys: [][]byte{[]byte(key)}, Level: level, Min: min})
	if err != nil {
		return "", replication.Outcome{}, err
	}
	return string(r.Entries[0].Value), r.Outcome, nil
}

// count counts the messages of some kinds from now on.
func count(c *replicationtest.Cluster, kinds ...byte) *int {
	n := new(int)
	c.Net.OnCall(func(_, _ fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
		if slices.Contains(kinds, msg[0]) {
			*n++
		}
		return v
	})
	return n
}

// The leader tells nobody of a commit before the next entry: a follower learns it with
// the answer to its question, or would answer nothing.
func TestAnyReplicaAnswersLinearizably(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		for i := range 30 {
			want := fmt.Sprint(i)
			mustPut(t, c, a, "k", want)
			c.Net.OnCall(func(from, _ fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
				v.Drop = raft.IsHeartbeat(msg) // they would tell, too
				return v
			})
			at := c.IDs[i%3]
			got, out, err := readAll(c, at, "k", linearizable, replication.Position{})
			if err != nil || got != want {
				t.Fatalf("%s (leader %s) answers %q, %v; want %q", at, a, got, err, want)
			}
			if out.Given != linearizable || out.Leader != a || out.Acks < 2 || out.Needed != 2 || out.Staleness != 0 || out.ClockBound != 0 {
				t.Fatalf("%s says %+v", at, out)
			}
			ctx, cancel := within(time.Second)
			rep, err := c.Group(at).Scan(ctx, replication.ScanRequest{Level: linearizable})
			cancel()
			if err != nil || len(rep.Entries) != 1 || string(rep.Entries[0].Value) != want {
				t.Fatalf("a scan on %s: %v, %v", at, rep.Entries, err)
			}
			c.Net.OnCall(nil)
		}
	})
}

// No-ops are committed, but never reach a machine: nobody may wait for one.
func TestReadsWaitForCommandsOnly(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		everywhere := func(what, want string) {
			t.Helper()
			for _, id := range c.IDs {
				if got, err := read(c, id, "k", linearizable); err != nil || got != want {
					t.Errorf("%s: %s answers %q, %v", what, id, got, err)
				}
			}
		}
		a := leader(t, c)
		everywhere("before any write", "")
		mustPut(t, c, a, "k", "v")
		for range 3 {
			ctx, cancel := within(5 * time.Second)
			if err := c.Group(leader(t, c)).HandOver(ctx); err != nil {
				t.Fatal(err)
			}
			cancel()
			l := leader(t, c)
			if s := c.Group(l).Status(); s.LastIndex <= s.Applied {
				t.Fatalf("the log ends at %d, the machine at %d: want a no-op between", s.LastIndex, s.Applied)
			}
			everywhere("after a no-op", "v")
		}
		c.Restart(others(c, leader(t, c))[0])
		time.Sleep(time.Second)
		everywhere("after a restart", "v")
	})
}

// A follower on the side of a deposed leader must not take its word.
func TestFollowerOfADeposedLeader(t *testing.T) {
	cluster(t, 5, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		o := others(c, a)
		f, rest := o[0], o[1:]
		mustPut(t, c, a, "k", "old")
		time.Sleep(time.Second) // until all logs are equal
		if got, err := read(c, f, "k", linearizable); err != nil || got != "old" {
			t.Fatalf("%s answers %q, %v", f, got, err)
		}
		synctest.Wait()
		for _, id := range rest {
			c.Net.Cut(a, id)
			c.Net.Cut(f, id)
		}
		usurp(t, c.Net, rest[1], rest[0])
		time.Sleep(20 * time.Millisecond)
		mustPut(t, c, rest[0], "k", "new")
		if !c.Group(a).Status().IsLeader || c.Group(f).Status().Leader != a {
			t.Fatal("want a leader of an older term with a follower now")
		}
		for range 20 {
			for _, at := range []fulcrum.NodeID{f, a} {
				for _, level := range []consistency.Level{linearizable, consistency.L(consistency.Lease)} {
					ctx, cancel := within(30 * time.Millisecond)
					r, err := c.Group(at).Read(ctx, replication.ReadRequest{Keys: [][]byte{[]byte("k")}, Level: level})
					cancel()
					if err == nil {
						t.Fatalf("%s served %q at %s", at, r.Entries[0].Value, level)
					}
				}
			}
		}
	})
}

// A read that comes in while a question is under way is not for that question: its
// answer may be older than the read.
func TestQuestionBeginsAfterTheRead(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		f := others(c, a)[0]
		mustPut(t, c, a, "k", "old")
		if got, err := read(c, f, "k", linearizable); err != nil || got != "old" {
			t.Fatalf("%q, %v", got, err)
		}
		held := make(chan struct{})
		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			if from == f && msg[0] == raft.MsgReadIndex {
				v.HoldReply = held
			}
			v.Drop = from == a && to == f && msg[0] == raft.MsgAppend
			return v
		})
		ask := func() chan string {
			out := make(chan string, 1)
			go func() {
				got, err := read(c, f, "k", linearizable)
				if err != nil {
					got = "refused"
				}
				out <- got
			}()
			synctest.Wait()
			return out
		}
		first := ask()
		mustPut(t, c, a, "k", "new")
		second := ask()
		close(held)
		if got := <-second; got != "refused" {
			t.Errorf("a read that began after the write got %q; the follower lacks the write", got)
		}
		<-first // may be old: it began before the write
	})
}

// stalled is a State whose Apply waits while the gate is closed.
type stalled struct {
	replication.State
	gate *chan struct{}
}

func (s stalled) Apply(index uint64, entries []fulcrum.Entry, extra map[string][]byte) error {
	if gate := *s.gate; gate != nil {
		<-gate
	}
	return s.State.Apply(index, entries, extra)
}

// A follower applies a write, and shows it, before the leader's machine does. Then no
// later read may miss it, least of all the leader's own.
func TestLeaderDoesNotFallBehindWhatAFollowerShowed(t *testing.T) {
	for _, level := range []consistency.Level{linearizable, consistency.L(consistency.Lease)} {
		t.Run(level.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gates := map[fulcrum.NodeID]*chan struct{}{}
				c := replicationtest.NewCluster(t, 3, opener(raft.Tuning{}), replicationtest.Options{Edit: func(env *replication.Env) {
					gates[env.Node] = new(chan struct{})
					env.State = stalled{env.State, gates[env.Node]}
				}})
				defer c.Close()
				a := leader(t, c)
				f := others(c, a)[0]
				mustPut(t, c, a, "k", "old")
				if got, err := read(c, a, "k", level); err != nil || got != "old" {
					t.Fatalf("%q, %v", got, err)
				}
				gate := make(chan struct{})
				*gates[a] = gate
				written := make(chan error, 1)
				go func() {
					ctx, cancel := within(5 * time.Second)
					defer cancel()
					_, err := c.Group(a).Write(ctx, put("k", "new"))
					written <- err
				}()
				synctest.Wait()
				if got, err := read(c, f, "k", linearizable); err != nil || got != "new" {
					t.Fatalf("the follower shows %q, %v: want the write that its leader has not applied", got, err)
				}
				later := make(chan string, 1)
				go func() {
					got, err := read(c, a, "k", level)
					if err != nil {
						got = err.Error()
					}
					later <- got
				}()
				time.Sleep(50 * time.Millisecond)
				*gates[a] = nil
				close(gate)
				if got := <-later; got != "new" {
					t.Errorf("the leader answered %q after a follower had shown the write", got)
				}
				if err := <-written; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestReadsOnAFollowerShareQuestions(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		f := others(c, a)[0]
		mustPut(t, c, a, "k", "v")
		c.Net.Latency(5 * time.Millisecond)
		asked := count(c, raft.MsgReadIndex)
		const reads = 500
		done := make(chan error, reads)
		for range reads {
			go func() {
				got, err := read(c, f, "k", linearizable)
				if err == nil && got != "v" {
					err = errors.New("got " + got)
				}
				done <- err
			}()
		}
		for range reads {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		c.Net.OnCall(nil)
		if *asked < 1 || *asked > 5 {
			t.Errorf("%d reads at once took %d questions, want a handful", reads, *asked)
		}
	})
}

// Who cannot be confirmed sends the read to the leader that it knows.
func TestFollowerThatHearsNothingRefuses(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		f := others(c, a)[0]
		mustPut(t, c, a, "k", "v")
		c.Net.Isolate(f)
		for range 2 { // the second one need not ask
			_, err := read(c, f, "k", linearizable)
			var fe *fulcrum.Error
			if !errors.As(err, &fe) || fe.Code != fulcrum.CodeNotLeader || fe.Hint != string(a) {
				t.Fatalf("a follower that is cut off: %v, want not-leader with hint %s", err, a)
			}
		}
		time.Sleep(3 * time.Second) // it knows no leader any more
		if _, err := read(c, f, "k", linearizable); !errors.Is(err, fulcrum.ErrNotLeader) {
			t.Fatalf("%v, want not-leader", err)
		}
		c.Net.Heal()
		leader(t, c)
		time.Sleep(3 * time.Second) // until its log has caught up
		if got, err := read(c, f, "k", linearizable); err != nil || got != "v" {
			t.Errorf("after healing: %q, %v", got, err)
		}
	})
}

// Once a fence is committed the next epoch may take writes. A follower that has not
// heard of it must not answer reads of the old one.
func TestFollowerDoesNotReadPastTheFence(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		f := others(c, a)[0]
		mustPut(t, c, a, "k", "v")
		time.Sleep(time.Second)
		if _, err := read(c, f, "k", linearizable); err != nil {
			t.Fatal(err)
		}
		c.Net.OnCall(func(_, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			v.Drop = to == f && msg[0] == raft.MsgAppend
			return v
		})
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		if _, err := c.Group(a).Fence(ctx); err != nil {
			t.Fatal(err)
		}
		if got, err := read(c, f, "k", linearizable); err == nil {
			t.Errorf("a follower that has not seen the fence answered %q", got)
		}
		c.Net.OnCall(nil)
		leader(t, c)
		time.Sleep(3 * time.Second) // until its log has caught up
		for _, id := range c.IDs {
			for _, level := range []consistency.Level{linearizable, consistency.L(consistency.Lease), {Kind: consistency.Bounded, Bound: time.Minute}} {
				if _, err := read(c, id, "k", level); !errors.Is(err, fulcrum.ErrEpoch) && !errors.Is(err, fulcrum.ErrNotLeader) {
					t.Errorf("%s at %s behind the fence: %v, want epoch or not-leader", level, id, err)
				}
			}
		}
	})
}

func boundedBy(d time.Duration) consistency.Level {
	return consistency.Level{Kind: consistency.Bounded, Bound: d}
}

// A replica answers within the bound of its last proof without a call, says how old
// that is, and refuses when it has no proof any more.
func TestBoundedReadsAreProvedOrRefused(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		f := others(c, a)[0]
		mustPut(t, c, a, "k", "old")
		got, out, err := readAll(c, f, "k", boundedBy(time.Second), replication.Position{})
		if err != nil || got != "old" || out.Staleness != 0 || out.Needed != 2 {
			t.Fatalf("the first bounded read: %q, %+v, %v; want one like a linearizable read", got, out, err)
		}
		if got, out, err = readAll(c, a, "k", boundedBy(time.Second), replication.Position{}); err != nil || got != "old" || out.Needed != 2 {
			t.Fatalf("the leader's first bounded read: %q, %+v, %v; it cannot rest on when the follower asked", got, out, err)
		}
		proved := time.Now()
		c.Net.Isolate(f)
		mustPut(t, c, a, "k", "new")
		acked := time.Now()
		asked := count(c, raft.MsgReadIndex, raft.MsgConfirm)
		time.Sleep(300 * time.Millisecond)
		got, out, err = readAll(c, f, "k", boundedBy(time.Second), replication.Position{})
		if err != nil || got != "old" || out.Given != boundedBy(time.Second) || out.Acks != 1 || out.Leader != a {
			t.Fatalf("within the bound: %q, %+v, %v", got, out, err)
		}
		if missed := time.Since(acked); out.Staleness < missed || out.Staleness < time.Since(proved) {
			t.Errorf("the receipt says %s, but the answer missed a write for %s", out.Staleness, missed)
		}
		got, out, err = readAll(c, a, "k", boundedBy(time.Second), replication.Position{})
		if err != nil || got != "new" || out.Staleness <= 0 || out.Staleness > time.Second {
			t.Errorf("on the leader: %q, %+v, %v", got, out, err)
		}
		if *asked != 0 {
			t.Errorf("%d questions were asked within the bound, want none", *asked)
		}
		if _, err := read(c, f, "k", boundedBy(200*time.Millisecond)); !errors.Is(err, fulcrum.ErrNotLeader) {
			t.Errorf("a smaller bound than the proof's age: %v, want not-leader", err)
		}
		time.Sleep(time.Second)
		if got, err := read(c, f, "k", boundedBy(time.Second)); !errors.Is(err, fulcrum.ErrNotLeader) {
			t.Errorf("without a proof: %q, %v, want not-leader", got, err)
		}
		c.Net.Heal()
		leader(t, c)
		time.Sleep(3 * time.Second) // until its log has caught up
		if got, err := read(c, f, "k", boundedBy(time.Second)); err != nil || got != "new" {
			t.Errorf("after healing: %q, %v", got, err)
		}
	})
}

// A proof is old, but the session has seen more: the answer must not go behind it.
func TestBoundedReadsKeepTheSession(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		f := others(c, a)[0]
		mustPut(t, c, a, "k", "old")
		if _, err := read(c, f, "k", boundedBy(time.Minute)); err != nil {
			t.Fatal(err)
		}
		c.Net.Isolate(f)
		mark := mustPut(t, c, a, "k", "new").Outcome.Position
		if got, out, err := readAll(c, f, "k", boundedBy(time.Minute), mark); err == nil {
			t.Errorf("a session that wrote at %d got %q, at %d", mark.Index, got, out.Position.Index)
		}
		if got, _, err := readAll(c, f, "k", boundedBy(time.Minute), replication.Position{}); err != nil || got != "old" {
			t.Errorf("without a session: %q, %v", got, err)
		}
	})
}

// The term of a position is that of who answered, which says nothing of what it has applied: one
// that asked for an election nobody heard of is ahead of the leader in term, and behind it
// in the log. So within an epoch the index alone says how much a session has seen.
func TestAReplicaBehindMayBeAheadInTerm(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		f := others(c, a)[0]
		mustPut(t, c, a, "k", "old")
		time.Sleep(time.Second)
		c.Net.Isolate(f)
		ctx, cancel := within(time.Second)
		defer cancel()
		if _, err := c.Group(f).Handle(ctx, a, raft.TimeoutNow()); err != nil { // a hand-over that fails: its leader goes on
			t.Fatal(err)
		}
		got, stale, err := readAll(c, f, "k", consistency.L(consistency.Session), replication.Position{})
		if err != nil || got != "old" {
			t.Fatalf("%q, %v", got, err)
		}
		written := mustPut(t, c, a, "k", "new").Outcome
		if stale.Position.Term <= written.Position.Term || stale.Position.Index >= written.Position.Index {
			t.Errorf("the replica that is cut off answers at %+v, the leader at %+v", stale.Position, written.Position)
		}
		if got, _, err := readAll(c, f, "k", consistency.L(consistency.Session), written.Position); err == nil {
			t.Errorf("who is behind the session answers %q", got)
		}
	})
}
