package transport

import (
	"errors"
	"fmt"
	"net"
	"time"

	"fulcrum"
)

// maxUnsent is how many bytes the operating system takes that the link does not carry yet:
// frames that are queued later wait for them. Fewer cost throughput where a link is fast.
const maxUnsent = 64 << 10

// setUp lets the kernel notice a dead host on an idle connection, and bounds what it takes
// and does not send, also under wrappers that have NetConn, as crypto/tls and
// node/netfault do.
func setUp(c net.Conn) {
	for {
		if l, ok := c.(interface{ LimitUnsent(bytes int) }); ok {
			l.LimitUnsent(maxUnsent)
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			// Best effort: without it the watcher still notices, when calls wait.
			_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3})
			setUnsent(tcp, maxUnsent)
			return
		}
		under, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return
		}
		c = under.NetConn()
	}
}

// watch ends w when it stalls or idles, pings while calls wait, and ends the calls of
// Go that expire.
func (w *wire) watch() {
	tick := time.NewTimer(w.untilCheck())
	defer tick.Stop()
	defer w.alarm.Stop()
	for {
		select {
		case <-w.done:
			return
		case <-w.alarm.C:
			w.sweep(w.t.now(), 0)
			continue
		case <-tick.C:
		}
		now := w.t.now()
		next := w.untilCheck() // all connections are looked at together
		tick.Reset(next)
		w.sweep(now, now+int64(next))
		if err := w.check(now); err != nil {
			if !errors.Is(err, errIdle) {
				w.t.log.Warn("closed a peer connection", "peer", w.peer.id, "remote", addr(w.conn), "err", err)
			}
			w.end(err)
			return
		}
	}
}

// untilCheck is KeepAlive at the most.
func (w *wire) untilCheck() time.Duration {
	return min(fulcrum.UntilBeat(time.Now(), w.t.o.KeepAlive), w.t.o.KeepAlive)
}

// check says why w must end now, and sends a ping when one is due.
func (w *wire) check(now int64) error {
	stall := int64(w.t.o.StallTimeout)
	if since := w.writeSince.Load(); since != 0 && now-since > stall {
		return fmt.Errorf("nothing could be written for %v", w.t.o.StallTimeout)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return nil
	}
	lastRead := w.lastRead.Load()
	idle := int64(w.t.o.IdleTimeout)
	if w.inbound {
		// The dialer decides when a connection is idle; this is for one that vanished.
		if now-lastRead > 2*idle && w.queued == 0 && !w.peer.busy() {
			return errIdle
		}
		return nil
	}
	switch {
	case w.ping.outFor != 0 && now-max(w.ping.outFor, lastRead) > stall:
		return fmt.Errorf("no sign of life for %v", w.t.o.StallTimeout)
	case w.ping.id == 0 && len(w.pending) > 0:
		w.lastID++
		start, _ := w.put(&frame{kind: kindPing, id: w.lastID}, true)
		w.ping = ping{id: w.lastID, end: start + 1} // handing over any byte of it hands over all
	case w.ping.id == 0 && len(w.pending) == 0 && w.queued == 0 && now-w.lastUse > idle:
		w.closing.Store(true) // no call begins from here on
		return errIdle
	}
	return nil
}

// ponged notes the answer to the ping under way.
func (w *wire) ponged(id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ping.id != id || w.ping.asked == 0 {
		return
	}
	w.peer.rtt.Store(max(1, w.t.now()-w.ping.asked))
	w.ping = ping{}
}
