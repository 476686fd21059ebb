package replicationtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/replication"
)

// Handler answers a message, as replication.Group's Handle does.
type Handler func(ctx context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error)

// Verdict is what a hook does to one call. The zero Verdict lets it pass.
type Verdict struct {
	Drop       bool            // the message never arrives
	DropReply  bool            // it is handled, but nobody hears of it
	Delay      time.Duration   // before it is handled
	DelayReply time.Duration   // before its answer is handed back
	Hold       <-chan struct{} // it is handled once this is closed
	HoldReply  <-chan struct{} // its answer is handed back once this is closed
}

type link struct{ from, to fulcrum.NodeID }

// endpoint is one life of one node: Down ends it.
type endpoint struct {
	handler Handler
	ctx     context.Context
	end     context.CancelFunc
}

// Network carries calls between handlers in memory. A call over a cut link hangs
// until its context ends, as on a network that drops packets; a call to a node
// that is down fails at once.
type Network struct {
	mu      sync.Mutex
	nodes   map[fulcrum.NodeID]*endpoint
	cut     map[link]bool
	away    map[fulcrum.NodeID]bool
	hook    func(from, to fulcrum.NodeID, msg []byte) Verdict
	hooking sync.Mutex // one hook at a time
	latency time.Duration
	width   map[link]*Pipe
	calls   int
	closed  chan struct{}
	wg      sync.WaitGroup
}

// NewNetwork returns a network without nodes and without latency.
func NewNetwork() *Network {
	return &Network{nodes: map[fulcrum.NodeID]*endpoint{}, cut: map[link]bool{}, width: map[link]*Pipe{}, away: map[fulcrum.NodeID]bool{}, closed: make(chan struct{})}
}

// Register makes id reachable through h; a former life of id ends.
func (n *Network) Register(id fulcrum.NodeID, h Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.nodes[id]; old != nil {
		old.end()
	}
	ctx, end := context.WithCancel(context.Background())
	n.nodes[id] = &endpoint{handler: h, ctx: ctx, end: end}
}

// Latency makes every message, and every answer, take d.
func (n *Network) Latency(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.latency = d
}

// Bandwidth lets no more than so many bytes a second go from one node to the other: what
// comes when others are on their way waits behind them, and arrives also when its caller
// has given up. 0: no limit.
func (n *Network) Bandwidth(from, to fulcrum.NodeID, bytes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.width[link{from, to}] = &Pipe{Bytes: bytes}
}

// transit is how long it takes until size bytes have got through, and what is before them.
func (n *Network) transit(from, to fulcrum.NodeID, size int) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.width[link{from, to}].Transit(size)
}

// Pipe carries so many bytes a second, one message after the other. Whoever uses it locks.
type Pipe struct {
	Bytes int // 0: no limit

	free time.Time // when it has carried all that it was given
}

// pipeHead is what a frame takes besides its message.
const pipeHead = 64

// Transit is how long a message takes that is sent now.
func (p *Pipe) Transit(size int) time.Duration {
	if p == nil || p.Bytes == 0 {
		return 0
	}
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(size+pipeHead) * time.Second / time.Duration(p.Bytes))
	return p.free.Sub(now)
}

// OnCall sets the hook that sees every call before it leaves; nil removes it.
// The hook runs on the caller's goroutine, one at a time, and must not block.
func (n *Network) OnCall(hook func(from, to fulcrum.NodeID, msg []byte) Verdict) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hook = hook
}

// Calls counts the calls that began: what a protocol costs.
func (n *Network) Calls() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.calls
}

// Cut drops everything between a and b.
func (n *Network) Cut(a, b fulcrum.NodeID) {
	n.CutOneWay(a, b)
	n.CutOneWay(b, a)
}

// CutOneWay drops what from sends to to: its messages, and its answers.
func (n *Network) CutOneWay(from, to fulcrum.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[link{from, to}] = true
}

// Isolate cuts id off from every other node.
func (n *Network) Isolate(id fulcrum.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.away[id] = true
}

// Heal removes every cut and every isolation.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
	clear(n.away)
}

// Down ends the life of id: calls to it fail, those under way break off.
func (n *Network) Down(id fulcrum.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if e := n.nodes[id]; e != nil {
		e.end()
	}
}

// Up begins a new life of id with the handler it had.
func (n *Network) Up(id fulcrum.NodeID) {
	n.mu.Lock()
	h := n.nodes[id]
	n.mu.Unlock()
	if h != nil {
		n.Register(id, h.handler)
	}
}

// Reachable reports whether messages get from one node to the other.
func (n *Network) Reachable(from, to fulcrum.NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.nodes[to]
	return e != nil && e.ctx.Err() == nil && !n.dropped(from, to)
}

// dropped reports whether messages vanish on the way. The caller holds mu.
func (n *Network) dropped(from, to fulcrum.NodeID) bool {
	return from != to && (n.cut[link{from, to}] || n.away[from] || n.away[to])
}

func (n *Network) isDropped(from, to fulcrum.NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dropped(from, to)
}

// Close ends every node's life and waits for every handler.
func (n *Network) Close() {
	n.mu.Lock()
	for _, e := range n.nodes {
		e.end()
	}
	close(n.closed)
	n.mu.Unlock()
	n.wg.Wait()
}

// Peers returns what self calls the others through.
func (n *Network) Peers(self fulcrum.NodeID) replication.Peers { return peers{n, self} }

type peers struct {
	net  *Network
	self fulcrum.NodeID
}

func (p peers) Call(ctx context.Context, to fulcrum.NodeID, msg []byte) ([]byte, error) {
	return p.net.call(ctx, p.self, to, msg)
}

func down(to fulcrum.NodeID) error {
	return &fulcrum.Error{Code: fulcrum.CodeUnavailable, Node: to, Detail: "the node is down"}
}

func (n *Network) call(ctx context.Context, from, to fulcrum.NodeID, msg []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, &fulcrum.Error{Code: fulcrum.CodeUnavailable, Node: to, Detail: "not sent: " + err.Error()}
	}
	n.mu.Lock()
	n.calls++
	e, hook, latency := n.nodes[to], n.hook, n.latency
	self := n.nodes[from]
	n.mu.Unlock()
	if e == nil || e.ctx.Err() != nil || (self != nil && self.ctx.Err() != nil) {
		return nil, down(to)
	}
	var v Verdict
	if hook != nil {
		n.hooking.Lock()
		v = hook(from, to, msg)
		n.hooking.Unlock()
	}
	if v.Drop || n.isDropped(from, to) {
		return nil, n.hang(ctx)
	}
	transit := n.transit(from, to, len(msg))
	at := time.Now().Add(latency + v.Delay + transit)
	if err := n.pause(ctx, time.Until(at), v.Hold); err != nil {
		if transit > 0 {
			n.arriveLate(e, link{from, to}, msg, at)
		}
		return nil, err
	}
	if n.isDropped(from, to) {
		return nil, n.hang(ctx)
	}
	reply, err := n.deliver(ctx, e, from, msg)
	if e.ctx.Err() != nil {
		return nil, fmt.Errorf("the connection to %s broke", to)
	}
	if v.DropReply || n.isDropped(to, from) {
		return nil, n.hang(ctx)
	}
	if perr := n.pause(ctx, latency+v.DelayReply+n.transit(to, from, len(reply)), v.HoldReply); perr != nil {
		return nil, perr
	}
	return reply, err
}

// arriveLate hands a message over that nobody waits for any more.
func (n *Network) arriveLate(e *endpoint, l link, msg []byte, at time.Time) {
	ctx, cancel := context.WithDeadline(context.Background(), at)
	owned := bytes.Clone(msg)
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.closed:
		cancel()
		return
	default:
	}
	n.wg.Go(func() {
		defer cancel()
		select {
		case <-ctx.Done():
		case <-n.closed:
			return
		}
		if e.ctx.Err() == nil && !n.isDropped(l.from, l.to) {
			_, _ = e.handler(ctx, l.from, owned)
		}
	})
}

// hang waits until the caller gives up: nobody answers over a cut link.
func (n *Network) hang(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("no answer: %w", context.Cause(ctx))
	case <-n.closed:
		return errors.New("the network is closed")
	}
}

func (n *Network) pause(ctx context.Context, d time.Duration, hold <-chan struct{}) error {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return fmt.Errorf("no answer: %w", context.Cause(ctx))
		}
	}
	if hold == nil {
		return nil
	}
	select {
	case <-hold:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("no answer: %w", context.Cause(ctx))
	case <-n.closed:
		return errors.New("the network is closed")
	}
}

// deliver runs the handler on a goroutine that Close waits for. The caller stops
// waiting when its context ends; the handler goes on, until the deadline that it
// was given or the end of its node's life.
func (n *Network) deliver(ctx context.Context, e *endpoint, from fulcrum.NodeID, msg []byte) ([]byte, error) {
	hctx, cancel := e.ctx, context.CancelFunc(func() {})
	if d, ok := ctx.Deadline(); ok {
		hctx, cancel = context.WithDeadline(e.ctx, d)
	}
	type answer struct {
		reply []byte
		err   error
	}
	done := make(chan answer, 1)
	n.mu.Lock()
	select {
	case <-n.closed:
		n.mu.Unlock()
		cancel()
		return nil, errors.New("the network is closed")
	default:
	}
	n.wg.Add(1)
	n.mu.Unlock()
	owned := bytes.Clone(msg)
	go func() {
		defer n.wg.Done()
		defer cancel()
		reply, err := e.handler(hctx, from, owned)
		if err != nil { // only what the wire carries gets across
			err = fulcrum.DecodeError(fulcrum.AppendError(nil, err))
		}
		done <- answer{bytes.Clone(reply), err}
	}()
	select {
	case a := <-done:
		return a.reply, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("no answer: %w", context.Cause(ctx))
	case <-e.ctx.Done():
		return nil, errors.New("the connection broke")
	}
}
