package raft

import (
	"sync"
	"time"

	"fulcrum"
)

// flow is how many bytes of a group go to a peer at once, and fits itself to the link.
//
// All that goes to a node shares one link. What is small passes what is large there where
// the network lets it, as node/transport does; but a leader that sent as much as is allowed
// would have no append answered before its deadline over a slow link, nor would others.
//
// Invariant: of what a follower lacks, at most bytes() are under way to it at any time (an
// append or a part of one, or a chunk of a snapshot), and when the link takes longer than
// slow for them, which is half of the time that a leader may hear nothing, the next ones
// are fewer. What is larger goes in parts. So however large an entry is, a call carries no
// more than fits its fixed deadline, and a heartbeat soon finds no more before it than the
// link carries within slow. It measures them all together: where many groups share a link
// each sends less.
//
// Only the link counts: a peer says how long it thought itself, disk included, and the
// shortest time ever seen is the distance, which sending less does not shorten.
type flow struct {
	slow time.Duration
	most int

	mu      sync.Mutex
	window  int
	nearest time.Duration // 0: not known yet
	moving  appendAt      // of the append that is being sent in parts; term 0: none
}

const (
	flowLeast = 8 << 10  // fits a deadline of 2 s over 4 KB/s, and for each of 64 groups over 256 KB/s
	flowStart = 16 << 10 // of a link that nothing is known of: 64 groups begin with 1 MiB together
)

// appendAt is where an append goes on from, and in which term.
type appendAt struct{ term, prev uint64 }

// bytes is how much may go at once, besides the heads of messages.
func (f *flow) bytes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.window
}

// took notes that the link took so long for size bytes and the answer to them. What is
// small waits behind others, and tells nothing.
func (f *flow) took(size int, link time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.near(link)
	switch link -= f.nearest; {
	case link > f.slow && size >= f.least():
		fitting := float64(size) * float64(f.slow/2) / float64(link)
		f.window = max(f.least(), min(f.window/2, int(fitting)))
	case link <= f.slow/2 && size >= f.window/2: // twice as much takes no longer than slow
		f.window = min(2*f.window, f.most)
	}
}

// missed notes that no answer came before the deadline.
func (f *flow) missed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.window = max(f.least(), min(f.window/2, flowStart))
}

// anew notes that the peer was not reached, or has not taken it: of what comes after that
// nothing is known.
func (f *flow) anew() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.window = min(f.window, flowStart)
}

func (f *flow) least() int { return min(flowLeast, f.most) }

// beaten notes how long a heartbeat and its answer were on the link.
func (f *flow) beaten(link time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.near(link)
}

// near needs mu.
func (f *flow) near(link time.Duration) {
	if f.nearest == 0 || link < f.nearest {
		f.nearest = max(1, link)
	}
}

// move begins to send an append in parts; false: it is being sent already.
func (f *flow) move(at appendAt) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.moving == at {
		return false
	}
	f.moving = at
	return true
}

// room is bytes, for an append; moving: it is being sent in parts already.
func (f *flow) room(at appendAt) (bytes int, moving bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.window, f.moving == at
}

// stay ends move, if nothing else has begun since.
func (f *flow) stay(at appendAt) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.moving == at {
		f.moving = appendAt{}
	}
}

// flows has one flow a peer.
type flows struct {
	slow time.Duration
	most int

	mu sync.Mutex
	by map[fulcrum.NodeID]*flow
}

func (f *flows) of(id fulcrum.NodeID) *flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.by == nil {
		f.by = map[fulcrum.NodeID]*flow{}
	}
	if f.by[id] == nil {
		f.by[id] = &flow{slow: f.slow, most: f.most, window: min(flowStart, f.most)}
	}
	return f.by[id]
}
