package replicationtest

import (
	"context"
	"errors"
	"slices"
	"time"

	"fulcrum"
	"fulcrum/replication"
)

// retryPause is how long Do waits when nobody knows a leader.
const retryPause = 50 * time.Millisecond

// Do runs op as the node's coordinator would: at first on at, then wherever a
// CodeNotLeader points, and elsewhere again after what was definitely not done
// for want of replicas, until ctx ends. Any other error is returned at once.
func Do[R any](ctx context.Context, c *Cluster, at fulcrum.NodeID, op func(replication.Group) (R, error)) (R, error) {
	var zero R
	last := error(&fulcrum.Error{Code: fulcrum.CodeUnavailable, Detail: "no replica is up"})
	for to := at; ; {
		hint := fulcrum.NodeID("")
		if g := c.Group(to); g != nil {
			r, err := op(g)
			var fe *fulcrum.Error
			switch {
			case err == nil:
				return r, nil
			case !errors.As(err, &fe):
				return zero, err
			case fe.Code == fulcrum.CodeNotLeader:
				hint = fulcrum.NodeID(fe.Hint)
			case fe.Code != fulcrum.CodeUnavailable:
				return zero, err
			}
			last = err
		}
		if ctx.Err() != nil {
			return zero, last
		}
		pause := retryPause
		if hint != "" && hint != to && c.Group(hint) != nil {
			to, pause = hint, time.Millisecond // two hints that point at each other must not spin
		} else {
			to = c.IDs[(slices.Index(c.IDs, to)+1)%len(c.IDs)]
		}
		select {
		case <-ctx.Done():
			return zero, last
		case <-time.After(pause):
		}
	}
}

// Write is Do of a write.
func (c *Cluster) Write(ctx context.Context, at fulcrum.NodeID, req replication.WriteRequest) (replication.WriteReply, error) {
	return Do(ctx, c, at, func(g replication.Group) (replication.WriteReply, error) { return g.Write(ctx, req) })
}

// Read is Do of a read.
func (c *Cluster) Read(ctx context.Context, at fulcrum.NodeID, req replication.ReadRequest) (replication.ReadReply, error) {
	return Do(ctx, c, at, func(g replication.Group) (replication.ReadReply, error) { return g.Read(ctx, req) })
}

// Scan is Do of a scan.
func (c *Cluster) Scan(ctx context.Context, at fulcrum.NodeID, req replication.ScanRequest) (replication.ScanReply, error) {
	return Do(ctx, c, at, func(g replication.Group) (replication.ScanReply, error) { return g.Scan(ctx, req) })
}
