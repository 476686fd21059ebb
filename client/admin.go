package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"fulcrum"
	"fulcrum/consistency"
)

// admin sends a request of the control plane, to the node that opts choose or to
// any, and reads its JSON into into (nil: none is wanted).
func (c *Client) admin(ctx context.Context, op, method string, path []string, query url.Values, send, into any, opts []CallOption) (answer, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	o := c.call(opts)
	rq := request{op: op, method: method, path: path, query: query, header: make(http.Header), read: method == http.MethodGet, change: method != http.MethodGet, attempts: o.attempts}
	if send != nil {
		body, err := json.Marshal(send)
		if err != nil {
			return answer{}, fulcrum.Errorf(fulcrum.CodeInvalid, "%w", err)
		}
		rq.body = body
		rq.header.Set("Content-Type", "application/json")
	}
	targets, err := c.targets(ctx, o, c.everyone)
	if err != nil {
		return answer{}, err
	}
	a, err := c.do(ctx, rq, targets)
	if err != nil || into == nil {
		return a, err
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		return a, fulcrum.Errorf(fulcrum.CodeInternal, "%s: reply of %s: %w", op, a.base, err)
	}
	return a, nil
}

// Cluster is one node's view of the whole, and teaches the client where the nodes are.
func (c *Client) Cluster(ctx context.Context, opts ...CallOption) (fulcrum.ClusterInfo, error) {
	var info fulcrum.ClusterInfo
	a, err := c.admin(ctx, "cluster", http.MethodGet, []string{"v1", "cluster"}, nil, nil, &info, opts)
	if err == nil {
		c.learn(a.base, info.Nodes)
	}
	return info, err
}

// Shards lists the shards of a keyspace, or of all ("").
func (c *Client) Shards(ctx context.Context, keyspace string, opts ...CallOption) ([]fulcrum.ShardInfo, error) {
	var q url.Values
	if keyspace != "" {
		q = url.Values{"keyspace": {keyspace}}
	}
	var shards []fulcrum.ShardInfo
	_, err := c.admin(ctx, "shards", http.MethodGet, []string{"v1", "shards"}, q, nil, &shards, opts)
	return shards, err
}

// Levels is the promise table, as the asked node has it.
func (c *Client) Levels(ctx context.Context, opts ...CallOption) ([]consistency.Promise, error) {
	var table []consistency.Promise
	_, err := c.admin(ctx, "levels", http.MethodGet, []string{"v1", "levels"}, nil, nil, &table, opts)
	return table, err
}

// Keyspaces lists the keyspaces, without their shards.
func (c *Client) Keyspaces(ctx context.Context, opts ...CallOption) ([]fulcrum.KeyspaceInfo, error) {
	var list []fulcrum.KeyspaceInfo
	_, err := c.admin(ctx, "keyspaces", http.MethodGet, []string{"v1", "keyspaces"}, nil, nil, &list, opts)
	return list, err
}

// Keyspace describes one keyspace, with its shards.
func (c *Client) Keyspace(ctx context.Context, name string, opts ...CallOption) (fulcrum.KeyspaceInfo, error) {
	var info fulcrum.KeyspaceInfo
	_, err := c.admin(ctx, "keyspace", http.MethodGet, []string{"v1", "keyspaces", name}, nil, nil, &info, opts)
	return info, err
}

// CreateKeyspace makes a keyspace.
func (c *Client) CreateKeyspace(ctx context.Context, spec fulcrum.KeyspaceSpec, opts ...CallOption) (fulcrum.KeyspaceInfo, error) {
	var info fulcrum.KeyspaceInfo
	_, err := c.admin(ctx, "create keyspace", http.MethodPost, []string{"v1", "keyspaces"}, nil, spec, &info, opts)
	return info, err
}

// AlterKeyspace changes a keyspace. A change of mode is only begun; Keyspace shows
// its progress.
func (c *Client) AlterKeyspace(ctx context.Context, name string, patch fulcrum.KeyspacePatch, opts ...CallOption) (fulcrum.KeyspaceInfo, error) {
	var info fulcrum.KeyspaceInfo
	_, err := c.admin(ctx, "alter keyspace", http.MethodPatch, []string{"v1", "keyspaces", name}, nil, patch, &info, opts)
	c.forget(name)
	return info, err
}

// DropKeyspace removes a keyspace and all that is in it.
func (c *Client) DropKeyspace(ctx context.Context, name string, opts ...CallOption) error {
	_, err := c.admin(ctx, "drop keyspace", http.MethodDelete, []string{"v1", "keyspaces", name}, nil, nil, nil, opts)
	c.forget(name)
	return err
}

// RemoveNode moves a node's replicas away and forgets it. That can take minutes:
// ctx should have a deadline that allows for it.
func (c *Client) RemoveNode(ctx context.Context, name fulcrum.NodeID, opts ...CallOption) error {
	_, err := c.admin(ctx, "remove node", http.MethodDelete, []string{"v1", "nodes", string(name)}, nil, nil, nil, opts)
	return err
}

// Ready returns nil when the node says that it can serve.
func (c *Client) Ready(ctx context.Context, node fulcrum.NodeID) error {
	_, err := c.admin(ctx, "ready", http.MethodGet, []string{"readyz"}, nil, nil, nil, []CallOption{On(node), NoRetry()})
	return err
}

// Faults lists the faults that are active on a node.
func (c *Client) Faults(ctx context.Context, node fulcrum.NodeID) ([]fulcrum.Fault, error) {
	var faults []fulcrum.Fault
	_, err := c.admin(ctx, "faults", http.MethodGet, []string{"v1", "faults"}, nil, nil, &faults, []CallOption{On(node)})
	return faults, err
}

// AddFault injects a fault into one node. For a fault of the network see
// AddFaultEverywhere.
func (c *Client) AddFault(ctx context.Context, node fulcrum.NodeID, f fulcrum.Fault) error {
	_, err := c.admin(ctx, "inject fault", http.MethodPost, []string{"v1", "faults"}, nil, f, nil, []CallOption{On(node)})
	return err
}

// HealFaults ends faults of one node: those with the ids, or all.
func (c *Client) HealFaults(ctx context.Context, node fulcrum.NodeID, ids ...string) error {
	var q url.Values
	if len(ids) > 0 {
		q = url.Values{"id": ids}
	}
	_, err := c.admin(ctx, "heal faults", http.MethodDelete, []string{"v1", "faults"}, q, nil, nil, []CallOption{On(node)})
	return err
}

// AddFaultEverywhere injects a fault, which should have an ID, into every node;
// each obeys its part of it. The error joins those of the nodes that refused or could
// not be reached; the fault is active on the others.
func (c *Client) AddFaultEverywhere(ctx context.Context, f fulcrum.Fault) error {
	return c.everywhere(ctx, func(ctx context.Context, n fulcrum.NodeID) error { return c.AddFault(ctx, n, f) })
}

// HealFaultsEverywhere is HealFaults on every node.
func (c *Client) HealFaultsEverywhere(ctx context.Context, ids ...string) error {
	return c.everywhere(ctx, func(ctx context.Context, n fulcrum.NodeID) error { return c.HealFaults(ctx, n, ids...) })
}

// everywhere calls f for all nodes at a time and returns when all have answered.
func (c *Client) everywhere(ctx context.Context, f func(context.Context, fulcrum.NodeID) error) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	if _, err := c.Cluster(ctx); err != nil {
		return err
	}
	names := c.names()
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			if err := f(ctx, fulcrum.NodeID(name)); err != nil {
				e := *fulcrum.AsError(err)
				e.Node = fulcrum.NodeID(name)
				errs[i] = &e
			}
		})
	}
	wg.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i < 0 {
		return nil
	}
	return errors.Join(errs...)
}
