//go:build linux || darwin

package transport

import (
	"context"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/node/fault"
	"fulcrum/node/netfault"

	"golang.org/x/sys/unix"
)

// slowly is a connection whose other end finds a slow link: it is read at a rate, with
// little room for what is not read yet.
type slowly struct {
	net.Conn
	rate int64
	read *atomic.Int64 // bytes
}

func (s slowly) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p[:min(len(p), 16<<10)])
	s.read.Add(int64(n))
	time.Sleep(time.Duration(n) * time.Second / time.Duration(s.rate))
	return n, err
}

type slowListener struct {
	net.Listener
	rate int64
	read *atomic.Int64
}

func (l slowListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return slowly{c, l.rate, l.read}, c.(*net.TCPConn).SetReadBuffer(32 << 10)
}

// The operating system is told, also under what injects faults, and obeys: over a real
// socket to one who reads slowly, a small call does not wait for large ones.
func TestUnsentIsLimited(t *testing.T) {
	const rate = 4 << 20
	var read atomic.Int64
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tcp *net.TCPConn
	nf := netfault.New("a", fault.NewSet(), fault.Peers, nil)
	a := New(Options{Node: "a", ClusterID: "c1", Dial: func(ctx context.Context, to fulcrum.NodeID) (net.Conn, error) {
		return nf.Dial(ctx, to, func(ctx context.Context) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
			if err == nil {
				tcp = c.(*net.TCPConn)
			}
			return c, err
		})
	}})
	b := New(Options{Node: "b", ClusterID: "c1", Listener: slowListener{l, rate, &read}})
	b.Handle(1, func(context.Context, fulcrum.NodeID, []byte) ([]byte, error) { return nil, nil })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	life, stop := context.WithCancel(ctx)
	var running, large sync.WaitGroup
	for _, tr := range []*Transport{a, b} {
		running.Go(func() {
			if err := tr.Run(life); err != nil {
				t.Error(err)
			}
		})
	}
	call := func(size int) (before int64) { // how many bytes the other end read meanwhile
		at := read.Load()
		if _, err := a.Call(ctx, "b", 1, make([]byte, size)); err != nil {
			t.Error(err)
		}
		return read.Load() - at
	}
	call(0)
	raw, err := tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		if n, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); err != nil || n != maxUnsent {
			t.Errorf("TCP_NOTSENT_LOWAT is %d, %v; want %d", n, err, maxUnsent)
		}
	})
	if err != nil {
		t.Error(err)
	}
	for range 2 {
		large.Go(func() { call(6 << 20) }) // 1.5 s each
	}
	for started := read.Load(); read.Load() < started+1<<20; { // they are under way
		if ctx.Err() != nil {
			t.Fatal("the large calls do not get on")
		}
		time.Sleep(time.Millisecond)
	}
	best := int64(math.MaxInt64) // others may keep this machine busy
	for range 3 {
		best = min(best, call(10))
	}
	if best > 1<<20 {
		t.Errorf("%d bytes of large calls went before the fastest of three small ones", best)
	}
	large.Wait()
	stop()
	running.Wait()
	if err := nf.Close(); err != nil {
		t.Error(err)
	}
}
