package storage

import (
	"bytes"
	"encoding/binary"

	"github.com/tidwall/btree"

	"fulcrum"
)

// overlay is entries applied and not yet committed, in key order. It is not safe
// for concurrent use while it takes writes; a copy is cheap.
type overlay struct {
	tree  *btree.BTreeG[item]
	bytes int64 // of entries put, replaced ones included: what the log would replay
	keys  int   // of the entries in the tree those that are no removals,
	held  int64 // and the bytes of their keys and values
}

// item is an entry with the first bytes of its key beside it, as numbers that are in the
// keys' order: most of what finding a place in the tree costs is fetching keys that are no
// longer in the processor's cache, and of most keys this is all that differs.
type item struct {
	head [3]uint64
	*fulcrum.Entry
}

func itemOf(e *fulcrum.Entry) item {
	var b [24]byte
	copy(b[:], e.Key)
	return item{[3]uint64{binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}, e}
}

// less orders by key: where heads are equal one key may still be longer than the other,
// also by zeros.
func (a item) less(b item) bool {
	for i := range a.head {
		if a.head[i] != b.head[i] {
			return a.head[i] < b.head[i]
		}
	}
	return bytes.Compare(a.Key, b.Key) < 0
}

func newOverlay() *overlay {
	return &overlay{tree: btree.NewBTreeGOptions(item.less, btree.Options{NoLocks: true})}
}

// entryOverhead is what an entry costs in memory beside its key and value.
const entryOverhead = 96

func (o *overlay) put(e fulcrum.Entry) int64 {
	n := int64(len(e.Key)+len(e.Value)) + entryOverhead
	o.set(itemOf(&e))
	o.bytes += n
	return n
}

// set puts an item in the place of what has its key.
func (o *overlay) set(e item) {
	if old, ok := o.tree.Set(e); ok && !removal(*old.Entry) {
		o.keys--
		o.held -= bytesOf(*old.Entry)
	}
	if !removal(*e.Entry) {
		o.keys++
		o.held += bytesOf(*e.Entry)
	}
}

func (o *overlay) get(key []byte) (fulcrum.Entry, bool) {
	if o == nil {
		return fulcrum.Entry{}, false
	}
	found, ok := o.tree.Get(itemOf(&fulcrum.Entry{Key: key}))
	if !ok {
		return fulcrum.Entry{}, false
	}
	return *found.Entry, true
}

// copy shares the tree until one of the two is written to.
func (o *overlay) copy() *overlay {
	if o == nil {
		return nil
	}
	return &overlay{tree: o.tree.Copy(), bytes: o.bytes, keys: o.keys, held: o.held}
}

// source yields the entries of start <= key < end in order.
type source interface {
	next() (fulcrum.Entry, bool, error)
}

// overlaySource walks an overlay that takes no writes any more.
type overlaySource struct {
	it    btree.IterG[item]
	start []byte
	end   []byte
	begun bool
}

func (o *overlay) source(start, end []byte) *overlaySource {
	return &overlaySource{it: o.tree.Iter(), start: start, end: end}
}

func (o *overlaySource) next() (fulcrum.Entry, bool, error) {
	var ok bool
	if o.begun {
		ok = o.it.Next()
	} else {
		o.begun = true
		ok = o.it.Seek(itemOf(&fulcrum.Entry{Key: o.start}))
	}
	if !ok {
		return fulcrum.Entry{}, false, nil
	}
	e := *o.it.Item().Entry
	if o.end != nil && bytes.Compare(e.Key, o.end) >= 0 {
		return fulcrum.Entry{}, false, nil
	}
	return e, true, nil
}

// merge yields the entries of sources in key order; of equal keys the one of the
// first source counts, and removals yield nothing.
func merge(sources []source, f func(fulcrum.Entry) bool) error {
	heads := make([]fulcrum.Entry, len(sources))
	live := make([]bool, len(sources))
	advance := func(i int) (err error) {
		heads[i], live[i], err = sources[i].next()
		return err
	}
	for i := range sources {
		if err := advance(i); err != nil {
			return err
		}
	}
	for {
		least := -1
		for i := range sources {
			if live[i] && (least < 0 || bytes.Compare(heads[i].Key, heads[least].Key) < 0) {
				least = i
			}
		}
		if least < 0 {
			return nil
		}
		e := heads[least]
		for i := len(sources) - 1; i >= least; i-- {
			if live[i] && bytes.Equal(heads[i].Key, e.Key) {
				if err := advance(i); err != nil {
					return err
				}
			}
		}
		if !removal(e) && !f(e) {
			return nil
		}
	}
}

// removal reports whether e is nothing but a key: to apply it removes the entry.
func removal(e fulcrum.Entry) bool {
	return e.Version.IsZero() && !e.Tombstone && len(e.Value) == 0 && e.ExpireAt == 0
}
