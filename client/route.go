package client

import (
	"context"
	"slices"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/partition"
)

// table is what the client knows of one keyspace's shards. It never changes; a
// new leader makes a new one.
type table struct {
	scheme partition.Scheme
	ranges *partition.Table
	shards []fulcrum.ShardInfo // in the order of ranges
	learnt time.Time
}

func newTable(info fulcrum.KeyspaceInfo) (*table, error) {
	t := &table{shards: slices.Clone(info.ShardList), learnt: time.Now()}
	if err := t.scheme.UnmarshalText([]byte(info.ShardBy)); err != nil {
		return nil, err
	}
	starts := make([][]byte, len(t.shards))
	for i, s := range t.shards {
		var err error
		if starts[i], err = partition.ParseToken(s.Start); err != nil {
			return nil, err
		}
	}
	var err error
	t.ranges, err = partition.NewTable(0, starts)
	return t, err
}

// shardOf is the index of the shard that holds key.
func (t *table) shardOf(key string) int { return t.ranges.Find(t.scheme.Token([]byte(key))) }

// route lists base URLs to ask about a key, the best first: the shard's leader,
// or any replica (in turn) where the level needs no leader, then the other
// replicas, then everyone, since any node can coordinate. A table that cannot be had
// is no error: everyone is.
func (c *Client) route(ctx context.Context, keyspace, key string, read bool, l consistency.Level) []string {
	everyone := c.everyone()
	t := c.tableOf(ctx, keyspace)
	if t == nil {
		return everyone
	}
	s := t.shards[t.shardOf(key)]
	var replicas []fulcrum.NodeID
	for _, r := range s.Replicas {
		replicas = append(replicas, r.Node)
	}
	if n := len(replicas); n > 1 {
		at := int(c.turn.Add(1) % uint64(n))
		replicas = append(slices.Clone(replicas[at:]), replicas[:at]...)
	}
	if s.Leader != "" && !(read && leaderless(l)) {
		replicas = append([]fulcrum.NodeID{s.Leader}, replicas...)
	}
	var out []string
	c.mu.Lock()
	for _, n := range replicas {
		if at, ok := c.nodes[n]; ok && !slices.Contains(out, at) {
			out = append(out, at)
		}
	}
	c.mu.Unlock()
	for _, at := range everyone {
		if !slices.Contains(out, at) {
			out = append(out, at)
		}
	}
	return out
}

// leaderless reports whether any replica may answer a read at l by itself.
func leaderless(l consistency.Level) bool {
	switch l.Kind {
	case consistency.One, consistency.LocalOne, consistency.Prefix, consistency.Bounded, consistency.Session:
		return true
	}
	return false
}

// tableOf returns the keyspace's table, from memory or from a node; nil when it
// cannot be had now.
func (c *Client) tableOf(ctx context.Context, keyspace string) *table {
	c.mu.Lock()
	t := c.tables[keyspace]
	c.mu.Unlock()
	if t != nil && time.Since(t.learnt) < refreshEvery {
		return t
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second) // a detour: the request itself needs the rest
	defer cancel()
	info, err := c.Keyspace(ctx, keyspace, NoRetry())
	if err != nil {
		return t
	}
	return c.keep(info)
}

// keep remembers the shards of a keyspace.
func (c *Client) keep(info fulcrum.KeyspaceInfo) *table {
	t, err := newTable(info)
	if err != nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tables) >= 1024 { // a bound, not a policy: nobody has that many keyspaces
		clear(c.tables)
	}
	c.tables[info.Name] = t
	return t
}

// forget makes the next request ask for the keyspace's table again.
func (c *Client) forget(keyspace string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tables, keyspace)
}

// observe compares a receipt with the table: another leader is remembered, and a
// shard or epoch that the table does not have makes it stale.
func (c *Client) observe(keyspace string, rc consistency.Receipt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tables[keyspace]
	if t == nil || rc.Keyspace == "" {
		return
	}
	i := slices.IndexFunc(t.shards, func(s fulcrum.ShardInfo) bool { return s.Group == rc.Shard })
	if i < 0 || t.shards[i].Epoch != rc.Epoch {
		delete(c.tables, keyspace)
		return
	}
	if t.shards[i].Leader != rc.Leader {
		next := *t
		next.shards = slices.Clone(t.shards)
		next.shards[i].Leader = rc.Leader
		c.tables[keyspace] = &next
	}
}
