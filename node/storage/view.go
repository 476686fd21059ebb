package storage

import (
	"bytes"
	"fmt"
	"maps"

	"go.etcd.io/bbolt"

	"fulcrum"
	"fulcrum/replication"
)

// view is a read transaction of the engine under copies of the overlays, taken
// so that together they hold exactly what was applied up to index. It serves one
// goroutine at a time, as its transaction does.
type view struct {
	home
	st    *state
	over  []*overlay // newest first
	index uint64
	extra map[string][]byte
	base  standing // in the file, as memory knows it
	kept  pieces
	tx    *bbolt.Tx // nil once closed
}

var _ replication.View = (*view)(nil)

// View returns a consistent picture; Close it soon.
func (st *state) View() (replication.View, error) {
	v, err := st.view()
	if err != nil {
		return nil, err
	}
	return v, nil
}

// view begins the transaction first, because that can wait and the overlays'
// mutex must not be held then, and copies the overlays afterwards. In between an
// overlay may have been committed and dropped, and the transaction not see it:
// turns tells, and then both are taken again. A transaction newer than the
// overlays does no harm, because overlays lie over it.
func (st *state) view() (*view, error) {
	for {
		if err := st.s.usable(); err != nil {
			return nil, err
		}
		st.mu.RLock()
		turns := st.turns
		st.mu.RUnlock()
		notify(st.s.readC)
		var tx *bbolt.Tx
		err := guard(func() (err error) {
			tx, err = st.s.beginRead()
			return err
		})
		if err != nil {
			return nil, diskError(err, "read %s", st.s.bolt.Path())
		}
		v, err := st.cover(tx, turns)
		if err != nil || v == nil {
			_ = tx.Rollback()
		}
		if err != nil || v != nil {
			return v, err
		}
	}
}

// cover returns nil when tx may be older than the overlays.
func (st *state) cover(tx *bbolt.Tx, turns uint64) (*view, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.dropped {
		return nil, errDropped
	}
	if st.turns != turns {
		return nil, nil
	}
	v := &view{st: st, home: st.home, index: st.applied, extra: st.extra, base: st.base, kept: st.pieces.copy(), tx: tx}
	v.over = append(v.over, st.live.copy())
	if st.frozen != nil {
		v.over = append(v.over, st.frozen)
	}
	return v, nil
}

// Index is the applied position of the picture.
func (v *view) Index() uint64 { return v.index }

// Extra returns the extras of the picture. The values must not be modified.
func (v *view) Extra() map[string][]byte {
	all := make(map[string][]byte, len(v.extra)+v.kept.all.Len())
	maps.Copy(all, v.extra)
	v.kept.all.Scan(func(name string, value []byte) bool {
		all[name] = value
		return true
	})
	return all
}

// Scan calls f for the entries of start <= key < end, tombstones included, in
// order, until f returns false. f may keep them.
func (v *view) Scan(start, end []byte, f func(fulcrum.Entry) bool) error {
	if v.tx == nil {
		return fulcrum.Errorf(fulcrum.CodeInternal, "scan of group %d: the view is closed", v.st.key.group)
	}
	sources := make([]source, 0, 3)
	for _, o := range v.over {
		if o.tree.Len() > 0 {
			sources = append(sources, o.source(start, end))
		}
	}
	return v.scan(sources, start, end, f)
}

func (v *view) scan(sources []source, start, end []byte, f func(fulcrum.Entry) bool) error {
	b := v.tx.Bucket(v.name)
	if b != nil {
		sources = append(sources, &bucketSource{st: v.st, c: b.Cursor(), seed: v.seed, start: start, end: end})
	} else if v.hasLost() {
		return v.st.damaged(start, errLostBucket)
	}
	return merge(sources, f)
}

// hasLost reports whether a bucket that is not found should be there.
func (v *view) hasLost() bool {
	v.st.mu.RLock()
	defer v.st.mu.RUnlock()
	return v.base.keys > 0 && !v.st.going && !v.st.dropped
}

// Close ends the picture.
func (v *view) Close() error {
	if v.tx == nil {
		return nil
	}
	tx := v.tx
	v.tx = nil
	return tx.Rollback()
}

// bucketSource walks a bucket of the engine's file.
type bucketSource struct {
	st         *state
	c          *bbolt.Cursor
	seed       uint32
	start, end []byte
	begun      bool
	last       []byte
}

func (s *bucketSource) next() (e fulcrum.Entry, ok bool, err error) {
	var key, stored []byte
	err = guard(func() error {
		if s.begun {
			key, stored = s.c.Next()
		} else {
			s.begun = true
			if len(s.start) > 0 {
				if err := preceded(s.c, s.seed, s.start); err != nil {
					return err
				}
			}
			key, stored = s.c.Seek(s.start)
		}
		if key == nil || (s.end != nil && bytes.Compare(key, s.end) >= 0) {
			return nil
		}
		if bytes.Compare(key, s.last) <= 0 {
			return fmt.Errorf("key %q is out of order: %w", key, errSum)
		}
		// Copied, because pages go with the transaction and f may keep entries.
		buf := append(append(make([]byte, 0, len(key)+len(stored)), key...), stored...)
		ok = true
		s.last = buf[:len(key):len(key)]
		e, err = decodeEntry(s.seed, s.last, buf[len(key):])
		return err
	})
	if err != nil {
		return fulcrum.Entry{}, false, s.st.damaged(key, err)
	}
	return e, ok, nil
}

// Scan calls f for entries over one consistent picture; see replication.State.
func (st *state) Scan(start, end []byte, f func(fulcrum.Entry) bool) error {
	v, err := st.view()
	if err != nil {
		return err
	}
	defer v.Close()
	return v.Scan(start, end, f)
}
