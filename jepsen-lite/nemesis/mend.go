package nemesis

import (
	"context"
	"errors"

	"fulcrum"
)

// Mend ends everything that is broken on purpose, whoever broke it: paused nodes,
// duplicates, faults and nodes that are down. A node that refuses a disk which the plan
// damaged is given an empty one. It tries all of it, and its error says what did not
// work. It may be called again: a damaged disk may be found out late.
func (p *Plan) Mend(ctx context.Context, c Cluster) error {
	var errs []error
	if c.Can("pause") == nil {
		errs = append(errs, c.Resume(ctx, c.Running()...)) // first: who is paused hears of nothing
	}
	if c.Can("packets") == nil {
		errs = append(errs, c.Duplicate(ctx, 0))
	}
	if c.Can("faults") == nil {
		errs = append(errs, c.Heal(ctx))
	}
	if c.Can("kill") == nil {
		x := &executor{c: c, damaged: p.flipped()}
		_, err := x.start(ctx, c.Nodes())
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// flipped are the nodes whose disks the plan damaged so that they may be refused.
func (p *Plan) flipped() map[fulcrum.NodeID]bool {
	nodes := map[fulcrum.NodeID]bool{}
	for _, s := range p.Steps {
		if s.Damage == BitFlip {
			for _, n := range s.Nodes {
				nodes[n] = true
			}
		}
	}
	return nodes
}

// idle is the mutant of this package: a cluster to which nothing is done, though every
// call says that it was.
type idle struct {
	Cluster
	mode string
}

func (i *idle) Inject(context.Context, fulcrum.Fault) error                  { return nil }
func (i *idle) Heal(context.Context, ...string) error                        { return nil }
func (i *idle) Kill(context.Context, ...fulcrum.NodeID) error                { return nil }
func (i *idle) Stop(context.Context, ...fulcrum.NodeID) error                { return nil }
func (i *idle) Start(context.Context, ...fulcrum.NodeID) error               { return nil }
func (i *idle) Pause(context.Context, ...fulcrum.NodeID) error               { return nil }
func (i *idle) Resume(context.Context, ...fulcrum.NodeID) error              { return nil }
func (i *idle) Damage(context.Context, fulcrum.NodeID, Damage, uint64) error { return nil }
func (i *idle) Duplicate(context.Context, float64) error                     { return nil }

func (i *idle) Switch(_ context.Context, _, mode string) error {
	i.mode = mode
	return nil
}

func (i *idle) Mode(ctx context.Context, keyspace string) (now, target string, err error) {
	if i.mode != "" {
		return i.mode, i.mode, nil
	}
	return i.Cluster.Mode(ctx, keyspace)
}
