package node

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/catalog"
)

// A forwarded write that gets no answer has an unknown outcome, while a node that
// is known to be out of reach makes it a definite refusal, or lets another replica
// be asked. So a node not heard from just now is pinged before a request goes to it.
// One that was heard from not long ago gets more time to answer, and so does one that was
// heard from after it missed a ping, perhaps by the late answer to that: its link may be slow.
const (
	heardRecently = 25 * time.Millisecond
	heardOfLate   = 600 * time.Millisecond
	pingTimeout   = 250 * time.Millisecond
	slowPing      = time.Second
	missedFor     = 200 * time.Millisecond // for how long an unanswered ping counts
)

// missed remembers pings without an answer.
type missed struct {
	mu sync.Mutex
	at map[fulcrum.NodeID]time.Time
}

func (m *missed) set(id fulcrum.NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at == nil {
		m.at = map[fulcrum.NodeID]time.Time{}
	}
	m.at[id] = time.Now()
}

// lately reports whether a ping of node was missed just now, and nothing was heard of
// it since: a cut that has healed counts no longer.
func (m *missed) lately(id fulcrum.NodeID, heard time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.at[id]
	return ok && time.Since(at) < missedFor && heard.Before(at)
}

// slow reports whether a node that missed a ping was heard from since.
func (m *missed) slow(id fulcrum.NodeID, heard time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.at[id]
	return ok && heard.After(at)
}

// reach returns CodeUnavailable if a node does not answer.
func (n *Node) reach(ctx context.Context, to fulcrum.NodeID) error {
	if to == n.opt.Name {
		return nil
	}
	heard := n.peers.LastHeard(to)
	if time.Since(heard) < heardRecently {
		return nil
	}
	if !n.missed.lately(to, heard) {
		limit := pingTimeout
		if time.Since(heard) < heardOfLate || n.missed.slow(to, heard) {
			limit = slowPing
		}
		pingCtx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		if _, err := n.peers.Call(pingCtx, to, chPing, nil); err == nil {
			return nil
		}
		if ctx.Err() == nil {
			n.missed.set(to)
		}
	}
	return fulcrum.Errorf(fulcrum.CodeUnavailable, "%s cannot be reached from %s", to, n.opt.Name)
}

// reached counts the nodes that can be reached from here, this one included, by pinging
// all at once those not heard from just now.
func (n *Node) reached(ctx context.Context, nodes []fulcrum.NodeID) int {
	var wg sync.WaitGroup
	var count atomic.Int64
	for _, id := range nodes {
		wg.Go(func() {
			if n.reach(ctx, id) == nil {
				count.Add(1)
			}
		})
	}
	wg.Wait()
	return int(count.Load())
}

// tooFew reports, as a refusal, when fewer than need replicas of a shard can be
// reached from here: then nobody on this side can do the request, and waiting for an
// election, or asking another replica, would only take longer.
func (n *Node) tooFew(ctx context.Context, sh *catalog.Shard, need int, a consistency.Access) error {
	reached := n.reached(ctx, sh.Replicas)
	if reached >= need {
		return nil
	}
	hint := "are others down, or cut off from this node, be it in one direction? fulcrum status shows nodes and faults"
	if a == consistency.Read || sh.Mode == consistency.Quorum {
		hint += "; a weaker level may answer"
	}
	e := fulcrum.Errorf(fulcrum.CodeUnavailable, "%d of the shard's %d replicas can be reached from here, %d are needed", reached, len(sh.Replicas), need)
	e.Node = n.opt.Name
	return e.WithHint("%s", hint)
}
