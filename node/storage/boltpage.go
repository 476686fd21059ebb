package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"fulcrum"
)

// reader walks trees of the engine's file. Readers of one file, each in a goroutine of its
// own, share the file and the set of pages met.
type reader struct {
	b        []byte // the file, mapped
	pageSize int
	high     uint64       // pages from here on are not in use
	used     []uint64     // bit set: pages met, by any reader; set atomically
	taken    []uint64     // those that this one met, in order
	touched  byte         // of no meaning
	at       uint64       // page that is being read
	pause    func() error // called before each page, by one reader; nil: nothing
}

const cacheLine = 64

// place says where an error was met.
func (r *reader) place(err error) error {
	if r.pageSize == 0 {
		return err
	}
	return fmt.Errorf("damaged at offset %d: %w", r.at*uint64(r.pageSize), err)
}

func u16(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }
func u32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func u64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

// page returns a page with those that belong to it, once.
func (r *reader) page(n uint64) ([]byte, error) {
	r.at = n
	if r.pause != nil {
		if err := r.pause(); err != nil {
			return nil, err
		}
	}
	if n < 2 || n >= r.high {
		return nil, fmt.Errorf("page %d of %d", n, r.high)
	}
	there := uint64(len(r.b) / r.pageSize)
	if n >= there {
		return nil, fmt.Errorf("page %d of a file of %d bytes: %w", n, len(r.b), io.ErrUnexpectedEOF)
	}
	b := r.b[n*uint64(r.pageSize):]
	more := uint64(u32(b[12:]))
	if u64(b) != n || more >= min(r.high, there)-n {
		return nil, fmt.Errorf("page %d says that it is page %d and has %d more", n, u64(b), more)
	}
	for i := n; i <= n+more; i++ {
		bit := uint64(1) << (i % 64)
		if atomic.OrUint64(&r.used[i/64], bit)&bit != 0 {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		r.taken = append(r.taken, i)
	}
	b = b[:(1+more)*uint64(r.pageSize)]
	for i := 0; i < len(b); i += cacheLine { // all that is not in a cache comes at the same time
		r.touched += b[i]
	}
	return b, nil
}

// element is one of a page: of a branch with a child, or of a leaf with a value.
type element struct {
	flags      uint32
	key, value []byte
	child      uint64
}

// elements are those of a page, or of what an inline bucket has in its place.
type elements struct {
	b    []byte
	leaf bool
	n    int

	before []byte // key of the element that was taken last
	used   uint64 // bytes of the page, as far as it is known
}

func elementsOf(b []byte) (elements, error) {
	if len(b) < boltHeader {
		return elements{}, fulcrum.ErrShort
	}
	flags, n := u16(b[8:]), int(u16(b[10:]))
	leaf, used := flags == boltLeaf, boltHeader+n*boltElement
	if !leaf && flags != boltBranch || used > len(b) {
		return elements{}, fmt.Errorf("flags %#x, %d elements", flags, n)
	}
	return elements{b: b, leaf: leaf, n: n, used: uint64(used)}, nil
}

// take returns an element. They must be taken in order, and their keys must rise.
func (l *elements) take(i int) (e element, err error) {
	at := boltHeader + i*boltElement
	raw := l.b[at : at+boltElement]
	from, size, value := uint64(at), uint64(0), uint64(0)
	if l.leaf {
		e.flags = u32(raw)
		from, size, value = from+uint64(u32(raw[4:])), uint64(u32(raw[8:])), uint64(u32(raw[12:]))
	} else {
		e.child = u64(raw[8:])
		from, size = from+uint64(u32(raw)), uint64(u32(raw[4:]))
	}
	to := from + size + value
	if to > uint64(len(l.b)) {
		return e, fmt.Errorf("element %d ends behind its page", i)
	}
	e.key, e.value = l.b[from:from+size], l.b[from+size:to]
	if c := bytes.Compare(l.before, e.key); c > 0 || c == 0 && i > 0 {
		return e, fmt.Errorf("key %d, %q, is out of order", i, e.key)
	}
	l.before, l.used = e.key, max(l.used, to)
	return e, nil
}

// subtree is a page and what is below it. Its keys must be at least low and below high,
// when these are not nil.
type subtree struct {
	root      uint64
	low, high []byte
}

// tree calls f for all elements of the leaves of a subtree, in order.
func (r *reader) tree(t subtree, f func(element) error) error {
	return r.visit(t, f, func(below subtree) error { return r.tree(below, f) })
}

// visit calls f for all elements of a page that is a leaf, and down for the children of
// one that is a branch. When it returns an error, f may have been called for some of a page
// that is damaged.
func (r *reader) visit(t subtree, f func(element) error, down func(subtree) error) error {
	b, err := r.page(t.root)
	if err != nil {
		return err
	}
	list, err := elementsOf(b)
	if err != nil {
		return err
	}
	var below []subtree
	list.before = t.low
	for i := range list.n {
		e, err := list.take(i)
		if err != nil {
			return fmt.Errorf("page %d: %w", t.root, err)
		}
		if list.leaf {
			if err := f(e); err != nil {
				return err
			}
			r.at = t.root
			continue
		}
		if i > 0 {
			below[i-1].high = e.key
		}
		below = append(below, subtree{e.child, e.key, t.high})
	}
	// The last key is the highest.
	if list.n > 0 && t.high != nil && bytes.Compare(list.before, t.high) >= 0 {
		return fmt.Errorf("page %d: key %q is out of order", t.root, list.before)
	}
	// Bbolt never takes more pages than it needs; what it does not need may be another's.
	if want := (int(list.used) + r.pageSize - 1) / r.pageSize * r.pageSize; len(b) != want {
		return fmt.Errorf("page %d takes %d bytes and needs %d", t.root, len(b), want)
	}
	for _, child := range below {
		if err := down(child); err != nil {
			return err
		}
		r.at = t.root
	}
	return nil
}

// entries calls f for all elements of a bucket.
func (r *reader) entries(bucket element, f func(element) error) error {
	if root := u64(bucket.value); root != 0 {
		return r.tree(subtree{root: root}, f)
	}
	return inline(bucket.value[16:], f)
}

// inline reads a bucket that is small enough to stand in the place of its root.
func inline(b []byte, f func(element) error) error {
	list, err := elementsOf(b)
	if err == nil && !list.leaf {
		err = errors.New("an inline bucket without a leaf")
	}
	for i := 0; err == nil && i < list.n; i++ {
		var e element
		if e, err = list.take(i); err == nil {
			err = f(e)
		}
	}
	return err
}
