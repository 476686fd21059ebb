package node

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"fulcrum"
	"fulcrum/node/catalog"
)

// The catalog's group keeps as many voters as it once had: one that leaves is replaced, at
// once or when a node for it comes.
//
// That a vote goes to a node that has caught up is for the group's sake, and not for what it
// has committed: a voter without the log makes nothing be lost. Configurations change by one
// server, so majorities before and after have a voter in common. A voter counts towards a
// commit only with entries that it has said are durable there, in its present life: a node
// that lost its disk is removed before it is heard again (takeIn), and what the leader knew
// of it goes with that (protocol, meet). And it elects nobody who lacks what a majority
// without it holds, as one of that majority refuses. But until it has the log it makes
// majorities larger and helps none: a group that could lose one more voter may stand still.

// memberTime bounds each step that changes who is in the catalog's group: what waits for one
// node holds up what concerns another no longer.
const memberTime = stepTimeout / 2

// A memberStep is something to be done about who is in the catalog's group.
type memberStep func(context.Context) error

// keepMembers does what is due, one after the other: each looks at the catalog as those
// before it have left it, and one that cannot be done now keeps none of the others from it.
func (c *controller) keepMembers(ctx context.Context, g *errgroup.Group, st *catalog.State) {
	due := append(c.restoreVoters(st), c.fillVoters(st)...)
	if due = append(due, c.forgetRemoved(st)...); len(due) == 0 {
		return
	}
	c.start(ctx, g, fulcrum.CatalogGroup, func(ctx context.Context) error {
		var errs []error
		for _, step := range due {
			stepCtx, cancel := context.WithTimeout(ctx, memberTime)
			errs = append(errs, step(stepCtx))
			cancel()
		}
		return errors.Join(errs...)
	})
}

// restoreVoters gives voters of the catalog that lost their disk, and their vote with it
// (takeIn), the vote back, once they have caught up.
func (c *controller) restoreVoters(st *catalog.State) (due []memberStep) {
	for _, server := range c.n.catalog.Servers() {
		n, known := st.Nodes[server.Node]
		if known && n.Voter && !n.Removing && !server.Voter && !c.n.lives.expired(n.Name) {
			due = append(due, func(ctx context.Context) error { return c.restoreVoter(ctx, n.Name) })
		}
	}
	return due
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
func (c *controller) fillVoters(st *catalog.State) []memberStep {
	if !st.LacksVoter() {
		return nil
	}
	return []memberStep{func(ctx context.Context) error {
		if !c.n.machine.State().LacksVoter() {
			return nil
		}
		return c.addVoter(ctx)
	}}
}

// addVoter gives another node a vote in the catalog, if there is one that can have it.
func (c *controller) addVoter(ctx context.Context) error {
	st := c.n.machine.State()
	votes := map[fulcrum.NodeID]bool{}
	for _, server := range c.n.catalog.Servers() {
		votes[server.Node] = server.Voter
	}
	var some []fulcrum.NodeID
	for _, id := range st.NodeNames() {
		n := st.Nodes[id]
		switch {
		case n.Voter || n.Removing:
		case votes[id]: // given to it by a leader that could not say so any more
			return c.makeVoter(ctx, n)
		case c.heard(id):
			some = append(some, id)
		}
	}
	var errs []error
	for _, id := range some {
		ok, err := c.caughtUp(ctx, id)
		if ok {
			return c.makeVoter(ctx, st.Nodes[id])
		}
		if err == nil {
			err = fulcrum.Errorf(fulcrum.CodeUnavailable, "%s has not caught up with the catalog", id)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// makeVoter gives a node a vote in the catalog, and notes that it has one.
func (c *controller) makeVoter(ctx context.Context, n catalog.Node) error {
	if err := c.n.catalog.AddVoter(ctx, n.Name); err != nil {
		return err
	}
	_, err := c.n.propose(ctx, catalog.Command{SetVoter: &catalog.SetVoter{Node: n.Name, Incarnation: n.Incarnation}})
	return err
}

// replaceVoter gives the catalog another voter before one of its voters leaves, if
// there is a live node to take its place: else each removal would leave it less able
// to survive failures.
//
// One that is down leaves first: beside it the newcomer would make a majority larger, and
// help it no more than those that are there. fillVoters does it then.
func (c *controller) replaceVoter(ctx context.Context, leaving fulcrum.NodeID) error {
	st := c.n.machine.State()
	if !st.Nodes[leaving].Voter || !st.LacksVoterWithout(leaving) || c.n.lives.expired(leaving) {
		return nil
	}
	return c.addVoter(ctx)
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

// forgetRemoved ends the removal of nodes that hold nothing any more.
func (c *controller) forgetRemoved(st *catalog.State) (due []memberStep) {
	for _, id := range st.NodeNames() {
		if !st.Nodes[id].Removing {
			continue
		}
		holds := false
		st.Groups(func(ref catalog.ShardRef) { holds = holds || ref.Shard.Holds(id) })
		if !holds {
			due = append(due, func(ctx context.Context) error { return c.forgetNode(ctx, id) })
		}
	}
	return due
}

func (c *controller) forgetNode(ctx context.Context, id fulcrum.NodeID) error {
	if err := c.replaceVoter(ctx, id); err != nil {
		return err
	}
	if id == c.n.opt.Name { // another leader takes this one out
		return c.n.catalog.HandOver(ctx)
	}
	if err := c.majorityWithout(id); err != nil {
		return err
	}
	if err := c.n.catalog.RemoveServer(ctx, id); err != nil {
		return err
	}
	_, err := c.n.propose(ctx, catalog.Command{RemoveNode: &catalog.RemoveNode{Node: id, Forget: true}})
	return err
}
