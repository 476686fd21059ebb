package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"fulcrum"
	"fulcrum/node/catalog"
	"fulcrum/node/storage"
)

// healTimeout bounds one try at telling the catalog of a damaged replica.
const healTimeout = 5 * time.Second

// heal takes a replica whose data is damaged one step further: to a replica without data,
// in the shard's next epoch, which the others fill.
//
// The steps: (1) the replica stops, and the mark of its damage, which is on disk already,
// keeps it stopped through restarts; (2) the catalog hears of it (catalog.State.damaged)
// and counts the replica among the wiped ones of epoch e; (3) the controller takes the
// shard to epoch e+1, as after a lost disk; (4) what was damaged is erased, the mark is
// removed, and the replica enters e+1 as one that is not based.
//
// Invariant: between the finding of the damage and (4) the replica says nothing to
// anybody. So of epoch e it forgets no vote and no acknowledgement that it could then
// contradict; and of e+1, in which it is not based, it has said nothing yet. The mark's ID
// ties (4) to (2): the epoch that the catalog has noted with it is not before the one in
// which the replica ran last, as it ran before the mark was made and not since.
func (h *host) heal(ctx context.Context, ref catalog.ShardRef, d storage.Damage) error {
	sh, me := ref.Shard, h.n.opt.Name
	h.stop(sh.Group)
	if !sh.Hosts(me) {
		// A copy of the catalog that is behind may not know yet that it has: then the mark is
		// all that keeps it from an epoch in which it has voted.
		if behind, err := h.ahead(sh); err != nil || behind {
			return errors.Join(err, errNotYet)
		}
		// What it learned in this epoch it may have settled with. The catalog itself must say
		// that it counts for nothing, at this epoch, before it is gone.
		if err := h.proposeDamage(ctx, sh, d); err != nil {
			if ctx.Err() == nil {
				h.waitFor(sh.Group, err)
			}
			return errNotYet
		}
		return h.dropDamaged(ctx, sh.Group)
	}
	last := sh.Rebuilds[me]
	switch {
	case last.ID == d.ID && sh.Epoch > last.Epoch && !slices.Contains(sh.Wiped, me):
		return h.rebuild(ctx, ref, d)
	case last.ID == d.ID:
		return errNotYet // the controller takes the shard to its next epoch
	}
	if err := h.tellDamage(ctx, sh, d); err != nil && ctx.Err() == nil {
		h.waitFor(sh.Group, err)
	}
	return errNotYet // until the catalog shows it, or the next tick
}

// tellDamage tells the catalog, if that would help now: the others must be able to go on,
// and none of them may be in the same position.
func (h *host) tellDamage(ctx context.Context, sh *catalog.Shard, d storage.Damage) error {
	told := catalog.Damaged{ShardAt: catalog.ShardAt{Group: sh.Group, Epoch: sh.Epoch}, Node: h.n.opt.Name, ID: d.ID}
	if err := h.n.machine.State().CheckDamaged(told, h.n.wall().UTC()); err != nil {
		return err
	}
	if err := h.othersWell(ctx, sh); err != nil {
		return err
	}
	return h.proposeDamage(ctx, sh, d)
}

func (h *host) proposeDamage(ctx context.Context, sh *catalog.Shard, d storage.Damage) error {
	ctx, cancel := context.WithTimeout(ctx, healTimeout)
	defer cancel()
	told := catalog.Damaged{ShardAt: catalog.ShardAt{Group: sh.Group, Epoch: sh.Epoch}, Node: h.n.opt.Name, ID: d.ID}
	_, err := h.n.propose(ctx, catalog.Command{Damaged: &told})
	return err
}

// othersWell returns an error unless a majority of a shard's replicas is there without
// this node's, and none of them is being filled. That is a courtesy, not a promise: what
// has to hold, whoever is there, is the catalog's business.
func (h *host) othersWell(ctx context.Context, sh *catalog.Shard) error {
	all, well := h.n.everyStatus(ctx), 0
	for _, id := range sh.Replicas {
		rs, ok := all[id][sh.Group]
		switch {
		case id == h.n.opt.Name || !ok || rs.Epoch != sh.Epoch:
		case rs.Status.CatchingUp:
			return fulcrum.Errorf(fulcrum.CodeUnavailable, "its replica on %s is being filled", id)
		default:
			well++
		}
	}
	if need := len(sh.Replicas)/2 + 1; well < need {
		return fulcrum.Errorf(fulcrum.CodeUnavailable, "%d of its %d replicas are there and whole, and it takes %d", well, len(sh.Replicas), need)
	}
	return nil
}

// waitFor says, once, what a damaged replica waits for.
func (h *host) waitFor(g fulcrum.GroupID, err error) {
	h.mu.Lock()
	news := h.waits[g] != err.Error()
	h.waits[g] = err.Error()
	h.mu.Unlock()
	if news {
		h.n.log.Warn("a damaged replica waits to be rebuilt", "group", g, "for", err)
	}
}

// ahead reports whether a group has a log here of a later epoch than the catalog's copy
// knows of. Each epoch has one from before the replica's first word in it.
func (h *host) ahead(sh *catalog.Shard) (bool, error) {
	groups, err := h.n.store.Groups()
	for _, on := range groups {
		if on.Group == sh.Group && len(on.Epochs) > 0 && on.Epochs[len(on.Epochs)-1] > sh.Epoch {
			return true, nil
		}
	}
	return false, err
}

// rebuild begins the replica anew, in an epoch that it has said nothing in.
func (h *host) rebuild(ctx context.Context, ref catalog.ShardRef, d storage.Damage) error {
	sh := ref.Shard
	if err := h.n.store.Expunge(ctx, sh.Group); err != nil {
		return err
	}
	state, err := h.n.store.State(sh.Group, "")
	if err != nil {
		return err
	}
	next := record{Keyspace: ref.Keyspace.ID, Epoch: sh.Epoch, Mode: sh.Mode, Replicas: sh.Replicas}
	if err := h.wipe(sh, state, next); err != nil {
		return err
	}
	if err := h.forget(sh.Group); err != nil {
		return err
	}
	h.n.metrics.rebuilds.WithLabelValues(ref.Keyspace.Name).Inc()
	h.n.log.Warn("a damaged replica begins anew; its peers fill it", "keyspace", ref.Keyspace.Name, "group", sh.Group, "epoch", sh.Epoch, "times", sh.Rebuilds[h.n.opt.Name].Times, "damage", d.Why)
	return h.run(ctx, ref, next)
}

// dropDamaged removes all of a damaged replica that this node no longer has.
func (h *host) dropDamaged(ctx context.Context, g fulcrum.GroupID) error {
	h.stop(g)
	if err := h.n.saveCatalog(); err != nil { // as in drop
		return err
	}
	if err := errors.Join(h.n.store.Expunge(ctx, g), h.n.store.DropState(g)); err != nil {
		return err
	}
	return h.forget(g)
}

func (h *host) forget(g fulcrum.GroupID) error {
	if err := h.n.store.ForgetDamage(g); err != nil {
		return fmt.Errorf("damage of group %d: %w", g, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.waits, g)
	return nil
}

// stop ends what runs of a group.
func (h *host) stop(g fulcrum.GroupID) {
	h.mu.Lock()
	running := h.groups[g]
	h.forgetChanges(g)
	h.mu.Unlock()
	if running != nil {
		h.close(running)
	}
}
