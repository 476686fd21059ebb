package node

import (
	"context"
	"sync"
	"time"

	"fulcrum"
)

// A voter of the catalog that lost its disk has forgotten votes and acknowledgements.
// With its vote a replica that lacks what was committed could be elected: who lost what
// it had persisted must not come back under its old identity, but as a new member
// (Ongaro's thesis, 3.8). So a node whose data directory is new neither says nor hears anything of the catalog's group
// until one of two is known:
//
//   - the catalog's leader has taken it in. It has then committed, without this node, a
//     configuration in which this node has no vote (takeIn), so that no vote of its
//     earlier life counts any more; it gets its vote back once it has caught up. So it goes
//     with first voters that start late, too: nobody can tell them from one that lost its disk
//     before it registered;
//   - the cluster is being born: no other of the first voters has the catalog either, and none
//     of them has heard of another life of this node. A majority of them never had the catalog, or
//     lost it, and then nothing committed is left to be broken.
//
// That it may take part is on disk before it does: a node that crashes at birth, before
// anybody was taken in, goes on as what it was.
//
// Invariant: whoever takes part has either never taken part before, or has the data
// directory with which it did, or has no vote in any configuration that a majority of the
// voters without it knows.
//
// Of a node that was taken in this follows from takeIn. Let X take part at birth in two lives. In
// the first it was told "not born" by W, another first voter, which had X's first life on disk before it
// answered (bornFor); W says "born" to the second life, for good. So the second life never
// heard of W: W was down for as long as X waited, and a majority without W was not born either. In a
// cluster of three that needs, beside X's disk, one node that is down and one that never started or
// lost its disk as well.

// birthPatience is how long a node that sees a majority of the first voters without a
// catalog waits for the others to say so, too. They may be down.
const birthPatience = 5 * time.Second

var errNotAdmitted = fulcrum.Errorf(fulcrum.CodeUnavailable, "a node with a new data directory takes no part in the catalog until that has taken it in")

// admitted reports whether this node takes part in the catalog's group.
func (n *Node) admitted() bool { return n.takesPart.Load() }

// admit lets it take part from now on, and after restarts.
func (n *Node) admit(takenIn bool) error {
	n.admitting.Lock()
	defer n.admitting.Unlock()
	if n.admitted() {
		return nil
	}
	if err := n.store.Admit(takenIn); err != nil {
		return err
	}
	n.takesPart.Store(true)
	return nil
}

// otherVoters are the catalog's first voters but this node.
func (n *Node) otherVoters() (others []fulcrum.NodeID) {
	for id := range n.opt.Initial {
		if id != n.opt.Name && isVoter(id, n.opt.Initial) {
			others = append(others, id)
		}
	}
	return others
}

// A verdict says whether the cluster is being born, as far as its first voters say.
type verdict int

const (
	unclear verdict = iota
	beingBorn
	born // or somebody has heard of another life of this node
)

// askBirth asks the first voters. A majority of them is enough for a node that has waited.
func (n *Node) askBirth(ctx context.Context, waited time.Duration) verdict {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	others := n.otherVoters()
	answers := make([]verdict, len(others))
	var asking sync.WaitGroup
	for i, id := range others {
		asking.Go(func() {
			is, err := ask[bool](ctx, n, id, adminRequest{Do: "born", Life: n.store.Identity().Incarnation})
			switch {
			case err != nil:
			case is:
				answers[i] = born
			default:
				answers[i] = beingBorn
			}
		})
	}
	asking.Wait()
	unborn, voters := 0, len(others)
	if isInitialVoter(n) {
		unborn, voters = 1, voters+1
	}
	for _, a := range answers {
		switch a {
		case born:
			return born
		case beingBorn:
			unborn++
		}
	}
	if unborn == voters || waited > birthPatience && unborn > voters/2 {
		return beingBorn
	}
	return unclear
}

// runBirth finds out whether this node takes part in a birth. It does not do so any more once
// it was told that there is a catalog, which is asked to take it in from then on (see
// runRegister): what it says there of itself has to stay true.
func (n *Node) runBirth(ctx context.Context) error {
	for began := time.Now(); !n.admitted(); {
		v := born // a cluster runs already
		if len(n.opt.Initial) > 0 {
			v = n.askBirth(ctx, time.Since(began))
		}
		switch v {
		case beingBorn:
			return n.admit(false)
		case born:
			n.outside.Store(true)
			n.log.Info("this node's data directory is new; it waits until the catalog's leader takes it in")
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// born reports whether there is a catalog with anything in it, as far as this node has seen.
func (n *Node) born() bool {
	return len(n.machine.State().Nodes) > 0 || n.store.Identity().TakenIn
}

// bornFor is the answer to another first node that asks whether the cluster is born: it is for
// who has been heard of in an earlier life.
func (n *Node) bornFor(from fulcrum.NodeID, life string) (bool, error) {
	if _, initial := n.opt.Initial[from]; n.born() || !initial {
		return n.born(), nil
	}
	first, err := n.store.FirstLife(from, life)
	return first != life, err
}
