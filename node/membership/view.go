package membership

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"fulcrum"

	"github.com/hashicorp/memberlist"
)

// view is what this node knows of everybody. memberlist's own list forgets the
// dead and may only be read under a lock of its own, so its callbacks write here.
//
// Its mutex is held for map accesses only: memberlist calls in with its own lock.
type view struct {
	self    fulcrum.NodeID
	changed chan struct{} // capacity 1: something changed since it was last read

	mu      sync.Mutex
	known   map[fulcrum.NodeID]*sighting // at most maxMembers
	book    map[fulcrum.NodeID]string    // addresses of peers, seen or not; at most maxMembers
	profile profile                      // our own
	frozen  bool                         // closed: late callbacks change nothing
}

// sighting is what is known of one member.
type sighting struct {
	addr    string
	meta    []byte
	up      bool // memberlist holds it for alive or suspect
	silent  bool // up, but nothing came from it directly for suspectAfter
	left    bool // it said goodbye around the time it went down
	changed time.Time
	heard   time.Time // last packet or reply of its own
	since   time.Time // when it came up: silence counts from here
	goodbye time.Time // when it last said so
}

func (s *sighting) state() string {
	switch {
	case s.up && s.silent:
		return StateSuspect
	case s.up:
		return StateAlive
	case s.left:
		return StateLeft
	}
	return StateDead
}

// silence returns for how long nothing came from s.
func (s *sighting) silence(now time.Time) time.Duration {
	if s.heard.After(s.since) {
		return now.Sub(s.heard)
	}
	return now.Sub(s.since)
}

func newView(self fulcrum.NodeID, advertise string) *view {
	return &view{
		self:    self,
		changed: make(chan struct{}, 1),
		known:   map[fulcrum.NodeID]*sighting{},
		book:    map[fulcrum.NodeID]string{},
		profile: profile{addr: advertise},
	}
}

func (v *view) signal() {
	select {
	case v.changed <- struct{}{}:
	default:
	}
}

// change applies f to a sighting that is there, notes when its state changed, and
// tells the listener. v.mu is held.
func (v *view) change(s *sighting, f func()) {
	was := s.state()
	f()
	if s.state() != was {
		s.changed = time.Now()
	}
	v.signal()
}

// admits reports whether a member of this name may be in the view.
func (v *view) admits(id fulcrum.NodeID) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, seen := v.known[id]
	return seen || len(v.known) < maxMembers
}

// up notes that memberlist takes id for alive, with this profile.
func (v *view) up(id fulcrum.NodeID, p profile) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.frozen {
		return
	}
	now := time.Now()
	s := v.known[id]
	if s == nil {
		s = &sighting{changed: now}
		v.known[id] = s
	}
	v.change(s, func() {
		if !s.up {
			s.up, s.silent, s.left, s.since = true, false, false, now
		}
		s.addr, s.meta = p.addr, p.meta
	})
}

// down notes that memberlist gave id up, or heard it leave.
func (v *view) down(id fulcrum.NodeID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s := v.known[id]; s != nil && !v.frozen {
		v.change(s, func() {
			s.up, s.silent = false, false
			s.left = time.Since(s.goodbye) < goodbyeHolds
		})
	}
}

// leaves notes that id said goodbye. memberlist may have handled its leaving
// before this message or may do so after: whichever comes second decides.
func (v *view) leaves(id fulcrum.NodeID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.known[id]
	if s == nil || v.frozen {
		return
	}
	s.goodbye = time.Now()
	if !s.up && time.Since(s.changed) < goodbyeHolds {
		v.change(s, func() { s.left = true })
	}
}

// heard notes that something came from id itself.
func (v *view) heard(id fulcrum.NodeID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.known[id]
	if s == nil || v.frozen {
		return
	}
	s.heard = time.Now()
	if s.silent {
		v.change(s, func() { s.silent = false })
	}
}

// quiet marks members as suspect that were silent for too long, and returns
// those to ping: up, and silent long enough to wonder.
func (v *view) quiet(now time.Time) (ping []fulcrum.NodeID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, s := range v.known {
		if !s.up || id == v.self {
			continue
		}
		if s.silence(now) >= pingAfter {
			ping = append(ping, id)
		}
		if s.silence(now) >= suspectAfter && !s.silent {
			v.change(s, func() { s.silent = true })
		}
	}
	return ping
}

// missing notes the addresses of peers and returns those that are not up.
func (v *view) missing(peers map[fulcrum.NodeID]string) []fulcrum.NodeID {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.book)
	var out []fulcrum.NodeID
	for id, addr := range peers {
		if id == v.self || !validName(string(id)) || !validAddr(addr) || len(v.book) >= maxMembers {
			continue
		}
		v.book[id] = addr
		if s := v.known[id]; s == nil || !s.up {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// forget drops who is gone for long and is nobody's peer any more.
func (v *view) forget(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, s := range v.known {
		if _, peer := v.book[id]; !peer && !s.up && now.Sub(s.changed) > forgetAfter {
			delete(v.known, id)
			v.signal()
		}
	}
}

// locate returns the gossip address of id: what it advertises while it is up,
// else what Peers said, else what it last advertised.
func (v *view) locate(id fulcrum.NodeID) (string, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.known[id]
	if s != nil && s.up {
		return s.addr, true
	}
	if addr, ok := v.book[id]; ok {
		return addr, true
	}
	if s != nil {
		return s.addr, true
	}
	return "", false
}

// setMeta changes what we gossip of ourselves, and reports whether it was
// different. More bytes than fit change nothing and give false, false.
func (v *view) setMeta(meta []byte) (changed, fits bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(meta) > MetaLimit(v.profile.addr) {
		return false, false
	}
	if slices.Equal(meta, v.profile.meta) {
		return false, true
	}
	v.profile.meta = slices.Clone(meta)
	return true, true
}

// others returns who is up besides us.
func (v *view) others() (out []fulcrum.NodeID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, s := range v.known {
		if id != v.self && s.up {
			out = append(out, id)
		}
	}
	return out
}

// freeze ends all changes.
func (v *view) freeze() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.frozen = true
}

func (v *view) state(id fulcrum.NodeID) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s := v.known[id]; s != nil {
		return s.state()
	}
	return StateUnknown
}

func (v *view) members() []Member {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make([]Member, 0, len(v.known))
	for id, s := range v.known {
		out = append(out, Member{Node: id, Addr: s.addr, State: s.state(), Meta: s.meta, Changed: s.changed, Seen: s.heard})
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

func (v *view) count(state string) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.known {
		if s.state() == state {
			n++
		}
	}
	return n
}

// delegate takes memberlist's callbacks. They come with its lock held, so none
// may block or call back.
type delegate struct {
	view  *view
	stats *metrics
}

// NodeMeta returns our profile.
func (d delegate) NodeMeta(int) []byte {
	d.view.mu.Lock()
	defer d.view.mu.Unlock()
	return appendProfile(nil, d.view.profile)
}

// NotifyAlive refuses members that we could not name, reach or hold.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	if !validName(n.Name) {
		return errPreamble
	}
	if _, err := decodeProfile(n.Meta); err != nil {
		return err
	}
	if !d.view.admits(fulcrum.NodeID(n.Name)) {
		return fulcrum.Errorf(fulcrum.CodeOverloaded, "%d members are known, no more are taken", maxMembers)
	}
	return nil
}

// NotifyJoin, NotifyUpdate and NotifyLeave follow memberlist's decisions.
func (d delegate) NotifyJoin(n *memberlist.Node) { d.NotifyUpdate(n) }

func (d delegate) NotifyUpdate(n *memberlist.Node) {
	if p, err := decodeProfile(n.Meta); err == nil { // NotifyAlive saw to it
		d.view.up(fulcrum.NodeID(n.Name), p)
	}
}

func (d delegate) NotifyLeave(n *memberlist.Node) { d.view.down(fulcrum.NodeID(n.Name)) }

// NotifyConflict counts a second node that uses a name from another address.
func (d delegate) NotifyConflict(_, _ *memberlist.Node) { d.stats.conflicts.Inc() }

// NotifyMsg takes the goodbye of a member; there are no other user messages.
func (d delegate) NotifyMsg(b []byte) {
	if id, ok := cutGoodbye(b); ok {
		d.view.leaves(id)
	}
}

// What fulcrum does not use of memberlist.
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (delegate) LocalState(bool) []byte          { return nil }
func (delegate) MergeRemoteState([]byte, bool)   {}
