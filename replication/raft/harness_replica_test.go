package raft_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// list is a Machine that keeps every command.
type list struct {
	mu   sync.Mutex
	Cmds []string
}

func (l *list) Apply(_ uint64, cmd []byte) any {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Cmds = append(l.Cmds, string(cmd))
	return len(l.Cmds)
}

func (l *list) Snapshot() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, _ := json.Marshal(l.Cmds)
	return b
}

func (l *list) Restore(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Cmds = nil
	return json.Unmarshal(b, &l.Cmds)
}

func (l *list) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.Cmds...)
}

// ensemble is a few Replicas on a network in memory.
type ensemble struct {
	t        *testing.T
	net      *replicationtest.Network
	replicas map[fulcrum.NodeID]*member
	tuning   raft.Tuning
}

type member struct {
	*raft.Replica
	list   *list
	log    *replicationtest.Log
	cancel context.CancelFunc
	done   chan error
}

func newEnsemble(t *testing.T, tuning raft.Tuning) *ensemble {
	return &ensemble{t: t, net: replicationtest.NewNetwork(), replicas: map[fulcrum.NodeID]*member{}, tuning: tuning}
}

func (e *ensemble) open(id fulcrum.NodeID, log *replicationtest.Log, voters, nonVoters []fulcrum.NodeID) *member {
	e.t.Helper()
	m := &member{list: &list{}, log: log, done: make(chan error, 1)}
	env := replication.Env{Node: id, Peers: e.net.Peers(id), Log: log, Now: time.Now, Rand: rand.New(rand.NewPCG(1, 2)),
		Logger: slog.New(slog.DiscardHandler), Metrics: replication.NoMetrics{}}
	r, err := raft.OpenReplica(raft.ReplicaOptions{Env: env, Voters: voters, NonVoters: nonVoters, Machine: m.list, Tuning: e.tuning})
	if err != nil {
		e.t.Fatal(err)
	}
	m.Replica = r
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(context.Background())
	e.net.Register(id, r.Handle)
	go func() { m.done <- r.Run(ctx) }()
	e.replicas[id] = m
	return m
}

// stop ends id; its log stays.
func (e *ensemble) stop(id fulcrum.NodeID) *replicationtest.Log {
	e.t.Helper()
	m := e.replicas[id]
	e.net.Down(id)
	m.cancel()
	if err := <-m.done; err != nil {
		e.t.Errorf("Run of %s: %v", id, err)
	}
	delete(e.replicas, id)
	return m.log
}

func (e *ensemble) close() {
	for id := range e.replicas {
		e.stop(id)
	}
	e.net.Close()
}

func (e *ensemble) leader() *member {
	e.t.Helper()
	for range 200 {
		for _, m := range e.replicas {
			ctx, cancel := within(time.Second)
			err := m.Confirm(ctx)
			cancel()
			if err == nil {
				return m
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	e.t.Fatal("no leader")
	return nil
}

func (e *ensemble) id(m *member) fulcrum.NodeID {
	for id, o := range e.replicas {
		if o == m {
			return id
		}
	}
	return ""
}

func (e *ensemble) others(m *member) (ids []fulcrum.NodeID) {
	for id, o := range e.replicas {
		if o != m {
			ids = append(ids, id)
		}
	}
	return ids
}
