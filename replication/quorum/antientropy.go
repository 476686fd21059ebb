package quorum

import (
	"bytes"
	"context"
	"encoding/binary"
	"time"

	"github.com/cespare/xxhash/v2"

	"fulcrum"
)

// Anti-entropy compares two replicas by the digests of 256 buckets of keys, and
// exchanges the keys and versions of those buckets alone that differ. It finds what
// hints missed, so that replicas become equal after any fault has healed.

// bucketOf returns the bucket of key and its hash.
func bucketOf(key []byte) (int, uint64) {
	h := xxhash.Sum64(key)
	return int(h >> 56), h
}

// digestOf is e's part of its bucket's digest, which is the exclusive or of all
// parts: it can be kept up to date without looking at the other entries. A version
// stands for its value, because no two writers make the same one.
func digestOf(key uint64, e fulcrum.Entry) uint64 {
	var b [21]byte
	binary.LittleEndian.PutUint64(b[:], key)
	binary.LittleEndian.PutUint64(b[8:], e.Version.Time)
	binary.LittleEndian.PutUint32(b[16:], e.Version.Actor)
	if e.Tombstone {
		b[20] = 1
	}
	return xxhash.Sum64(b[:])
}

// bucketSet is a bit map of buckets.
type bucketSet [buckets / 8]byte

func (s *bucketSet) add(b int)      { s[b/8] |= 1 << (b % 8) }
func (s *bucketSet) has(b int) bool { return s[b/8]&(1<<(b%8)) != 0 }

// syncLoop runs rounds with every replica: when the group starts, when one came
// back, and every SyncEvery. While this replica is catching up it goes on without
// the long pause.
func (g *Group) syncLoop(ctx context.Context) error {
	g.mu.Lock()
	for _, p := range g.peers {
		if p != nil {
			p.wantSync = true
		}
	}
	g.mu.Unlock()
	next := time.Now().Add(g.jittered())
	for ctx.Err() == nil {
		for _, p := range g.peers {
			if p != nil && g.takeSync(p) {
				g.syncWith(ctx, p)
			}
		}
		g.tryCaughtUp()
		if g.catchingUp.Load() {
			pause(ctx, g.opt.ProbeEvery, g.syncKick)
			g.wantAll(true)
			continue
		}
		pause(ctx, time.Until(next), g.syncKick)
		if !time.Now().Before(next) {
			next = time.Now().Add(g.jittered())
			g.purgeRound(ctx)
			g.wantAll(false)
		}
	}
	return nil
}

func (g *Group) jittered() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.opt.SyncEvery*4/5 + time.Duration(g.env.Rand.Int64N(int64(g.opt.SyncEvery*2/5)+1))
}

// wantAll asks for a round with every replica, or with those not yet pulled from.
func (g *Group) wantAll(unpulled bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.peers {
		if p != nil && !(unpulled && p.pulled && p.pulledGood) {
			p.wantSync = true
		}
	}
}

// takeSync reports whether p wants a round and can have one.
func (g *Group) takeSync(p *peer) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !p.wantSync || p.down {
		return false
	}
	p.wantSync = false
	return true
}

// syncWith runs one round with p in both directions; true if the two ended equal or
// exchanged everything.
func (g *Group) syncWith(ctx context.Context, p *peer) bool {
	r := round{g: g, p: p, push: !g.fenced.Load()}
	err := r.run(ctx)
	if err != nil {
		if ctx.Err() == nil {
			g.env.Logger.Debug("anti-entropy", "group", g.env.Group, "with", p.id, "err", err)
		}
		return false
	}
	if n := r.pulled + r.pushed; n > 0 {
		g.env.Metrics.AntiEntropyRepaired(n)
	}
	g.mu.Lock()
	p.pulled = true
	p.pulledGood = p.pulledGood || r.flags&flagCatchingUp == 0
	all, owed := p.hints[""]
	g.mu.Unlock()
	if r.partial {
		g.kickSync(p)
		return true
	}
	if owed && r.push {
		it := &item{marks: []mark{{peer: p.at, version: all, clear: true}}, settle: true}
		return g.submitWait(ctx, it) == nil && g.wait(ctx, it) == nil
	}
	return true
}

// tryCaughtUp ends catching up once this replica holds all that may have been
// acknowledged without it.
//
// A quorum write is on a majority: on at least N/2 (rounded down) of the N-1
// others. A set of at least N-N/2 others meets each of those. So everything
// acknowledged before this replica lost its disk, or before it joined, has
// been pulled once it has pulled from that many that hold the shard. Where not so
// many hold it, it suffices to have pulled from all others: there is no more.
func (g *Group) tryCaughtUp() {
	if !g.catchingUp.Load() {
		return
	}
	g.mu.Lock()
	good, any := 0, 0
	for _, p := range g.peers {
		if p != nil && p.pulled {
			any++
			if p.pulledGood {
				good++
			}
		}
	}
	g.mu.Unlock()
	n := len(g.env.Replicas)
	if good < n-n/2 && any < n-1 {
		return
	}
	if err := g.env.Log.SetMeta(map[string][]byte{metaCaught: {1}}); err != nil {
		g.env.Logger.Warn("noting that the replica has caught up", "group", g.env.Group, "err", err)
		return
	}
	g.catchingUp.Store(false)
}

// maxPush is how many keys one page of a round pushes at the most; the rest comes
// with the next round.
const maxPush = 1 << 16

// round is one comparison with one other replica.
type round struct {
	g      *Group
	p      *peer
	settle bool // the other must be fenced; what is pulled counts although this one is
	push   bool // send what the other lacks too

	flags          byte // of the other
	equal          bool // digests were equal at the start
	partial        bool // there is more to push
	pulled, pushed int
}

func (r *round) request(kind byte) []byte {
	var f byte
	if r.settle {
		f = flagSettle
	}
	return []byte{kind, f}
}

func (r *round) call(ctx context.Context, msg []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, r.g.opt.GiveUp)
	defer cancel()
	return r.g.call(ctx, r.p, msg)
}

// run compares digests, then goes through the buckets that differ page by page.
func (r *round) run(ctx context.Context) error {
	b, err := r.call(ctx, r.request(kindDigests))
	if err != nil {
		return err
	}
	if len(b) != 1+8*buckets {
		return fulcrum.ErrShort
	}
	r.flags = b[0]
	r.g.mu.Lock()
	own := r.g.digest
	r.g.mu.Unlock()
	var differ bucketSet
	r.equal = true
	for i := range own {
		if binary.LittleEndian.Uint64(b[1+8*i:]) != own[i] {
			differ.add(i)
			r.equal = false
		}
	}
	if r.equal {
		return nil
	}
	var after []byte
	for {
		msg := fulcrum.AppendBytes(append(r.request(kindBuckets), differ[:]...), after)
		b, err := r.call(ctx, msg)
		if err != nil {
			return err
		}
		rd := fulcrum.NewReader(b)
		theirs, more := readPairs(rd), rd.Byte()
		if rd.Err() != nil || (more == 1 && len(theirs) == 0) {
			return fulcrum.ErrShort
		}
		var end []byte
		if more == 1 {
			end = append(bytes.Clone(theirs[len(theirs)-1].key), 0)
		}
		if err := r.exchange(ctx, differ, after, end, theirs); err != nil {
			return err
		}
		if end == nil {
			return nil
		}
		after = end
	}
}

// exchange settles the keys from start to end of the buckets that differ: theirs
// are the other's keys there, all of them.
func (r *round) exchange(ctx context.Context, differ bucketSet, start, end []byte, theirs []pair) error {
	var pull [][]byte
	var push [][]byte
	err := r.g.env.State.Scan(start, end, func(e fulcrum.Entry) bool {
		if b, _ := bucketOf(e.Key); !differ.has(b) {
			return true
		}
		for len(theirs) > 0 && bytes.Compare(theirs[0].key, e.Key) < 0 {
			pull = append(pull, theirs[0].key)
			theirs = theirs[1:]
		}
		var theirVersion fulcrum.Version
		if len(theirs) > 0 && bytes.Equal(theirs[0].key, e.Key) {
			theirVersion = theirs[0].version
			theirs = theirs[1:]
		}
		switch c := e.Version.Compare(theirVersion); {
		case c < 0:
			pull = append(pull, bytes.Clone(e.Key))
		case c > 0 && r.push && len(push) == maxPush:
			r.partial = true
		case c > 0 && r.push:
			push = append(push, bytes.Clone(e.Key))
		}
		return true
	})
	if err != nil {
		return diskErr("scan", err)
	}
	for _, p := range theirs {
		pull = append(pull, p.key)
	}
	if err := r.pull(ctx, pull); err != nil {
		return err
	}
	return r.pushKeys(ctx, push)
}

// pushKeys sends what stands here at keys now, a message's worth at a time.
func (r *round) pushKeys(ctx context.Context, keys [][]byte) error {
	for len(keys) > 0 {
		var entries []fulcrum.Entry
		size := 0
		for len(keys) > 0 && size < pageBytes && len(entries) < maxItems {
			e, err := r.g.env.State.Get(keys[0])
			if err != nil {
				return diskErr("get", err)
			}
			keys = keys[1:]
			if !e.Version.IsZero() {
				entries = append(entries, e)
				size += entryBytes(e)
			}
		}
		for _, msg := range storeMessages(flagRelay, entries) {
			if _, err := r.call(ctx, msg); err != nil {
				return err
			}
		}
		r.pushed += len(entries)
	}
	return nil
}

// pull fetches the other's entries of keys and merges them here.
func (r *round) pull(ctx context.Context, keys [][]byte) error {
	for len(keys) > 0 {
		ask := keys[:min(len(keys), maxItems)]
		b, err := r.call(ctx, appendKeys(r.request(kindPull), ask))
		if err != nil {
			return err
		}
		rd := fulcrum.NewReader(b)
		covered := int(min(rd.Uvarint(), uint64(len(ask))))
		if rd.Err() != nil || covered == 0 {
			return fulcrum.ErrShort
		}
		entries, _, err := decodeEntries(rd.Rest())
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := r.g.checkEntry(e); err != nil {
				return err
			}
			_ = r.g.env.Clock.Observe(e.Version) // one too far ahead stands elsewhere already
		}
		stored, err := r.g.store(ctx, entries, r.settle)
		r.pulled += stored
		if err != nil {
			return err
		}
		keys = keys[covered:]
	}
	return nil
}

// syncFlags reads the flags of a request; a settling replica must not learn from
// one that still takes writes.
func (g *Group) syncFlags(r *fulcrum.Reader) error {
	f := r.Byte()
	if err := r.Err(); err != nil {
		return g.malformed(err)
	}
	if f&flagSettle != 0 && !g.fenced.Load() {
		return g.errorf(fulcrum.CodeConflict, "not fenced yet")
	}
	return nil
}

func (g *Group) handleDigests(body []byte) ([]byte, error) {
	if err := g.syncFlags(fulcrum.NewReader(body)); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	b := append(make([]byte, 0, 1+8*buckets), g.flags())
	for _, d := range g.digest {
		b = binary.LittleEndian.AppendUint64(b, d)
	}
	return b, nil
}

func (g *Group) handleBuckets(body []byte) ([]byte, error) {
	r := fulcrum.NewReader(body)
	if err := g.syncFlags(r); err != nil {
		return nil, err
	}
	var want bucketSet
	for i := range want {
		want[i] = r.Byte()
	}
	after := r.Bytes()
	if err := r.Err(); err != nil {
		return nil, g.malformed(err)
	}
	var pairs []pair
	more, size := byte(0), 0
	err := g.env.State.Scan(after, nil, func(e fulcrum.Entry) bool {
		if b, _ := bucketOf(e.Key); !want.has(b) {
			return true
		}
		if len(pairs) == maxItems || size > pageBytes {
			more = 1
			return false
		}
		pairs = append(pairs, pair{bytes.Clone(e.Key), e.Version})
		size += len(e.Key) + 16
		return true
	})
	if err != nil {
		return nil, g.errorf(fulcrum.CodeDisk, "scan: %w", err)
	}
	return append(appendPairs(nil, pairs), more), nil
}

func (g *Group) handlePull(body []byte) ([]byte, error) {
	r := fulcrum.NewReader(body)
	if err := g.syncFlags(r); err != nil {
		return nil, err
	}
	keys := readKeys(r)
	if err := r.Err(); err != nil {
		return nil, g.malformed(err)
	}
	var entries []fulcrum.Entry
	covered, size := 0, 0
	for _, k := range keys {
		e, err := g.env.State.Get(k)
		if err != nil {
			return nil, g.errorf(fulcrum.CodeDisk, "get: %w", err)
		}
		covered++
		if !e.Version.IsZero() {
			entries = append(entries, e)
			size += entryBytes(e)
		}
		if size > pageBytes {
			break
		}
	}
	return appendEntries(binary.AppendUvarint(nil, uint64(covered)), entries), nil
}
