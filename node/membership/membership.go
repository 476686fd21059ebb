// Package membership is gossip: who seems to be there, in whose opinion. It runs
// hashicorp/memberlist (SWIM, Das et al. 2002, with Lifeguard, Dadgar et al.
// 2018) over sockets that are given to it, so that it works on a real network
// and inside a testing/synctest bubble, and obeys injected faults in both.
//
// Membership is an opinion and gates nothing: no quorum, lease or placement may
// depend on it. It also misses cuts between a single pair of nodes, because
// others probe on their behalf; such a pair shows as "suspect" here, to each other.
//
// memberlist forgets a dead member after 30 s and never looks for it again, so a
// split longer than that would outlive its healing. This package rejoins every
// missing peer for ever (Options.Peers).
//
// Start reading at Options and Open.
package membership

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"fulcrum"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
)

// The states of a Member.
const (
	StateAlive   = "alive"
	StateSuspect = "suspect" // gossip calls it alive, but nothing came from it directly for a while
	StateDead    = "dead"
	StateLeft    = "left"    // it said goodbye
	StateUnknown = "unknown" // never seen
)

// Bounds and paces.
const (
	maxAddrBytes = 255  // of an advertised host:port
	maxMembers   = 1024 // ever seen and not forgotten; more are ignored
	maxPacket    = 2048 // bytes of a packet with its preamble; larger ones are refused
	maxInbound   = 128  // streams accepted and not yet closed; more are closed at once
	maxAttempts  = 16   // rejoins, and pings, under way at one time

	tickEvery     = time.Second
	pingAfter     = 3 * time.Second // silence of an alive member before it is pinged directly
	suspectAfter  = 5 * time.Second // silence before it is suspect: two such pings failed
	rejoinEvery   = 10 * time.Second
	reclaimAfter  = 30 * time.Second // before a dead member's name may come from another address
	forgetAfter   = 24 * time.Hour   // after which a member that is gone and in no Peers is dropped
	leaveTimeout  = 500 * time.Millisecond
	goodbyeHolds  = 30 * time.Second      // between a goodbye and the news of the leaving, either way round
	coalesceDelay = 50 * time.Millisecond // changes this close together make one OnChange
)

// Options says what to gossip, and over what. Node, ClusterID, Advertise,
// Listener, PacketConn and Dial are required.
type Options struct {
	Node      fulcrum.NodeID
	ClusterID string // members of other clusters are refused; at most 255 bytes
	Advertise string // host:port others reach us at; a host name is looked up again by each of them

	// Listener and PacketConn belong to the Membership from Open on: Close closes
	// them. A connection that implements interface{ SetPeer(fulcrum.NodeID) } is
	// told who dialed before anything else is read from it.
	Listener   net.Listener
	PacketConn net.PacketConn

	// Dial opens a stream to the node to at addr; to is empty when it is unknown.
	Dial func(ctx context.Context, to fulcrum.NodeID, addr string) (net.Conn, error)
	// SendPacket calls send now, later or never, as the faults on the link say;
	// nil: at once. It must not block.
	SendPacket func(to fulcrum.NodeID, send func())
	// ReceivePacket reports whether a packet from a node may come in; nil: all.
	ReceivePacket func(from fulcrum.NodeID) bool
	// Resolve turns host:port into an address of PacketConn; nil: net.ResolveUDPAddr.
	Resolve func(addr string) (net.Addr, error)

	// Meta is gossiped as it is, and read again every second; nil: none. It may
	// have MetaLimit(Advertise) bytes; while it has more, the last good one stands.
	Meta func() []byte
	// Peers returns everybody we ever knew with their gossip addresses, which the
	// node keeps across restarts. Those not alive are rejoined at once when Run
	// starts, and then about every 10 s for ever. nil: nobody.
	Peers func() map[fulcrum.NodeID]string
	// OnChange gets all members after something changed, from one goroutine of
	// Run. Changes close together come as one. nil: nobody listens.
	OnChange func([]Member)

	Logger     *slog.Logger          // nil: none. memberlist's own lines come at debug
	Registerer prometheus.Registerer // nil: no metrics
}

// Member is what this node thinks of one node, itself included.
type Member struct {
	Node    fulcrum.NodeID
	Addr    string    // host:port of its gossip, as it advertises it
	State   string    // one of the States above
	Meta    []byte    // as its Options.Meta returned it; do not modify
	Changed time.Time // when State became what it is
	Seen    time.Time // when a packet or a reply last came from it directly; zero: never
}

// MetaLimit returns how many bytes Options.Meta may have for a node that
// advertises this address: 512 less what carries the address itself.
func MetaLimit(advertise string) int {
	return memberlist.MetaMaxSize - len(appendProfile(nil, profile{addr: advertise}))
}

// validate reports everything wrong at once.
func (o *Options) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fulcrum.Errorf(fulcrum.CodeInvalid, format, args...))
		}
	}
	check(validName(string(o.Node)), "node name %q: want 1 to 64 of [a-zA-Z0-9._-]", o.Node)
	check(o.ClusterID != "" && len(o.ClusterID) <= memberlist.LabelMaxSize, "cluster id of %d bytes: want 1 to %d", len(o.ClusterID), memberlist.LabelMaxSize)
	check(validAddr(o.Advertise), "advertised gossip address %q: want HOST:PORT that others can reach", o.Advertise)
	check(o.Listener != nil && o.PacketConn != nil, "gossip needs a listener and a packet socket")
	check(o.Dial != nil, "gossip needs a way to dial")
	return errors.Join(errs...)
}

// Membership is one node's part in the gossip. Its methods may be called from
// any goroutine; Run once, before Close.
type Membership struct {
	o     Options
	view  *view
	wire  *transport
	list  *memberlist.Memberlist
	stats *metrics

	closing chan struct{}  // closed when Close has said goodbye
	running sync.WaitGroup // goroutines of Run, and what they started
	close   sync.Once
}

// Open starts to answer others. Run looks for them. On an error the sockets are
// closed.
func Open(o Options) (*Membership, error) {
	m, err := open(o)
	if err != nil {
		if o.Listener != nil {
			o.Listener.Close()
		}
		if o.PacketConn != nil {
			o.PacketConn.Close()
		}
	}
	return m, err
}

func open(o Options) (*Membership, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Resolve == nil {
		o.Resolve = func(addr string) (net.Addr, error) { return net.ResolveUDPAddr("udp", addr) }
	}
	if o.Peers == nil {
		o.Peers = func() map[fulcrum.NodeID]string { return nil }
	}
	m := &Membership{o: o, view: newView(o.Node, o.Advertise), closing: make(chan struct{})}
	m.refreshMeta()
	var err error
	if m.stats, err = newMetrics(o.Registerer, m.view); err != nil {
		return nil, err
	}
	if m.wire, err = newTransport(&m.o, m.view, m.stats); err != nil {
		m.stats.unregister()
		return nil, err
	}
	if m.list, err = memberlist.Create(m.config()); err != nil {
		m.wire.Shutdown()
		m.stats.unregister()
		return nil, fulcrum.Errorf(fulcrum.CodeInternal, "start gossip: %w", err)
	}
	return m, nil
}

// config is memberlist's for a local network, less what a cluster of a few nodes
// does not need (compression), plus what keeps strangers out.
func (m *Membership) config() *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = string(m.o.Node)
	c.Label = m.o.ClusterID
	c.Transport = m.wire
	c.RequireNodeNames = true
	c.DeadNodeReclaimTime = reclaimAfter
	c.DisableTcpPings = false
	// With 4, news misses one of five members about once in 500 times and waits
	// for the next full exchange, up to 30 s later (measured); with 8, never seen.
	c.RetransmitMult = 8
	// News may take a second more: nobody's answer waits for it. Looking whether there is
	// any, five times a second, is most of what gossip costs.
	c.GossipInterval = 500 * time.Millisecond
	c.EnableCompression = false
	c.UDPBufferSize -= len(m.wire.preamble)
	c.Logger = slog.NewLogLogger(m.o.Logger.Handler(), slog.LevelDebug)
	d := delegate{m.view, m.stats}
	c.Delegate, c.Events, c.Alive, c.Conflict = d, d, d, d
	return c
}

// Members returns everybody ever seen, in the order of their names.
func (m *Membership) Members() []Member { return m.view.members() }

// State returns what this node thinks of id: one of the States.
func (m *Membership) State(id fulcrum.NodeID) string { return m.view.state(id) }

// Close says goodbye, for at most half a second, closes the sockets, ends Run and
// waits for it. What memberlist itself still has under way when its sockets are
// gone ends within its probe timeouts, and changes nothing here.
func (m *Membership) Close() error {
	m.close.Do(func() {
		others := m.view.others()
		m.sayGoodbye(others)
		if err := m.list.Leave(leaveTimeout); err != nil {
			m.o.Logger.Debug("gossip: nobody heard this node leave", "err", err)
		}
		m.sayGoodbye(others) // packets get lost
		close(m.closing)
		m.view.freeze()
		m.list.Shutdown() // its only errors are the transport's, which has none
		m.running.Wait()
		m.stats.unregister()
	})
	return nil
}

// sayGoodbye tells each of others itself; a goodbye that is lost makes us dead
// there instead of left.
func (m *Membership) sayGoodbye(others []fulcrum.NodeID) {
	for _, id := range others {
		if addr, ok := m.view.locate(id); ok {
			to := memberlist.Address{Addr: standIn(addr).String(), Name: string(id)}
			if err := m.list.SendToAddress(to, []byte(goodbye+m.o.Node)); err != nil {
				m.o.Logger.Debug("gossip: goodbye", "to", id, "err", err)
			}
		}
	}
}

// validAddr accepts HOST:PORT of bounded length with a port that can be dialed.
func validAddr(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || len(addr) > maxAddrBytes {
		return false
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return false
	}
	p, err := strconv.ParseUint(port, 10, 16)
	return err == nil && p > 0
}
