package raft

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft/protocol"
)

// Machine is what a Replica drives. Its methods are called by one goroutine at a
// time and must be deterministic.
type Machine interface {
	// Apply takes one command, in log order. Commands that were proposed at the same
	// time share an index. After a restart it is called again for every command
	// behind the position that was restored. cmd must not be modified.
	Apply(index uint64, cmd []byte) any
	// Snapshot returns the whole machine; Restore replaces it by such a picture. A
	// picture travels to other replicas and is stored beside the log: keep it small
	// (a few MiB).
	Snapshot() []byte
	Restore(data []byte) error
}

// ReplicaOptions say what OpenReplica opens.
type ReplicaOptions struct {
	Env replication.Env // State, Hints and Clock are not used
	// Voters and NonVoters are the first configuration, the same on every replica
	// that is given one; it counts only while the log is empty. Without Voters the
	// replica waits until a leader adds it.
	Voters, NonVoters []fulcrum.NodeID
	Machine           Machine
	Tuning            Tuning
}

// Server is a member of a Replica's configuration.
type Server struct {
	Node  fulcrum.NodeID
	Voter bool
}

// Replica is a replicated log under a Machine: all replicas apply the same commands
// in the same order. Its methods may be called from any goroutine while Run is
// running; errors are *fulcrum.Error, as in replication.Group.
type Replica struct{ core *core }

// OpenReplica opens a replica and restores its machine from the last snapshot.
func OpenReplica(o ReplicaOptions) (*Replica, error) {
	env := o.Env
	env.Clock = nil // commands carry no stamp
	c, err := openCore(env, o.Tuning, NewRounds())
	if err != nil {
		return nil, err
	}
	m := &driver{core: c, to: o.Machine}
	c.machine = m
	b, err := env.Log.Meta(metaSnapshot)
	if err != nil {
		return nil, c.diskError(err)
	}
	if b != nil {
		meta, data, err := splitSnapshot(b)
		if err == nil {
			err = o.Machine.Restore(data)
		}
		if err == nil {
			err = c.reconcile(meta)
		}
		if err != nil {
			return nil, c.diskError(fmt.Errorf("stored snapshot: %w", err))
		}
		m.at, m.meta, m.data = meta.Index, meta, data
	}
	if len(o.Voters) > 0 {
		if err := bootstrap(c, o.Voters, o.NonVoters); err != nil {
			return nil, c.diskError(err)
		}
	}
	return &Replica{core: c}, nil
}

// bootstrap writes the first configuration into a log that has nothing, or nothing but the
// term, where a crash has cut it off: no leader is of that term.
func bootstrap(c *core, voters, nonVoters []fulcrum.NodeID) error {
	hard, err := c.store.hard()
	if _, ok := c.snaps.current(); err != nil || hard.Term > 1 || c.store.Last() > 0 || ok {
		return err
	}
	var conf protocol.Configuration
	for _, id := range voters {
		conf.Members = append(conf.Members, protocol.Member{ID: id, Voter: true})
	}
	for _, id := range nonVoters {
		conf.Members = append(conf.Members, protocol.Member{ID: id})
	}
	if err := c.store.setHard(protocol.HardState{Term: 1}); err != nil {
		return err
	}
	durable := make(chan struct{})
	first := protocol.Entry{Index: 1, Term: 1, Kind: protocol.Members, Data: conf.Append(nil)}
	if err := c.store.begin([]protocol.Entry{first}, func() { close(durable) }); err != nil {
		return err
	}
	select {
	case <-durable:
		return nil
	case err := <-c.failed:
		return err
	}
}

// Run owns every goroutine. It returns nil when ctx ends, and an error only when the
// disk failed: then the replica must not be opened again on what the disk still says.
func (r *Replica) Run(ctx context.Context) error { return r.core.run(ctx) }

// Handle answers a message that a replica of the same log sent through Peers.
func (r *Replica) Handle(ctx context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error) {
	return r.core.handle(ctx, from, msg)
}

// HandleAsync is replication.AsyncGroup's.
func (r *Replica) HandleAsync(from fulcrum.NodeID, msg []byte, answer func([]byte, error)) (taken bool) {
	return r.core.take(from, msg, answer)
}

// Propose appends cmd to the log and returns what Machine.Apply returned for it
// here. Only the leader takes it; CodeNotLeader hints at the leader. CodeUnknown
// means that it may still be applied.
func (r *Replica) Propose(ctx context.Context, cmd []byte) (any, error) {
	a, err := r.core.submit(ctx, entryBatch, cmd)
	if err != nil {
		return nil, err
	}
	return a.value, nil
}

// Confirm returns nil when this replica was the leader at some moment after the
// call began and its machine reflects everything that was committed before.
func (r *Replica) Confirm(ctx context.Context) error {
	_, err := r.core.confirm(ctx, false)
	return err
}

// Barrier returns once the leader's machine reflects everything committed so far.
// It says nothing about whether another replica has become leader; see Confirm.
func (r *Replica) Barrier(ctx context.Context) error {
	in := r.core.instance.Load()
	if in == nil {
		return unavailable(r.core.env.Node, "this replica is not running")
	}
	if !in.leads() {
		return r.core.notLeader("not the leader")
	}
	return r.core.reached(ctx, in, in.term(), r.core.store.Last())
}

// reached waits until the entry is applied that a leader of term has put at index.
//
// A later leader may put another one there, and then this one will never be: CodeNotLeader,
// definitely. That an entry at index is committed says so only while this replica leads in
// term; after that, the term of what stands there does. What is not committed yet when the
// leadership ends is up to the next leader: CodeUnknown.
func (c *core) reached(ctx context.Context, in *instance, term, index uint64) error {
	unknown := func(why string) error {
		return fulcrum.Errorf(fulcrum.CodeUnknown, "entry %d may still be committed: %s", index, why)
	}
	for {
		moved, elected := c.advanced.wait(), c.elected.wait()
		applied := in.applied.Load() // before the view: what was applied while this replica led is its own
		if v := in.view.Load(); v.Role != protocol.Leader || v.Term != term {
			if in.commit.Load() < index {
				return unknown("this replica leads no more")
			}
			switch now, known := c.store.Term(index); {
			case !known:
				return unknown("the log was cut behind it")
			case now != term:
				return c.notLeader("another leader's entry took the place")
			}
		}
		if applied >= index {
			return nil
		}
		select {
		case <-moved:
		case <-elected:
		case <-in.ctx.Done():
			return unknown("this replica is stopping")
		case <-ctx.Done():
			return unknown("it was not before the deadline")
		}
	}
}

// Leader returns the leader as far as this replica knows it (empty: none), and
// whether it is this one.
func (r *Replica) Leader() (fulcrum.NodeID, bool) { return r.core.leader() }

// LeaderChanged returns a channel that is closed when what Leader says changes.
func (r *Replica) LeaderChanged() <-chan struct{} { return r.core.elected.wait() }

// Term is the term that this replica is in; 0 while it is not running.
func (r *Replica) Term() uint64 {
	if in := r.core.instance.Load(); in != nil {
		return in.term()
	}
	return 0
}

// Applied is the index of the last command that the machine reflects.
func (r *Replica) Applied() uint64 { return r.core.machine.applied() }

// AppliedChanged returns a channel that is closed when the machine moves on.
func (r *Replica) AppliedChanged() <-chan struct{} { return r.core.advanced.wait() }

// HandOver asks a leader to give its place to another voter; see replication.Group.
func (r *Replica) HandOver(ctx context.Context) error { return r.core.handOver(ctx, "") }

// Retire makes this replica take no leadership from now on: its node stops.
func (r *Replica) Retire() { r.core.retire() }

// Servers returns the latest configuration that this replica knows.
func (r *Replica) Servers() []Server {
	in := r.core.instance.Load()
	if in == nil {
		return nil
	}
	var out []Server
	for _, m := range in.view.Load().conf.Members {
		out = append(out, Server{Node: m.ID, Voter: m.Voter})
	}
	return out
}

// AddNonvoter adds id as a replica that follows the log without a vote, or takes its vote
// away. Only the leader takes it. Adding a server twice is no error.
func (r *Replica) AddNonvoter(ctx context.Context, id fulcrum.NodeID) error {
	return r.core.reconfigure(ctx, func(c protocol.Configuration) protocol.Configuration { return c.With(protocol.Member{ID: id}) })
}

// AddVoter gives id a vote. Add it as a nonvoter first, and wait until it has caught
// up: a voter that has not holds commits up.
func (r *Replica) AddVoter(ctx context.Context, id fulcrum.NodeID) error {
	return r.core.reconfigure(ctx, func(c protocol.Configuration) protocol.Configuration {
		return c.With(protocol.Member{ID: id, Voter: true})
	})
}

// RemoveServer removes id, which may be the leader itself.
func (r *Replica) RemoveServer(ctx context.Context, id fulcrum.NodeID) error {
	return r.core.reconfigure(ctx, func(c protocol.Configuration) protocol.Configuration { return c.Without(id) })
}

// Status is cheap and never blocks. Keys and Bytes are not counted.
func (r *Replica) Status() replication.Status { return r.core.status() }

// driver is the machine of a Replica: it keeps its last snapshot in the log's meta.
type driver struct {
	core *core
	to   Machine

	mu   sync.Mutex
	at   uint64
	meta snapshotMeta // of the last snapshot, whose picture is data
	data []byte
}

func (d *driver) moveTo(at uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = at
}

func (d *driver) applied() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.at
}

func (d *driver) reading(uint64) clockReading { return clockReading{} }

func (d *driver) floor() fulcrum.Version { return fulcrum.Version{} }

func (d *driver) apply(entries []protocol.Entry) []any {
	results := make([]any, len(entries))
	at := d.applied()
	for i, l := range entries {
		if l.Kind != protocol.Command || l.Index <= at {
			continue
		}
		res := &entryResult{at: l.Index, term: l.Term}
		e, err := decodeEntry(l.Data)
		if err != nil {
			res.err = &fulcrum.Error{Code: fulcrum.CodeInternal, Detail: err.Error()}
		}
		for _, cmd := range e.items {
			res.items = append(res.items, d.to.Apply(l.Index, cmd))
		}
		results[i] = res
		at = l.Index
		d.moveTo(at)
	}
	return results
}

func (d *driver) capture() func(snapshotMeta) error {
	data := d.to.Snapshot()
	return func(m snapshotMeta) error { return d.persist(m, data) }
}

func (d *driver) persist(m snapshotMeta, data []byte) error {
	if err := d.core.store.setMeta(map[string][]byte{metaSnapshot: append(m.append(nil), data...)}); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.meta, d.data = m, data
	return nil
}

func splitSnapshot(b []byte) (snapshotMeta, []byte, error) {
	r := fulcrum.NewReader(b)
	m, err := readMeta(r)
	return m, r.Rest(), err
}

func (d *driver) open(snapshotMeta) (snapshotMeta, io.ReadCloser, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.meta, io.NopCloser(bytes.NewReader(d.data)), nil
}

func (d *driver) install(m snapshotMeta, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if d.applied() > m.Index {
		// What we have is further; but the stored picture must fit its meta.
		return d.persist(m, data)
	}
	if err := d.persist(m, data); err != nil {
		return err
	}
	if err := d.to.Restore(data); err != nil {
		return d.core.store.broken("restore the machine", err)
	}
	d.moveTo(m.Index)
	return nil
}
