package raft_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"fulcrum/replication"
	"fulcrum/replication/raft"
)

// simDisk is a replica's log as a node keeps it: all changes go one behind the other into
// a file that is durable from its front. A sync takes a while, covers what was written
// before it began, and can fail. A crash leaves what is durable, and perhaps some of what
// was written behind.
type simDisk struct {
	s    *sim
	slow time.Duration // what a sync takes at most, as a rule

	mu      sync.Mutex
	dice    dice
	now     picture
	stable  picture
	written []change // behind what is durable, in order
	told    []change // durable, whoever waits does not know yet
	stalled time.Time
	bad     uint64 // the record there cannot be read in this life; 0: all can
	met     bool   // that was tried
	err     error  // the life is over: the disk has failed, or crashed
	ended   chan struct{}
	work    chan struct{} // holds one: something was written
	tell    chan struct{} // holds one: something is durable
	life    sync.WaitGroup
}

// picture is what a log holds.
type picture struct {
	base    uint64
	records [][]byte // records[i] stands at base+1+i
	meta    map[string][]byte
}

type changeKind byte

const (
	appends changeKind = iota
	cutsAfter
	cutsBefore
	resets
	setsMeta
)

// change is one write to the file. done is called once it is durable, or never will be;
// nil: nobody waits.
type change struct {
	kind    changeKind
	index   uint64
	records [][]byte
	meta    map[string][]byte
	begun   bool // by Begin: done is for the goroutine that calls them in order
	done    func(error)
}

var (
	errSimCrash = errors.New("this life has crashed")
	errSimDisk  = errors.New("the disk has failed")
)

func newSimDisk(s *sim, d dice, slow time.Duration, p picture) *simDisk {
	if p.meta == nil {
		p.meta = map[string][]byte{}
	}
	disk := &simDisk{s: s, slow: slow, dice: d, now: p.clone(), stable: p, ended: make(chan struct{}),
		work: make(chan struct{}, 1), tell: make(chan struct{}, 1)}
	disk.life.Go(disk.sync)
	disk.life.Go(disk.complete)
	return disk
}

func (p picture) clone() picture {
	return picture{p.base, slices.Clone(p.records), maps.Clone(p.meta)}
}

func (p *picture) last() uint64 { return p.base + uint64(len(p.records)) }

func (p *picture) at(index uint64) []byte {
	if index <= p.base || index > p.last() {
		return nil
	}
	return p.records[index-p.base-1]
}

func (p *picture) apply(c change) {
	switch c.kind {
	case appends:
		p.records = append(p.records[:c.index-p.base-1:c.index-p.base-1], c.records...)
	case cutsAfter:
		if c.index < p.last() {
			p.records = p.records[:c.index-p.base]
		}
	case cutsBefore:
		if c.index > p.base+1 {
			p.records, p.base = p.records[min(c.index, p.last()+1)-p.base-1:], min(c.index, p.last()+1)-1
		}
	case resets:
		p.base, p.records = c.index, nil
	case setsMeta:
		maps.Copy(p.meta, c.meta)
	}
}

// covered is the last entry that the stored snapshot stands for.
func (p *picture) covered() uint64 {
	index, _, _ := raft.SnapshotPlace(p.meta[raft.MetaSnapshot])
	return index
}

// roll uses the dice, which mu protects.
func (d *simDisk) roll(f func(*dice) time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return f(&d.dice)
}

func (d *simDisk) chance(percent int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dice.chance(percent)
}

// moment lets others get in between, as a call of the system does.
func (d *simDisk) moment() {
	time.Sleep(d.roll(func(r *dice) time.Duration {
		if r.chance(50) {
			return 0
		}
		return r.upTo(30 * time.Microsecond)
	}))
}

// write puts a change at the end of the file.
func (d *simDisk) write(c change, allowed func() error) error {
	d.moment()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return d.err
	}
	if allowed != nil {
		if err := allowed(); err != nil {
			return err
		}
	}
	d.now.apply(c)
	d.written = append(d.written, c)
	if c.done != nil {
		poke(d.work)
	}
	return nil
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// durably is write that waits for the sync.
func (d *simDisk) durably(c change, allowed func() error) error {
	if d.s.faults.forgetsVotes && c.meta[raft.MetaHard] != nil {
		return d.write(c, allowed) // broken: it is durable with the next sync
	}
	synced := make(chan error, 1)
	c.done = func(err error) { synced <- err }
	if err := d.write(c, allowed); err != nil {
		return err
	}
	err := <-synced
	if err == nil && d.isTheLast(c) {
		d.fail(errSimDisk)
	}
	d.moment()
	return err
}

// isTheLast reports whether the disk does nothing more after a step: between the steps of
// something larger a crash is rare, and shows most.
func (d *simDisk) isTheLast(c change) bool {
	step := c.kind != setsMeta || c.meta[raft.MetaSnapshot] != nil
	return step && !d.s.calmed.Load() && d.chance(3)
}

// sync makes durable what was written before it began, again and again.
func (d *simDisk) sync() {
	for {
		select {
		case <-d.work:
		case <-d.ended:
			return
		}
		if !d.wait(d.roll(func(r *dice) time.Duration { return r.upTo(d.slow / 4) })) {
			return
		}
		d.mu.Lock()
		n := len(d.written)
		d.mu.Unlock()
		if !d.wait(d.syncTakes()) {
			return
		}
		d.synced(n)
	}
}

func (d *simDisk) syncTakes() time.Duration {
	return d.roll(func(r *dice) time.Duration {
		takes := r.upTo(d.slow)
		if r.chance(3) {
			takes = r.upTo(20 * d.slow)
		}
		return max(takes, time.Until(d.stalled))
	})
}

func (d *simDisk) wait(t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-d.ended:
		return false
	}
}

// synced makes the first n writes durable. Those who wait for theirs know before those
// who began theirs, who are told in order.
func (d *simDisk) synced(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return
	}
	for _, c := range d.written[:n] {
		// What is cut off in front may be back after a crash.
		if c.kind != cutsBefore || d.dice.chance(50) {
			d.stable.apply(c)
		}
		if c.done != nil && !c.begun {
			c.done(nil)
		}
	}
	d.told = append(d.told, d.written[:n]...)
	if d.s.faults.covers {
		d.tellTooMuch(n)
	}
	d.written = slices.Clone(d.written[n:])
	if len(d.written) > 0 {
		poke(d.work)
	}
	poke(d.tell)
}

// tellTooMuch says of what was written during a sync that it is durable, too.
func (d *simDisk) tellTooMuch(n int) {
	for i := range d.written[n:] {
		if c := &d.written[n+i]; c.begun {
			d.told = append(d.told, *c)
			c.done = func(error) {}
		}
	}
}

// complete calls the done of what was begun, in order.
func (d *simDisk) complete() {
	for {
		select {
		case <-d.tell:
		case <-d.ended:
			d.giveUp()
			return
		}
		d.mu.Lock()
		told := d.told
		d.told = nil
		d.mu.Unlock()
		for _, c := range told {
			if c.begun {
				d.moment()
				if d.s.faults.mute && d.chance(2) {
					continue // broken: nobody hears of it
				}
				c.done(nil)
			}
		}
	}
}

// giveUp tells everybody who still waits that the life is over.
func (d *simDisk) giveUp() {
	d.mu.Lock()
	told, written, err := d.told, d.written, d.err
	d.told, d.written = nil, nil
	d.mu.Unlock()
	for _, c := range told {
		if c.begun {
			c.done(err)
		}
	}
	for _, c := range written {
		if c.done != nil {
			c.done(err)
		}
	}
}

// fail ends the life with err, and returns what the next one finds: all that is durable
// and, of what was written behind it, as much as chance has it.
func (d *simDisk) fail(err error) picture {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = err
		close(d.ended)
		for _, c := range d.written[:d.dice.IntN(len(d.written)+1)] {
			d.stable.apply(c)
		}
	}
	return d.stable.clone()
}

// failed reports whether the disk has, not the machine, or could not be read.
func (d *simDisk) failed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err == errSimDisk || d.met
}

// spoil lets one record be unreadable for the rest of this life, most often that at the place of
// the snapshot. Nothing else is wrong: what is written still counts.
func (d *simDisk) spoil() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at := d.now.covered(); at > d.now.base && d.dice.chance(60) {
		d.bad = at
	} else if n := len(d.now.records); n > 0 {
		d.bad = d.now.base + 1 + uint64(d.dice.IntN(n))
	}
}

// mend ends spoil.
func (d *simDisk) mend() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bad = 0
}

// unreadable: a read of lo..hi fails. The caller holds mu.
func (d *simDisk) unreadable(lo, hi uint64) bool {
	is := d.bad > 0 && lo <= d.bad && d.bad <= hi && d.now.at(d.bad) != nil
	d.met = d.met || is
	return is
}

func (d *simDisk) stall(until time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stalled = until
}

// holds reports whether the disk holds record at index durably, or a snapshot of it.
func (d *simDisk) holds(index uint64, record []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stable.covered() >= index || bytes.Equal(d.stable.at(index), record)
}

// empty reports whether nothing is durable that could be forgotten.
func (d *simDisk) empty() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stable.last() == 0 && len(d.stable.meta) == 0
}

// record is what stands in the log at index, durable or not.
func (d *simDisk) record(index uint64) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now.at(index)
}

// Append implements replication.Log.
func (d *simDisk) Append(from uint64, records [][]byte) error {
	return d.durably(change{kind: appends, index: from, records: cloned(records)}, d.follows(from))
}

func cloned(records [][]byte) [][]byte {
	out := make([][]byte, len(records))
	for i, r := range records {
		out[i] = bytes.Clone(r)
	}
	return out
}

func (d *simDisk) follows(from uint64) func() error {
	return func() error {
		if from != d.now.last()+1 {
			return fmt.Errorf("append at %d to a log that ends at %d", from, d.now.last())
		}
		return nil
	}
}

// Begin implements replication.Log.
func (d *simDisk) Begin(from uint64, records [][]byte, done func(error)) error {
	c := change{kind: appends, index: from, records: cloned(records), begun: true, done: done}
	if d.s.faults.lies {
		c.done = func(error) {} // broken: it was called
	}
	if err := d.write(c, d.follows(from)); err != nil {
		return err
	}
	if d.s.faults.lies {
		d.life.Go(func() { done(nil) })
	}
	d.moment() // done may be called before this returns
	return nil
}

// Get implements replication.Log.
func (d *simDisk) Get(index uint64) ([]byte, error) {
	d.moment()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return nil, d.err
	}
	if d.unreadable(index, index) {
		return nil, errSimDisk
	}
	if r := d.now.at(index); r != nil {
		return bytes.Clone(r), nil
	}
	return nil, replication.ErrNoRecord
}

// Range implements replication.Log. What f gets is overwritten when it returns.
func (d *simDisk) Range(lo, hi uint64, f func(index uint64, record []byte) error) error {
	d.moment()
	d.mu.Lock()
	p, err := d.now.clone(), d.err
	if err == nil && d.unreadable(lo, hi) {
		err = errSimDisk
	}
	d.mu.Unlock()
	if err != nil {
		return err
	}
	if lo <= p.base || hi > p.last() {
		return replication.ErrNoRecord
	}
	for i := lo; i <= hi; i++ {
		r := bytes.Clone(p.at(i))
		if err := f(i, r); err != nil {
			return err
		}
		clear(r)
	}
	d.moment()
	return nil
}

// First implements replication.Log.
func (d *simDisk) First() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.now.last() == 0 {
		return 0
	}
	return d.now.base + 1
}

// Last implements replication.Log.
func (d *simDisk) Last() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now.last()
}

// TruncateAfter implements replication.Log.
func (d *simDisk) TruncateAfter(index uint64) error {
	return d.durably(change{kind: cutsAfter, index: index}, func() error {
		if index < d.now.base {
			return fmt.Errorf("truncate after %d, below the base %d", index, d.now.base)
		}
		return nil
	})
}

// TruncateBefore implements replication.Log.
func (d *simDisk) TruncateBefore(index uint64) error {
	return d.write(change{kind: cutsBefore, index: index}, nil)
}

// Reset implements replication.Log.
func (d *simDisk) Reset(base uint64) error { return d.durably(change{kind: resets, index: base}, nil) }

// Meta implements replication.Log.
func (d *simDisk) Meta(key string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.now.meta[key]), d.err
}

// SetMeta implements replication.Log.
func (d *simDisk) SetMeta(kv map[string][]byte) error {
	owned := map[string][]byte{}
	for k, v := range kv {
		owned[k] = bytes.Clone(v)
	}
	if at := owned[raft.MetaSnapshot]; at != nil {
		d.s.checkSnapshot(at)
		if d.chance(15) { // it is large
			d.wait(d.roll(func(r *dice) time.Duration { return r.upTo(2 * time.Second) }))
		}
	}
	return d.durably(change{kind: setsMeta, meta: owned}, nil)
}

var _ replication.Log = (*simDisk)(nil)
