package quorum

import (
	"bytes"
	"context"
	"slices"
	"time"

	"fulcrum"
)

// mark says that a replica may lack the version of key (owed), or that it is known
// to hold it (cleared). The value is not kept: delivery reads State, and sends
// what is newest then.
type mark struct {
	peer    int
	key     string // empty: everything; anti-entropy must settle it
	version fulcrum.Version
	clear   bool
}

// deliverKeys is how many hints one message to a replica carries.
const deliverKeys = 256

// markHint takes m into memory and returns what to store in Hints, if anything
// changed. Only the store loop calls it.
//
// Invariant: while a replica may lack a version written through this coordinator
// it is marked with that version or a newer one. A mark is cleared only by an
// answer for a version at least as new as the mark's, so a write that fails while
// an older one of the same key is delivered stays owed.
func (g *Group) markHint(m mark) []fulcrum.Entry {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.peers[m.peer]
	owed, had := p.hints[m.key]
	if m.clear {
		if !had || m.version.Less(owed) {
			return nil
		}
		delete(p.hints, m.key)
		g.hints--
		g.hintTombs++
		return []fulcrum.Entry{{Key: hintKey(p.id, m.key), Version: m.version, Tombstone: true}}
	}
	if had && !owed.Less(m.version) {
		return nil
	}
	if !had && g.hints >= g.opt.MaxHints && m.key != "" {
		m.key = ""
		if owed, had = p.hints[""]; had && !owed.Less(m.version) {
			return nil
		}
	}
	p.hints[m.key] = m.version
	if !had {
		g.hints++
	}
	wake(p.wake)
	return []fulcrum.Entry{{Key: hintKey(p.id, m.key), Version: m.version}}
}

// owe marks that p may lack entries, without waiting. When the queue is full the
// whole replica is left to anti-entropy, in memory: the next round finds it.
func (g *Group) owe(p *peer, entries []fulcrum.Entry) {
	it := &item{settle: true}
	for _, e := range entries {
		it.marks = append(it.marks, mark{peer: p.at, key: string(e.Key), version: e.Version})
	}
	if g.submit(it) != nil {
		g.kickSync(p)
	}
}

// deliver sends p what it is owed, newest first known; false when p did not take it.
func (g *Group) deliver(ctx context.Context, p *peer) bool {
	for ctx.Err() == nil {
		marks := g.owed(p)
		if len(marks) == 0 {
			return true
		}
		var entries []fulcrum.Entry
		for i := range marks {
			e, err := g.env.State.Get([]byte(marks[i].key))
			if err != nil {
				return false
			}
			if !e.Version.IsZero() {
				entries = append(entries, e)
				if marks[i].version.Less(e.Version) {
					marks[i].version = e.Version
				}
			}
			marks[i].clear = true
		}
		cctx, cancel := context.WithTimeout(ctx, g.opt.GiveUp)
		err := g.sendStore(cctx, p, flagRelay, entries)
		cancel()
		if err != nil {
			return false
		}
		it := &item{marks: marks, settle: true}
		if g.submitWait(ctx, it) != nil || g.wait(ctx, it) != nil {
			return false
		}
	}
	return false
}

// owed returns some of p's marks, in key order.
func (g *Group) owed(p *peer) (marks []mark) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, v := range p.hints {
		if key == "" {
			continue
		}
		if marks = append(marks, mark{peer: p.at, key: key, version: v}); len(marks) == deliverKeys {
			break
		}
	}
	slices.SortFunc(marks, func(a, b mark) int { return bytes.Compare([]byte(a.key), []byte(b.key)) })
	return marks
}

// forgetHints empties Hints once nothing is owed but much was: State has no
// delete, and cleared marks would stay for ever. Only the store loop calls it.
func (g *Group) forgetHints() error {
	g.mu.Lock()
	forget := g.hints == 0 && g.hintTombs >= 1024
	if forget {
		g.hintTombs = 0
	}
	g.mu.Unlock()
	if !forget {
		return nil
	}
	epoch, err := g.env.Hints.Extra(extraEpoch)
	if err != nil {
		return err
	}
	return g.env.Hints.Install(g.lastIndex.Load(), map[string][]byte{extraEpoch: epoch}, func(func(fulcrum.Entry) error) error { return nil })
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pause waits d, or until c is woken or ctx ended.
func pause(ctx context.Context, d time.Duration, c <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c:
	case <-ctx.Done():
	}
}
