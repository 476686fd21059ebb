package main

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/consistency"
)

// cell is one promise put to the test on one side of a partition.
type cell struct {
	keyspace string
	p        consistency.Promise
	node     fulcrum.NodeID
	side     int // nodes, and so replicas, on that side; there are five
}

func (c cell) String() string {
	return fmt.Sprintf("%s at %s in mode %s through %s, with %d of 5 replicas", c.p.Access, c.p.Kind, c.p.Mode, c.node, c.side)
}

const replicas = 5

// answered says what the promise table implies once the cut is noticed everywhere.
func (c cell) answered() bool {
	majority := c.side >= replicas/2+1
	if c.p.Mode == consistency.Quorum {
		if c.p.Kind == consistency.Any {
			return true // a hint is enough
		}
		if c.p.Kind == consistency.Session {
			return majority
		}
		quota, ok := consistency.QuotaOf(c.p.Kind, make([]string, replicas), "")
		return ok && quota.Met(map[string]int{"": c.side})
	}
	if c.p.Access == consistency.Read {
		switch c.p.Kind {
		case consistency.One, consistency.LocalOne, consistency.Prefix, consistency.Session: // the session is new: any replica has reached it
			return true
		}
	}
	return majority // one writer, and reads that must know of it
}

// level is the cell's level; one that is bounded is so by less than the cut has lasted.
func (c cell) level() consistency.Level {
	l := consistency.L(c.p.Kind)
	if c.p.Kind == consistency.Bounded {
		l.Bound = time.Second
	}
	return l
}

// ask does what the cell says and returns its error, and what the receipt says was given.
func (c cell) ask(ctx context.Context, cl *client.Client) (consistency.Kind, error) {
	opts := []client.CallOption{client.On(c.node), client.NoRetry(), client.Level(c.level())}
	if c.p.Access == consistency.Write {
		rc, err := cl.Put(ctx, c.keyspace, "key", []byte(c.node), opts...)
		return rc.Given.Kind, err
	}
	item, err := cl.Get(ctx, c.keyspace, "key", opts...)
	return item.Receipt.Given.Kind, err
}

// check asks and compares with the table. What must be refused is refused definitely,
// and at once; what must be answered may take a second attempt on a busy machine.
func (c cell) check(t *testing.T, cl *client.Client) {
	for attempt := 1; ; attempt++ {
		began := time.Now()
		given, err := c.ask(t.Context(), cl)
		switch {
		case client.Unknown(err):
			t.Errorf("%s: the outcome is unknown after %s: %v", c, time.Since(began), err)
		case c.answered() && err != nil && attempt < 4 && errors.Is(err, fulcrum.ErrUnavailable):
			sleepFor(t.Context(), time.Second)
			continue
		case c.answered() && err != nil:
			t.Errorf("%s: refused, and the table says answered: %v", c, err)
		case c.answered() && given != c.p.Given:
			t.Errorf("%s: given %s, and the table says %s", c, given, c.p.Given)
		case !c.answered() && err == nil:
			t.Errorf("%s: answered, and the table says refused (%s)", c, c.p.Minority)
		case !c.answered() && !errors.Is(err, fulcrum.ErrUnavailable):
			t.Errorf("%s: want unavailable, got %v", c, err)
		}
		return
	}
}

// The promise table is the oracle: in every mode, at every level, on both sides of
// a cut, what it says is what happens.
func TestPartitionObeysPromiseTable(t *testing.T) {
	t.Parallel()
	c := start(t, 5, 0)
	modes := map[string]consistency.Mode{"cp": consistency.Raft, "ap": consistency.Quorum, "lf": consistency.LeaderFollower}
	for keyspace := range modes {
		if _, err := c.client().Put(t.Context(), keyspace, "key", []byte("before")); err != nil {
			t.Fatal(err)
		}
		c.converges(keyspace, 1) // both sides have the key when the cut comes
	}
	c.must("fault", "partition", "n1,n2/n3,n4,n5")
	c.settled()
	sides := map[fulcrum.NodeID]int{"n1": 2, "n2": 2, "n3": 3, "n5": 3}
	var g errgroup.Group
	cells := 0
	for keyspace, mode := range modes {
		for node, side := range sides {
			var list []cell
			for _, p := range consistency.Table() {
				if p.Mode == mode && p.Offered {
					list = append(list, cell{keyspace, p, node, side})
				}
			}
			cells += len(list)
			g.Go(func() error {
				for _, x := range list {
					x.check(t, c.client())
				}
				return nil
			})
		}
	}
	_ = g.Wait()
	t.Logf("%d cells of the table were tried", cells)
	c.must("fault", "heal")
	c.levelsRefused(modes)
}

// settled waits until both sides of a cut have noticed it: old leases have ended,
// the majority has leaders, and replicas that are away no longer count as in sync.
func (c *cluster) settled() {
	c.t.Helper()
	put := func(keyspace string, node fulcrum.NodeID, k consistency.Kind) error {
		_, err := c.client().Put(c.t.Context(), keyspace, "key", []byte("settling"), client.On(node), client.NoRetry(), client.Level(consistency.L(k)))
		return err
	}
	eventually(c.t, 30*time.Second, "both sides notice the cut", func() error {
		for _, keyspace := range []string{"cp", "lf"} {
			if err := put(keyspace, "n3", consistency.QuorumOf); err != nil {
				return fmt.Errorf("the majority: %w", err)
			}
			if err := put(keyspace, "n1", consistency.QuorumOf); !errors.Is(err, fulcrum.ErrUnavailable) || client.Unknown(err) {
				return fmt.Errorf("the minority: %w", err)
			}
		}
		if err := put("lf", "n1", consistency.One); !errors.Is(err, fulcrum.ErrUnavailable) {
			return fmt.Errorf("the minority's leader: %w", err)
		}
		return put("lf", "n3", consistency.All)
	})
	sleepFor(c.t.Context(), time.Second) // the bound of level bounded is over, too
}

// levelsRefused asks for every level that a mode does not offer: it is refused,
// never downgraded, and the refusal lists those that are offered.
func (c *cluster) levelsRefused(modes map[string]consistency.Mode) {
	c.t.Helper()
	for keyspace, mode := range modes {
		for _, p := range consistency.Table() {
			if p.Mode != mode || p.Offered {
				continue
			}
			x := cell{keyspace, p, "n3", 5}
			_, err := x.ask(c.t.Context(), c.client())
			if e := fulcrum.AsError(err); e == nil || e.Code != fulcrum.CodeLevel || e.Hint == "" {
				c.t.Errorf("%s: want code level and the levels there are, got %v", x, err)
			}
		}
	}
}
