package workload

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

func setup(modes ...consistency.Mode) Setup {
	lin := consistency.L(consistency.Linearizable)
	return Setup{Modes: modes, Write: lin, Read: lin, Nodes: []fulcrum.NodeID{"n1", "n2", "n3"}, Keyspace: "ks", Clients: 4, Seed: 7}
}

// play lets every client make n operations, in turn, and tells it that each was done.
func play(s Setup, work Work, n int, each func(client int, step Step)) {
	sources := make([]Source, s.Clients)
	for i := range sources {
		sources[i] = work.Source(i)
	}
	for k := range n {
		for i, src := range sources {
			step := src.Next()
			each(i, step)
			src.Done(history.Op{F: step.F, Elements: answersTo(step), Key: step.Key, Value: step.Value, Found: true, Version: fulcrum.Version{Time: uint64(k*s.Clients + i + 1)}, Outcome: history.OK})
		}
	}
}

// answersTo are results for a transaction of which all was done and nothing stood there.
func answersTo(step Step) (out []history.Element) {
	if body, err := history.ParseTxn(step.Value); step.F == history.Txn && err == nil {
		out = make([]history.Element, len(body.Then))
	}
	return out
}

func offered() (out []Workload) {
	for _, w := range List() {
		if w.Later == "" {
			out = append(out, w)
		}
	}
	return out
}

// A read must name the write that it saw, and the final reads must leave out nothing.
func TestValuesAreUniqueAndAllKeysAreReadInTheEnd(t *testing.T) {
	for _, w := range offered() {
		t.Run(w.Name, func(t *testing.T) {
			s := setup(consistency.Raft)
			if err := w.Fits(s); err != nil {
				t.Fatal(err)
			}
			work := w.New(s)
			values, written, done := map[string]bool{}, map[string]bool{}, map[history.F]int{}
			play(s, work, 1000, func(_ int, step Step) {
				done[step.F]++
				if step.Node == "" || step.Key == "" {
					t.Fatalf("%+v names no node or no key", step)
				}
				if step.F == history.Txn {
					step = namedBy(t, step)
				}
				if !step.F.Mutates() {
					return
				}
				written[step.Key] = true
				if step.F == history.Delete || step.F == history.Incr {
					return
				}
				if step.Value == "" || values[step.Value] {
					t.Fatalf("%s of %q writes %q a second time", step.F, step.Key, step.Value)
				}
				values[step.Value] = true
			})
			if len(written) < 2 {
				t.Fatalf("only %d keys: %v", len(written), done)
			}
			final := work.Final()
			for key := range written {
				covered := w.Name == "watch" && strings.HasPrefix(key, expiryPrefix) // it goes: what the watches tell of that is judged
				for _, rq := range final {
					covered = covered || rq.F == history.Read && rq.Key == key || rq.F == history.Scan && strings.HasPrefix(key, rq.Key)
				}
				if !covered {
					t.Errorf("key %q is not read in the end", key)
				}
			}
		})
	}
}

// namedBy is what a transaction does to the log of its group: an append of its name; a
// read, if it writes nothing.
func namedBy(t *testing.T, step Step) Step {
	t.Helper()
	body, err := history.ParseTxn(step.Value)
	if err != nil || body.String() != step.Value {
		t.Fatalf("transaction %q: %v", step.Value, err)
	}
	out := Step{Request: Request{F: history.Read, Node: step.Node, Key: step.Key + txnLog}}
	for _, o := range append(body.Then, body.Else...) {
		if o.Kind == history.TxnAppend && o.Key == txnLog {
			out.F, out.Value = history.Append, o.Value
		}
	}
	if body.Writes() != (out.F == history.Append) {
		t.Fatalf("%q: the log does not say that it writes", step.Value)
	}
	return out
}

// Something must be there at the end that nodes can agree on, however far their clocks jump.
func TestSomeKeysLastWhereOthersExpire(t *testing.T) {
	s := setup(consistency.Raft)
	expires := map[string]bool{} // by key: whether any of its writes does
	play(s, newTTL(s), 1000, func(_ int, step Step) {
		if step.F == history.Write {
			expires[step.Key] = expires[step.Key] || step.TTL > 0
		}
	})
	last := slices.DeleteFunc(slices.Collect(maps.Keys(expires)), func(key string) bool { return expires[key] })
	if len(last) == 0 || len(expires) < 3*len(last) {
		t.Errorf("of %d keys %d do not expire", len(expires), len(last))
	}
}

func TestQuorumModeIsSparedWhatItRefuses(t *testing.T) {
	for _, w := range offered() {
		s := setup(consistency.Raft, consistency.Quorum)
		if err := w.Fits(s); (w.Atomic || w.Raft) != errors.Is(err, fulcrum.ErrInvalid) {
			t.Errorf("%s: %v", w.Name, err)
		}
		if w.Atomic || w.Raft {
			continue
		}
		play(s, w.New(s), 500, func(_ int, step Step) {
			if step.F == history.Txn || step.F == history.CAS || step.F == history.Incr || step.F == history.Append {
				t.Fatalf("%s: %s in a run that has quorum mode", w.Name, step.F)
			}
		})
	}
}

// Sessions of two clients never mix: each is one line of operations.
func TestASessionBelongsToOneClient(t *testing.T) {
	s, owner, nodes := setup(consistency.Raft), map[int]int{}, map[int]map[fulcrum.NodeID]bool{}
	w, err := Find("session")
	if err != nil {
		t.Fatal(err)
	}
	play(s, w.New(s), 500, func(client int, step Step) {
		if o, known := owner[step.Session]; step.Session == 0 || known && o != client {
			t.Fatalf("session %d is of client %d and of %d", step.Session, o, client)
		}
		owner[step.Session] = client
		if nodes[step.Session] == nil {
			nodes[step.Session] = map[fulcrum.NodeID]bool{}
		}
		nodes[step.Session][step.Node] = true
	})
	if len(owner) < 2*s.Clients {
		t.Errorf("%d sessions of %d clients: they never end", len(owner), s.Clients)
	}
	hopping := 0
	for _, n := range nodes {
		if len(n) > 1 {
			hopping++
		}
	}
	if hopping < len(nodes)/2 {
		t.Errorf("%d of %d sessions go to more than one node", hopping, len(nodes))
	}
}

func TestAKeyIsReplacedAfterItsShare(t *testing.T) {
	k := newKeys("k", 2, 3)
	var got []string
	for range 7 {
		got = append(got, k.take(1))
	}
	if want := "k1-0 k1-0 k1-0 k1-1 k1-1 k1-1 k1-2"; strings.Join(got, " ") != want {
		t.Errorf("keys %v, want %s", got, want)
	}
	if all := strings.Join(k.all(), " "); all != "k0-0 k1-0 k1-1 k1-2" {
		t.Errorf("all keys: %s", all)
	}
}

func TestFindListsWhatThereIs(t *testing.T) {
	_, err := Find("registers")
	if err == nil || !errors.Is(err, fulcrum.ErrInvalid) || !strings.Contains(err.Error(), "register, set") {
		t.Errorf("error %v", err)
	}
}
