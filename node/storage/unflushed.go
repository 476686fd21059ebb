package storage

import "sync"

// unflushed is how much of the log waits for pebble to write it to tables. Who would add too
// much waits here, until there is room or the disk fails. Pebble itself would have it wait
// inside, holding the store's pipe: for tables that can never be written, or for ever behind one
// that is damaged and cannot be compacted. Nobody could even close the store then.
type unflushed struct {
	mu    sync.Mutex // protects what follows; never held during I/O or a wait
	added int64      // bytes, ever
	full  int64      // of those, what the memtables have that are full
	begun int64      // the same when the flush under way began
	done  int64      // what the last flush that ended had begun with
	freed chan struct{}
}

const (
	unflushedMost = 3 * memTableSize
	neverStop     = 1 << 10 // memtables, and levels of tables: more than there will be
)

// room returns when there is room for more.
func (u *unflushed) room(d *disk) error {
	for {
		u.mu.Lock()
		// What is not full yet does not count: nobody flushes it.
		if u.full-u.done < unflushedMost {
			u.mu.Unlock()
			return nil
		}
		if u.freed == nil {
			u.freed = make(chan struct{})
		}
		freed := u.freed
		u.mu.Unlock()
		select {
		case <-freed:
		case <-d.down:
			return d.failure()
		}
	}
}

func (u *unflushed) add(bytes int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.added += int64(bytes)
}

// seal is called when a memtable is full: pebble begins a new file of the log with each.
func (u *unflushed) seal() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.full = u.added
}

func (u *unflushed) begin() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.begun = u.full
}

func (u *unflushed) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.done = u.begun
	if u.freed != nil {
		close(u.freed)
		u.freed = nil
	}
}
