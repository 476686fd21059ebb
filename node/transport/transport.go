// Package transport carries calls between nodes over one peer port.
//
// A Transport dials a peer when the first call to it is made, and keeps that one
// connection for all calls to it; calls in the other direction have one of their
// own. Calls of all kinds share it: each has a Channel, which says who handles it.
// What is queued while one write is under way goes out with the next, so the busier
// a connection is, the fewer system calls a call costs. Small messages do not wait for
// large ones: those go in pieces, as small as the link asks for.
//
// Call waits for the answer; Go returns at once and is told of it. A handler has a
// goroutine for each call (Handle), or runs where the connection is read (HandleFast),
// or does so and answers later (HandleAsync).
//
// Outcomes: an error of Call or Go that is a *fulcrum.Error is definite: either it was
// never sent, or not all of it (CodeUnavailable, CodeOverloaded, CodeTooLarge), or it is the
// handler's answer, or says that this was too large to be sent (CodeUnknown). Any other error
// (ErrConnLost, a context's) says that the call was sent and
// may have been handled.
//
// Start reading at Transport, Call and Go, then wire.go (one connection), write.go (what it
// sends when), peer.go (dialing), handshake.go, frame.go and piece.go (the bytes).
package transport

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"

	"github.com/prometheus/client_golang/prometheus"
)

// Channel says which handler a call is for.
type Channel uint8

// Handler answers a call from a peer. ctx ends at the caller's deadline and when
// the transport stops. The handler owns payload; what it returns must not be
// modified afterwards. Its error reaches the caller by fulcrum.AppendError.
type Handler func(ctx context.Context, from fulcrum.NodeID, payload []byte) ([]byte, error)

// Options tunes a Transport. The zero value of a field means its default.
type Options struct {
	Node      fulcrum.NodeID // required
	ClusterID string         // nodes of another cluster are refused
	// Listener is where peers dial in; nil: nobody can. Run closes it.
	Listener net.Listener
	// Dial connects to a peer. An error that comes at once (connection refused, no
	// such node) fails the calls that wait for it; one that comes by timeout is
	// tried again while they wait.
	Dial       func(ctx context.Context, to fulcrum.NodeID) (net.Conn, error)
	Logger     *slog.Logger          // default: none
	Registerer prometheus.Registerer // default: none
	Rand       *rand.Rand            // jitters redialing; default seeded by the operating system; taken over

	MaxFrameBytes    int           // of one payload; default fulcrum.MaxMessageBytes
	QueueBytes       int           // unsent bytes a connection, past which calls are overloaded; default 64 MiB
	MaxInflight      int           // calls of one peer on one channel being handled, past which they are overloaded: one channel's do not shut out another's; default 4096
	MaxConns         int           // inbound connections; default 1024
	CallTimeout      time.Duration // of calls whose ctx has no deadline; default fulcrum.DefaultRequestLimit
	DialTimeout      time.Duration // of one attempt; default 5s
	HandshakeTimeout time.Duration // default 5s
	KeepAlive        time.Duration // between pings while calls wait; default 1s
	StallTimeout     time.Duration // a ping unanswered, or a write stuck, for so long ends a connection; default 10s
	IdleTimeout      time.Duration // without calls, after which a connection is closed; default 5m
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	defInt := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Rand == nil {
		o.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	defInt(&o.MaxFrameBytes, fulcrum.MaxMessageBytes)
	defInt(&o.QueueBytes, 64<<20)
	defInt(&o.MaxInflight, 4096)
	defInt(&o.MaxConns, 1024)
	def(&o.CallTimeout, fulcrum.DefaultRequestLimit)
	def(&o.DialTimeout, 5*time.Second)
	def(&o.HandshakeTimeout, 5*time.Second)
	def(&o.KeepAlive, time.Second)
	def(&o.StallTimeout, 10*time.Second)
	def(&o.IdleTimeout, 5*time.Minute)
	return o
}

const (
	maxPeers     = 4096            // names ever heard of; a cluster has far fewer
	drainTimeout = 2 * time.Second // to send the last answers when stopping
)

var (
	// ErrConnLost says that the connection ended after a call was sent and before
	// its answer came: it may have been handled.
	ErrConnLost = errors.New("connection lost before the answer came")

	errStopping = errors.New("this node is stopping")
	errIdle     = errors.New("connection idle")

	errTooManyNodes = errors.New("too many nodes were ever named")
)

// Transport is one node's end of all peer connections. Make one with New, give it
// its handlers, then Run it. Call, Go and Peers may be called from any goroutine.
type Transport struct {
	o        Options
	m        *metrics
	log      *fulcrum.QuietLog
	epoch    time.Time // monotonic zero of the times kept in atomics
	handlers [256]handling
	calls    sync.Pool // of *call

	started chan struct{} // closed by Run once life is set
	life    context.Context

	mu       sync.RWMutex
	stopping bool
	peers    map[fulcrum.NodeID]*peer
	wires    map[*wire]struct{}
	inbound  int // connections accepted and not yet closed

	tasks   chan task    // has no room: who rests takes one
	resting atomic.Int64 // goroutines that wait for tasks

	toSelf atomic.Int64 // calls of Go to this node itself, under way

	rndMu sync.Mutex // guards o.Rand

	handling sync.WaitGroup // handlers at work; Add under mu while not stopping
	running  sync.WaitGroup // every other goroutine; Add under mu while not stopping, or from one of them
}

type handling struct {
	h     Handler
	fast  bool
	async AsyncHandler // is asked before h; nil: none
}

// New returns a Transport that does nothing before Run.
func New(o Options) *Transport {
	o = o.withDefaults()
	t := &Transport{
		o:       o,
		m:       newMetrics(o.Registerer),
		log:     fulcrum.NewQuietLog(o.Logger),
		epoch:   time.Now(),
		started: make(chan struct{}),
		peers:   make(map[fulcrum.NodeID]*peer),
		wires:   make(map[*wire]struct{}),
		tasks:   make(chan task),
	}
	t.calls.New = func() any { return &call{done: make(chan struct{}, 1)} }
	return t
}

// Handle lets h answer the calls on ch, each on a goroutine of its own. It must not
// be called after Run.
func (t *Transport) Handle(ch Channel, h Handler) { t.handlers[ch] = handling{h: h} }

// HandleFast lets h answer the calls on ch on the goroutine that reads the peer's
// connection. h promises never to block: all calls of that peer wait for it. Its ctx
// has the caller's deadline, but only ends when the transport stops.
func (t *Transport) HandleFast(ch Channel, h Handler) { t.handlers[ch] = handling{h: h, fast: true} }

// Run accepts, dials and handles until ctx ends or the listener fails, and returns
// when every goroutine of the transport has ended. What handlers answer after ctx
// ends is still sent, for a short time. Run may be called once.
func (t *Transport) Run(ctx context.Context) error {
	life, stop := context.WithCancelCause(ctx)
	defer stop(errStopping)
	t.life = life
	close(t.started)

	if t.o.Listener != nil {
		t.running.Go(func() {
			if err := t.accept(life); err != nil {
				stop(err)
			}
		})
	}
	<-life.Done()
	t.stop()
	if cause := context.Cause(life); ctx.Err() == nil {
		return cause
	}
	return nil
}

// stop ends everything in the order that lets the last answers out: first no new
// call, then, once the handlers are done, the connections.
func (t *Transport) stop() {
	t.mu.Lock()
	t.stopping = true
	t.mu.Unlock()
	if t.o.Listener != nil {
		_ = t.o.Listener.Close() // its accept loop reports what matters
	}
	t.handling.Wait()
	t.mu.RLock()
	for w := range t.wires {
		w.drain()
	}
	t.mu.RUnlock()
	t.running.Wait()
}

// now is the monotonic time since the transport was made.
func (t *Transport) now() int64 { return int64(time.Since(t.epoch)) }

// goRun runs f in a goroutine that Run waits for; false: the transport is stopping.
func (t *Transport) goRun(f func()) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.stopping {
		return false
	}
	t.running.Go(f)
	return true
}

// begin counts a handler in; false: the transport is stopping. Each true needs a
// t.handling.Done.
func (t *Transport) begin() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.stopping {
		return false
	}
	t.handling.Add(1)
	return true
}

// peer returns what is known of a node, nil when too many are.
func (t *Transport) peer(id fulcrum.NodeID) *peer {
	t.mu.RLock()
	p := t.peers[id]
	t.mu.RUnlock()
	if p != nil {
		return p
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p = t.peers[id]; p == nil && len(t.peers) < maxPeers {
		p = &peer{t: t, id: id}
		t.peers[id] = p
	}
	return p
}

// jitter returns a random part of d, between half and all of it.
func (t *Transport) jitter(d time.Duration) time.Duration {
	t.rndMu.Lock()
	defer t.rndMu.Unlock()
	return d/2 + time.Duration(t.o.Rand.Int64N(int64(d/2)+1))
}
