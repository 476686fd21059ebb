package lab

import (
	"slices"
	"sync"
	"time"
)

// outcome is what came of an operation.
type outcome uint8

const (
	answered outcome = iota
	refused
	unknown
)

// op is one operation that was carried out.
type op struct {
	phase     string
	keyspace  string // cp, ap, lf, ca
	side      string
	operation string
	level     string

	key   string
	value string // writes: what was written; reads: what came back, "" for nothing
	order int    // overwrites: their order in real time, from 1
	// newest is, for reads, the order of the newest overwrite that was acknowledged
	// before the read began; 0: none was.
	newest int

	began, took time.Duration // since the start of the run
	outcome     outcome
	because     string
}

// recorder collects operations. Its methods may be called from any goroutine.
type recorder struct {
	mu     sync.Mutex
	ops    []op
	orders map[string]int // of the last overwrite, by keyspace
	acked  map[string]int // of the newest acknowledged overwrite, by keyspace
}

func newRecorder() *recorder {
	return &recorder{orders: map[string]int{}, acked: map[string]int{}}
}

// nextOrder numbers an overwrite that is about to begin. Overwrites of one keyspace
// run one after the other, so that their order is that of real time.
func (r *recorder) nextOrder(keyspace string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.orders[keyspace]++
	return r.orders[keyspace]
}

// newest is the order of the newest acknowledged overwrite.
func (r *recorder) newest(keyspace string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.acked[keyspace]
}

func (r *recorder) add(o op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, o)
	if o.operation == Overwrite && o.outcome == answered {
		r.acked[o.keyspace] = max(r.acked[o.keyspace], o.order)
	}
}

// all returns the operations so far, in the order in which they ended.
func (r *recorder) all() []op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ops)
}
