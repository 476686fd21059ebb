package storage

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"os"
)

const (
	boltFreeList = 0x10   // flag of a page
	boltManyFree = 0xffff // count of a list that has its length before its numbers
)

// writeFree writes down in the engine's file, which is whole and not open, which pages are
// free. Bbolt would find that out by walking all pages again when it opens the file, as it
// does not keep a list of them itself (NoFreelistSync): that costs each commit more the more
// are free.
//
// It is a transaction of bbolt's format that changes nothing else: the list goes where nothing
// is in use, and then the next meta page says where it is. The next commit frees it again.
//
// What was read must be durable first, as a process that was killed may not have synced its
// last commit: the list, and the commits to come, overwrite what only older ones used. A list
// is never believed later: whoever opens the file has read all of it, and writes a list of its
// own first. So neither it nor the meta page is synced, and whatever of them a power cut leaves
// out, the trees are as they were.
func (v *boltFile) writeFree(path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Sync(); err != nil {
		return err
	}
	list, at, high := v.freeList()
	if _, err := f.WriteAt(list, int64(at)*int64(v.pageSize)); err != nil {
		return err
	}
	meta, n := v.nextMeta(at, high)
	_, err = f.WriteAt(meta, int64(n)*int64(v.pageSize))
	return err
}

// freeList makes the pages of the list, and says where they go and from which page on none
// is in use then.
func (v *boltFile) freeList() (list []byte, at, high uint64) {
	var free []uint64
	for n := uint64(2); n < v.high; n++ {
		if v.used[n/64]&(1<<(n%64)) == 0 {
			free = append(free, n)
		}
	}
	size := boltHeader + 8*(len(free)+1) // its own are too many by some: no more pages than bbolt would take
	pages := (size + v.pageSize - 1) / v.pageSize
	at, high = v.high, v.high+uint64(pages)
	for i := 0; i+pages <= len(free); i++ {
		if free[i+pages-1]-free[i] == uint64(pages-1) { // a run
			at, high = free[i], v.high
			free = append(free[:i:i], free[i+pages:]...)
			break
		}
	}
	list = make([]byte, boltHeader, pages*v.pageSize)
	binary.NativeEndian.PutUint64(list, at)
	binary.NativeEndian.PutUint16(list[8:], boltFreeList)
	binary.NativeEndian.PutUint16(list[10:], uint16(min(len(free), boltManyFree)))
	binary.NativeEndian.PutUint32(list[12:], uint32(pages-1))
	if len(free) >= boltManyFree {
		list = binary.NativeEndian.AppendUint64(list, uint64(len(free)))
	}
	for _, n := range free {
		list = binary.NativeEndian.AppendUint64(list, n)
	}
	return list[:cap(list)], at, high
}

// nextMeta makes the meta page of the next transaction, and says which of the two it is.
func (v *boltFile) nextMeta(list, high uint64) (b []byte, n uint64) {
	tx := u64(v.newest[48:]) + 1
	n = tx % 2
	b = binary.NativeEndian.AppendUint64(nil, n)
	b = binary.NativeEndian.AppendUint16(b, boltMeta)
	b = append(b, make([]byte, boltHeader-len(b))...)
	b = append(b, v.newest...)
	body := b[boltHeader:]
	binary.NativeEndian.PutUint64(body[32:], list)
	binary.NativeEndian.PutUint64(body[40:], high)
	binary.NativeEndian.PutUint64(body[48:], tx)
	h := fnv.New64a()
	_, _ = h.Write(body)
	return binary.NativeEndian.AppendUint64(b, h.Sum64()), n
}
