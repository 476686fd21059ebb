package jepsen

import (
	"time"

	"fulcrum/consistency"
	"fulcrum/jepsen-lite/nemesis"
)

// rows is the suite as a table. Every nemesis meets every mode's strongest levels; the
// other workloads and levels meet those that are hardest on them.
func rows(quick bool) []row {
	out := strongest()
	out = append(out, others()...)
	out = append(out, anomalies()...)
	if !quick {
		out = append(out, everyLevel()...)
	}
	return out
}

// everyNemesis is all that a simulated cluster can suffer.
func everyNemesis() (out []string) {
	for _, n := range nemesis.List() {
		if !nemesis.Switches(n.Name) { // has rows of its own: the levels must fit all modes
			out = append(out, n.Name)
		}
	}
	return out
}

// together are faults that are worse than their sum: a network without delay hides how
// requests overtake each other, and a disk without delay what a crash cuts off.
func together() []string {
	return []string{"jitter,kill-one", "jitter,partition-leader", "jitter,pause-leader", "jitter,transfer", "jitter,clock-strobe", "disk-stall,kill-all", "delay,partition-flapping", "loss,kill-majority"}
}

func strongest() []row {
	lin := level(consistency.Linearizable)
	all := append(everyNemesis(), together()...)
	dense := []string{"jitter,partition-leader", "jitter,kill-minority", "delay,transfer"}
	return []row{
		{workload: "register", mode: consistency.Raft, write: level(consistency.QuorumOf), read: lin, nemeses: all},
		{workload: "register", mode: consistency.Quorum, write: lin, read: lin, nemeses: all},
		{workload: "register", mode: consistency.LeaderFollower, write: level(consistency.QuorumOf), read: lin, nemeses: all},
		{workload: "switch", mode: consistency.Raft, write: lin, read: lin, nemeses: []string{"switch", "switch,partition-halves", "switch,kill-one", "switch-behind"}},

		{workload: "register", mode: consistency.Raft, write: level(consistency.QuorumOf), read: lin, nemeses: dense, dense: true},
		{workload: "register", mode: consistency.Quorum, write: lin, read: lin, nemeses: dense, dense: true},
		{workload: "register", mode: consistency.LeaderFollower, write: level(consistency.QuorumOf), read: lin, nemeses: dense, dense: true},
		{workload: "switch", mode: consistency.Raft, write: lin, read: lin, nemeses: []string{"switch-behind,jitter", "switch,kill-all", "switch,partition-leader,jitter"}, dense: true},
	}
}

// bounded is how stale the staleness workload's answers may be.
const bounded = 2 * time.Second

func others() []row {
	const (
		raft, quorum, lf = consistency.Raft, consistency.Quorum, consistency.LeaderFollower
	)
	q, lin, one := level(consistency.QuorumOf), level(consistency.Linearizable), level(consistency.One)
	session, prefix := level(consistency.Session), level(consistency.Prefix)
	within := consistency.Level{Kind: consistency.Bounded, Bound: bounded}
	return []row{
		{workload: "set", mode: raft, write: q, read: lin, nemeses: []string{"kill-all"}},
		{workload: "set", mode: quorum, write: q, read: q, nemeses: []string{"partition-halves"}},
		{workload: "set", mode: lf, write: q, read: lin, nemeses: []string{"kill-majority"}},
		{workload: "counter", mode: raft, write: q, read: lin, nemeses: []string{"partition-leader,delay"}},
		{workload: "counter", mode: lf, write: q, read: lin, nemeses: []string{"kill-one"}},
		{workload: "once", mode: raft, write: q, read: lin, nemeses: []string{"partition-leader,delay", "kill-one"}},
		{workload: "append", mode: raft, write: q, read: lin, nemeses: []string{"transfer", "kill-one"}},
		{workload: "append", mode: lf, write: q, read: lin, nemeses: []string{"partition-leader"}},
		{workload: "txn", mode: raft, write: q, read: lin, nemeses: []string{"partition-leader,jitter", "kill-all", "transfer"}},
		{workload: "txn", mode: raft, write: q, read: lin, nemeses: []string{"jitter,partition-leader"}, dense: true},
		{workload: "txn", mode: lf, write: q, read: lin, nemeses: []string{"partition-leader"}},
		{workload: "session", mode: raft, write: q, read: session, nemeses: []string{"partition-one", "kill-one"}},
		{workload: "session", mode: quorum, write: q, read: session, nemeses: []string{"partition-one"}},
		{workload: "session", mode: lf, write: q, read: session, nemeses: []string{"partition-leader"}},
		{workload: "staleness", mode: raft, write: q, read: within, nemeses: []string{"partition-one", "delay"}},
		{workload: "staleness", mode: lf, write: q, read: within, nemeses: []string{"partition-one", "clock-bump"}},
		{workload: "staleness", mode: raft, write: q, read: prefix, nemeses: []string{"partition-bridge"}},
		{workload: "delete", mode: quorum, write: q, read: q, nemeses: []string{"partition-one", "kill-one"}},
		{workload: "delete", mode: raft, write: q, read: lin, nemeses: []string{"disk-wipe"}},
		{workload: "converge", mode: quorum, write: one, read: one, nemeses: []string{"partition-halves,delay", "kill-all"}},
		{workload: "converge", mode: lf, write: one, read: one, nemeses: []string{"partition-leader"}},
		{workload: "durability", mode: raft, write: q, read: lin, nemeses: []string{"kill-all", "disk-torn"}},
		{workload: "durability", mode: quorum, write: q, read: q, nemeses: []string{"kill-all"}},
		{workload: "durability", mode: lf, write: q, read: lin, nemeses: []string{"kill-all"}},
		{workload: "watch", mode: raft, write: q, read: lin, nemeses: []string{"kill-one", "partition-leader", "rolling-restart", "kill-all", "jitter,pause-leader", "disk-wipe"}},
		{workload: "ttl", mode: raft, write: q, read: lin, nemeses: []string{"partition-leader", "clock-bump", "jitter,transfer"}},
		{workload: "ttl", mode: raft, write: q, read: lin, nemeses: []string{"jitter,partition-leader"}, dense: true},
		{workload: "register", mode: raft, write: q, read: level(consistency.Lease), nemeses: []string{"jitter,partition-leader", "jitter,transfer"}, dense: true},
		{workload: "ttl", mode: quorum, write: q, read: q, nemeses: []string{"kill-one"}},
		{workload: "ttl", mode: lf, write: q, read: lin, nemeses: []string{"pause-leader"}},
	}
}

// anomalies are weak levels, each of which must show what it gives up.
func anomalies() []row {
	q, one := level(consistency.QuorumOf), level(consistency.One)
	return []row{
		{workload: "staleness", mode: consistency.Quorum, write: one, read: one, nemeses: []string{"partition-halves"}, shows: "linearizable"},
		{workload: "staleness", mode: consistency.Raft, write: q, read: one, nemeses: []string{"partition-one"}, shows: "linearizable"},
		{workload: "durability", mode: consistency.LeaderFollower, write: one, read: level(consistency.Linearizable), nemeses: []string{"partition-leader"}, shows: "lost-writes"},
		{workload: "session", mode: consistency.Raft, write: q, read: level(consistency.Session), nemeses: []string{"partition-one"}, noTokens: true, shows: "session"},
	}
}

// everyLevel is what the table offers, each pair of levels once, under what is hardest.
func everyLevel() (out []row) {
	for _, m := range consistency.Modes {
		for _, w := range consistency.Offered(m, consistency.Write) {
			for _, r := range consistency.Offered(m, consistency.Read) {
				read := level(r)
				if r == consistency.Bounded {
					read.Bound = bounded
				}
				workload := "register"
				if r == consistency.Session {
					workload = "session"
				}
				out = append(out, row{workload: workload, mode: m, write: level(w), read: read, nemeses: []string{"combined"}})
			}
		}
	}
	return out
}
