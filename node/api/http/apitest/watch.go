package apitest

import (
	"bytes"
	"context"
	"fmt"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
)

// Sign makes every watch show a sign of life.
func (b *Backend) Sign() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wake(true)
}

// Compact forgets what changed in a keyspace so far, and a change that no watch was told
// of: all that are under way are cut off.
func (b *Backend) Compact(keyspace string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.spaces[keyspace]
	s.gone += len(s.history) + 1
	s.history = nil
	b.wake(false)
}

// Expire ends the life of a key, as its time does.
func (b *Backend) Expire(keyspace, key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.spaces[keyspace]
	e := fulcrum.Entry{Key: []byte(key), Version: b.clock.Next(), Tombstone: true}
	s.entries[key] = e
	b.changed(s, []fulcrum.Event{{Entry: e, Expired: true}})
}

// changed adds the changes of one request to the history. The caller holds mu.
func (b *Backend) changed(s *space, events []fulcrum.Event) {
	if len(events) > 0 {
		s.history = append(s.history, events)
		b.wake(false)
	}
}

// wake lets every watch look again. The caller holds mu.
func (b *Backend) wake(sign bool) {
	if sign {
		b.signs++
	}
	close(b.moved)
	b.moved = make(chan struct{})
}

// position is the place behind n requests that changed something.
func position(s *space, n int) string { return fmt.Sprintf("%s-%d", s.info.Name, n) }

// Watch implements api.Backend: each request's changes are a batch. The mode raft alone
// has it.
func (b *Backend) Watch(ctx context.Context, c api.Call, req api.Watch, emit func(api.WatchBatch) error) error {
	b.mu.Lock()
	s, _, err := b.begin(c, consistency.Read, "watch")
	b.mu.Unlock()
	if err != nil {
		return err
	}
	if s.info.Mode != consistency.Raft.String() {
		return fulcrum.Errorf(fulcrum.CodeMode, "mode %s has no watch", s.info.Mode).WithHint("use mode raft")
	}
	at, signs, first := -1, 0, true
	if v, err := fulcrum.ParseVersion(req.After); err == nil {
		at = b.behind(s, v)
	} else if req.After != "" {
		if n, err := fmt.Sscanf(req.After, s.info.Name+"-%d", &at); n != 1 || err != nil || at < 0 {
			return fulcrum.Errorf(fulcrum.CodeInvalid, "no position of a watch")
		}
	}
	for {
		b.mu.Lock()
		if at < 0 {
			at = s.gone + len(s.history)
		}
		if first {
			signs = b.signs
		}
		if at < s.gone {
			b.mu.Unlock()
			return fulcrum.Errorf(fulcrum.CodeCompacted, "what changed behind %d is gone", at).WithHint("read anew")
		}
		batch := api.WatchBatch{}
		for at < s.gone+len(s.history) && len(batch.Events) == 0 {
			batch.Events = within(s.history[at-s.gone], req)
			at++
		}
		batch.Next = position(s, at)
		more, moved, signed := at < s.gone+len(s.history), b.moved, signs < b.signs
		signs = b.signs
		b.mu.Unlock()
		if first || signed || len(batch.Events) > 0 {
			if err := emit(batch); err != nil {
				return err
			}
		}
		first = false
		if more {
			continue
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil
		}
	}
}

// behind is the place of the first change that is newer than v.
func (b *Backend) behind(s *space, v fulcrum.Version) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, events := range s.history {
		for _, e := range events {
			if v.Less(e.Entry.Version) {
				return s.gone + i
			}
		}
	}
	return s.gone + len(s.history)
}

func within(events []fulcrum.Event, req api.Watch) (out []fulcrum.Event) {
	for _, e := range events {
		if k := e.Entry.Key; bytes.HasPrefix(k, req.Prefix) && bytes.Compare(k, req.Start) >= 0 && (req.End == nil || bytes.Compare(k, req.End) < 0) {
			out = append(out, e)
		}
	}
	return out
}
