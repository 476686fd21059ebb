package lab

import (
	"context"
	"errors"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/consistency"
)

// cluster is all that an experiment needs of a store.
type cluster interface {
	info(ctx context.Context) (fulcrum.ClusterInfo, error)
	create(ctx context.Context, spec fulcrum.KeyspaceSpec) error
	describe(ctx context.Context, keyspace string) (fulcrum.KeyspaceInfo, error)
	drop(ctx context.Context, keyspace string) error

	// cut injects f into every node; on an error it may be active on some.
	cut(ctx context.Context, f fulcrum.Fault) error
	heal(ctx context.Context, id string) error

	// put, get and scan ask that node once, and no other; get of node "" asks until
	// somebody answers. get returns "" for a key that is not there.
	put(ctx context.Context, at fulcrum.NodeID, keyspace, key, value string, l consistency.Level) error
	get(ctx context.Context, at fulcrum.NodeID, keyspace, key string, l consistency.Level) (string, error)
	scan(ctx context.Context, at fulcrum.NodeID, keyspace string, l consistency.Level) (map[string]string, error)
}

// remote is a cluster behind a client.
type remote struct{ c *client.Client }

func (r *remote) info(ctx context.Context) (fulcrum.ClusterInfo, error) { return r.c.Cluster(ctx) }

func (r *remote) create(ctx context.Context, spec fulcrum.KeyspaceSpec) error {
	_, err := r.c.CreateKeyspace(ctx, spec)
	return err
}

func (r *remote) describe(ctx context.Context, keyspace string) (fulcrum.KeyspaceInfo, error) {
	return r.c.Keyspace(ctx, keyspace)
}

func (r *remote) drop(ctx context.Context, keyspace string) error {
	return r.c.DropKeyspace(ctx, keyspace)
}

func (r *remote) cut(ctx context.Context, f fulcrum.Fault) error {
	return r.c.AddFaultEverywhere(ctx, f)
}

func (r *remote) heal(ctx context.Context, id string) error {
	return r.c.HealFaultsEverywhere(ctx, id)
}

func (r *remote) put(ctx context.Context, at fulcrum.NodeID, keyspace, key, value string, l consistency.Level) error {
	_, err := r.c.Put(ctx, keyspace, key, []byte(value), once(at, l)...)
	return err
}

func (r *remote) get(ctx context.Context, at fulcrum.NodeID, keyspace, key string, l consistency.Level) (string, error) {
	opts := once(at, l)
	if at == "" {
		opts = []client.CallOption{client.Level(l)}
	}
	item, err := r.c.Get(ctx, keyspace, key, opts...)
	if errors.Is(err, fulcrum.ErrNotFound) && item.Receipt.Keyspace != "" { // the key is not there, rather than the keyspace
		return "", nil
	}
	return string(item.Value), err
}

func (r *remote) scan(ctx context.Context, at fulcrum.NodeID, keyspace string, l consistency.Level) (map[string]string, error) {
	out := map[string]string{}
	for item, err := range r.c.Scan(ctx, keyspace, client.Range{}, once(at, l)...) {
		if err != nil {
			return nil, err
		}
		out[item.Key] = string(item.Value)
	}
	return out, nil
}

func once(at fulcrum.NodeID, l consistency.Level) []client.CallOption {
	return []client.CallOption{client.On(at), client.NoRetry(), client.Level(l)}
}
