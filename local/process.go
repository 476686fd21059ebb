package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"fulcrum"
)

// Spec says what cluster to start. Zero fields take defaults.
type Spec struct {
	Dir      string   // data directory; default ./data
	Nodes    int      // default 5
	BasePort int      // default 7000
	Zones    []string // given to the nodes in turn
	Binary   string   // default: this program
	Progress func(done, total int, what string)
	Place    func(n *Node) // of a new cluster: may change a node's addresses and Exec before anything starts
}

func (s *Spec) defaults() error {
	if s.Dir == "" {
		s.Dir = "data"
	}
	dir, err := filepath.Abs(s.Dir)
	if err != nil {
		return err
	}
	s.Dir = dir
	if s.Nodes == 0 {
		s.Nodes = 5
	}
	if s.Nodes < 1 || s.Nodes > MaxNodes {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "%d nodes: want 1 to %d", s.Nodes, MaxNodes)
	}
	if s.BasePort == 0 {
		s.BasePort = 7000
	}
	if s.BasePort < 1024 || s.BasePort+300+MaxNodes > 65535 {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "base port %d: want 1024 to %d", s.BasePort, 65535-300-MaxNodes)
	}
	if s.Binary == "" {
		if s.Binary, err = os.Executable(); err != nil {
			return err
		}
	}
	if s.Progress == nil {
		s.Progress = func(int, int, string) {}
	}
	return nil
}

// Up starts a cluster, new or from the data that is there, and waits until every
// node is ready. When it fails it stops what it had started.
func Up(ctx context.Context, s Spec) (*Cluster, error) {
	if err := s.defaults(); err != nil {
		return nil, err
	}
	c, err := Load(s.Dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		c = &Cluster{ID: newClusterID(), Dir: s.Dir, BasePort: s.BasePort, Initial: s.Nodes}
		for i := 1; i <= s.Nodes; i++ {
			zone := ""
			if len(s.Zones) > 0 {
				zone = s.Zones[(i-1)%len(s.Zones)]
			}
			n := newNode(s.Dir, s.BasePort, i, zone)
			if s.Place != nil {
				s.Place(&n)
			}
			c.Nodes = append(c.Nodes, n)
		}
	case err != nil:
		return nil, err
	}
	c.Binary = s.Binary
	for _, n := range c.Nodes {
		if n.running() {
			return nil, fulcrum.Errorf(fulcrum.CodeExists, "node %s of the cluster in %s is running already (pid %d)", n.Name, s.Dir, n.PID).
				WithHint("see fulcrum status; stop it with fulcrum down")
		}
	}
	for _, n := range c.Nodes {
		if err := checkPorts(n); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, err
	}
	total := 2 * len(c.Nodes)
	for i := range c.Nodes {
		s.Progress(i, total, "starting "+string(c.Nodes[i].Name))
		if err := c.spawn(&c.Nodes[i]); err != nil {
			return nil, errors.Join(err, c.Down(context.WithoutCancel(ctx), false))
		}
	}
	if err := c.Save(); err != nil {
		return nil, errors.Join(err, c.Down(context.WithoutCancel(ctx), false))
	}
	for i := range c.Nodes {
		s.Progress(len(c.Nodes)+i, total, "waiting until "+string(c.Nodes[i].Name)+" is ready")
		if err := c.Nodes[i].WaitReady(ctx); err != nil {
			return nil, errors.Join(err, c.Down(context.WithoutCancel(ctx), false))
		}
	}
	s.Progress(total, total, "ready")
	return c, nil
}

// spawn starts a node's process in a session of its own, so that it outlives the
// command that started it.
func (c *Cluster) spawn(n *Node) error {
	if err := os.MkdirAll(n.Dir, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(n.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	argv := append(append(slices.Clone(n.Exec), c.Binary), c.args(n)...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = WithShare(withoutFulcrum(os.Environ()), len(c.Nodes))
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start node %s: %w", n.Name, err)
	}
	n.PID, n.Paused = cmd.Process.Pid, false
	return cmd.Process.Release()
}

// withoutFulcrum drops settings that were meant for the command, not the nodes.
func withoutFulcrum(env []string) []string {
	out := env[:0:0]
	for _, kv := range env {
		if !strings.HasPrefix(kv, "FULCRUM_") {
			out = append(out, kv)
		}
	}
	return out
}

// WithShare gives one of so many nodes its share of this machine's cores, rounded up,
// unless env says how many already: processes that each believe to have all of them wake
// threads that then wait for each other.
func WithShare(env []string, nodes int) []string {
	const setting = "GOMAXPROCS="
	if slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, setting) }) {
		return env
	}
	nodes = max(1, nodes)
	return append(slices.Clone(env), setting+strconv.Itoa((runtime.NumCPU()+nodes-1)/nodes))
}

func (c *Cluster) args(n *Node) []string {
	args := []string{"serve", "--name", string(n.Name), "--data", n.Dir, "--cluster-id", c.ID, "--allow-faults",
		"--redis-addr", n.RedisAddr, "--http-addr", n.HTTPAddr, "--peer-addr", n.PeerAddr, "--gossip-addr", n.GossipAddr}
	if n.Zone != "" {
		args = append(args, "--zone", n.Zone)
	}
	var peers []string
	for _, p := range c.Nodes {
		if !p.Joined {
			peers = append(peers, string(p.Name)+"="+p.PeerAddr)
		}
	}
	if n.Joined {
		return append(args, "--join", strings.Join(peers, ","))
	}
	return append(args, "--initial-nodes", strings.Join(peers, ","))
}

// running reports whether the node's process is there. A process id that now
// belongs to something else does not count.
func (n *Node) running() bool {
	if n.PID <= 0 {
		return false
	}
	_, _ = syscall.Wait4(n.PID, nil, syscall.WNOHANG, nil) // reaps it if it was our child and ended
	if syscall.Kill(n.PID, 0) != nil {
		return false
	}
	cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(n.PID) + "/cmdline")
	if err != nil {
		return os.IsNotExist(err) && !hasProc()
	}
	if len(cmdline) == 0 {
		return n.between()
	}
	return bytes.Contains(cmdline, []byte("\x00--data\x00"+n.Dir+"\x00"))
}

// between reports whether a process that has no command line is there all the same:
// one that is just being started has none for a moment, and one that has given up its
// memory holds its ports and its files until its last thread is gone.
func (n *Node) between() bool {
	dir := "/proc/" + strconv.Itoa(n.PID)
	if threads, err := os.ReadDir(dir + "/task"); err == nil && len(threads) > 1 {
		return true
	}
	stat, err := os.ReadFile(dir + "/stat") // "pid (name) state ..."
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	return len(rest) > 0 && rest[0] != 'Z' && rest[0] != 'X'
}

func hasProc() bool {
	_, err := os.Stat("/proc/self/cmdline")
	return err == nil
}

// Running reports whether a node's process is there.
func (n *Node) Running() bool { return n.running() }

// WaitReady returns once /readyz answers 200; when the process ends first, the
// error holds the end of its log.
func (n *Node) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	last := "no answer yet"
	for {
		if !n.running() {
			return fmt.Errorf("node %s ended; the end of %s:\n%s", n.Name, n.Log, tail(n.Log))
		}
		ready, why := n.ready(ctx)
		if ready {
			return nil
		}
		if why != "" {
			last = why
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return fmt.Errorf("waiting until node %s is ready: %w", n.Name, ctx.Err())
			}
			return fmt.Errorf("node %s is not ready: %s; its log is %s", n.Name, last, n.Log)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (n *Node) ready(ctx context.Context) (bool, string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTPAddr+"/readyz?verbose", nil)
	if err != nil {
		return false, err.Error()
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, ""
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
	return res.StatusCode == http.StatusOK, strings.TrimSpace(string(body))
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}

// Start starts a stopped node and waits until it is ready.
func (c *Cluster) Start(ctx context.Context, name fulcrum.NodeID) error {
	if err := c.Launch(name); err != nil {
		return err
	}
	n, _ := c.Node(name)
	return n.WaitReady(ctx)
}

// Launch starts a stopped node and does not wait.
func (c *Cluster) Launch(name fulcrum.NodeID) error {
	return c.change(name, func(n *Node) error {
		if n.running() {
			return fulcrum.Errorf(fulcrum.CodeExists, "node %s is running already (pid %d)", name, n.PID)
		}
		if err := checkPorts(*n); err != nil {
			return err
		}
		return c.spawn(n)
	})
}

// Add starts a new node and has it join the cluster.
func (c *Cluster) Add(ctx context.Context, zone string) (*Node, error) {
	var n Node
	err := c.locked(func(now *Cluster) error {
		n = newNode(c.Dir, c.BasePort, now.nextIndex(), zone)
		n.Joined = true
		if err := checkPorts(n); err != nil {
			return err
		}
		now.put(n)
		added := &now.Nodes[len(now.Nodes)-1]
		err := now.spawn(added)
		n = *added
		return err
	})
	if err != nil {
		return nil, err
	}
	c.put(n)
	added := &c.Nodes[len(c.Nodes)-1]
	return added, added.WaitReady(ctx)
}

// Forget drops a node from the description and stops its process; its directory
// stays.
func (c *Cluster) Forget(ctx context.Context, name fulcrum.NodeID) error {
	if err := c.Stop(ctx, name); err != nil && !errors.Is(err, errNotRunning) {
		return err
	}
	c.drop(name)
	return c.locked(func(now *Cluster) error {
		now.drop(name)
		return nil
	})
}

var errNotRunning = errors.New("not running")

// signal sends sig to a running node.
func (c *Cluster) signal(name fulcrum.NodeID, sig syscall.Signal) (*Node, error) {
	n, err := c.Node(name)
	if err != nil {
		return nil, err
	}
	if !n.running() {
		return n, fmt.Errorf("node %s is %w; start it with fulcrum node start %s", name, errNotRunning, name)
	}
	return n, syscall.Kill(n.PID, sig)
}

// Stop asks nodes to stop and waits until they have: they answer what is under way
// and hand leadership over.
func (c *Cluster) Stop(ctx context.Context, names ...fulcrum.NodeID) error {
	return c.end(ctx, syscall.SIGTERM, 20*time.Second, names)
}

// Kill ends nodes as a crash does, all at the same moment, and waits until they are
// gone.
func (c *Cluster) Kill(ctx context.Context, names ...fulcrum.NodeID) error {
	return c.end(ctx, syscall.SIGKILL, 10*time.Second, names)
}

// end signals all nodes before it waits for any.
func (c *Cluster) end(ctx context.Context, sig syscall.Signal, limit time.Duration, names []fulcrum.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var signalled []*Node
	var errs []error
	for _, name := range names {
		n, err := c.signal(name, sig)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if n.Paused {
			_ = syscall.Kill(n.PID, syscall.SIGCONT)
		}
		signalled = append(signalled, n)
	}
	for _, n := range signalled {
		errs = append(errs, c.gone(ctx, n))
	}
	return errors.Join(errs...)
}

func (c *Cluster) gone(ctx context.Context, n *Node) error {
	began, pid := time.Now(), n.PID
	for n.running() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("node %s (pid %d) has not stopped after %s; its log is %s", n.Name, n.PID, time.Since(began).Round(time.Millisecond), n.Log)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return c.change(n.Name, func(n *Node) error {
		if n.PID == pid { // else it was started again meanwhile
			n.PID, n.Paused = 0, false
		}
		return nil
	})
}

// Pause freezes a node, as a long garbage collection or a stopped machine would.
func (c *Cluster) Pause(name fulcrum.NodeID) error {
	n, err := c.signal(name, syscall.SIGSTOP)
	if err != nil {
		return err
	}
	return c.change(n.Name, func(n *Node) error { n.Paused = true; return nil })
}

// Resume lets a paused node go on.
func (c *Cluster) Resume(name fulcrum.NodeID) error {
	n, err := c.signal(name, syscall.SIGCONT)
	if err != nil {
		return err
	}
	return c.change(n.Name, func(n *Node) error { n.Paused = false; return nil })
}

// Down stops all nodes, by force if they do not stop by themselves; wipe removes
// the data directory too.
func (c *Cluster) Down(ctx context.Context, wipe bool) error {
	var g errgroup.Group
	ran := slices.Clone(c.Nodes)
	for i := range c.Nodes {
		n := &c.Nodes[i]
		if !n.running() {
			n.PID, n.Paused = 0, false
			continue
		}
		g.Go(func() error { return stopOrKill(ctx, n) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if wipe {
		dirs := c.Gone
		for _, n := range c.Nodes {
			dirs = append(dirs, n.Dir)
		}
		for _, dir := range dirs {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
		for _, file := range []string{File, File + ".lock"} {
			if err := os.Remove(filepath.Join(c.Dir, file)); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
		_ = os.Remove(c.Dir) // only if nothing else is in it
		return nil
	}
	if _, err := os.Stat(c.Dir); err != nil {
		return nil
	}
	return c.locked(func(now *Cluster) error {
		for _, n := range ran {
			if there, err := now.Node(n.Name); err == nil && there.PID == n.PID { // else it was started again meanwhile
				there.PID, there.Paused = 0, false
			}
		}
		return nil
	})
}

func stopOrKill(ctx context.Context, n *Node) error {
	_ = syscall.Kill(n.PID, syscall.SIGTERM)
	_ = syscall.Kill(n.PID, syscall.SIGCONT)
	patience := time.After(15 * time.Second)
	killed := false
	for n.running() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-patience:
			if killed {
				return fmt.Errorf("node %s (pid %d) cannot be stopped", n.Name, n.PID)
			}
			killed = true
			_ = syscall.Kill(n.PID, syscall.SIGKILL)
			patience = time.After(5 * time.Second)
		case <-time.After(10 * time.Millisecond):
		}
	}
	n.PID, n.Paused = 0, false
	return nil
}
