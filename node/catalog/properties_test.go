package catalog

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fulcrum"
	"fulcrum/consistency"
)

var start = time.UnixMilli(1_700_000_000_000).UTC()

// names that random commands draw from: few, so that they meet.
var (
	nodeNames     = []fulcrum.NodeID{"n1", "n2", "n3", "n4", "n5"}
	keyspaceNames = []string{"a", "b"}
	textKeys      = rapid.StringN(1, 6, 12)
)

// subset draws some of names, in their order.
func subset(rt *rapid.T, names []fulcrum.NodeID, label string) []fulcrum.NodeID {
	var out []fulcrum.NodeID
	for _, n := range names {
		if rapid.Bool().Draw(rt, label+" has "+string(n)) {
			out = append(out, n)
		}
	}
	return out
}

// draw makes a random command that a node of the state st could propose, from what
// it knows of it: now, or some time ago.
func draw(rt *rapid.T, st *State, at time.Time) Command {
	c := Command{At: at}
	var shards []*Shard
	for _, name := range st.Names() {
		shards = append(shards, st.Keyspaces[name].Shards...)
	}
	name := rapid.SampledFrom(nodeNames).Draw(rt, "node")
	keyspace := rapid.SampledFrom(keyspaceNames).Draw(rt, "keyspace")
	kinds := []string{"register", "create", "alter", "abort", "drop", "bump", "remove", "forget", "vote"}
	if len(shards) > 0 {
		kinds = append(kinds, "start", "start", "reconcile", "reconcile", "finish", "finish", "finish", "lead", "late", "damaged", "damaged", "learn", "learn")
	}
	kind := rapid.SampledFrom(kinds).Draw(rt, "kind")
	var sh *Shard
	if len(shards) > 0 {
		sh = rapid.SampledFrom(shards).Draw(rt, "shard")
	}
	at1 := func() ShardAt {
		back := rapid.SampledFrom([]fulcrum.Epoch{0, 0, 0, 1}).Draw(rt, "epochs ago")
		return ShardAt{sh.Group, sh.Epoch - min(back, sh.Epoch)}
	}
	mode := rapid.SampledFrom(consistency.Modes[:]).Draw(rt, "mode")
	switch kind {
	case "register":
		c.Register = &Node{Name: name, PeerAddr: string(name) + ":1", Incarnation: rapid.SampledFrom([]string{"x", "x", "x", "y"}).Draw(rt, "incarnation")}
	case "create":
		spec := fulcrum.KeyspaceSpec{Name: keyspace, Mode: mode.String(), Shards: rapid.IntRange(1, 3).Draw(rt, "shards"),
			ShardBy: rapid.SampledFrom([]string{"hash", "range"}).Draw(rt, "by"), Replicas: rapid.IntRange(1, 3).Draw(rt, "replicas")}
		settings, err := Check(spec, len(nodeNames), nil)
		if err != nil {
			rt.Fatal(err)
		}
		c.CreateKeyspace = &CreateKeyspace{Spec: settings}
	case "alter":
		c.AlterKeyspace = &AlterKeyspace{Name: keyspace, Mode: &mode}
	case "abort":
		c.AlterKeyspace = &AlterKeyspace{Name: keyspace, Abort: true}
	case "drop":
		c.DropKeyspace = &keyspace
	case "bump":
		c.Bump = &Bump{Node: name, From: st.Nodes[name].Liveness}
	case "remove":
		c.RemoveNode = &RemoveNode{Node: name}
	case "forget":
		c.RemoveNode = &RemoveNode{Node: name, Forget: true}
	case "start":
		c.StartChange = &StartChange{ShardAt: at1(), Mode: mode, Replicas: subset(rt, nodeNames, "next"), Learned: rapid.Bool().Draw(rt, "learned")}
	case "learn":
		c.SetLearners = &SetLearners{ShardAt: at1(), Learners: subset(rt, nodeNames, "learners")}
	case "reconcile":
		a := at1()
		c.Reconcile = &a
	case "finish":
		c.FinishChange = &FinishChange{ShardAt: at1(), Attempt: sh.Attempt, Settled: subset(rt, append(slices.Clone(sh.Replicas), sh.Learners...), "settled"), Leader: name, LeaderEpoch: st.Nodes[name].Liveness}
	case "lead":
		c.SetLeader = &SetLeader{ShardAt: at1(), Leader: name, Term: sh.Term + rapid.Uint64Range(0, 2).Draw(rt, "term"), LeaderEpoch: st.Nodes[name].Liveness}
	case "damaged":
		c.Damaged = &Damaged{ShardAt: at1(), Node: name, ID: rapid.SampledFrom([]string{"d1", "d2", "d3"}).Draw(rt, "damage")}
		c.At = at.Add(time.Duration(rapid.IntRange(0, 48).Draw(rt, "hours")) * time.Hour)
	case "vote":
		c.SetVoter = &SetVoter{Node: name, Incarnation: rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "incarnation")}
	case "late":
		c.Late = &Late{Group: sh.Group, Count: 1}
	}
	return c
}

// What must hold in every state.
func checkState(rt *rapid.T, st *State) {
	groups := map[fulcrum.GroupID]bool{}
	ids := map[uint32]bool{}
	actors := map[uint32]bool{}
	for _, name := range st.NodeNames() {
		n := st.Nodes[name]
		if n.Actor == 0 || n.Actor >= st.NextActor || actors[n.Actor] {
			rt.Errorf("node %s has actor %d of %d, or shares it", name, n.Actor, st.NextActor)
		}
		actors[n.Actor] = true
	}
	for name, ks := range st.Keyspaces {
		if ids[ks.ID] || ks.ID >= st.NextID {
			rt.Errorf("keyspace %s has number %d of %d, or shares it", name, ks.ID, st.NextID)
		}
		ids[ks.ID] = true
		checkCover(rt, st, ks)
		switching := ks.Switch != nil && ks.Switch.State == "running"
		if switching != (ks.Mode != ks.Target) {
			rt.Errorf("keyspace %s goes from %s to %s, its switch is %+v", name, ks.Mode, ks.Target, ks.Switch)
		}
		for _, sh := range ks.Shards {
			if groups[sh.Group] || sh.Group >= st.NextGroup || sh.Group == fulcrum.CatalogGroup {
				rt.Errorf("shard %d of %d, or twice", sh.Group, st.NextGroup)
			}
			groups[sh.Group] = true
			checkShard(rt, st, sh)
		}
	}
}

func checkShard(rt *rapid.T, st *State, sh *Shard) {
	if (sh.Phase == Active) != (sh.Next == nil) {
		rt.Errorf("shard %d is %s with next %+v", sh.Group, sh.Phase, sh.Next)
	}
	hosts := sh.Replicas
	if sh.Next != nil {
		hosts = append(slices.Clone(hosts), sh.Next.Replicas...)
		if len(sh.Next.Replicas) == 0 {
			rt.Errorf("shard %d changes to no replicas", sh.Group)
		}
	}
	if len(sh.Replicas) == 0 {
		rt.Errorf("shard %d has no replicas", sh.Group)
	}
	for _, id := range sh.Learners {
		if sh.Mode != consistency.Raft || sh.Hosts(id) {
			rt.Errorf("shard %d of %v in mode %s has the learner %s", sh.Group, sh.Replicas, sh.Mode, id)
		}
	}
	for _, id := range append(hosts, sh.Learners...) {
		if _, ok := st.Nodes[id]; !ok {
			rt.Errorf("shard %d has, or changes to, a replica on %s, which is no node", sh.Group, id)
		}
	}
	based := 0
	for _, id := range sh.Replicas {
		if slices.Contains(sh.Based, id) {
			based++
		}
	}
	if lacking := len(sh.Replicas) - based; lacking >= len(sh.Replicas)/2+1 {
		rt.Errorf("shard %d: a majority of %v lacks the starting point that %v have", sh.Group, sh.Replicas, sh.Based)
	}
	for _, id := range sh.Wiped {
		if !sh.Hosts(id) {
			rt.Errorf("shard %d was wiped on %s, where it is not", sh.Group, id)
		}
	}
	if sh.Leader != "" && (sh.Mode != consistency.LeaderFollower || !sh.Hosts(sh.Leader) || sh.Term < FirstTerm && sh.Term < 1) {
		rt.Errorf("shard %d in mode %s is led by %s with term %d", sh.Group, sh.Mode, sh.Leader, sh.Term)
	}
}

// Every token belongs to exactly one shard.
func checkCover(rt *rapid.T, st *State, ks *Keyspace) {
	if len(ks.Shards[0].Start) != 0 {
		rt.Errorf("the first shard of %s begins at %q", ks.Name, ks.Shards[0].Start)
	}
	for i, sh := range ks.Shards[1:] {
		if bytes.Compare(ks.Shards[i].Start, sh.Start) >= 0 {
			rt.Errorf("shards of %s begin at %q and %q", ks.Name, ks.Shards[i].Start, sh.Start)
		}
	}
	key := []byte(textKeys.Draw(rt, "key"))
	token := ks.Scheme.Token(key)
	sh := st.ShardOf(ks, key)
	i := slices.Index(ks.Shards, sh)
	if bytes.Compare(sh.Start, token) > 0 || i+1 < len(ks.Shards) && bytes.Compare(token, ks.Shards[i+1].Start) >= 0 {
		rt.Errorf("key %q with token %q is in the shard that begins at %q", key, token, sh.Start)
	}
}

// checkStep is what must hold between two states with one command between them.
func checkStep(rt *rapid.T, old, now *State, c Command) {
	old.Groups(func(was ShardRef) {
		is, ok := now.Group(was.Shard.Group)
		if !ok {
			if c.DropKeyspace == nil {
				rt.Errorf("shard %d is gone after %+v", was.Shard.Group, c)
			}
			return
		}
		a, b := was.Shard, is.Shard
		switch b.Epoch {
		case a.Epoch:
			if a.Mode != b.Mode || !slices.Equal(a.Replicas, b.Replicas) || !slices.Equal(a.Based, b.Based) {
				rt.Errorf("shard %d changed within epoch %d: %+v to %+v", a.Group, a.Epoch, a, b)
			}
			gone := c.Damaged != nil && c.Damaged.Node == a.Leader && b.Leader == "" && slices.Contains(b.Wiped, a.Leader)
			if b.Term < a.Term || b.Leader != a.Leader && b.Term == a.Term && !gone {
				rt.Errorf("shard %d: leader %s of term %d after %s of term %d", a.Group, b.Leader, b.Term, a.Leader, a.Term)
			}
		case a.Epoch + 1:
			if c.FinishChange == nil || a.Phase != Reconciling {
				rt.Errorf("shard %d entered epoch %d from %s after %+v", a.Group, b.Epoch, a.Phase, c)
			}
			for _, id := range b.Based {
				if slices.Contains(a.Wiped, id) || !a.Hosts(id) && !a.Learns(id) {
					rt.Errorf("shard %d: %s is based in epoch %d and was neither a replica of %v nor one of %v", a.Group, id, b.Epoch, a.Replicas, a.Learners)
				}
			}
			settled := 0
			for _, id := range a.Replicas {
				if slices.Contains(b.Based, id) && !slices.Contains(a.Wiped, id) {
					settled++
				}
			}
			if settled < len(a.Replicas)/2+1 {
				rt.Errorf("shard %d: %v is the basis of epoch %d, no majority of %v less %v", a.Group, b.Based, b.Epoch, a.Replicas, a.Wiped)
			}
		default:
			rt.Errorf("shard %d went from epoch %d to %d", a.Group, a.Epoch, b.Epoch)
		}
		if c.Damaged != nil && len(b.Wiped) > len(a.Wiped) && (len(b.Wiped) > 1 || len(b.Replicas)-1 < len(b.Replicas)/2+1 || b.Rebuilds[c.Damaged.Node].ID != c.Damaged.ID) {
			rt.Errorf("shard %d: damage made %v of %v wiped", a.Group, b.Wiped, b.Replicas)
		}
		gained := slices.DeleteFunc(append(slices.Clone(b.Replicas), nextOf(b)...), func(id fulcrum.NodeID) bool { return a.Hosts(id) || slices.Contains(nextOf(a), id) })
		for _, id := range gained {
			if old.Nodes[id].Removing {
				rt.Errorf("shard %d was given a replica on %s, which is being removed", a.Group, id)
			}
		}
	})
	for name, was := range old.Nodes {
		if is, ok := now.Nodes[name]; ok && is.Liveness < was.Liveness {
			rt.Errorf("the liveness epoch of %s fell from %d to %d", name, was.Liveness, is.Liveness)
		}
	}
}

func nextOf(sh *Shard) []fulcrum.NodeID {
	if sh.Next == nil {
		return nil
	}
	return sh.Next.Replicas
}

// Whatever commands come in whatever order, the catalog stays one that nodes can
// follow; all copies of it agree; and a copy made from a snapshot goes on alike.
func TestCatalogUnderRandomCommands(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		first, second := NewMachine(), NewMachine()
		known := first.State() // what proposers know: it may be old
		apply := func(index uint64, c Command) {
			cmd, err := Encode(c)
			if err != nil {
				rt.Fatal(err)
			}
			old := first.State()
			before := first.Snapshot()
			a, b := first.Apply(index, cmd), second.Apply(index, cmd)
			if fmt.Sprint(a) != fmt.Sprint(b) {
				rt.Fatalf("two copies answered %v and %v to %+v", a, b, c)
			}
			if _, failed := a.(error); failed && !bytes.Equal(before, first.Snapshot()) {
				rt.Fatalf("a refused command changed the catalog: %+v", c)
			}
			checkState(rt, first.State())
			checkStep(rt, old, first.State(), c)
		}
		index := uint64(0)
		for _, name := range nodeNames[:3] {
			index++
			apply(index, Command{At: start, Register: &Node{Name: name, PeerAddr: string(name) + ":1", Incarnation: "x"}})
		}
		for range rapid.IntRange(1, 60).Draw(rt, "commands") {
			if rapid.IntRange(0, 3).Draw(rt, "news") > 0 {
				known = first.State()
			}
			if rapid.IntRange(0, 9).Draw(rt, "restart") == 0 {
				copied := NewMachine()
				if err := copied.Restore(second.Snapshot()); err != nil {
					rt.Fatal(err)
				}
				second = copied
			}
			index++
			apply(index, draw(rt, known, start.Add(time.Duration(index)*time.Second)))
		}
		if !bytes.Equal(first.Snapshot(), second.Snapshot()) {
			rt.Fatalf("copies differ:\n%s\n%s", first.Snapshot(), second.Snapshot())
		}
	})
}

// A published state never changes: readers hold it without a lock.
func TestPublishedStatesNeverChange(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := NewMachine()
		for i := range 40 {
			st := m.State()
			was := m.Snapshot()
			cmd, err := Encode(draw(rt, st, start))
			if err != nil {
				rt.Fatal(err)
			}
			m.Apply(uint64(i+1), cmd)
			later := &Machine{}
			later.state.Store(st)
			if !bytes.Equal(was, later.Snapshot()) {
				rt.Fatalf("a command changed the state before it:\n%s\n%s", was, later.Snapshot())
			}
		}
	})
}

func TestSnapshotsKeepEverything(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := NewMachine()
		for i := range 30 {
			cmd, err := Encode(draw(rt, m.State(), start))
			if err != nil {
				rt.Fatal(err)
			}
			m.Apply(uint64(i+1), cmd)
		}
		copied := NewMachine()
		if err := copied.Restore(m.Snapshot()); err != nil {
			rt.Fatal(err)
		}
		a, b := m.State(), copied.State()
		if !reflect.DeepEqual(a.Nodes, b.Nodes) || a.Index != b.Index || a.NextGroup != b.NextGroup || a.NextID != b.NextID || a.NextActor != b.NextActor || !slices.Equal(a.Names(), b.Names()) {
			rt.Fatalf("%+v became %+v", a, b)
		}
		if !bytes.Equal(m.Snapshot(), copied.Snapshot()) {
			rt.Fatalf("%s became %s", m.Snapshot(), copied.Snapshot())
		}
	})
}

func TestEnoughSettled(t *testing.T) {
	ids := func(s ...fulcrum.NodeID) []fulcrum.NodeID { return s }
	tests := []struct {
		name           string
		old, next, has []fulcrum.NodeID
		want           bool
	}{
		{"all of all", ids("a", "b", "c"), ids("a", "b", "c"), ids("a", "b", "c"), true},
		{"a majority is enough when nobody moves", ids("a", "b", "c"), ids("a", "b", "c"), ids("a", "b"), true},
		{"a minority never is", ids("a", "b", "c"), ids("a", "b", "c"), ids("a"), false},
		{"half of four is no majority", ids("a", "b", "c", "d"), ids("a", "b", "c", "d"), ids("a", "b"), false},
		{"three of four are", ids("a", "b", "c", "d"), ids("a", "b", "c", "d"), ids("a", "b", "c"), true},
		{"one newcomer among three is outvoted", ids("a", "b", "c"), ids("a", "b", "d"), ids("a", "b"), true},
		{"two empty ones of three are not", ids("a", "b", "c"), ids("a", "b", "d"), ids("a", "c"), false},
		{"all replicas new at once", ids("a", "b", "c"), ids("d", "e", "f"), ids("a", "b", "c"), false},
		{"a single replica as it is", ids("a"), ids("a"), ids("a"), true},
		{"a single replica gets a second", ids("a"), ids("a", "b"), ids("a"), true},
		{"and loses the first only when both have it", ids("a", "b"), ids("b"), ids("a"), false},
		{"as here", ids("a", "b"), ids("b"), ids("a", "b"), true},
		{"strangers do not count", ids("a", "b", "c"), ids("a", "b", "c"), ids("a", "x", "y"), false},
		{"nobody", ids("a"), ids("a"), nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sh := &Shard{Replicas: tt.old, Next: &Next{Replicas: tt.next}}
			if got := EnoughSettled(sh, tt.has); got != tt.want {
				t.Errorf("EnoughSettled(%v to %v, %v) = %v, want %v", tt.old, tt.next, tt.has, got, tt.want)
			}
		})
	}
}

// If EnoughSettled, then every majority of the new replicas meets somebody who has
// what every majority of the old replicas acknowledged.
func TestEnoughSettledMeansThatNoMajorityForgets(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		old, next := subset(rt, nodeNames, "old"), subset(rt, nodeNames, "next")
		if len(old) == 0 || len(next) == 0 {
			return
		}
		sh := &Shard{Replicas: old, Next: &Next{Replicas: next}}
		settled := subset(rt, old, "settled")
		if !EnoughSettled(sh, settled) {
			return
		}
		wrote, asked := subset(rt, old, "wrote"), subset(rt, next, "asked")
		common := func(a, b []fulcrum.NodeID) bool {
			return slices.ContainsFunc(a, func(id fulcrum.NodeID) bool { return slices.Contains(b, id) })
		}
		if len(wrote) >= len(old)/2+1 && !common(wrote, settled) {
			rt.Fatalf("a write on %v of %v is not in the basis that %v agreed on", wrote, old, settled)
		}
		if len(asked) >= len(next)/2+1 && !common(asked, settled) {
			rt.Fatalf("%v of %v know nothing of the basis that %v have", asked, next, settled)
		}
	})
}
