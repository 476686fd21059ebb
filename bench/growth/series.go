package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"fulcrum/bench/figures"
)

// series is one thing that grows.
type series struct {
	name  string
	about string
	run   func(context.Context, *meter) error
}

var all = []series{
	{"keys", "keys of 16-byte values, 64 clients, against the fewest", keys},
	{"shards", "shards of one keyspace, 64 clients, against 4", shards},
	{"values", "bytes of a value, 16 clients", values},
	{"nodes", "nodes, three replicas of each shard, one client, against 3 nodes", nodes},
	{"idle", "five nodes and four keyspaces without clients", idle},
	{"start", "a node that holds the most keys starts", start},
}

const (
	leastKeys  = 10_000
	sixteen    = "16" // bytes of a value, where values are small
	smallLoad  = 100_000
	largeLoad  = 1_000
	manyAtOnce = "64"
)

// The goals.
const (
	keptByKeys    = 0.7 // of the rate with the fewest keys
	keptByShards  = 0.8 // of the rate with 4
	grownByNodes  = 1.3 // times the latency with 3
	idleCPU       = 5   // per cent of one core, all nodes
	idleMemory    = 100 // MiB a node
	readyAfter    = 1   // second
	linearizable  = "linearizable"
	readLevelFlag = "--read-level"
)

func keys(ctx context.Context, m *meter) error {
	if err := m.up(ctx, 3); err != nil {
		return err
	}
	var counts []int
	for n := leastKeys; n <= m.s.maxKeys; n *= 10 {
		counts = append(counts, n)
		if err := m.keyspace(ctx, keysOf(n), n, sixteen); err != nil {
			return err
		}
	}
	return m.inTurns(func() error {
		for _, n := range counts {
			for _, do := range []load{{"SET", []string{"--mix", "set"}}, {"GET linearizable", []string{"--mix", "get", readLevelFlag, linearizable}}} {
				goal := goal{kept: keptByKeys}
				if err := m.bench(ctx, figures.Thousands(float64(n))+" keys", do, goal, "-k", keysOf(n), "--clients", manyAtOnce, "--keys", strconv.Itoa(n), "--value-size", sixteen); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func keysOf(n int) string { return fmt.Sprintf("keys%d", n) }

func shards(ctx context.Context, m *meter) error {
	if err := m.up(ctx, 3); err != nil {
		return err
	}
	counts := []int{4, 16, 64}
	for _, n := range counts {
		if err := m.keyspace(ctx, fmt.Sprintf("shards%d", n), smallLoad, "256", "--shards", strconv.Itoa(n)); err != nil {
			return err
		}
	}
	return m.inTurns(func() error {
		for _, n := range counts {
			for _, do := range []load{{"SET", []string{"--mix", "set"}}, {"GET linearizable", []string{"--mix", "get", readLevelFlag, linearizable}}} {
				if err := m.bench(ctx, fmt.Sprintf("%d shards", n), do, goal{kept: keptByShards}, "-k", fmt.Sprintf("shards%d", n), "--clients", manyAtOnce, "--keys", strconv.Itoa(smallLoad)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func values(ctx context.Context, m *meter) error {
	if err := m.up(ctx, 3); err != nil {
		return err
	}
	sizes := []string{"16", "256", "4096", "65536", "262144"}
	for _, size := range sizes {
		if err := m.keyspace(ctx, "values"+size, largeLoad, size); err != nil {
			return err
		}
	}
	return m.inTurns(func() error {
		for _, size := range sizes {
			for _, do := range []load{{"SET", []string{"--mix", "set"}}, {"GET linearizable", []string{"--mix", "get", readLevelFlag, linearizable}}} {
				if err := m.bench(ctx, size+" bytes", do, goal{}, "-k", "values"+size, "--clients", "16", "--keys", strconv.Itoa(largeLoad), "--value-size", size); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func nodes(ctx context.Context, m *meter) error {
	return m.inTurns(func() error {
		for _, n := range []int{3, 5, 7} {
			if err := m.up(ctx, n); err != nil {
				return err
			}
			if err := m.keyspace(ctx, "three", leastKeys, "256", "--replicas", "3"); err != nil {
				return err
			}
			for _, do := range []load{{"SET", []string{"--mix", "set"}}, {"GET linearizable", []string{"--mix", "get", readLevelFlag, linearizable}}} {
				if err := m.bench(ctx, fmt.Sprintf("%d nodes", n), do, goal{grown: grownByNodes}, "-k", "three", "--clients", "1", "--keys", strconv.Itoa(leastKeys)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// idleFor is how long nodes without clients are watched, after idleAfter.
const idleFor, idleAfter = 30 * time.Second, 10 * time.Second

func idle(ctx context.Context, m *meter) error {
	if err := m.up(ctx, 5); err != nil {
		return err
	}
	for _, name := range []string{"a", "b", "c"} { // "default" is there
		if err := m.keyspace(ctx, name, 0, ""); err != nil {
			return err
		}
	}
	return m.inTurns(func() error {
		used, resident, err := m.watch(ctx, idleAfter, idleFor)
		if err != nil {
			return err
		}
		m.plain("all nodes", "% of one core", used, idleCPU)
		m.plain("largest node", "MiB resident", resident, idleMemory)
		return nil
	})
}

func start(ctx context.Context, m *meter) error {
	if err := m.up(ctx, 3); err != nil {
		return err
	}
	if err := m.keyspace(ctx, "much", m.s.maxKeys, sixteen); err != nil {
		return err
	}
	var what string // one line for all turns, though the size changes a little
	return m.inTurns(func() error {
		took, size, err := m.restart(ctx)
		if err != nil {
			return err
		}
		what = cmp.Or(what, fmt.Sprintf("%s keys, %.1f GiB on disk", figures.Thousands(float64(m.s.maxKeys)), size))
		m.plain(what, "seconds until ready", took, readyAfter)
		return nil
	})
}
