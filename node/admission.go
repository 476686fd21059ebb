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
//     earlier life counts any more; it gets its vote back once it has caught up;
//   - the cluster is being born: no other of the first voters has the catalog either. A
//     majority of them never had it, or lost it, and then nothing committed is left
//     to be broken.
//
// That it may take part is on disk before it does: a node that crashes at birth, before
// anybody was taken in, goes on as what it was.
//
// Invariant: whoever takes part has either never taken part before, or has the data
// directory with which it did, or has no vote in any configuration that a majority of the
// voters without it knows. One gap is left: a first voter that loses its disk between its
// first vote and its first registration, moments after birth, is unknown to the catalog, and
// taken for one that starts late.

// birthPatience is how long a node that sees a majority of the first voters without a
// catalog waits for the others to say so, too. They may be down.
const birthPatience = 5 * time.Second

var errNotAdmitted = fulcrum.Errorf(fulcrum.CodeUnavailable, "a node with a new data directory takes no part in the catalog until that has taken it in")

// admitted reports whether this node takes part in the catalog's group.
func (n *Node) admitted() bool { return n.takesPart.Load() }

// admit lets it take part from now on, and after restarts.
func (n *Node) admit() error {
	n.admitting.Lock()
	defer n.admitting.Unlock()
	if n.admitted() {
		return nil
	}
	if err := n.store.Admit(); err != nil {
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

// isBirth reports whether the cluster is being born, as far as its first voters say; a
// majority of them is enough for a node that has waited.
func (n *Node) isBirth(ctx context.Context, waited time.Duration) bool {
	if len(n.opt.Initial) == 0 {
		return false // a cluster runs already
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	others := n.otherVoters()
	answers := make([]struct{ unborn, born bool }, len(others))
	var asking sync.WaitGroup
	for i, id := range others {
		asking.Go(func() {
			born, err := ask[bool](ctx, n, id, adminRequest{Do: "born"})
			answers[i].born, answers[i].unborn = born && err == nil, !born && err == nil
		})
	}
	asking.Wait()
	unborn, voters := 0, len(others)
	if isInitialVoter(n) {
		unborn, voters = 1, voters+1
	}
	for _, a := range answers {
		if a.born {
			return false
		}
		if a.unborn {
			unborn++
		}
	}
	return unborn == voters || waited > birthPatience && unborn > voters/2
}

// runBirth sees to it that the first nodes of a cluster take part, whom nobody can take in.
func (n *Node) runBirth(ctx context.Context) error {
	for began := time.Now(); !n.admitted(); {
		if n.isBirth(ctx, time.Since(began)) {
			return n.admit()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// born reports whether this node has seen a catalog with anything in it.
func (n *Node) born() bool { return len(n.machine.State().Nodes) > 0 }
