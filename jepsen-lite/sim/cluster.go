package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"fulcrum"
	"fulcrum/node"
	"fulcrum/node/api"
)

// ClusterID is the identity of every simulated cluster.
const ClusterID = "sim"

// Ports of a simulated node; its host is its name.
const (
	RedisPort  = "6379"
	HTTPPort   = "8080"
	PeerPort   = "7201"
	GossipPort = "7301"
)

// gossipRests is how long memberlist, which has no call to wait for its probes, may
// have goroutines after it was shut down. It is virtual time: it costs nothing.
const gossipRests = time.Minute

// ClusterOptions says what to run. Nodes and Dir are required.
type ClusterOptions struct {
	Nodes int    // named n1, n2 ...; all of them found the cluster
	Dir   string // for what the engine keeps in real files; a test's TempDir

	// Zones gives node i the zone Zones[i%len(Zones)]; empty: no zones.
	Zones []string

	// Torn is the share, 0 to 100 percent, of what was written to a log but not
	// synced that survives a kill nevertheless, block by block: what a disk may do
	// when the power fails. 0 loses all of it. Seed decides which blocks.
	Torn int
	Seed uint64

	// LogFS gives a node's log a file system over the one in memory, Room says how much of
	// its disk is free; nil: none, and enough.
	LogFS func(name fulcrum.NodeID, disk vfs.FS) vfs.FS
	Room  func(name fulcrum.NodeID) node.Room

	Logger *slog.Logger // default: silent
}

// Cluster is a cluster of whole nodes in one testing/synctest bubble: all of its
// methods must be called from there. A Cluster that OpenCluster returned must be
// closed; after that no goroutine of it is left.
//
// What is simulated: the network, the disk of the log, time, and crashes. What is
// real: everything else, the engine's file included. That file loses nothing that
// was written, which is as if the machine kept running, while the log loses what
// was not synced, which is as if the power failed: together the harder case, as the
// engine may be ahead of the log but never may the log be cut ahead of the engine.
type Cluster struct {
	Network *Network

	opt     ClusterOptions
	rand    *rand.Rand
	names   []fulcrum.NodeID
	initial map[fulcrum.NodeID]string
	dying   sync.WaitGroup // processes that were killed and still have goroutines

	mu     sync.Mutex
	procs  map[fulcrum.NodeID]*process // guarded by mu; those that run
	ending map[fulcrum.NodeID]*process // those that ended by themselves and still have their ports and files
	disks  map[fulcrum.NodeID]*vfs.MemFS
	lives  int             // processes started so far
	faults []fulcrum.Fault // injected and not healed: a restarted node gets them again
	ended  []error         // guarded by mu; what processes ended with, when not killed
	closed bool            // guarded by mu

	// Guarded by mu: those that may end by themselves without that being a failure of the
	// cluster, and why. A bad disk excuses that until it is healed and once after it, a
	// damaged one and a removal until it is wiped.
	mayEnd map[fulcrum.NodeID]excuse
}

// excuse is why a node may end by itself.
type excuse string

const (
	badDisk     excuse = "a fault of its disk"
	damagedDisk excuse = "its disk was damaged"
	itsRemoval  excuse = "it was removed"
)

// process is one life of a node.
type process struct {
	node     *node.Node
	registry *prometheus.Registry
	network  *hostNetwork
	dir      string
	calls    sync.WaitGroup // clients' calls under way
	life     context.Context
	kill     context.CancelFunc // ends life
	stop     context.CancelFunc
	done     chan struct{} // closed when nothing of it runs any more
	err      error         // of Run or Close; to be read after done
}

// OpenCluster starts a cluster and returns once every node is ready, or ctx ends.
func OpenCluster(ctx context.Context, opt ClusterOptions) (*Cluster, error) {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Cluster{
		Network: NewNetwork(), opt: opt, rand: rand.New(rand.NewPCG(opt.Seed, 0)),
		initial: map[fulcrum.NodeID]string{},
		procs:   map[fulcrum.NodeID]*process{}, ending: map[fulcrum.NodeID]*process{}, disks: map[fulcrum.NodeID]*vfs.MemFS{}, mayEnd: map[fulcrum.NodeID]excuse{},
	}
	for i := range opt.Nodes {
		name := fulcrum.NodeID("n" + strconv.Itoa(i+1))
		c.names = append(c.names, name)
		c.initial[name] = addr(name, PeerPort)
		c.disks[name] = vfs.NewCrashableMem()
	}
	err := c.Start(c.names...)
	if err == nil {
		err = c.Ready(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func addr(name fulcrum.NodeID, port string) string { return string(name) + ":" + port }

// Names lists all nodes, running or not.
func (c *Cluster) Names() []fulcrum.NodeID { return slices.Clone(c.names) }

// Node returns a node that runs; it panics when it does not. It is a new one after
// each restart.
func (c *Cluster) Node(name fulcrum.NodeID) *node.Node { return c.proc(name).node }

// Registry returns the metrics of a node that runs. They begin anew with each life.
func (c *Cluster) Registry(name fulcrum.NodeID) *prometheus.Registry { return c.proc(name).registry }

// Dir returns the data directory of a node.
func (c *Cluster) Dir(name fulcrum.NodeID) string { return filepath.Join(c.opt.Dir, string(name)) }

// Running lists the nodes that run.
func (c *Cluster) Running() []fulcrum.NodeID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []fulcrum.NodeID
	for _, name := range c.names {
		if c.procs[name] != nil {
			out = append(out, name)
		}
	}
	return out
}

// nodes returns the nodes that run.
func (c *Cluster) nodes() map[fulcrum.NodeID]*node.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[fulcrum.NodeID]*node.Node{}
	for name, p := range c.procs {
		out[name] = p.node
	}
	return out
}

func (c *Cluster) proc(name fulcrum.NodeID) *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.procs[name]
	if p == nil {
		panic(fmt.Sprintf("sim: node %s does not run", name))
	}
	return p
}

// Call is what a client does over a connection: it calls a node's Backend, and the
// answer reaches it only if the node lives that long. A node that does not run
// refuses (CodeUnavailable); after a kill the outcome is unknown, whatever f says. A
// frozen node takes no call and gives no answer until it goes on: the outcome of a call
// is unknown when ctx ends before.
func (c *Cluster) Call(ctx context.Context, at fulcrum.NodeID, f func(context.Context, api.Backend) error) error {
	c.mu.Lock()
	p := c.procs[at]
	if p == nil {
		c.mu.Unlock()
		return fulcrum.Errorf(fulcrum.CodeUnavailable, "connection to %s refused", at)
	}
	p.calls.Add(1)
	c.mu.Unlock()
	defer p.calls.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.life, cancel)()
	var err error
	moving := c.Network.Moving(ctx, p.network.host)
	if moving {
		err = f(ctx, p.node)
		moving = c.Network.Moving(ctx, p.network.host)
	}
	switch {
	case p.network.isDown():
		return fulcrum.Errorf(fulcrum.CodeUnknown, "connection to %s was reset", at)
	case !moving:
		return fulcrum.Errorf(fulcrum.CodeUnknown, "no answer from %s: %w", at, ctx.Err())
	}
	return err
}

// Start runs nodes that do not run, on the disks that their last lives left.
func (c *Cluster) Start(names ...fulcrum.NodeID) error {
	for _, name := range names {
		if err := c.start(name); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
	}
	return nil
}

func (c *Cluster) start(name fulcrum.NodeID) error {
	c.mu.Lock()
	before := c.ending[name]
	delete(c.ending, name)
	c.mu.Unlock()
	if before != nil {
		<-before.done
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.procs[name] != nil || c.closed {
		return fmt.Errorf("node %s runs already, or the cluster is closed", name)
	}
	c.lives++
	p := &process{registry: prometheus.NewRegistry(), network: &hostNetwork{Network: c.Network, host: string(name)}, dir: c.Dir(name), done: make(chan struct{})}
	opt := node.Options{
		Name: name, ClusterID: ClusterID, Dir: p.dir, Initial: c.initial, AllowFaults: true, Version: "sim",
		RedisAddr: addr(name, RedisPort), HTTPAddr: addr(name, HTTPPort), PeerAddr: addr(name, PeerPort), GossipAddr: addr(name, GossipPort),
		Network: p.network, LogFS: c.disks[name], Registry: p.registry, Logger: c.opt.Logger.With("life", c.lives),
	}
	if c.opt.LogFS != nil {
		opt.LogFS = c.opt.LogFS(name, c.disks[name])
	}
	if c.opt.Room != nil {
		opt.Room = func() (node.Room, error) { return c.opt.Room(name), nil }
	}
	if z := c.opt.Zones; len(z) > 0 {
		opt.Zone = z[slices.Index(c.names, name)%len(z)]
	}
	n, err := node.Open(opt)
	if err != nil {
		return err
	}
	for _, f := range c.faults {
		if err := n.AddFault(f); err != nil {
			return errors.Join(err, n.Close())
		}
	}
	p.life, p.kill = context.WithCancel(context.Background())
	ctx, stop := context.WithCancel(p.life)
	p.node, p.stop = n, stop
	c.procs[name] = p
	c.dying.Go(func() {
		defer close(p.done)
		defer p.kill()
		err := n.Run(ctx)
		c.mu.Lock()
		if c.procs[name] == p { // not killed, and not started anew since
			delete(c.procs, name)
			c.ending[name] = p
		}
		c.mu.Unlock()
		p.calls.Wait()
		p.err = errors.Join(err, n.Close())
		c.mu.Lock()
		defer c.mu.Unlock()
		if p.err == nil || p.network.isDown() {
			return
		}
		if errors.Is(p.err, node.ErrReopen) {
			c.dying.Go(func() { c.reopen(name, p) })
			return
		}
		still := slices.ContainsFunc(c.faults, func(f fulcrum.Fault) bool { return f.Node == name && (f.Fail || f.Full) })
		switch why := c.mayEnd[name]; {
		case why == "" && !still:
			c.ended = append(c.ended, fmt.Errorf("node %s: %w", name, p.err))
		case why == badDisk && !still: // it was healed while the node was about to end
			delete(c.mayEnd, name)
		}
	})
	return nil
}

// reopen starts a node again, as node.Serve does, unless somebody else has.
func (c *Cluster) reopen(name fulcrum.NodeID, before *process) {
	<-before.done
	for {
		time.Sleep(time.Second)
		c.mu.Lock()
		gone := c.procs[name] != nil || c.closed || c.ending[name] != nil && c.ending[name] != before
		c.mu.Unlock()
		if gone {
			return
		}
		err := c.start(name)
		if err != nil && node.DiskFull(err) {
			continue
		}
		c.mu.Lock()
		if err != nil && c.procs[name] == nil && !c.closed && c.mayEnd[name] == "" {
			c.ended = append(c.ended, fmt.Errorf("node %s, opened again: %w", name, err))
		}
		c.mu.Unlock()
		return
	}
}

// Stop ends nodes as SIGTERM does, all at once, and waits for them.
func (c *Cluster) Stop(names ...fulcrum.NodeID) error {
	var stopped []*process
	for _, name := range names {
		p := c.proc(name)
		p.stop()
		stopped = append(stopped, p)
	}
	var errs []error
	for _, p := range stopped {
		<-p.done
		errs = append(errs, p.err)
	}
	return errors.Join(errs...)
}

// Kill ends nodes as a loss of power does, all at the same moment: their
// connections are reset, and what was not synced to a log is lost. They may be
// started again at once.
//
// The moment is one at which every goroutine of the bubble waits for something, so
// the engine's file is never caught within a system call. Syncs take no time in a
// bubble; whoever wants writes to be caught between append and sync gives the disk
// a stall (a fault of kind "disk") first.
func (c *Cluster) Kill(names ...fulcrum.NodeID) error {
	synctest.Wait()
	var killed []*process
	for _, name := range names {
		p := c.proc(name)
		p.network.shut()
		disk, err := c.crash(name, p.dir)
		if err != nil {
			return fmt.Errorf("kill %s: %w", name, err)
		}
		c.mu.Lock()
		delete(c.procs, name)
		c.disks[name] = disk
		c.mu.Unlock()
		killed = append(killed, p)
	}
	for _, p := range killed { // only now: until here nothing moved
		c.Network.CloseHost(p.network.host)
		p.kill()
	}
	return nil
}

// crash leaves at dir what a crash now would leave, and takes dir away from the
// process that has it open. It returns the log's disk after the crash.
func (c *Cluster) crash(name fulcrum.NodeID, dir string) (*vfs.MemFS, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	disk := c.disks[name].CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.opt.Torn, RNG: c.rand})
	c.lives++
	old := dir + ".dead" + strconv.Itoa(c.lives)
	if err := os.Rename(dir, old); err != nil {
		return nil, err
	}
	return disk, copyTree(dir, old)
}

// copyTree copies files and folders but the lock, which the dead process holds
// until the last of its goroutines has ended.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		if d.Name() == "LOCK" {
			return nil
		}
		return copyFile(filepath.Join(to, rel), path)
	})
}

// copyFile copies a file and leaves out blocks of zeros: most of an engine's file, which
// grows by many megabytes at a time, has never been written.
func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	size, err := copyBlocks(out, in)
	if err == nil {
		err = out.Truncate(size) // the zeros behind the last block too
	}
	return errors.Join(err, out.Close())
}

// copyBlocks copies what is not zero, to where it was, and returns the size of it all.
func copyBlocks(out io.WriterAt, in io.Reader) (size int64, err error) {
	block, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(in, block)
		if n > 0 && !bytes.Equal(block[:n], zeros[:n]) {
			if _, err := out.WriteAt(block[:n], size); err != nil {
				return size, err
			}
		}
		size += int64(n)
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return size, nil
		default:
			return size, err
		}
	}
}

// Wipe takes the whole disk from a node that does not run.
func (c *Cluster) Wipe(name fulcrum.NodeID) error {
	c.mu.Lock()
	before := c.ending[name]
	c.mu.Unlock()
	if before != nil {
		<-before.done
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.procs[name] != nil {
		return fmt.Errorf("node %s runs", name)
	}
	c.disks[name] = vfs.NewCrashableMem()
	delete(c.mayEnd, name)
	return os.RemoveAll(c.Dir(name))
}

// Remove asks a node to have another one removed from the cluster, which then may end by
// itself.
func (c *Cluster) Remove(ctx context.Context, at, name fulcrum.NodeID) error {
	c.mu.Lock()
	c.mayEnd[name] = itsRemoval
	c.mu.Unlock()
	return c.Node(at).RemoveNode(ctx, name)
}

// Ready waits until every node that runs says that it is ready; its error says who
// was not when ctx ended.
func (c *Cluster) Ready(ctx context.Context) error {
	for {
		why := c.unready()
		if why == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the cluster is not ready: %w", why)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *Cluster) unready() error {
	var errs []error
	for _, name := range c.Running() {
		n := c.Node(name)
		for _, h := range n.Ready() {
			if h.Err != "" {
				errs = append(errs, fmt.Errorf("%s: %s: %s", name, h.Check, h.Err))
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(append(errs, c.ended...)...)
}

// Inject breaks something, on every node, as `fulcrum fault` does. f needs an ID.
func (c *Cluster) Inject(f fulcrum.Fault) error {
	c.mu.Lock()
	if (f.Fail || f.Full) && c.mayEnd[f.Node] == "" {
		c.mayEnd[f.Node] = badDisk
	}
	c.mu.Unlock()
	for name, n := range c.nodes() {
		if err := n.AddFault(f); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, f)
	return nil
}

// Heal mends what was broken, on every node: all of it when no id is given.
func (c *Cluster) Heal(ids ...string) error {
	c.mu.Lock()
	c.faults = slices.DeleteFunc(c.faults, func(f fulcrum.Fault) bool { return ids == nil || slices.Contains(ids, f.ID) })
	c.mu.Unlock()
	for name, n := range c.nodes() {
		if err := n.HealFaults(ids); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// Close stops every node and waits until nothing of the cluster runs. Its error
// also says which node ended by itself before, and why.
func (c *Cluster) Close() error {
	c.mu.Lock()
	c.closed = true
	for _, p := range c.procs {
		p.stop()
	}
	c.mu.Unlock()
	c.Network.ThawAll()
	c.dying.Wait()
	time.Sleep(gossipRests)
	return errors.Join(c.ended...)
}
