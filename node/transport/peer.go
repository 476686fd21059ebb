package transport

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
)

const (
	minBackoff     = 50 * time.Millisecond
	maxBackoff     = 500 * time.Millisecond // small: after a cut heals, calls wait for it
	refusedBackoff = 100 * time.Millisecond // nobody listens: fail calls at once for so long
	foreignBackoff = time.Second            // handshake refused: someone must change a setting
)

// peer is what a Transport knows of one other node.
type peer struct {
	t  *Transport
	id fulcrum.NodeID

	inflight  [256]atomic.Int64 // its calls that are being handled here, by channel
	waiting   atomic.Int64      // bytes of calls that wait for a connection to it
	wires     atomic.Int64      // connections, in both directions
	lastHeard atomic.Int64      // Transport.now of its last bytes; 0: never
	rtt       atomic.Int64      // of the last ping; 0: none yet

	mu       sync.Mutex
	wire     *wire    // outbound; may have ended
	attempt  *attempt // to connect; nil: none under way
	failures int      // in a row
	retryAt  time.Time
	failed   error // the last failure, if it answers calls until retryAt; else nil
}

// attempt is one attempt to connect. err is set before done is closed; quick says
// that the failure came at once, and waiting on would not help.
type attempt struct {
	done  chan struct{}
	err   error
	quick bool
}

// connected returns a living wire, dialing if there is none, within ctx. Its errors
// are definite: size bytes were not sent.
func (p *peer) connected(ctx context.Context, size int) (*wire, error) {
	w, _, err := p.wireOrAttempt()
	if err != nil {
		return nil, p.t.unsent(p.id, err)
	}
	if w != nil {
		return w, nil
	}
	if err := p.reserve(size); err != nil {
		return nil, err
	}
	defer p.waiting.Add(-int64(size))
	return p.wait(ctx)
}

// reserve lets size bytes wait for a connection, unless too many do. Whoever gets no
// error gives them back to p.waiting.
func (p *peer) reserve(size int) error {
	if p.waiting.Add(int64(size)) > int64(p.t.o.QueueBytes) && p.waiting.Load() > int64(size) {
		p.waiting.Add(-int64(size))
		p.t.m.overloaded.Inc()
		return fulcrum.Errorf(fulcrum.CodeOverloaded, "too much waits for a connection from %s to %s", p.t.o.Node, p.id)
	}
	return nil
}

// wait is connected for one whose bytes are reserved.
func (p *peer) wait(ctx context.Context) (*wire, error) {
	for {
		w, a, err := p.wireOrAttempt()
		if err != nil {
			return nil, p.t.unsent(p.id, err)
		}
		if w != nil {
			return w, nil
		}
		select {
		case <-a.done:
			if a.err != nil && a.quick {
				return nil, p.t.unsent(p.id, a.err)
			}
		case <-ctx.Done():
			return nil, p.t.unsent(p.id, ctx.Err())
		}
	}
}

// wireOrAttempt returns a living wire, or the attempt to wait for, or why it is of
// no use to wait.
func (p *peer) wireOrAttempt() (*wire, *attempt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wire != nil {
		if !p.wire.closing.Load() {
			return p.wire, nil, nil
		}
		p.wire = nil
	}
	if p.attempt != nil {
		return nil, p.attempt, nil
	}
	if p.failed != nil && time.Now().Before(p.retryAt) {
		return nil, nil, p.failed
	}
	a := &attempt{done: make(chan struct{})}
	wait := time.Until(p.retryAt)
	if !p.t.goRun(func() { p.connect(a, wait) }) {
		return nil, nil, errStopping
	}
	p.attempt = a
	return nil, a, nil
}

// connect carries out a: after a wait it dials and shakes hands, once.
func (p *peer) connect(a *attempt, wait time.Duration) {
	defer close(a.done)
	w, quick, err := p.dial(wait)

	p.mu.Lock()
	defer p.mu.Unlock()
	p.attempt = nil
	a.err, a.quick = err, quick
	if err == nil {
		p.wire, p.failures, p.failed, p.retryAt = w, 0, nil, time.Time{}
		p.t.o.Logger.Info("connected to a peer", "peer", p.id, "remote", addr(w.conn))
		return
	}
	p.failures++
	if p.failures == 1 && p.t.life.Err() == nil {
		p.t.o.Logger.Info("cannot connect to a peer; trying again while calls want it", "peer", p.id, "err", err)
	}
	p.failed = nil
	backoff := p.t.jitter(min(maxBackoff, minBackoff<<min(p.failures, 8)))
	if quick {
		p.failed, backoff = err, refusedBackoff
		if errors.Is(err, ErrRefused) {
			backoff = foreignBackoff
		}
	}
	p.retryAt = time.Now().Add(backoff)
}

// dial returns a new wire, being served. quick tells a failure that came at once
// from one by timeout.
func (p *peer) dial(wait time.Duration) (w *wire, quick bool, err error) {
	t := p.t
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-t.life.Done():
			return nil, true, errStopping
		}
	}
	ctx, cancel := context.WithTimeout(t.life, t.o.DialTimeout)
	defer cancel()
	if t.o.Dial == nil {
		return nil, true, errors.New("this node does not dial")
	}
	c, err := t.o.Dial(ctx, p.id)
	if err != nil {
		return nil, t.life.Err() != nil || !isTimeout(err), err
	}
	stop := context.AfterFunc(t.life, func() { _ = c.Close() }) // so that greet ends
	err = t.greet(c, p.id)
	if !stop() || err != nil {
		_ = c.Close() // the reason is in err
	}
	if t.life.Err() != nil {
		return nil, true, errStopping
	}
	if errors.Is(err, ErrRefused) {
		t.m.refused.Inc()
		t.log.Warn("peer connection refused", "peer", p.id, "remote", addr(c), "err", err)
		return nil, true, err
	}
	if err != nil {
		return nil, false, err
	}
	w = t.newWire(p, c, false)
	if !t.serve(w) {
		return nil, true, errStopping
	}
	return w, false, nil
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}

// PeerStats is what a Transport knows of one other node that it ever called or was
// called by.
type PeerStats struct {
	Node       fulcrum.NodeID
	LastHeard  time.Time     // of any bytes, with a monotonic reading; zero: never
	RTT        time.Duration // of the last ping, which are sent while calls wait; 0: none yet
	QueueBytes int           // waiting to be sent to it
	Connected  bool          // in either direction
}

// busy reports whether calls of p are being handled.
func (p *peer) busy() bool {
	for i := range p.inflight {
		if p.inflight[i].Load() > 0 {
			return true
		}
	}
	return false
}

// LastHeard is when the last bytes of a node came; zero: never.
func (t *Transport) LastHeard(id fulcrum.NodeID) time.Time {
	t.mu.RLock()
	p := t.peers[id]
	t.mu.RUnlock()
	if p == nil {
		return time.Time{}
	}
	return p.heard()
}

func (p *peer) heard() time.Time {
	at := p.lastHeard.Load()
	if at == 0 {
		return time.Time{}
	}
	return p.t.epoch.Add(time.Duration(at))
}

// Peers returns what is known of the other nodes, by name.
func (t *Transport) Peers() []PeerStats {
	t.mu.RLock()
	peers := make([]*peer, 0, len(t.peers))
	for _, p := range t.peers {
		peers = append(peers, p)
	}
	t.mu.RUnlock()
	stats := make([]PeerStats, 0, len(peers))
	for _, p := range peers {
		stats = append(stats, p.stats())
	}
	slices.SortFunc(stats, func(a, b PeerStats) int { return cmp.Compare(a.Node, b.Node) })
	return stats
}

func (p *peer) stats() PeerStats {
	s := PeerStats{Node: p.id, LastHeard: p.heard(), RTT: time.Duration(p.rtt.Load()), Connected: p.wires.Load() > 0, QueueBytes: int(p.waiting.Load())}
	p.mu.Lock()
	w := p.wire
	p.mu.Unlock()
	if w != nil {
		w.mu.Lock()
		if w.err == nil {
			s.QueueBytes += w.queued
		}
		w.mu.Unlock()
	}
	return s
}
