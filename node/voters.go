package node

import (
	"context"

	"golang.org/x/sync/errgroup"

	"fulcrum"
	"fulcrum/node/catalog"
)

// The catalog's group keeps as many voters as it once had: one that leaves is replaced, at
// once or when a node for it comes.

// restoreVoters gives voters of the catalog that lost their disk, and their vote with it
// (takeIn), the vote back, once they have caught up.
func (c *controller) restoreVoters(ctx context.Context, g *errgroup.Group, st *catalog.State) {
	for _, server := range c.n.catalog.Servers() {
		n, known := st.Nodes[server.Node]
		if known && n.Voter && !n.Removing && !server.Voter && !c.n.lives.expired(n.Name) {
			c.start(ctx, g, fulcrum.CatalogGroup, func(ctx context.Context) error { return c.restoreVoter(ctx, n.Name) })
		}
	}
}

// restoreVoter does nothing, until a later round, while the node has not caught up.
func (c *controller) restoreVoter(ctx context.Context, id fulcrum.NodeID) error {
	if ok, err := c.caughtUp(ctx, id); !ok {
		return err
	}
	if err := c.n.catalog.AddVoter(ctx, id); err != nil {
		return err
	}
	c.n.log.Info("a node has caught up with the catalog, and has a vote there", "of", id)
	return nil
}

// caughtUp reports whether a node has all of the catalog: with a vote before that it would
// hold commits up.
func (c *controller) caughtUp(ctx context.Context, id fulcrum.NodeID) (bool, error) {
	all := c.n.catalog.Applied()
	has, err := adminAt[uint64](ctx, c.n, id, adminRequest{Do: "applied"})
	return err == nil && has >= all, err
}

// fillVoters gives the catalog another voter for one that was removed when there was no node
// to take its place, as soon as there is one: as refilled does for shards.
func (c *controller) fillVoters(ctx context.Context, g *errgroup.Group, st *catalog.State) {
	if !st.LacksVoter() {
		return
	}
	votes := map[fulcrum.NodeID]bool{}
	for _, server := range c.n.catalog.Servers() {
		votes[server.Node] = server.Voter
	}
	var next fulcrum.NodeID
	for _, id := range st.NodeNames() {
		n := st.Nodes[id]
		switch {
		case n.Voter || n.Removing:
		case votes[id]: // given to it by a leader that could not say so any more
			next = id
		case c.heard(id) && next == "":
			next = id
		}
	}
	if next == "" {
		return
	}
	c.start(ctx, g, fulcrum.CatalogGroup, func(ctx context.Context) error {
		if ok, err := c.caughtUp(ctx, next); !ok {
			return err
		}
		return c.makeVoter(ctx, next)
	})
}

// makeVoter gives a node a vote in the catalog, and notes that it has one.
func (c *controller) makeVoter(ctx context.Context, id fulcrum.NodeID) error {
	if err := c.n.catalog.AddVoter(ctx, id); err != nil {
		return err
	}
	n, ok := c.n.machine.State().Nodes[id]
	if !ok {
		return fulcrum.Errorf(fulcrum.CodeConflict, "%s is not in the cluster", id)
	}
	n.Voter = true
	_, err := c.n.propose(ctx, catalog.Command{Register: &n})
	return err
}

// replaceVoter gives the catalog another voter before one of its voters leaves, if
// there is a live node to take its place: else each removal would leave it less able
// to survive failures.
func (c *controller) replaceVoter(ctx context.Context, st *catalog.State, leaving fulcrum.NodeID) error {
	if !st.Nodes[leaving].Voter {
		return nil
	}
	for _, id := range st.NodeNames() {
		n := st.Nodes[id]
		if n.Voter || n.Removing || c.n.lives.expired(id) {
			continue
		}
		return c.makeVoter(ctx, id)
	}
	return nil
}

// majorityWithout returns an error unless a majority of the catalog's other voters is there
// when one leaves. Of five with two down it takes three to change anything, of the four
// that are left without a third, too: they could not even take it back.
func (c *controller) majorityWithout(leaving fulcrum.NodeID) error {
	stay, there := 0, 0
	for _, server := range c.n.catalog.Servers() {
		if server.Node == leaving || !server.Voter {
			continue
		}
		stay++
		if c.heard(server.Node) {
			there++
		}
	}
	if need := stay/2 + 1; there < need {
		return fulcrum.Errorf(fulcrum.CodeUnavailable, "to remove %s: %d of the catalog's %d other voters are there, and it takes %d", leaving, there, stay, need)
	}
	return nil
}
