package storage

import (
	"errors"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"fulcrum"
)

// Record returns a small value of the node's own; nil when it was never set.
func (s *Store) Record(key string) ([]byte, error) {
	return s.getSealed(append([]byte{kindNode}, key...))
}

// SetRecord stores a small value of the node's own, durably; nil removes it.
func (s *Store) SetRecord(key string, value []byte) error {
	if err := s.usable(); err != nil {
		return err
	}
	b := s.db.NewBatch()
	defer s.done(b)
	if err := setSealed(b, append([]byte{kindNode}, key...), value); err != nil {
		return err
	}
	return s.commit(b, true)
}

// setSealed adds a value with its checksum to b; nil removes the key.
func setSealed(b *pebble.Batch, key, value []byte) error {
	if value == nil {
		return b.Delete(key, nil)
	}
	return b.Set(key, sealed(key, value), nil)
}

// getSealed returns a copy of a value; nil when there is none, and never nil when
// there is one.
func (s *Store) getSealed(key []byte) ([]byte, error) {
	stored, closer, err := s.get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	value, ok := unseal(key, stored)
	if !ok {
		return nil, diskError(errSum, "value %q in %s", key, s.logDir()).
			WithHint("this node must be wiped; it rebuilds from its peers")
	}
	return append(make([]byte, 0, len(value)), value...), nil
}

// get reads a key of the log; pebble.ErrNotFound when there is none.
func (s *Store) get(key []byte) (value []byte, closer io.Closer, err error) {
	if s.closed.Load() {
		return nil, nil, errClosed
	}
	err = guard(func() error {
		value, closer, err = s.db.Get(key)
		return err
	})
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		err = diskError(err, "read the log in %s", s.logDir())
	}
	return value, closer, err
}

// GroupEpochs is what the disk holds of one group.
type GroupEpochs struct {
	Group  fulcrum.GroupID
	Epochs []fulcrum.Epoch // of its logs, rising
	State  bool            // it has a State, of data or of hints
}

// Groups lists every group of which the disk holds anything, rising by id.
func (s *Store) Groups() ([]GroupEpochs, error) {
	found := map[fulcrum.GroupID]*GroupEpochs{}
	of := func(g fulcrum.GroupID) *GroupEpochs {
		if found[g] == nil {
			found[g] = &GroupEpochs{Group: g}
		}
		return found[g]
	}
	logs, err := s.logsOnDisk()
	if err != nil {
		return nil, err
	}
	for _, k := range logs {
		g := of(k.group)
		if !slices.Contains(g.Epochs, k.epoch) {
			g.Epochs = append(g.Epochs, k.epoch)
		}
	}
	s.mu.Lock()
	for k, st := range s.states {
		if st.stored() {
			of(k.group).State = true
		}
	}
	s.mu.Unlock()
	list := make([]GroupEpochs, 0, len(found))
	for _, g := range found {
		slices.Sort(g.Epochs)
		list = append(list, *g)
	}
	slices.SortFunc(list, func(a, b GroupEpochs) int {
		if a.Group < b.Group {
			return -1
		}
		return 1
	})
	return list, nil
}
