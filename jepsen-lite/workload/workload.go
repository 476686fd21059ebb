// Package workload is what clients do in a run: which operations, on which keys, in
// which order. Every written value is unique, so that a read names the write that it
// saw.
//
// Start reading at Workload and Find; each kind has a file of its own. A workload
// makes one Source a client; the runner asks it for the next operation and tells it
// what came of the last. All randomness comes from the seed of the run.
package workload

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// Setup is what a workload may know of the run.
type Setup struct {
	Modes       []consistency.Mode // the keyspace's, and those that it will be switched to
	Write, Read consistency.Level
	Nodes       []fulcrum.NodeID
	Keyspace    string
	Clients     int
	Seed        uint64
}

// Step is the next operation of a client. Request's keyspace, level and session token
// are filled in by the runner where they are empty.
type Step struct {
	Request
	Session int // operations of one session go one after the other; 0: none
}

// Source is what one client does. Only that client's goroutine calls it.
type Source interface {
	Next() Step
	Done(op history.Op) // what came of the last Next
}

// Work is one workload made ready for one run.
type Work interface {
	Source(client int) Source
	// Final lists what is read once all is mended, on every node, at the weakest level
	// (do the replicas agree?) and at the run's own (is what was acknowledged there?).
	// It is called after every Source has come to rest.
	Final() []Request
}

// Workload is one kind of work.
type Workload struct {
	Name   string
	About  string
	Raft   bool   // it needs what mode raft alone has
	Atomic bool   // it reads and writes in one step: not for quorum mode
	Later  string // why it cannot run yet; its place is kept
	make   func(Setup) Work
}

// Fits returns a *fulcrum.Error of CodeInvalid or CodeLevel that says why the workload
// cannot run in that setup.
func (w Workload) Fits(s Setup) error {
	if w.Later != "" {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "workload %s: %s", w.Name, w.Later)
	}
	for _, m := range s.Modes {
		if w.Atomic && m == consistency.Quorum {
			return fulcrum.Errorf(fulcrum.CodeInvalid, "workload %s reads and writes in one step, which mode %s refuses", w.Name, m).
				WithHint("use raft or leader-follower, or one of %s", strings.Join(names(func(o Workload) bool { return !o.Atomic && o.Later == "" }), ", "))
		}
		if w.Raft && m != consistency.Raft {
			return fulcrum.Errorf(fulcrum.CodeInvalid, "workload %s needs what mode %s does not have", w.Name, m).WithHint("use raft")
		}
		write, err := consistency.Lookup(m, consistency.Write, s.Write)
		if err != nil {
			return err
		}
		if w.Name == "txn" && write.Checker != consistency.CheckLinearizable {
			return fulcrum.Errorf(fulcrum.CodeLevel, "workload txn is judged where nothing acknowledged is lost, and mode %s writes less safely at %s", m, s.Write).
				WithHint("use --write-level quorum")
		}
		if _, err := consistency.Lookup(m, consistency.Read, s.Read); err != nil {
			return err
		}
	}
	return nil
}

// New makes the workload ready. Fits must have returned nil.
func (w Workload) New(s Setup) Work { return w.make(s) }

// List returns all workloads, those that are yet to come last.
func List() []Workload {
	const needsTxn = "not offered yet: txn judges transactions over the keys of one shard"
	return []Workload{
		{Name: "register", About: "reads, writes, compare-and-sets and deletes of a few keys", make: newRegister},
		{Name: "set", About: "adds elements, each once, and lists them; at the end on every node", make: newSet},
		{Name: "counter", About: "adds to a few counters and reads them", Atomic: true, make: newCounter},
		{Name: "once", About: "adds to a few counters under request ids, and asks again, elsewhere, when an outcome is unknown", Atomic: true, Raft: true, make: newOnce},
		{Name: "append", About: "appends to a few lists and reads them", Atomic: true, make: newAppend},
		{Name: "session", About: "clients that hop between nodes, with their session's token or without it", make: newSession},
		{Name: "staleness", About: "one writer a key and many readers: how old is what they see", make: newStaleness},
		{Name: "delete", About: "writes, deletes and writes again: nothing comes back from the dead", make: newDelete},
		{Name: "converge", About: "everybody writes and deletes the same few keys everywhere; at the end all replicas agree", make: newConverge},
		{Name: "durability", About: "writes, each to a key of its own, as fast as it goes; at the end all that was acknowledged is there", make: newDurability},
		{Name: "switch", About: "register and set while the keyspace's mode is changed back and forth", make: newSwitch},
		{Name: "ttl", About: "values that expire", make: newTTL},
		{Name: "watch", About: "watches that go from node to node while others write: ordered, unique, gap-free, whole", Raft: true, make: newWatch},
		{Name: "txn", About: "transactions on a few keys of one shard", Atomic: true, make: newTxn},
		{Name: "bank", About: "transfers between accounts", Later: needsTxn},
		{Name: "long-fork", About: "two reads that see two writes in opposite orders", Later: needsTxn},
		{Name: "reshard", About: "keys while shards are split and moved", Later: "not offered yet: it needs splits"},
	}
}

func names(keep func(Workload) bool) []string {
	var out []string
	for _, w := range List() {
		if keep(w) {
			out = append(out, w.Name)
		}
	}
	return out
}

// Find returns a workload by name; an unknown name gives an error that lists them.
func Find(name string) (Workload, error) {
	all := List()
	if i := slices.IndexFunc(all, func(w Workload) bool { return w.Name == name }); i >= 0 {
		return all[i], nil
	}
	return Workload{}, fulcrum.Errorf(fulcrum.CodeInvalid, "no workload %q", name).
		WithHint("there are: %s", strings.Join(names(func(Workload) bool { return true }), ", "))
}

// client is what all sources share: their own randomness and unique values.
type client struct {
	s     Setup
	id    int
	rand  *rand.Rand
	count int
}

// newClient makes the base of one source. Streams of different clients and workloads
// do not repeat each other.
func newClient(s Setup, id int) client {
	return client{s: s, id: id, rand: rand.New(rand.NewPCG(s.Seed, uint64(id)+1))}
}

// value is one that nobody else writes in this run.
func (c *client) value() string {
	c.count++
	return fmt.Sprintf("%d.%d", c.id, c.count)
}

func (c *client) node() fulcrum.NodeID { return c.s.Nodes[c.rand.IntN(len(c.s.Nodes))] }

// chance is true in percent of 100 cases.
func (c *client) chance(percent int) bool { return c.rand.IntN(100) < percent }

// ops draws one of several operations by weight.
func (c *client) draw(weights ...int) int {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	n := c.rand.IntN(sum)
	for i, w := range weights {
		if n < w {
			return i
		}
		n -= w
	}
	return len(weights) - 1
}

// seconds is a duration between two numbers of seconds, in whole milliseconds: a time to
// live is sent as so many, and what was not sent cannot be judged.
func (c *client) seconds(from, to float64) time.Duration {
	return time.Duration((from + c.rand.Float64()*(to-from)) * float64(time.Second)).Truncate(time.Millisecond)
}
