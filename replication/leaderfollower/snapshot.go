package leaderfollower

import (
	"context"
	"errors"
	"time"

	"fulcrum"
)

// sendState streams the leader's State, of which everything is committed, to a
// follower that the log cannot bring up to date.
func (g *Group) sendState(ctx context.Context, p *peer, term uint64) (answer, error) {
	view, err := g.env.State.View()
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = view.Close() }() // a read-only view: nothing to lose
	note := stateNote{epoch: g.env.Epoch, term: 1}
	if b := view.Extra()[noteKey]; len(b) > 0 {
		n, err := decodeNote(b)
		if err != nil {
			return answer{}, err
		}
		if n.epoch == g.env.Epoch {
			note = n
		}
	}
	g.mu.Lock()
	note.newest = later(note.newest, g.newest)
	g.mu.Unlock()
	m := chunkMsg{term: term, id: uint64(time.Since(g.started)), index: view.Index(), note: note}
	var start []byte
	for {
		m.entries, start = nil, append([]byte(nil), start...)
		size, full := 0, false
		err := view.Scan(start, nil, func(e fulcrum.Entry) bool {
			if size += len(e.Key) + len(e.Value) + 32; size > chunkBytes && len(m.entries) > 0 {
				full = true
				return false
			}
			m.entries = append(m.entries, e)
			return true
		})
		if err != nil {
			return answer{}, err
		}
		m.final = !full
		limit := chunkTimeout
		if m.final {
			limit = finishTimeout
		}
		a, err := g.call(ctx, p, limit, m.encode())
		if err != nil || a.verdict != accepted || m.final || a.at >= m.index {
			return a, err
		}
		last := m.entries[len(m.entries)-1].Key
		start = append(append([]byte(nil), last...), 0)
		m.seq++
		g.mu.Lock()
		gone := g.leading != term
		p.answered, p.failingAt = time.Now(), time.Time{}
		g.mu.Unlock()
		if gone {
			return answer{}, errors.New("no longer the leader")
		}
	}
}

// install is a snapshot that is being received.
type install struct {
	id     uint64
	from   fulcrum.NodeID
	next   uint64 // the seq of the chunk that it waits for; guarded by mu
	chunks chan chunkMsg
	cancel context.CancelFunc
	ctx    context.Context
	done   chan struct{}
	err    error // valid once done is closed
}

// takeChunk hands a chunk to the install that it belongs to.
func (g *Group) takeChunk(ctx context.Context, from fulcrum.NodeID, m chunkMsg) (answer, error) {
	g.mu.Lock()
	if err := g.usable(); err != nil {
		g.mu.Unlock()
		return answer{}, err
	}
	if m.term < g.promised {
		g.mu.Unlock()
		return answer{verdict: outOfTerm}, nil
	}
	if !g.catchingUp && m.index <= g.commit {
		g.mu.Unlock()
		return answer{verdict: accepted, at: m.index}, nil // the same prefix is here already
	}
	in := g.install
	if m.seq == 0 {
		g.mu.Unlock()
		var err error
		if in, err = g.beginInstall(ctx, in, from, m); err != nil {
			return answer{}, err
		}
		g.mu.Lock()
	}
	if in == nil || in.id != m.id || in.from != from || in.next != m.seq {
		g.mu.Unlock()
		return answer{verdict: restart}, nil
	}
	in.next++
	g.mu.Unlock()
	select {
	case in.chunks <- m:
	case <-in.done:
		return answer{verdict: restart}, nil
	case <-ctx.Done():
		in.cancel()
		return answer{}, g.refuse(fulcrum.CodeUnavailable, "the snapshot is not taken in time")
	}
	if !m.final {
		return answer{verdict: accepted}, nil
	}
	select {
	case <-in.done:
	case <-ctx.Done():
		return answer{}, g.refuse(fulcrum.CodeUnknown, "the snapshot is still being written")
	}
	if in.err != nil {
		return answer{verdict: restart}, nil
	}
	return answer{verdict: accepted, at: m.index}, nil
}

// beginInstall starts a new install after the former one, if any, has ended.
func (g *Group) beginInstall(ctx context.Context, old *install, from fulcrum.NodeID, m chunkMsg) (*install, error) {
	if old != nil {
		old.cancel()
		select {
		case <-old.done:
		case <-ctx.Done():
			return nil, g.refuse(fulcrum.CodeUnavailable, "a former snapshot is still being written")
		}
	}
	in := &install{id: m.id, from: from, chunks: make(chan chunkMsg), done: make(chan struct{})}
	in.ctx, in.cancel = context.WithCancel(context.Background())
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.running || (g.install != nil && g.install != old) {
		in.cancel()
		return nil, g.refuse(fulcrum.CodeUnavailable, "the replica takes no snapshot now")
	}
	g.install = in
	g.installs.Add(1) // Run waits for it
	go func() {
		defer g.installs.Done()
		defer in.cancel()
		in.err = g.receive(in, m)
		g.mu.Lock()
		if g.install == in {
			g.install = nil
		}
		g.progress()
		g.mu.Unlock()
		close(in.done)
	}()
	return in, nil
}

var errAbandoned = errors.New("the snapshot's sender went away")

// receive replaces State and log by the snapshot that begins with first. It holds
// both gates: nothing else may change either meanwhile. Promise ends it.
func (g *Group) receive(in *install, first chunkMsg) error {
	ctx := in.ctx
	if err := g.logGate.enter(ctx); err != nil {
		return err
	}
	defer g.logGate.leave()
	if ok, err := g.acceptTerm(in.from, first.term); err != nil || !ok {
		return errors.Join(err, errAbandoned)
	}
	if err := g.stateGate.enter(ctx); err != nil {
		return err
	}
	defer g.stateGate.leave()
	g.mu.Lock()
	commit, last := g.commit, g.hist.last
	g.mu.Unlock()
	tail, err := g.records(commit+1, last)
	if err != nil {
		return g.diskError(err)
	}
	missing := map[string][]lostWrite{}
	for _, l := range g.lostOf(commit+1, tail) {
		missing[string(l.Key)] = append(missing[string(l.Key)], l)
	}
	var diskErr error
	note := first.note
	note.epoch = g.env.Epoch
	err = g.env.State.Install(first.index, map[string][]byte{noteKey: note.encode()}, func(put func(fulcrum.Entry) error) error {
		if err := g.fill(in, missing, put); err != nil {
			return err
		}
		var lost []lostWrite
		for _, l := range missing {
			lost = append(lost, l...)
		}
		diskErr = g.keepLost(lost)
		return diskErr
	})
	switch {
	case diskErr != nil:
		return g.diskError(diskErr)
	case errors.Is(err, errAbandoned), err != nil && ctx.Err() != nil:
		return err
	case err != nil:
		return g.diskError(err)
	}
	return g.installed(first.index, note)
}

// fill puts every chunk's entries, and takes out of missing the writes that the
// snapshot has, or has something newer for.
func (g *Group) fill(in *install, missing map[string][]lostWrite, put func(fulcrum.Entry) error) error {
	idle := time.NewTimer(chunkTimeout)
	defer idle.Stop()
	for {
		var m chunkMsg
		idle.Reset(chunkTimeout)
		select {
		case m = <-in.chunks:
		case <-idle.C:
			return errAbandoned
		case <-in.ctx.Done():
			return errAbandoned
		}
		for _, e := range m.entries {
			if err := put(e); err != nil {
				return err
			}
			if lost := missing[string(e.Key)]; lost != nil && !e.Version.Less(lost[len(lost)-1].Version) {
				delete(missing, string(e.Key))
			}
		}
		if m.final {
			return nil
		}
	}
}

// installed makes the log begin behind the snapshot. A crash before the log is
// reset is repaired by recoverLog. The caller holds both gates.
func (g *Group) installed(index uint64, note stateNote) error {
	g.mu.Lock()
	g.note, g.newest = note, later(g.newest, note.newest)
	g.mu.Unlock()
	if err := g.rebaseLog(index, note.term); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.commit, g.applied, g.openLast = index, index, index
	g.catchingUp = false
	clear(g.weakAcks)
	g.marks = nil
	g.freshen()
	kick(g.leadKick) // an assignment may wait for the shard
	g.progress()
	return nil
}
