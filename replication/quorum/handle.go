package quorum

import (
	"context"

	"fulcrum"
)

// Handle answers a message of another replica of the same epoch. Malformed ones
// are CodeInvalid and change nothing. A fenced replica answers stores and reads
// with CodeEpoch, and goes on to answer what Settle and anti-entropy ask.
func (g *Group) Handle(ctx context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error) {
	if err := g.ready(ctx); err != nil {
		return nil, err
	}
	p := g.peerOf(from)
	if p == nil || len(msg) == 0 {
		return nil, g.errorf(fulcrum.CodeInvalid, "message of %d bytes from %q, which is no other replica of group %d", len(msg), from, g.env.Group)
	}
	g.mu.Lock()
	down := p.down
	g.mu.Unlock()
	if down {
		wake(p.wake)
	}
	body := msg[1:]
	switch msg[0] {
	case kindPing:
		return g.handlePing(body)
	case kindStore:
		return g.handleStore(ctx, body)
	case kindRead:
		return g.handleRead(body)
	case kindScan:
		return g.handleScan(body)
	case kindDigests:
		return g.handleDigests(body)
	case kindBuckets:
		return g.handleBuckets(body)
	case kindPull:
		return g.handlePull(body)
	case kindPurge:
		return g.handlePurge(ctx, body)
	}
	return nil, g.errorf(fulcrum.CodeInvalid, "message of kind %d", msg[0])
}

func (g *Group) malformed(err error) error {
	return g.errorf(fulcrum.CodeInvalid, "message: %w", err)
}

// observe shows a version to the clock, and refuses one too far ahead: a node with
// a wrong clock must not win over all others for as long as it is ahead.
func (g *Group) observe(v fulcrum.Version) error {
	if err := g.env.Clock.Observe(v); err != nil {
		return g.errorf(fulcrum.CodeInvalid, "%s is not taken from a new write: %w", v, err).WithHint(hintClock)
	}
	return nil
}

func (g *Group) flags() byte {
	var f byte
	if g.catchingUp.Load() {
		f |= flagCatchingUp
	}
	if g.fenced.Load() {
		f |= flagFenced
	}
	return f
}

func (g *Group) handlePing(body []byte) ([]byte, error) {
	r := fulcrum.NewReader(body)
	v := readVersion(r)
	if err := r.Err(); err != nil {
		return nil, g.malformed(err)
	}
	if err := g.observe(v); err != nil {
		return nil, err
	}
	return []byte{g.flags()}, nil
}

// handleStore takes entries. Those of new writes must not be ahead of the clock;
// those that stand elsewhere already (repair, hints) are taken as they are, so that
// replicas still become equal.
func (g *Group) handleStore(ctx context.Context, body []byte) ([]byte, error) {
	r := fulcrum.NewReader(body)
	flags := r.Byte()
	if err := r.Err(); err != nil {
		return nil, g.malformed(err)
	}
	entries, _, err := decodeEntries(r.Rest())
	if err != nil {
		return nil, g.malformed(err)
	}
	var newest fulcrum.Version
	for _, e := range entries {
		if err := g.checkEntry(e); err != nil {
			return nil, err
		}
		if newest.Less(e.Version) {
			newest = e.Version
		}
	}
	if err := g.observe(newest); err != nil && flags&flagRelay == 0 {
		return nil, err
	}
	it := &item{entries: entries}
	if err := g.submit(it); err != nil {
		return nil, err
	}
	return nil, g.wait(ctx, it)
}

func (g *Group) checkEntry(e fulcrum.Entry) error {
	if len(e.Key) == 0 || len(e.Key) > fulcrum.MaxKeyBytes || e.Version.IsZero() {
		return g.errorf(fulcrum.CodeInvalid, "entry with a key of %d bytes and version %s", len(e.Key), e.Version)
	}
	return nil
}

// readable refuses reads while fenced or catching up.
func (g *Group) readable() error {
	if g.fenced.Load() {
		return g.errFenced()
	}
	if g.catchingUp.Load() {
		return g.errorf(fulcrum.CodeUnavailable, "the replica is catching up").WithHint(hintCatchingUp)
	}
	return nil
}

func (g *Group) handleRead(body []byte) ([]byte, error) {
	r := fulcrum.NewReader(body)
	asked := readPairs(r)
	if err := r.Err(); err != nil {
		return nil, g.malformed(err)
	}
	if err := g.readable(); err != nil {
		return nil, err
	}
	var b []byte
	for _, p := range asked {
		e, err := g.env.State.Get(p.key)
		if err != nil {
			return nil, g.errorf(fulcrum.CodeDisk, "get: %w", err)
		}
		e.Key = p.key
		b = appendAnswer(b, e, p.version)
		if len(b) > pageBytes {
			break
		}
	}
	return b, nil
}

func (g *Group) handleScan(body []byte) ([]byte, error) {
	r := fulcrum.NewReader(body)
	start, end, limit := r.Bytes(), r.Bytes(), r.Uvarint()
	if err := r.Err(); err != nil {
		return nil, g.malformed(err)
	}
	if err := g.readable(); err != nil {
		return nil, err
	}
	es, more, err := g.scanHere(start, end, int(min(max(limit, 1), maxItems)))
	if err != nil {
		return nil, err
	}
	b := append(appendEntries(nil, es), 0)
	if more {
		b[len(b)-1] = 1
	}
	return b, nil
}
