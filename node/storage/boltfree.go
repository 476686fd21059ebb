package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"

	"go.etcd.io/bbolt"
)

const (
	boltFreeList = 0x10       // flag of a page
	boltManyFree = 0xffff     // count of a list that has its length before its numbers
	boltNoList   = ^uint64(0) // in a meta page, in the place of the list's number
)

// openBolt opens the engine's file, which v has found whole.
//
// Bbolt must know which pages are free. It keeps no list of them in the file
// (NoFreelistSync: the more are free the more each commit would write), and finds them at
// open by walking all pages, which verify has just done. It takes a list from a file only;
// so it is lent one for as long as it opens this file.
//
// Invariants:
//
//   - A list is never believed that was there before: each is made from the pages that
//     verify has met since, and bbolt has opened the file only if the list still is what was
//     written when it has read it. A free page too many would let it overwrite what counts.
//   - A loan moves nothing: it goes behind the end of the file and is cut off again, and the
//     trees stay where they are. So what bbolt writes next goes where it would have gone.
//   - Whenever the process or the power ends, the file is whole: the trees are those that
//     the newest meta page had before. What then is left of a list is behind all that is in
//     use, and the next loan's meta page, which says that there is none, takes its place.
func (v *boltFile) openBolt(path string) (db *bbolt.DB, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil && db != nil {
			err = errors.Join(err, db.Close())
			db = nil
		}
	}()
	l, err := v.loan(f)
	if err != nil {
		return nil, err
	}
	if l.give() != nil { // there is no room for it
		if err := l.takeBack(); err != nil {
			return nil, err
		}
		if db, err = openBoltFile(path); err == nil {
			unmapPages(db) // it has read all of them
		}
		return db, err
	}
	db, err = openBoltFile(path)
	return db, errors.Join(err, l.check(), l.takeBack())
}

// loan is a list of free pages that bbolt finds in the file while it opens it.
type loan struct {
	v    *boltFile
	file *os.File
	size int64  // of the file without it
	page uint64 // where it begins
	list []byte
}

func (v *boltFile) loan(f *os.File) (*loan, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	l := &loan{v: v, file: f, size: st.Size()}
	l.page = uint64(l.size+int64(v.pageSize)-1) / uint64(v.pageSize)
	l.list = v.freeList(l.page)
	return l, nil
}

func (l *loan) offset() int64 { return int64(l.page) * int64(l.v.pageSize) }

// give writes the list, and then the meta page that says where it is.
func (l *loan) give() error {
	if _, err := l.file.WriteAt(l.list, l.offset()); err != nil {
		return err
	}
	return l.point(l.page)
}

// check reports whether the list is what was written.
func (l *loan) check() error {
	got := make([]byte, len(l.list))
	if _, err := l.file.ReadAt(got, l.offset()); err != nil {
		return err
	}
	if !bytes.Equal(got, l.list) {
		return fmt.Errorf("the list of free pages: %w", errSum)
	}
	return nil
}

// takeBack has the meta page say that there is no list, and then cuts the list off.
func (l *loan) takeBack() error {
	if err := l.point(boltNoList); err != nil {
		return err
	}
	return l.file.Truncate(l.size)
}

// point writes the meta page of a transaction that changes nothing but where the list is. It
// goes where the older one of the two is.
func (l *loan) point(list uint64) error {
	tx := u64(l.v.newest[48:]) + 1
	b := binary.NativeEndian.AppendUint64(nil, tx%2)
	b = binary.NativeEndian.AppendUint16(b, boltMeta)
	b = append(b, make([]byte, boltHeader-len(b))...)
	b = append(b, l.v.newest...)
	body := b[boltHeader:]
	binary.NativeEndian.PutUint64(body[32:], list)
	binary.NativeEndian.PutUint64(body[48:], tx)
	h := fnv.New64a()
	_, _ = h.Write(body)
	b = binary.NativeEndian.AppendUint64(b, h.Sum64())
	_, err := l.file.WriteAt(b, int64(tx%2)*int64(l.v.pageSize))
	return err
}

// freeList makes the pages of a list, which are to be at a place: the numbers of all pages
// that verify has not met, in order.
func (v *boltFile) freeList(at uint64) []byte {
	var free []byte
	for n := uint64(2); n < v.high; n++ {
		if v.used[n/64]&(1<<(n%64)) == 0 {
			free = binary.NativeEndian.AppendUint64(free, n)
		}
	}
	count := len(free) / 8
	if count >= boltManyFree {
		free = append(binary.NativeEndian.AppendUint64(nil, uint64(count)), free...)
		count = boltManyFree
	}
	pages := (boltHeader + len(free) + v.pageSize - 1) / v.pageSize
	list := make([]byte, 0, pages*v.pageSize)
	list = binary.NativeEndian.AppendUint64(list, at)
	list = binary.NativeEndian.AppendUint16(list, boltFreeList)
	list = binary.NativeEndian.AppendUint16(list, uint16(count))
	list = binary.NativeEndian.AppendUint32(list, uint32(pages-1))
	return append(list, free...)[:cap(list)]
}
