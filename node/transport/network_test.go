package transport_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/node/fault"
	"fulcrum/node/netfault"
	"fulcrum/node/transport"
)

const (
	chEcho transport.Channel = iota
	chFast
	chFail
	chHang // until its ctx ends
	chBig
	chAsync   // answered at once; what is empty is not taken
	chDiscard // answered with nothing
)

// network connects transports through net.Pipe, with the faults of each node around
// it, so that all of it runs in a bubble.
type network struct {
	t *testing.T

	mu        sync.Mutex
	listeners map[fulcrum.NodeID]*pipeListener
	dials     atomic.Int64
}

func newNetwork(t *testing.T) *network {
	return &network{t: t, listeners: make(map[fulcrum.NodeID]*pipeListener)}
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (n *network) listen(id fulcrum.NodeID) *pipeListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[id] = l
	return l
}

func (n *network) dial(ctx context.Context, to fulcrum.NodeID) (net.Conn, error) {
	n.dials.Add(1)
	n.mu.Lock()
	l := n.listeners[to]
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("no node %s: %w", to, syscall.ECONNREFUSED)
	}
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.done:
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// node is one transport of a test, with its own faults.
type node struct {
	t *testing.T
	*transport.Transport
	id     fulcrum.NodeID
	faults *fault.Set
	stop   func()
}

// start runs a transport; change may adjust its options. It is stopped, and all it
// started has ended, when the test is over.
func (n *network) start(id fulcrum.NodeID, change func(*transport.Options)) *node {
	n.t.Helper()
	set := fault.NewSet()
	nf := netfault.New(id, set, fault.Peers, rand.New(rand.NewPCG(1, 2)))
	o := transport.Options{
		Node: id, ClusterID: "c1",
		Listener: nf.Listener(n.listen(id)),
		Dial: func(ctx context.Context, to fulcrum.NodeID) (net.Conn, error) {
			return nf.Dial(ctx, to, func(ctx context.Context) (net.Conn, error) { return n.dial(ctx, to) })
		},
		Rand: rand.New(rand.NewPCG(3, 4)),
	}
	if change != nil {
		change(&o)
	}
	tr := transport.New(o)
	handleAll(tr)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := tr.Run(ctx); err != nil {
			n.t.Errorf("Run of %s: %v", id, err)
		}
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		<-ended
		if err := nf.Close(); err != nil {
			n.t.Errorf("closing the network of %s: %v", id, err)
		}
	})
	n.t.Cleanup(stop)
	return &node{t: n.t, Transport: tr, id: id, faults: set, stop: stop}
}

func handleAll(tr *transport.Transport) {
	echo := func(_ context.Context, from fulcrum.NodeID, p []byte) ([]byte, error) {
		return append([]byte(from+":"), p...), nil
	}
	tr.Handle(chEcho, echo)
	tr.HandleFast(chFast, echo)
	tr.Handle(chDiscard, func(context.Context, fulcrum.NodeID, []byte) ([]byte, error) { return nil, nil })
	tr.Handle(chFail, func(context.Context, fulcrum.NodeID, []byte) ([]byte, error) {
		return nil, fulcrum.Errorf(fulcrum.CodeConflict, "it was changed meanwhile").WithHint("look again")
	})
	tr.Handle(chHang, func(ctx context.Context, _ fulcrum.NodeID, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	tr.HandleAsync(chAsync, func(from fulcrum.NodeID, p []byte, _ time.Time, answer func([]byte, error)) bool {
		if len(p) == 0 {
			return false
		}
		answer(echo(context.Background(), from, p))
		return true
	}, func(context.Context, fulcrum.NodeID, []byte) ([]byte, error) { return []byte("slow"), nil })
	tr.Handle(chBig, func(_ context.Context, _ fulcrum.NodeID, p []byte) ([]byte, error) {
		return make([]byte, 100*len(p)), nil
	})
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// cut isolates n from to, in both directions, as far as n knows.
func (n *node) cut(to fulcrum.NodeID) {
	if err := n.faults.Add(fulcrum.Fault{Kind: "link", From: n.id, To: to, Drop: true}, time.Now()); err != nil {
		panic(err)
	}
}
