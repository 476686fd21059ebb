// Package real runs tests against real processes: the binary, real ports, signals,
// files and the faults that nodes inject into themselves. With Options.Netns packets
// are lost and doubled by the kernel instead.
//
// Start reading at Open and World, which is a nemesis.Cluster; World.Client is how
// clients reach a node, one request at a time and never twice.
package real

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/jepsen-lite/nemesis"
	"fulcrum/local"
)

// Options says which cluster to open. Nodes, Binary and Dir are for one of our own;
// Endpoints attaches to one that runs already, and then nothing else is used.
type Options struct {
	Nodes    int    // default 5
	Binary   string // default: this program
	Dir      string // for data and logs; must hold no cluster yet
	BasePort int    // see package local; 0: free ones are looked for
	Netns    bool   // every node in a network namespace of its own; needs root
	Wipe     bool   // Close removes the data

	Endpoints []string // HTTP addresses of nodes of a running cluster; one is enough

	Progress func(done, total int, what string) // while nodes start; may be nil
}

// Bounds of what is asked of one node, where the caller's context allows more: a node
// that hangs must not hold up what concerns the others.
const (
	askTime   = 2 * time.Second
	startTime = 30 * time.Second
	lookTime  = 300 * time.Millisecond // for a last look at a node that is about to die

	forgetTime = 6 * time.Second // after which a dead node's lease is over, with room for an election; see node/liveness.go
)

// World is a cluster of real processes. Its methods may be called from any goroutine.
type World struct {
	opt   Options
	names []fulcrum.NodeID
	at    map[fulcrum.NodeID]place // never changes
	cli   *client.Client           // knows all nodes, and is never told of others
	http  *http.Client             // for what package client does not read
	net   *network                 // nil without Netns
	tame  bool                     // attached to nodes that take no faults

	turn    chan struct{}  // holds a token; whoever has it may change cluster, faults' state on nodes, and net
	cluster *local.Cluster // under turn; nil when attached

	mu       sync.Mutex // protects what follows; never held during I/O or a wait
	procs    map[fulcrum.NodeID]local.Node
	faults   []fulcrum.Fault         // injected and not healed
	ours     map[string]bool         // ids of all faults that were ever injected from here
	outdated map[fulcrum.NodeID]bool // was paused while faults changed
	wiped    map[fulcrum.NodeID]bool // and not started since
	died     map[fulcrum.NodeID]time.Time
	seen     map[string]int64         // by kind: what was observed from here
	packets  map[string]int64         // by kind: what the network counted when last asked
	lives    map[fulcrum.NodeID]*life // counters of nodes
	modes    map[string]string        // keyspaces that were switched: the mode last seen
	made     map[string]uint32        // keyspaces that Create made, and their ids
	clients  []*conn
	given    int // ids made up for faults
}

// place is where a node is reached.
type place struct{ http, redis string } // base URL; host:port

var _ nemesis.Cluster = (*World)(nil)

// Open starts a cluster and waits until every node is ready, or attaches to one. When
// it fails, nothing that it started is left.
func Open(ctx context.Context, opt Options) (*World, error) {
	w := &World{opt: opt, at: map[fulcrum.NodeID]place{}, turn: make(chan struct{}, 1),
		procs: map[fulcrum.NodeID]local.Node{}, ours: map[string]bool{}, outdated: map[fulcrum.NodeID]bool{}, wiped: map[fulcrum.NodeID]bool{}, died: map[fulcrum.NodeID]time.Time{},
		seen: map[string]int64{}, lives: map[fulcrum.NodeID]*life{}, modes: map[string]string{}, made: map[string]uint32{},
		http: &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: askTime}).DialContext, MaxIdleConnsPerHost: 2}}}
	w.turn <- struct{}{}
	err := w.open(ctx)
	if err != nil {
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTime)
		defer cancel()
		return nil, errors.Join(err, w.Close(closeCtx))
	}
	return w, nil
}

func (w *World) open(ctx context.Context) error {
	if len(w.opt.Endpoints) > 0 {
		if w.opt.Netns {
			return fulcrum.Errorf(fulcrum.CodeInvalid, "network namespaces are for nodes that are started here, not for a running cluster").
				WithHint("leave out one of the two")
		}
		return w.attach(ctx)
	}
	if err := w.up(ctx); err != nil {
		return err
	}
	for _, n := range w.cluster.Nodes {
		w.names = append(w.names, n.Name)
		w.at[n.Name] = place{http: "http://" + n.HTTPAddr, redis: n.RedisAddr}
	}
	_, err := w.meet(ctx, w.cluster.Endpoints())
	return err
}

// up starts the nodes.
func (w *World) up(ctx context.Context) error {
	if w.opt.Dir == "" {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "no directory given for the nodes' data")
	}
	if _, err := local.Load(w.opt.Dir); err == nil {
		return fulcrum.Errorf(fulcrum.CodeExists, "there is a cluster in %s already", w.opt.Dir).WithHint("a test needs a new one: name another directory")
	}
	spec := local.Spec{Dir: w.opt.Dir, Nodes: w.opt.Nodes, BasePort: w.opt.BasePort, Binary: w.opt.Binary, Progress: w.opt.Progress}
	if spec.Nodes == 0 {
		spec.Nodes = 5
	}
	if w.opt.Netns {
		var err error
		if w.net, err = openNetwork(ctx, spec.Nodes); err != nil {
			return err
		}
		spec.Place = w.net.place
	}
	tries := 1
	if spec.BasePort == 0 && !w.opt.Netns {
		tries = 3 // somebody may take a port between our look and the start
	}
	for try := 1; ; try++ {
		var err error
		if w.opt.BasePort == 0 && !w.opt.Netns {
			if spec.BasePort, err = local.FreeBasePort(spec.Nodes); err != nil {
				return err
			}
		}
		if w.cluster, err = local.Up(ctx, spec); err == nil {
			w.remember()
			return nil
		}
		if try == tries || !errors.Is(err, fulcrum.ErrExists) {
			return err
		}
	}
}

// attach finds the nodes of a running cluster.
func (w *World) attach(ctx context.Context) error {
	info, err := w.meet(ctx, w.opt.Endpoints)
	if err != nil {
		return err
	}
	w.tame = !info.FaultsAllowed
	for _, n := range info.Nodes {
		if n.HTTPAddr == "" {
			return fulcrum.Errorf(fulcrum.CodeUnavailable, "the cluster does not know the address of node %s", n.Name).WithHint("start that node first")
		}
		host := "127.0.0.1"
		if u, err := url.Parse(w.opt.Endpoints[0]); err == nil && u.Hostname() != "" {
			host = u.Hostname()
		}
		w.names = append(w.names, n.Name)
		w.at[n.Name] = place{http: "http://" + reachable(n.HTTPAddr, host), redis: reachable(n.RedisAddr, host)}
	}
	return nil
}

// reachable is addr, with host where addr is that of every interface.
func reachable(addr, host string) string {
	h, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(h); err == nil && (h == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort(host, port)
	}
	return addr
}

// meet makes the client, and waits until the cluster knows where all its nodes are:
// the client learns it here and never again, so a node that has just started and has
// not heard of the others cannot make it forget them.
func (w *World) meet(ctx context.Context, endpoints []string) (fulcrum.ClusterInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	var err error
	if w.cli, err = client.New(ctx, endpoints); err != nil {
		return fulcrum.ClusterInfo{}, err
	}
	for {
		info, err := w.cli.Cluster(ctx)
		if err != nil {
			return info, err
		}
		known := 0
		for _, n := range info.Nodes {
			if n.HTTPAddr != "" {
				known++
			}
		}
		if known > 0 && known >= max(len(w.names), len(info.Nodes)) {
			return info, nil
		}
		select {
		case <-ctx.Done():
			return info, fulcrum.Errorf(fulcrum.CodeUnavailable, "node %s knows the addresses of %d of %d nodes", info.Node, known, max(len(w.names), len(info.Nodes)))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Close ends the faults that were injected from here, and stops what Open started.
// Data and logs stay, unless Options.Wipe says otherwise. A cluster that was not started
// here is left as it was found: the keyspaces that Create made are dropped.
func (w *World) Close(ctx context.Context) error {
	if err := w.take(ctx); err != nil {
		return err
	}
	defer w.give()
	var errs []error
	if w.cluster == nil && w.cli != nil {
		if ids := w.active(); len(ids) > 0 {
			errs = append(errs, w.heal(ctx, ids))
		}
		errs = append(errs, w.dropMade(ctx))
	}
	w.mu.Lock()
	for _, c := range w.clients {
		c.close()
	}
	w.clients = nil
	w.mu.Unlock()
	if w.cluster != nil {
		errs = append(errs, w.cluster.Down(ctx, w.opt.Wipe))
		w.remember()
	}
	if w.net != nil {
		errs = append(errs, w.net.close(ctx))
	}
	if w.cli != nil {
		w.cli.Close()
	}
	w.http.CloseIdleConnections()
	return errors.Join(errs...)
}

// active lists the ids of the faults that are injected now.
func (w *World) active() (ids []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.faults {
		ids = append(ids, f.ID)
	}
	return ids
}

// take waits for the turn to change the cluster; give ends it.
func (w *World) take(ctx context.Context) error {
	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
		return &fulcrum.Error{Code: fulcrum.CodeUnavailable, Detail: "the cluster is still being changed by an earlier call", Err: ctx.Err()}
	}
}

func (w *World) give() { w.turn <- struct{}{} }

// remember copies what is known of the processes, for those who only look. It needs
// the turn.
func (w *World) remember() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.cluster.Nodes {
		w.procs[n.Name] = n
	}
}

// Nodes lists all nodes, running or not.
func (w *World) Nodes() []fulcrum.NodeID { return slices.Clone(w.names) }

// Dir is where a node's files are; empty for a cluster that is not ours.
func (w *World) Dir(n fulcrum.NodeID) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.procs[n].Dir
}

// Log is the file that a node's log is in; empty for a cluster that is not ours.
func (w *World) Log(n fulcrum.NodeID) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.procs[n].Log
}

// Can returns nil, or why this cluster cannot do that; see nemesis.Cluster.
func (w *World) Can(what string) error {
	if what == "faults" && w.tame {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "faults: the cluster takes none").WithHint("start its nodes with --allow-faults")
	}
	return w.opt.Can(what)
}

// Can says the same of the World that these options open, before anything is started;
// whether a running cluster takes faults is seen only when it is asked.
func (o Options) Can(what string) error {
	attached := len(o.Endpoints) > 0
	switch what {
	case "switch", "faults":
		return nil
	case "kill", "pause", "damage":
		if attached {
			return fulcrum.Errorf(fulcrum.CodeInvalid, "%s: the processes and files of a cluster that was not started here are left alone", what).
				WithHint("let the test start a cluster of its own")
		}
		return nil
	case "packets":
		if !o.Netns {
			return fulcrum.Errorf(fulcrum.CodeInvalid, "packets: between nodes on one address the network cannot be reached").
				WithHint("run as root with a network namespace for each node (--net netns), or in simulation (--sim)")
		}
		return nil
	}
	return fulcrum.Errorf(fulcrum.CodeInvalid, "%q is nothing that can be done to a cluster", what)
}

// everywhere calls f for some nodes at a time and joins their errors.
func everywhere(nodes []fulcrum.NodeID, f func(fulcrum.NodeID) error) error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			if err := f(n); err != nil {
				errs[i] = fmt.Errorf("%s: %w", n, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
