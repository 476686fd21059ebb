// Package fault says what is broken on purpose: links, clocks, disks.
//
// A Set holds the faults of one node and answers, for the wrappers around its
// network, clock and disk, what each of them must suffer now. The package only
// decides: it has no goroutine, no I/O and no clock. node/netfault acts on links,
// node/storage on disks, node on clocks. Start reading at Set; validate.go says
// which faults make sense.
package fault

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
)

// Kinds of fault, as in fulcrum.Fault.Kind.
const (
	KindPartition = "partition"
	KindIsolate   = "isolate"
	KindLink      = "link"
	KindClock     = "clock"
	KindDisk      = "disk"
)

// MaxActive is how many faults a Set holds at most: every message looks at each.
const MaxActive = 256

// Layer is a kind of traffic that a fault may be restricted to.
type Layer uint8

// The layers.
const (
	Peers  Layer = iota // node/transport: everything that is replicated or asked
	Gossip              // node/membership: UDP and TCP of memberlist
)

// String is the word that fulcrum.Fault.Only uses.
func (l Layer) String() string {
	if l == Gossip {
		return "gossip"
	}
	return "peers"
}

// Effect is what one direction of one link suffers. The zero Effect is a healthy link.
type Effect struct {
	Drop   bool          // nothing arrives
	Delay  time.Duration // everything arrives this much later
	Jitter time.Duration // plus a uniform part of this
	Loss   float64       // 0..1: part of the packets that is lost
	Rate   int64         // bytes a second; 0: no limit
}

// None reports whether the link is healthy.
func (e Effect) None() bool { return e == Effect{} }

// and composes two effects on the same link: drop wins, delays add, a packet
// survives only if it survives both, and the slower rate holds.
func (e Effect) and(f Effect) Effect {
	e.Drop = e.Drop || f.Drop
	e.Delay += f.Delay
	e.Jitter += f.Jitter
	switch {
	case e.Loss == 0: // exact, where 1-(1-p) is not
		e.Loss = f.Loss
	case f.Loss != 0:
		e.Loss = 1 - (1-e.Loss)*(1-f.Loss)
	}
	if e.Rate == 0 || f.Rate != 0 && f.Rate < e.Rate {
		e.Rate = f.Rate
	}
	return e
}

// DiskEffect is what the disk of one node suffers. The zero DiskEffect is a healthy disk.
type DiskEffect struct {
	Stall time.Duration // each sync takes this much longer
	Full  bool          // writes are refused, as on a full disk
	Fail  bool          // they are, as by a disk that cannot sync: nothing was written, so unlike after a real failed sync the node goes on
}

// None reports whether the disk is healthy.
func (d DiskEffect) None() bool { return d == DiskEffect{} }

// Set is what is broken, as one node sees it. Its methods may be called from any
// goroutine. Questions cost one atomic load while nothing is broken.
type Set struct {
	// now is an immutable snapshot, nil while nothing is broken; it is replaced
	// only under mu.
	now atomic.Pointer[snapshot]

	hits [kindCount]atomic.Uint64 // by place in kinds()

	mu      sync.Mutex
	changed chan struct{} // closed at the next change; nil while nobody asked
	given   int           // ids made up so far
}

// NewSet returns a Set in which nothing is broken.
func NewSet() *Set { return &Set{} }

// Add breaks one thing more. It sets Since to now where f has none, and makes up
// an ID where f has none. It returns a *fulcrum.Error: CodeInvalid for a fault that
// makes no sense (the detail lists what is allowed), CodeExists for an ID in use,
// CodeOverloaded when MaxActive are active.
func (s *Set) Add(f fulcrum.Fault, now time.Time) error {
	if err := Validate(f, nil); err != nil {
		return err
	}
	f.Sides = cloneSides(f.Sides)
	if f.Since.IsZero() {
		f.Since = now
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.now.Load().list()
	if len(old) >= MaxActive {
		return fulcrum.Errorf(fulcrum.CodeOverloaded, "%d faults are active and no more are allowed", len(old)).WithHint("heal some first")
	}
	inUse := func(id string) bool {
		return slices.ContainsFunc(old, func(g fulcrum.Fault) bool { return g.ID == id })
	}
	for f.ID == "" {
		s.given++
		if id := fmt.Sprintf("%s-%d", f.Kind, s.given); !inUse(id) {
			f.ID = id
		}
	}
	if inUse(f.ID) {
		return fulcrum.Errorf(fulcrum.CodeExists, "a fault with the id %q is active already", f.ID).WithHint("heal it first, or choose another id")
	}
	s.replace(append(slices.Clone(old), f))
	return nil
}

// Heal ends the faults with these IDs, nil: all of them, and returns those that it
// ended. IDs that are not active are ignored.
func (s *Set) Heal(ids []string) []fulcrum.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	var healed, left []fulcrum.Fault
	for _, f := range s.now.Load().list() {
		if ids == nil || slices.Contains(ids, f.ID) {
			healed = append(healed, f)
		} else {
			left = append(left, f)
		}
	}
	if len(healed) > 0 {
		s.replace(left)
	}
	return healed
}

// replace installs a new snapshot and wakes those who wait for a change. It needs mu.
func (s *Set) replace(faults []fulcrum.Fault) {
	s.now.Store(compile(faults)) // before the wake-up: who wakes sees the new state
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// List returns the active faults, oldest first.
func (s *Set) List() []fulcrum.Fault {
	list := slices.Clone(s.now.Load().list())
	for i := range list {
		list[i].Sides = cloneSides(list[i].Sides)
	}
	return list
}

// Link returns what messages from one node to another suffer. A node always
// reaches itself.
func (s *Set) Link(from, to fulcrum.NodeID, layer Layer) Effect {
	now := s.now.Load()
	if now == nil {
		return Effect{}
	}
	return now.link(from, to, layer)
}

// Cut reports whether nothing gets from one node to the other.
func (s *Set) Cut(from, to fulcrum.NodeID, layer Layer) bool {
	return s.Link(from, to, layer).Drop
}

// Broken reports whether anything at all is broken, in one atomic load.
func (s *Set) Broken() bool { return s.now.Load() != nil }

// Skew returns how far the clock of node is off.
func (s *Set) Skew(node fulcrum.NodeID) time.Duration {
	now := s.now.Load()
	if now == nil {
		return 0
	}
	return now.skew[node]
}

// Disk returns what the disk of node suffers.
func (s *Set) Disk(node fulcrum.NodeID) DiskEffect {
	now := s.now.Load()
	if now == nil {
		return DiskEffect{}
	}
	return now.disk[node]
}

// Active counts the active faults by kind. Every kind is there, so that a gauge
// goes back to 0.
func (s *Set) Active() map[string]int {
	counts := make(map[string]int, kindCount)
	for _, k := range kinds() {
		counts[k] = 0
	}
	for _, f := range s.now.Load().list() {
		counts[f.Kind]++
	}
	return counts
}

// Hit notes that a fault of this kind acted: on a clock that was read, or on a disk.
// A kind that does not exist is ignored.
func (s *Set) Hit(kind string) {
	all := kinds()
	if i := slices.Index(all[:], kind); i >= 0 {
		s.hits[i].Add(1)
	}
}

// HitLink notes that what is broken between two nodes acted on one message, or on one
// piece of a stream: it was dropped, lost, held back or delayed.
func (s *Set) HitLink(from, to fulcrum.NodeID, layer Layer) {
	now := s.now.Load()
	if now == nil || from == to {
		return
	}
	for i := range now.rules {
		if r := &now.rules[i]; r.concerns(from, to, layer) {
			s.hits[r.kind].Add(1)
		}
	}
}

// Hits counts by kind how often faults acted since the Set was made: the proof that
// they were more than set. Every kind is there.
func (s *Set) Hits() map[string]uint64 {
	counts := make(map[string]uint64, kindCount)
	for i, k := range kinds() {
		counts[k] = s.hits[i].Load()
	}
	return counts
}

// Changed returns a channel that is closed at the next change. To miss none, take
// the channel first and look at the Set second.
func (s *Set) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

func cloneSides(sides [][]fulcrum.NodeID) [][]fulcrum.NodeID {
	if sides == nil {
		return nil
	}
	c := make([][]fulcrum.NodeID, len(sides))
	for i, side := range sides {
		c[i] = slices.Clone(side)
	}
	return c
}
