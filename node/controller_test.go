package node

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"fulcrum"
	"fulcrum/node/catalog"
)

func TestCollect(t *testing.T) {
	const never = time.Hour
	type says struct {
		after time.Duration
		fails bool
	}
	tests := []struct {
		name  string
		nodes map[fulcrum.NodeID]says
		need  int
		want  []fulcrum.NodeID
		took  time.Duration
		ok    bool
	}{
		{"all that answer at once are in, without a wait", map[fulcrum.NodeID]says{"a": {}, "b": {}, "c": {}}, 2, []fulcrum.NodeID{"a", "b", "c"}, 0, true},
		{"the rest has the grace after enough are in", map[fulcrum.NodeID]says{"a": {}, "b": {after: 10 * time.Millisecond}, "c": {after: 100 * time.Millisecond}}, 2,
			[]fulcrum.NodeID{"a", "b", "c"}, 100 * time.Millisecond, true},
		{"and no longer", map[fulcrum.NodeID]says{"a": {}, "b": {after: 10 * time.Millisecond}, "c": {after: never}}, 2,
			[]fulcrum.NodeID{"a", "b"}, 310 * time.Millisecond, true},
		{"one that fails is not waited for", map[fulcrum.NodeID]says{"a": {}, "b": {}, "c": {after: 5 * time.Millisecond, fails: true}}, 2,
			[]fulcrum.NodeID{"a", "b"}, 5 * time.Millisecond, true},
		{"too few that answer are an error once all have spoken", map[fulcrum.NodeID]says{"a": {}, "b": {fails: true}, "c": {after: time.Second, fails: true}}, 2,
			[]fulcrum.NodeID{"a"}, time.Second, false},
		{"or at the step's end", map[fulcrum.NodeID]says{"a": {}, "b": {after: never}, "c": {after: never}}, 2, []fulcrum.NodeID{"a"}, stepTimeout, false},
		{"nobody to ask is an error", nil, 1, nil, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				got, err := collect(t.Context(), slices.Collect(maps.Keys(tt.nodes)), tt.need, 300*time.Millisecond,
					func(ctx context.Context, id fulcrum.NodeID) (string, error) {
						s := tt.nodes[id]
						select {
						case <-time.After(s.after):
						case <-ctx.Done():
							return "", ctx.Err()
						}
						if s.fails {
							return "", fulcrum.ErrUnavailable
						}
						return string(id), nil
					})
				if (err == nil) != tt.ok || err != nil && !errors.Is(err, fulcrum.ErrUnavailable) {
					t.Errorf("error %v", err)
				}
				if ids := slices.Sorted(maps.Keys(got)); !slices.Equal(ids, tt.want) {
					t.Errorf("got %v, want %v", ids, tt.want)
				}
				for id, v := range got {
					if v != string(id) {
						t.Errorf("%s answered %q", id, v)
					}
				}
				if took := time.Since(began); took != tt.took {
					t.Errorf("took %s, want %s", took, tt.took)
				}
			})
		})
	}
}

// Moved step by step off a node that is removed, a shard never gets a replica on a
// removed node, never two on one, never loses its last one, and every step is one
// that the catalog takes when all old replicas settle.
func TestReplicasMoveOffRemovedNodes(t *testing.T) {
	all := []fulcrum.NodeID{"n1", "n2", "n3", "n4", "n5"}
	l := newLearning(func(fulcrum.NodeID) bool { return false }, func(fulcrum.NodeID) bool { return true })
	rapid.Check(t, func(rt *rapid.T) {
		st := catalog.New()
		for _, id := range all {
			st.Nodes[id] = catalog.Node{Name: id, Removing: rapid.Bool().Draw(rt, "removing "+string(id))}
		}
		replicas := rapid.Permutation(all).Draw(rt, "replicas")[:rapid.IntRange(1, 4).Draw(rt, "count")]
		sh := &catalog.Shard{Group: 7, Epoch: 1, Replicas: replicas}
		had := len(replicas)
		for range 2 * len(all) {
			i := slices.IndexFunc(sh.Replicas, func(id fulcrum.NodeID) bool { return st.Nodes[id].Removing })
			if i < 0 {
				break
			}
			ref := catalog.ShardRef{Keyspace: &catalog.Keyspace{Replicas: had}, Shard: sh}
			next := replaced(st, sh, sh.Replicas[i], had, l.best(st, ref, func() map[fulcrum.NodeID]int { return map[fulcrum.NodeID]int{} }))
			if len(next) == 0 {
				rt.Fatalf("%v off %s leaves nothing", sh.Replicas, sh.Replicas[i])
			}
			if slices.Equal(next, sh.Replicas) {
				break // nowhere to go: it waits for a node
			}
			for j, id := range next {
				if st.Nodes[id].Removing && !sh.Hosts(id) || slices.Contains(next[:j], id) {
					rt.Fatalf("%v off %s became %v", sh.Replicas, sh.Replicas[i], next)
				}
			}
			sh.Next = &catalog.Next{Replicas: next}
			if !catalog.EnoughSettled(sh, sh.Replicas) {
				rt.Fatalf("%v can never become %v", sh.Replicas, next)
			}
			sh = &catalog.Shard{Group: 7, Epoch: sh.Epoch + 1, Replicas: next}
		}
		stay := 0
		for _, id := range all {
			if !st.Nodes[id].Removing {
				stay++
			}
		}
		for _, id := range sh.Replicas {
			if st.Nodes[id].Removing && stay > 0 {
				rt.Fatalf("%v became %v, with %d nodes to go to", replicas, sh.Replicas, stay)
			}
		}
		if want := min(had, stay); stay > 0 && len(sh.Replicas) < want {
			rt.Fatalf("%v became %v: fewer than %d", replicas, sh.Replicas, want)
		}
	})
}
