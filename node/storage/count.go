package storage

import "fulcrum"

// countSample is how many of the keys that wait for the engine, in each overlay, a count
// looks up: so many it counts exactly, and of more it takes an even choice for all.
const countSample = 512

// Count returns how many keys a group's data holds, tombstones included, and how many
// bytes keys and values have. It looks up keys in the engine's file, so it is for those
// who show it, not for what every request asks.
func (s *Store) Count(g fulcrum.GroupID) (keys int, bytes int64, err error) {
	s.mu.Lock()
	st := s.states[stateKey{group: g}]
	s.mu.Unlock()
	if st == nil {
		return 0, 0, nil
	}
	v, err := st.view()
	if err != nil {
		return 0, 0, err
	}
	defer v.Close()
	err = guard(func() error {
		keys, bytes = v.count()
		return nil
	})
	if err != nil {
		return 0, 0, st.damaged(nil, err)
	}
	return keys, bytes, nil
}

// count adds to what the file holds what each overlay changes of what lies under it.
func (v *view) count() (keys int, bytes int64) {
	base, over := v.inFile()
	keys, bytes = base.keys, base.bytes
	for i, o := range over {
		hidden := v.hidden(o, over[i+1:])
		keys += o.keys - hidden.keys
		bytes += o.held - hidden.bytes
	}
	return max(keys, 0), max(bytes, 0)
}

// inFile is what the transaction's file holds of the state, and the overlays that it does
// not hold: a commit may be in it that memory does not know to have ended.
func (v *view) inFile() (tally, []*overlay) {
	key := v.st.key.bytes()
	b := v.tx.Bucket(statesBucket)
	if b == nil || b.Get(key) == nil {
		return v.base.tally, v.over
	}
	m, err := decodeStanding(key, b.Get(key))
	switch {
	case err != nil || m.gen == v.base.gen && m.applied == v.base.applied && m.keys == v.base.keys && m.bytes == v.base.bytes:
		return v.base.tally, v.over
	case m.gen != v.base.gen: // everything was replaced
		return m.tally, nil
	}
	return m.tally, v.over[:1] // the live one; what was frozen is in the file
}

// hidden is what an overlay's keys hide: entries under them, in overlays or in the file.
func (v *view) hidden(o *overlay, under []*overlay) (t tally) {
	n := o.tree.Len()
	some := min(n, countSample)
	b := v.tx.Bucket(v.name)
	for i := range some {
		at, _ := o.tree.GetAt(int(int64(i) * int64(n) / int64(some)))
		key := at.Key
		if old, ok := lookUp(under, key); ok {
			if !removal(old) {
				t.add(1, bytesOf(old), 0)
			}
		} else if b != nil {
			if stored := b.Get(key); len(stored) >= sumSize {
				old, _, _ := fulcrum.DecodeEntry(stored[sumSize:]) // whether it is whole is the readers' business
				t.add(1, int64(len(key)+len(old.Value)), 0)
			}
		}
	}
	if some < n {
		t.keys = int(float64(t.keys) / float64(some) * float64(n))
		t.bytes = int64(float64(t.bytes) / float64(some) * float64(n))
	}
	return t
}

func lookUp(overlays []*overlay, key []byte) (fulcrum.Entry, bool) {
	for _, o := range overlays {
		if e, ok := o.get(key); ok {
			return e, true
		}
	}
	return fulcrum.Entry{}, false
}

// bytesOf is what an entry's key and value take.
func bytesOf(e fulcrum.Entry) int64 { return int64(len(e.Key) + len(e.Value)) }
