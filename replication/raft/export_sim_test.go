package raft

import (
	"bytes"
	"io"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// What the simulation looks at inside of a replica. It stands on seams otherwise.

// MetaSnapshot and MetaHard are where a log's meta holds the newest snapshot, and term and vote.
const (
	MetaSnapshot = metaSnapshot
	MetaHard     = metaHard
)

// Queues is what waits in a replica.
type Queues struct {
	Events, Proposals, Requests, Reads int
	Unsynced, Holds                    int
	Cached, CacheLimit                 int // bytes of entries in memory
}

// Queues is safe to call at any time.
func (r *Replica) Queues() Queues { return r.core.queues() }

// Queues is safe to call at any time.
func (g *Group) Queues() Queues { return g.core.queues() }

// Servers is what Replica's is.
func (g *Group) Servers() []Server { return (&Replica{g.core}).Servers() }

func (c *core) queues() (q Queues) {
	q.Requests, q.Reads = c.queue.len(), c.reads.len()+c.asks.len()
	q.CacheLimit = c.store.bounds.cache
	if in := c.instance.Load(); in != nil {
		in.box.Lock()
		q.Events = len(in.box.events)
		in.box.Unlock()
		in.proposals.mu.Lock()
		q.Proposals = len(in.proposals.at)
		in.proposals.mu.Unlock()
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	q.Unsynced, q.Holds = len(c.store.unsynced), len(c.store.holds.by)
	for _, e := range c.store.tail {
		q.Cached += len(e.Data) + 64
	}
	return q
}

// RecordConfig returns the configuration in a log record; ok is false if it has none.
func RecordConfig(record []byte, index uint64) (c protocol.Configuration, ok bool) {
	e, err := readRecord(record, index)
	if err != nil || e.Kind != protocol.Members {
		return c, false
	}
	c, err = protocol.ReadConfiguration(fulcrum.NewReader(e.Data))
	return c, err == nil
}

// SnapshotPlace returns which prefix of the log a stored snapshot stands for.
func SnapshotPlace(b []byte) (index uint64, c protocol.ConfigurationAt, ok bool) {
	m, err := readMeta(fulcrum.NewReader(b))
	return m.Index, m.Config, err == nil
}

// LedTerm is the term that a message claims to come from the leader of; 0: none.
func LedTerm(msg []byte) uint64 {
	if len(msg) == 0 || msg[0] != msgAppend && msg[0] != msgPart && msg[0] != msgBeat {
		return 0
	}
	return fulcrum.NewReader(msg[1:]).Uvarint()
}

// Greeting is the heartbeat in an answer to a hello; nil: there is none.
func Greeting(msg, reply []byte) []byte {
	if len(msg) == 0 || msg[0] != msgHello || len(reply) < 2 {
		return nil
	}
	return reply[1:]
}

// AskedVote is the term in which a message asks for a vote; 0: it does not.
func AskedVote(msg []byte) uint64 {
	if len(msg) == 0 || msg[0] != msgVote {
		return 0
	}
	return fulcrum.NewReader(msg[1:]).Uvarint()
}

// Granted reports whether an answer to such a message is a vote.
func Granted(reply []byte) (term uint64, yes bool) {
	v, err := decodeVoteReply(reply)
	return v.Term, err == nil && v.Granted
}

// Ways to break a replica. Break must be called before Run.

// Break lets the machine be handed entries that are cleared when newer ones push them out
// of memory, or take snapshots in that are behind it.
func (r *Replica) Break(clears, goesBack bool) {
	r.core.machine = &brokenMachine{r.core.machine.(*driver), clears, goesBack}
}

type brokenMachine struct {
	*driver
	clears, goesBack bool
}

func (b *brokenMachine) apply(entries []protocol.Entry) []any {
	if !b.clears {
		return b.driver.apply(entries)
	}
	s := b.core.store
	inMemory := func(index uint64) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return index >= s.tailFrom()
	}
	shared := inMemory(entries[0].Index)
	results := make([]any, 0, len(entries))
	for i := range entries {
		if shared && !inMemory(entries[i].Index) {
			entries[i] = protocol.Entry{}
		}
		results = append(results, b.driver.apply(entries[i:i+1])...)
	}
	return results
}

func (b *brokenMachine) install(m snapshotMeta, r io.Reader) error {
	if !b.goesBack || b.applied() <= m.Index {
		return b.driver.install(m, r)
	}
	data, err := io.ReadAll(r)
	if err == nil {
		err = b.persist(m, data)
	}
	if err == nil {
		err = b.to.Restore(data)
	}
	b.moveTo(m.Index)
	return err
}

// InstallAgain takes the last chunk of a snapshot for news that was installed before.
func (r *Replica) InstallAgain(msg []byte) {
	ch, err := decodeChunk(fulcrum.NewReader(msg[1:]))
	in := r.core.instance.Load()
	if err != nil || !ch.last || ch.offset > 0 || in == nil {
		return
	}
	_ = in.job(in.ctx, func() { _ = r.core.machine.install(ch.meta, bytes.NewReader(ch.data)) })
}
