// Package node is one fulcrum node: it puts storage, transport, membership, the
// catalog, the replication groups and the protocols that users speak together,
// and it is the only place where they meet.
//
// Start reading at Open and Run; then coordinator.go (a request's way through),
// host.go (which groups run here) and controller.go (what the catalog's leader
// does for all).
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"fulcrum"
	"fulcrum/consistency"
	httpapi "fulcrum/node/api/http"
	"fulcrum/node/api/resp"
	"fulcrum/node/catalog"
	"fulcrum/node/fault"
	"fulcrum/node/membership"
	"fulcrum/node/netfault"
	"fulcrum/node/storage"
	"fulcrum/node/transport"
	"fulcrum/replication"
	"fulcrum/replication/raft"
)

// Options says who a node is and what it stands on. Fields without a default are
// required.
type Options struct {
	Name      fulcrum.NodeID
	ClusterID string // nodes of different clusters never talk to each other
	Dir       string // data directory
	Zone      string // optional

	RedisAddr, HTTPAddr, PeerAddr, GossipAddr string // host:port, listened on and advertised

	// Initial names all first nodes of a new cluster with their peer addresses,
	// this one included; every one of them must be given the same. Join names some
	// nodes of a running cluster instead. A node that has data needs neither.
	Initial, Join map[fulcrum.NodeID]string

	AllowFaults bool // accept injected faults
	MaxValue    int  // bytes; default fulcrum.DefaultMaxValue
	Version     string

	Network  Network              // default: the real one
	LogFS    vfs.FS               // default: the real disk
	Room     func() (Room, error) // default: what is free on the real disk; with a LogFS: enough
	Registry *prometheus.Registry // default: a new one
	Logger   *slog.Logger         // default: slog.Default()
	Now      func() time.Time     // wall clock, before injected skew; default time.Now
}

// Room is how much of a disk is free.
type Room = storage.Room

// Network is what a node needs to listen and dial.
type Network interface {
	Listen(addr string) (net.Listener, error)
	ListenPacket(addr string) (net.PacketConn, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// Validate fills defaults and reports everything wrong at once.
func (o *Options) Validate() error {
	var errs []error
	if err := catalog.CheckName("node", string(o.Name)); err != nil {
		errs = append(errs, err)
	}
	if o.ClusterID == "" {
		errs = append(errs, errors.New("no cluster id: give every node of the cluster the same --cluster-id"))
	}
	if o.Dir == "" {
		errs = append(errs, errors.New("no data directory: use --data"))
	}
	for what, addr := range map[string]string{"redis": o.RedisAddr, "http": o.HTTPAddr, "peer": o.PeerAddr, "gossip": o.GossipAddr} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			errs = append(errs, fmt.Errorf("--%s-addr %q: want host:port", what, addr))
		}
	}
	if addr, ok := o.Initial[o.Name]; len(o.Initial) > 0 && (!ok || addr != o.PeerAddr) {
		errs = append(errs, fmt.Errorf("the initial nodes must name this node, %s=%s", o.Name, o.PeerAddr))
	}
	if o.MaxValue == 0 {
		o.MaxValue = fulcrum.DefaultMaxValue
	}
	if o.MaxValue < 0 || o.MaxValue > fulcrum.MaxMessageBytes/4 {
		errs = append(errs, fmt.Errorf("value limit of %d bytes: want 1 to %d", o.MaxValue, fulcrum.MaxMessageBytes/4))
	}
	if o.Network == nil {
		o.Network = realNetwork{}
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return errors.Join(errs...)
}

// newTurn is a mutex that may be held while one waits for something: it holds one token,
// and whoever has that has the turn. (A bubble of testing/synctest whose goroutines wait for
// a sync.Mutex stands still.)
func newTurn() chan struct{} {
	turn := make(chan struct{}, 1)
	turn <- struct{}{}
	return turn
}

// Node is one running node. It implements api.Backend.
type Node struct {
	opt       Options
	log       *slog.Logger
	tokenKey  []byte // seals session tokens
	faults    *fault.Set
	store     *storage.Store
	peers     *transport.Transport
	faulty    []*netfault.Net
	members   *membership.Membership
	machine   *catalog.Machine
	saving    chan struct{} // holds one: whoever has it may copy the catalog to disk, so that the newest stays
	catalog   *raft.Replica
	metrics   *metrics
	lease     lease
	lives     liveness
	host      *host
	late      *lateQueue
	status    statusCache
	hints     leaderHints
	witnesses witnesses
	missed    missed

	watching watching
	clock    *swapClock
	started  time.Time
	jitter   *rand.Rand // of runLeaders alone

	redis, http net.Listener
	packets     net.PacketConn
	listeners   []net.Listener

	mu       sync.Mutex
	draining bool   // guarded by mu
	actor    uint32 // guarded by mu; 0 until the catalog has taken this node in

	takesPart atomic.Bool // in the catalog's group: see admitted
	outside   atomic.Bool // until it takes part it has to be taken in: see runBirth
	admitting sync.Mutex  // held while that is written down
}

// Open takes the ports and the data directory, and reads what is there. It starts
// nothing: Run does. A node that Open returned must be closed.
func Open(opt Options) (_ *Node, err error) {
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	n := &Node{opt: opt, tokenKey: []byte("fulcrum session " + opt.ClusterID), log: opt.Logger.With("node", string(opt.Name)), faults: fault.NewSet(), machine: catalog.NewMachine(), started: time.Now(), jitter: newRand(),
		saving: newTurn()}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	peerL, gossipL, err := n.listen()
	if err != nil {
		return nil, err
	}
	n.store, err = storage.Open(storage.Options{Dir: opt.Dir, LogFS: opt.LogFS, ClusterID: opt.ClusterID, Node: opt.Name,
		Logger: n.log, Registerer: opt.Registry, Disk: n.disk, Room: opt.Room, Vital: []fulcrum.GroupID{fulcrum.CatalogGroup, lateGroup}})
	if err != nil {
		return nil, err
	}
	if err := n.restore(); err != nil {
		return nil, err
	}
	n.clock = newSwapClock(n.wall, n.actor)
	n.metrics = newMetrics(n)
	n.hints.leaders = map[fulcrum.GroupID]fulcrum.NodeID{}
	n.openNetwork(peerL)
	if err := n.openCatalog(); err != nil {
		return nil, err
	}
	if err := n.openMembership(gossipL); err != nil {
		return nil, err
	}
	n.host = newHost(n)
	n.late, err = openLate(n)
	return n, err
}

func (n *Node) listen() (peer, gossip net.Listener, err error) {
	for _, l := range []struct {
		what, addr string
		into       *net.Listener
	}{{"redis", n.opt.RedisAddr, &n.redis}, {"http", n.opt.HTTPAddr, &n.http}, {"peer", n.opt.PeerAddr, &peer}, {"gossip", n.opt.GossipAddr, &gossip}} {
		if *l.into, err = n.opt.Network.Listen(l.addr); err != nil {
			return nil, nil, fmt.Errorf("%s port %s cannot be used: %w; stop what listens there, or choose another", l.what, l.addr, err)
		}
		n.listeners = append(n.listeners, *l.into)
	}
	if n.packets, err = n.opt.Network.ListenPacket(n.opt.GossipAddr); err != nil {
		return nil, nil, fmt.Errorf("gossip port %s (UDP) cannot be used: %w", n.opt.GossipAddr, err)
	}
	return peer, gossip, nil
}

// restore loads what this node knew before it stopped.
func (n *Node) restore() error {
	saved, err := n.store.Record("catalog")
	if err != nil {
		return err
	}
	if saved != nil {
		if err := n.machine.Restore(saved); err != nil {
			return err
		}
	}
	if me, ok := n.machine.State().Nodes[n.opt.Name]; ok && me.Incarnation == n.store.Identity().Incarnation {
		if me.PeerAddr == n.opt.PeerAddr { // else the catalog must take it in at its new place: see moved
			n.actor = me.Actor
		}
		n.takesPart.Store(true)
	}
	if n.store.Identity().Admitted {
		n.takesPart.Store(true)
	}
	if saved == nil && len(n.opt.Initial) == 0 && len(n.opt.Join) == 0 {
		return fmt.Errorf("data directory %s is new: give --initial-nodes for a new cluster, or --join to enter a running one", n.opt.Dir)
	}
	return nil
}

func (n *Node) openNetwork(l net.Listener) {
	faulty := netfault.New(n.opt.Name, n.faults, fault.Peers, newRand())
	n.faulty = append(n.faulty, faulty)
	n.peers = transport.New(transport.Options{
		Node: n.opt.Name, ClusterID: n.opt.ClusterID, Listener: faulty.Listener(l), Logger: n.log, Registerer: n.opt.Registry,
		Dial: func(ctx context.Context, to fulcrum.NodeID) (net.Conn, error) {
			addr, ok := n.peerAddr(to)
			if !ok {
				return nil, fulcrum.Errorf(fulcrum.CodeUnavailable, "no address known of node %s", to)
			}
			return faulty.Dial(ctx, to, func(ctx context.Context) (net.Conn, error) { return n.opt.Network.Dial(ctx, addr) })
		},
	})
	n.peers.HandleAsync(chCatalog, n.handleCatalogAsync, n.handleCatalog)
	n.peers.HandleAsync(chGroup, n.handleGroupAsync, n.handleGroup)
	n.peers.Handle(chData, n.handleData)
	n.peers.Handle(chAdmin, n.handleAdmin)
	n.peers.HandleFast(chPing, func(context.Context, fulcrum.NodeID, []byte) ([]byte, error) { return nil, nil })
}

func (n *Node) peerAddr(id fulcrum.NodeID) (string, bool) {
	if node, ok := n.machine.State().Nodes[id]; ok {
		return node.PeerAddr, true
	}
	if addr, ok := n.opt.Initial[id]; ok {
		return addr, true
	}
	addr, ok := n.opt.Join[id]
	return addr, ok
}

func (n *Node) openCatalog() error {
	log, err := n.store.Log(fulcrum.CatalogGroup, 1, storage.Fsync)
	if err != nil {
		return err
	}
	state, err := n.store.State(fulcrum.CatalogGroup, "")
	if err != nil {
		return err
	}
	env := replication.Env{
		Node: n.opt.Name, Group: fulcrum.CatalogGroup, Epoch: 1, Peers: catalogPeers{n}, Log: log, State: state,
		Clock: n.clock, Now: n.wall, Rand: newRand(), Logger: n.log.With("group", "catalog"),
		Metrics: replication.NoMetrics{}, MaxValue: fulcrum.MaxMessageBytes / 4,
	}
	opt := raft.ReplicaOptions{Env: env, Machine: n.machine}
	for id := range n.opt.Initial {
		if isVoter(id, n.opt.Initial) {
			opt.Voters = append(opt.Voters, id)
		} else {
			opt.NonVoters = append(opt.NonVoters, id)
		}
	}
	n.catalog, err = raft.OpenReplica(opt)
	return err
}

func (n *Node) openMembership(l net.Listener) error {
	faulty := netfault.New(n.opt.Name, n.faults, fault.Gossip, newRand())
	n.faulty = append(n.faulty, faulty)
	var err error
	n.members, err = membership.Open(membership.Options{
		Node: n.opt.Name, ClusterID: n.opt.ClusterID, Advertise: n.opt.GossipAddr,
		Listener: faulty.Listener(l), PacketConn: n.packets,
		Dial: func(ctx context.Context, to fulcrum.NodeID, addr string) (net.Conn, error) {
			return faulty.Dial(ctx, to, func(ctx context.Context) (net.Conn, error) { return n.opt.Network.Dial(ctx, addr) })
		},
		SendPacket: faulty.SendPacket, ReceivePacket: faulty.PacketAllowed,
		Resolve: resolver(n.opt.Network),
		Peers:   n.gossipAddrs, Logger: n.log, Registerer: n.opt.Registry,
	})
	return err
}

func (n *Node) gossipAddrs() map[fulcrum.NodeID]string {
	addrs := map[fulcrum.NodeID]string{}
	for id, node := range n.machine.State().Nodes {
		addrs[id] = node.GossipAddr
	}
	return addrs
}

// Run serves until ctx ends or a part fails. Parts stop in the order that keeps
// promises: first no new request, then, once those under way are answered and
// leadership has been handed over, the rest. It stops in the same way, with ErrReopen,
// when the node's files were found damaged in a way that only opening them anew can mend;
// and at once, with ErrReopen too, when a write found the disk full.
func (n *Node) Run(ctx context.Context) error {
	g, alive := errgroup.WithContext(context.WithoutCancel(ctx))
	background, stopBackground := context.WithCancel(alive)
	serving, stopServing := context.WithCancel(alive)
	defer context.AfterFunc(ctx, stopServing)()
	defer stopServing()

	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"storage", n.store.Run}, {"peers", n.peers.Run}, {"catalog", n.catalog.Run}, {"gossip", n.members.Run},
		{"birth", n.runBirth}, {"registration", n.runRegister}, {"liveness", n.runLease}, {"groups", n.host.Run}, {"controller", n.runController}, {"leadership", n.runLeaders},
		{"late writes", n.late.Run}, {"catalog copy", n.runCatalogCopy}, {"readiness", n.tellReady},
	} {
		g.Go(func() error {
			if err := part.run(background); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
			return nil
		})
	}
	g.Go(func() error {
		defer stopBackground()
		defer context.AfterFunc(serving, func() {
			n.mu.Lock()
			n.draining = true // readyz fails from here on
			n.mu.Unlock()
			n.retire()
		})()
		err := n.serve(serving)
		n.drain()
		return err
	})
	g.Go(func() error {
		select {
		case <-n.store.Spoilt():
			stopServing()
		case <-background.Done():
		}
		return nil
	})
	err := g.Wait()
	if n.store.IsSpoilt() || err != nil && n.store.NoRoom() {
		return errors.Join(ErrReopen, err)
	}
	return err
}

func (n *Node) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	redis := resp.New(resp.Options{Backend: n, Logger: n.log, Registerer: n.opt.Registry, MaxValue: n.opt.MaxValue})
	handler := httpapi.New(httpapi.Options{Backend: n, Logger: n.log, Gatherer: n.opt.Registry, AllowFaults: n.opt.AllowFaults, Pprof: true})
	g.Go(func() error { return redis.Serve(ctx, n.redis) })
	g.Go(func() error { return httpapi.Serve(ctx, n.http, handler) })
	return g.Wait()
}

// Close releases what Open took. Run must have returned. It is idempotent.
func (n *Node) Close() error {
	var errs []error
	if n.members != nil {
		errs = append(errs, n.members.Close())
		n.members = nil
	}
	for _, l := range n.listeners {
		_ = l.Close() // most are closed by whoever served them
	}
	if n.packets != nil {
		_ = n.packets.Close()
	}
	for _, f := range n.faulty {
		errs = append(errs, f.Close())
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
		n.store = nil
	}
	return errors.Join(errs...)
}

// wall is the node's wall clock with the injected skew: data, never pace.
func (n *Node) wall() time.Time {
	skew := n.faults.Skew(n.opt.Name)
	if skew != 0 {
		n.faults.Hit(fault.KindClock)
	}
	return n.opt.Now().Add(skew)
}

// Now is wall in Unix milliseconds.
func (n *Node) Now() int64 { return n.wall().UnixMilli() }

func (n *Node) disk() storage.Disk {
	d := n.faults.Disk(n.opt.Name)
	if d.None() {
		return storage.Disk{}
	}
	return storage.Disk{Stall: d.Stall, Full: d.Full, Fail: d.Fail, Acted: func() { n.faults.Hit(fault.KindDisk) }}
}

func newRand() *rand.Rand { return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) }

// swapClock is the node's hybrid logical clock. Its actor is known only once the
// catalog has taken the node in; until then no group runs.
type swapClock struct {
	mu    sync.Mutex
	now   func() time.Time
	inner *consistency.Clock
}

func newSwapClock(now func() time.Time, actor uint32) *swapClock {
	return &swapClock{now: now, inner: consistency.NewClock(now, actor, 0)}
}

func (c *swapClock) setActor(actor uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := consistency.NewClock(c.now, actor, 0)
	next.Raise(c.inner.Next())
	c.inner = next
}

func (c *swapClock) clock() *consistency.Clock {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inner
}

// Next returns a version newer than every one before.
func (c *swapClock) Next() fulcrum.Version { return c.clock().Next() }

// Observe moves the clock past v, unless v is too far ahead.
func (c *swapClock) Observe(v fulcrum.Version) error { return c.clock().Observe(v) }

// Raise moves the clock past v, however far ahead.
func (c *swapClock) Raise(v fulcrum.Version) { c.clock().Raise(v) }
