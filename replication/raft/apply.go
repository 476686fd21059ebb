package raft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"fulcrum"
	"fulcrum/mutant"
	"fulcrum/replication/raft/protocol"
)

// proposals are the entries that wait here to be applied: index -> who waits.
type proposals struct {
	mu sync.Mutex
	at map[uint64]*proposal
}

// proposal is one entry on its way. Its batch is answered once, by whoever moves its
// state to answered.
type proposal struct {
	state atomic.Int32
	term  uint64
	batch []*request
	end   func(later []*request) // is called when the batch is answered, with those that the entry has put off
}

const (
	waitsForLog int32 = iota
	inLog
	answered
)

func (p *proposals) add(index uint64, one *proposal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at == nil {
		p.at = map[uint64]*proposal{}
	}
	p.at[index] = one
}

func (p *proposals) take(index uint64) *proposal {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.at[index]
	delete(p.at, index)
	return one
}

// lose answers everybody: this replica does not lead any more, and what becomes of the
// entries is up to the next leader.
func (p *proposals) lose(c *core) {
	p.mu.Lock()
	lost := p.at
	p.at = nil
	p.mu.Unlock()
	for _, one := range lost {
		if mutant.On("lost-lead-as-refusal") {
			c.answerAll(one, inLog, nil, c.notLeader("not the leader any more")) // mutant: definitely not done
		}
		c.answerAll(one, inLog, nil, fulcrum.Errorf(fulcrum.CodeUnknown, "the entry may still be committed: this replica leads no more"))
	}
}

// answerAll answers a proposal that is in a state; false: it is not.
func (c *core) answerAll(one *proposal, from int32, res *entryResult, err error) bool {
	if !one.state.CompareAndSwap(from, answered) {
		return false
	}
	one.end(c.finish(one.batch, res, err))
	return true
}

func (in *instance) tellApplier() { notify(in.moved) }

// apply brings the machine up to what is committed, and does jobs between entries, until
// ctx ends.
func (in *instance) apply(ctx context.Context) {
	for {
		select {
		case <-in.moved:
			in.applyCommitted(ctx)
		case job := <-in.jobs:
			job()
		case <-ctx.Done():
			return
		}
	}
}

// applyCommitted applies what a majority holds, also where this replica's own disk lags
// behind: after a crash the machine may be ahead of its log, which then catches up with it.
func (in *instance) applyCommitted(ctx context.Context) {
	c := in.core
	for ctx.Err() == nil && !c.store.failed.Load() {
		from, to := in.applied.Load()+1, in.commit.Load()
		if from > to {
			return
		}
		entries, ok := c.store.read(from, int(min(to-from+1, maxEntries)), readBytesAtOnce)
		if !ok {
			return // the disk has failed, or a snapshot stands for them now
		}
		results := c.machine.apply(entries)
		if c.store.failed.Load() {
			return // who waits hears that the outcome is unknown when the instance ends
		}
		entries = entries[:len(results)] // the rest comes next
		in.applied.Store(entries[len(entries)-1].Index)
		for i, e := range entries {
			if e.Kind == protocol.Members {
				in.confApplied = e.Index
			}
			if one := in.proposals.take(e.Index); one != nil {
				c.settle(one, e, results[i])
			}
		}
		c.advanced.broadcast()
	}
}

// settle answers a proposal whose place in the log is applied.
func (c *core) settle(one *proposal, e protocol.Entry, result any) {
	res, ok := result.(*entryResult)
	var err error
	switch {
	case e.Term != one.term:
		err = c.notLeader("another leader's entry took the place")
	case !ok:
		err = fulcrum.Errorf(fulcrum.CodeUnknown, "committed, but this replica could not apply it")
	}
	c.answerAll(one, inLog, res, err)
}

// job runs f on the goroutine that applies, between entries.
func (in *instance) job(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case in.jobs <- func() { f(); close(done) }: // has no room: whoever takes it does it
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-in.ctx.Done():
		return errStopping
	}
}

var errStopping = errors.New("this replica is stopping")

// snapshot makes the machine durable and cuts the log behind it.
func (c *core) snapshot(ctx context.Context, in *instance) error {
	trailing := c.trailing() // before the snapshot begins to count anew
	var m snapshotMeta
	var persist func(snapshotMeta) error
	var err error
	jobErr := in.job(ctx, func() { m, persist, err = c.capture(in) })
	if err = errors.Join(jobErr, err); err != nil || persist == nil {
		return err
	}
	if err := c.snaps.store(ctx, m, persist); err != nil {
		return err
	}
	return c.store.compact(m.Index + 1 - min(m.Index, trailing))
}

// capture begins a snapshot of what is applied; persist is nil when there is nothing new.
func (c *core) capture(in *instance) (m snapshotMeta, persist func(snapshotMeta) error, err error) {
	if c.store.failed.Load() {
		return m, nil, errFailed
	}
	index, v := in.applied.Load(), in.view.Load()
	if old, _ := c.snaps.current(); index <= old.Index {
		return m, nil, nil
	}
	if v.confIndex > index {
		return m, nil, fmt.Errorf("the configuration at %d is not applied yet", v.confIndex)
	}
	if v.confIndex < in.confApplied { // it is committed already, and shown in a moment
		return m, nil, fmt.Errorf("the configuration at %d is not known yet", in.confApplied)
	}
	term, ok := c.store.Term(index)
	if !ok {
		return m, nil, fmt.Errorf("no entry at %d", index)
	}
	m = snapshotMeta{Index: index, Term: term, Config: protocol.ConfigurationAt{Configuration: v.conf, Index: v.confIndex}}
	return m, c.machine.capture(), nil
}

// trailing is how many entries stay behind a snapshot for replicas that are a little
// behind: fewer where they are large.
func (c *core) trailing() uint64 {
	size, n := c.store.grown()
	if n == 0 || size < c.tuning.SnapshotBytes {
		return c.tuning.TrailingEntries
	}
	return min(c.tuning.TrailingEntries, max(64, uint64(c.tuning.SnapshotBytes)/max(1, uint64(size)/n)))
}
