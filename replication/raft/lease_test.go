package raft_test

import (
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

var leaseLevel = consistency.L(consistency.Lease)

func mustLease(t *testing.T, c *replicationtest.Cluster, at fulcrum.NodeID, want string) {
	t.Helper()
	for i := range 2 { // the first may take the round, the second rests on its lease
		got, out, err := readAll(c, at, "k", leaseLevel, replication.Position{})
		if err != nil || got != want || out.Given != leaseLevel {
			t.Fatalf("lease read on %s: %q, %+v, %v", at, got, out, err)
		}
		if i == 1 && (out.ClockBound <= 0 || out.Acks != 1 || out.Needed != 1 || out.Staleness != 0 || out.Leader != at) {
			t.Fatalf("the read rests on no lease: %+v", out)
		}
	}
}

func TestLeaseReadsTakeARoundALease(t *testing.T) {
	for _, n := range []int{1, 3} {
		cluster(t, n, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
			a := leader(t, c)
			mustPut(t, c, a, "k", "v")
			mustLease(t, c, a, "v")
			c.Net.Latency(5 * time.Millisecond)
			asked := count(c, raft.MsgConfirm)
			for range 500 { // for 5 s
				_, out, err := readAll(c, a, "k", leaseLevel, replication.Position{})
				if err != nil || out.ClockBound <= 0 {
					t.Fatalf("%+v, %v: want every read under the lease, which is renewed in time", out, err)
				}
				time.Sleep(10 * time.Millisecond)
			}
			if rounds := *asked / max(1, n-1); rounds > 25 {
				t.Errorf("500 reads in 5s took %d rounds", rounds)
			}
			time.Sleep(time.Second)
			*asked = 0
			time.Sleep(10 * time.Second)
			if *asked > 0 {
				t.Errorf("%d questions were asked while nobody read", *asked)
			}
			if _, out, err := readAll(c, a, "k", leaseLevel, replication.Position{}); err != nil || out.ClockBound != 0 {
				t.Errorf("a lease that nobody used still holds: %+v, %v", out, err)
			}
		})
	}
}

// Without a read at level lease nothing is promised: elections need no patience.
func TestOnlyLeaseReadsBindTheVoters(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		b, d := others(c, a)[0], others(c, a)[1]
		mustPut(t, c, a, "k", "v")
		time.Sleep(time.Second) // until all logs are equal
		if _, err := read(c, a, "k", linearizable); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c.Net.Cut(a, b) // the leader itself is not bound: it must not help
		usurp(t, c.Net, d, b)
		time.Sleep(20 * time.Millisecond)
		if !c.Group(b).Status().IsLeader {
			t.Error("a linearizable read has bound the voters")
		}
	})
}

// While a's lease holds, nobody is elected, whatever makes the others try; and once
// somebody is, a answers no more.
func TestNobodyElseLeadsWithinALease(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spare int // this one of the others gives no promise
	}{
		{"all have promised", -1}, {"the candidate has not promised", 0}, {"the candidate alone has promised", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
				a := leader(t, c)
				o := others(c, a)
				b, d := o[0], o[1]
				mustPut(t, c, a, "k", "old")
				time.Sleep(time.Second) // until all logs are equal
				c.Net.OnCall(func(_, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
					v.Drop = tc.spare >= 0 && to == o[tc.spare] && msg[0] == raft.MsgConfirm
					return v
				})
				mustLease(t, c, a, "old")
				began := time.Now()
				c.Net.Isolate(a)
				served := 0
				for !c.Group(b).Status().IsLeader && time.Since(began) < 5*time.Second {
					ctx, cancel := within(time.Second)
					_, _ = c.Net.Peers(d).Call(ctx, b, raft.TimeoutNow()) // may be refused
					cancel()
					time.Sleep(5 * time.Millisecond)
					ctx, cancel = within(5 * time.Millisecond)
					r, err := c.Group(a).Read(ctx, replication.ReadRequest{Keys: [][]byte{[]byte("k")}, Level: leaseLevel})
					cancel()
					if err != nil {
						continue
					}
					served++
					if r.Outcome.ClockBound <= 0 {
						t.Fatalf("a leader that is cut off answered without a lease: %+v", r.Outcome)
					}
					for _, id := range o {
						if c.Group(id).Status().IsLeader {
							t.Fatalf("%s leads while %s answers under its lease", id, a)
						}
					}
				}
				if served < 10 {
					t.Errorf("only %d reads were answered under the lease: too few to mean anything", served)
				}
				l := leader(t, c, b, d)
				mustPut(t, c, l, "k", "new")
				for range 20 {
					ctx, cancel := within(5 * time.Millisecond)
					if r, err := c.Group(a).Read(ctx, replication.ReadRequest{Keys: [][]byte{[]byte("k")}, Level: leaseLevel}); err == nil {
						t.Fatalf("the deposed leader served %q", r.Entries[0].Value)
					}
					cancel()
				}
			})
		})
	}
}

// A leader that hands over has given its lease up, and the voters let the heir pass.
func TestTransferGivesTheLeaseUp(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		b, d := others(c, a)[0], others(c, a)[1]
		mustPut(t, c, a, "k", "old")
		time.Sleep(time.Second)
		mustLease(t, c, a, "old")
		var heir fulcrum.NodeID
		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			if from == a && msg[0] == raft.MsgTimeoutNow {
				heir = to
			}
			v.Drop = to == a || from == a && msg[0] != raft.MsgTimeoutNow
			return v
		})
		synctest.Wait() // until no answer is under way
		handed := make(chan error, 1)
		go func() {
			ctx, cancel := within(5 * time.Second)
			defer cancel()
			handed <- c.Group(a).HandOver(ctx)
		}()
		synctest.Wait()
		time.Sleep(20 * time.Millisecond)
		if heir != b && heir != d || !c.Group(heir).Status().IsLeader {
			t.Fatalf("the heir %q does not lead: its voters were not let off their promises", heir)
		}
		if !c.Group(a).Status().IsLeader {
			t.Fatal("the old leader knows that it is deposed: this test means nothing")
		}
		mustPut(t, c, heir, "k", "new")
		ctx, cancel := within(50 * time.Millisecond)
		defer cancel()
		if r, err := c.Group(a).Read(ctx, replication.ReadRequest{Keys: [][]byte{[]byte("k")}, Level: leaseLevel}); err == nil {
			t.Errorf("the old leader served %q under a lease that it had given up", r.Entries[0].Value)
		}
		c.Net.OnCall(nil)
		<-handed
	})
}

// TimeoutNow that is on its way for long must not end a lease that is taken later.
func TestAnOldTransferDoesNotEndANewLease(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		mustPut(t, c, a, "k", "old")
		time.Sleep(time.Second)
		mustLease(t, c, a, "old")
		var late []byte
		var heir fulcrum.NodeID
		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			if from == a && msg[0] == raft.MsgTimeoutNow {
				late, heir, v.Drop = append([]byte(nil), msg...), to, true
			}
			return v
		})
		ctx, cancel := within(500 * time.Millisecond)
		_ = c.Group(a).HandOver(ctx) // fails: nobody hears of it
		cancel()
		time.Sleep(3 * time.Second)
		c.Net.OnCall(nil)
		synctest.Wait() // for what was sent before that
		if heir == "" {
			t.Fatal("no TimeoutNow was sent")
		}
		if l := leader(t, c); l != a {
			t.Fatalf("%s leads", l)
		}
		mustLease(t, c, a, "old")
		c.Net.Isolate(a)
		ctx, cancel = within(100 * time.Millisecond)
		defer cancel()
		by := others(c, a)[0]
		if by == heir {
			by = others(c, a)[1]
		}
		_, _ = c.Net.Peers(by).Call(ctx, heir, late)
		time.Sleep(50 * time.Millisecond)
		if c.Group(heir).Status().IsLeader {
			t.Error("a release of an earlier lease ended a promise for a later one")
		}
	})
}

// A voter that restarts has forgotten its promise, and elects nobody until it is over.
func TestARestartedVoterAbstains(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		b, d := others(c, a)[0], others(c, a)[1]
		mustPut(t, c, a, "k", "old")
		time.Sleep(time.Second)
		c.Net.OnCall(func(_, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			v.Drop = to == b && msg[0] == raft.MsgConfirm // only d promises
			return v
		})
		mustLease(t, c, a, "old")
		c.Net.Isolate(a)
		c.Restart(d)
		synctest.Wait()
		usurp(t, c.Net, d, b)
		time.Sleep(100 * time.Millisecond)
		got, out, err := readAll(c, a, "k", leaseLevel, replication.Position{})
		if err != nil || got != "old" || out.ClockBound <= 0 {
			t.Fatalf("%q, %+v, %v: the lease should hold for this test to mean anything", got, out, err)
		}
		if c.Group(b).Status().IsLeader {
			t.Errorf("%s was elected by a voter that had promised not to", b)
		}
		if l := leader(t, c, b, d); l == "" {
			t.Error("nobody was elected afterwards")
		}
	})
}
