package storage

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"fulcrum"
)

var errDropped = &fulcrum.Error{Code: fulcrum.CodeEpoch, Detail: "this replica was dropped from the disk"}

// logsOnDisk lists the logs of which anything is stored, skipping over their
// records.
func (s *Store) logsOnDisk() ([]logKey, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	var keys []logKey
	for _, kind := range []byte{kindRecord, kindBase, kindMeta} {
		it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kind}, UpperBound: []byte{kind + 1}})
		if err != nil {
			return nil, diskError(err, "list the logs in %s", s.logDir())
		}
		for ok := it.First(); ok; {
			b := it.Key()[1:]
			k := logKey{fulcrum.GroupID(binary.BigEndian.Uint64(b)), fulcrum.Epoch(binary.BigEndian.Uint64(b[8:]))}
			keys = append(keys, k)
			next := after(k.prefix(kind))
			ok = next != nil && it.SeekGE(next)
		}
		if err := it.Close(); err != nil {
			if s.isDamage(err) {
				return nil, s.unreadable(err)
			}
			return nil, diskError(err, "list the logs in %s", s.logDir())
		}
	}
	return keys, nil
}

// DropLog removes a log and its small values, durably. Whoever still holds it
// gets CodeEpoch; a later Log begins an empty one.
func (s *Store) DropLog(g fulcrum.GroupID, e fulcrum.Epoch) error {
	if err := s.usable(); err != nil {
		return err
	}
	key := logKey{g, e}
	s.mu.Lock()
	l := s.logs[key]
	s.mu.Unlock()
	if l == nil {
		return s.removeLog(key)
	}
	err := l.change(func(_, _ uint64) error {
		if err := s.removeLog(key); err != nil {
			return err
		}
		l.set(func() { l.first, l.last, l.uncut, l.broken = 1, 0, 1, errDropped })
		return nil
	})
	if errors.Is(err, errDropped) {
		err = nil
	}
	if err == nil {
		s.mu.Lock()
		if s.logs[key] == l {
			delete(s.logs, key)
		}
		s.mu.Unlock()
	}
	return err
}

// Expunge removes all logs of a group that is damaged, so that nothing of them is left in
// the files: what DropLog removes stays there until a compaction, which has to read it, and
// cannot.
func (s *Store) Expunge(ctx context.Context, g fulcrum.GroupID) error {
	logs, err := s.logsOnDisk()
	if err != nil {
		return err
	}
	for _, k := range logs {
		if k.group == g {
			if err := s.DropLog(g, k.epoch); err != nil {
				return err
			}
		}
	}
	s.pipe.Lock()
	defer s.pipe.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	for _, kind := range []byte{kindRecord, kindBase, kindMeta} {
		prefix := logKey{group: g}.prefix(kind)[:9] // without the epoch
		span := pebble.KeyRange{Start: prefix, End: after(prefix)}
		if err := guard(func() error { return s.db.Excise(ctx, span) }); err != nil {
			return s.unreadable(err) // what is beside it is damaged, too
		}
	}
	s.disk.setDamaged(nil)
	return nil
}

func (s *Store) removeLog(key logKey) error {
	b := s.db.NewBatch()
	defer s.done(b)
	for _, kind := range []byte{kindRecord, kindBase, kindMeta} {
		prefix := key.prefix(kind)
		if err := b.DeleteRange(prefix, after(prefix), nil); err != nil {
			return err
		}
	}
	return s.commit(b, true)
}
