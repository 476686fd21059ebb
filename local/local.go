// Package local runs a cluster of fulcrum processes on this machine: it starts the
// binary once a node, writes down where everything is, and stops, kills, pauses and
// restarts nodes as a user or a test asks. `fulcrum up` and `fulcrum node` are thin
// covers over it.
//
// Start reading at Up and Cluster.
package local

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"fulcrum"
)

// File is the name of the description in a cluster's data directory.
const File = "cluster.json"

// Cluster is a local cluster, as described by DATA/cluster.json.
type Cluster struct {
	ID       string `json:"cluster_id"`
	Dir      string `json:"data"` // absolute
	Binary   string `json:"binary"`
	BasePort int    `json:"base_port"`
	Initial  int    `json:"initial_nodes"`
	Nodes    []Node `json:"nodes"`

	Gone []string `json:"removed,omitempty"` // directories of nodes that were removed
}

// Node is one process of a local cluster.
type Node struct {
	Name       fulcrum.NodeID `json:"name"`
	Index      int            `json:"index"` // from 1; gives the ports
	Zone       string         `json:"zone,omitempty"`
	RedisAddr  string         `json:"redis_addr"`
	HTTPAddr   string         `json:"http_addr"`
	PeerAddr   string         `json:"peer_addr"`
	GossipAddr string         `json:"gossip_addr"`
	Dir        string         `json:"data"`
	Log        string         `json:"log"`
	PID        int            `json:"pid"`              // 0: not started
	Paused     bool           `json:"paused,omitempty"` // by SIGSTOP
	Joined     bool           `json:"joined,omitempty"` // added to a running cluster
	Exec       []string       `json:"exec,omitempty"`   // command that runs the node, such as ip netns exec NAME; it must become the node's process
}

// host is where local nodes listen: nothing outside this machine reaches them.
const host = "127.0.0.1"

// Ports of node i with base port b: Redis b+i, HTTP b+100+i, peers b+200+i, gossip
// b+300+i. MaxNodes keeps them apart.
const MaxNodes = 99

func newNode(dir string, base, i int, zone string) Node {
	addr := func(offset int) string { return net.JoinHostPort(host, strconv.Itoa(base+offset+i)) }
	name := fmt.Sprintf("n%d", i)
	d := filepath.Join(dir, name)
	return Node{Name: fulcrum.NodeID(name), Index: i, Zone: zone, RedisAddr: addr(0), HTTPAddr: addr(100), PeerAddr: addr(200), GossipAddr: addr(300),
		Dir: d, Log: filepath.Join(d, "node.log")}
}

// Load reads the description of the cluster in a data directory. Without one the
// error is fs.ErrNotExist, with what to do.
func Load(dir string) (*Cluster, error) {
	path := filepath.Join(dir, File)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no cluster in %s: start one with fulcrum up, or name the directory with --data: %w", dir, err)
	}
	if err != nil {
		return nil, err
	}
	var c Cluster
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &c, nil
}

// Save writes the description, whole or not at all.
func (c *Cluster) Save() error {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(c.Dir, File+".tmp")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(c.Dir, File))
}

// Node finds a node by name.
func (c *Cluster) Node(name fulcrum.NodeID) (*Node, error) {
	for i := range c.Nodes {
		if c.Nodes[i].Name == name {
			return &c.Nodes[i], nil
		}
	}
	return nil, fulcrum.Errorf(fulcrum.CodeNotFound, "no node %q in the cluster of %s", name, c.Dir).WithHint("nodes are %v", c.Names())
}

// Names lists the nodes.
func (c *Cluster) Names() []fulcrum.NodeID {
	names := make([]fulcrum.NodeID, len(c.Nodes))
	for i, n := range c.Nodes {
		names[i] = n.Name
	}
	return names
}

// Endpoints lists the HTTP addresses of all nodes.
func (c *Cluster) Endpoints() []string {
	out := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		out[i] = "http://" + n.HTTPAddr
	}
	return out
}

// checkPorts says which of a node's ports is taken. Those of a node with Exec may be
// of another network, which cannot be looked at from here.
func checkPorts(n Node) error {
	if len(n.Exec) > 0 {
		return nil
	}
	for _, p := range []struct{ what, addr string }{{"Redis", n.RedisAddr}, {"HTTP", n.HTTPAddr}, {"peer", n.PeerAddr}, {"gossip", n.GossipAddr}} {
		l, err := net.Listen("tcp", p.addr)
		if err != nil {
			return portTaken(n, p.what, p.addr, err)
		}
		_ = l.Close()
	}
	u, err := net.ListenPacket("udp", n.GossipAddr)
	if err != nil {
		return portTaken(n, "gossip (UDP)", n.GossipAddr, err)
	}
	return u.Close()
}

func portTaken(n Node, what, addr string, err error) error {
	return fulcrum.Errorf(fulcrum.CodeExists, "port %s, for %s of node %s, cannot be used: %w", addr, what, n.Name, err).
		WithHint("nothing was started; stop what listens there, or choose other ports with --base-port")
}

// FreeBasePort finds a base port with which n nodes have all their ports free.
func FreeBasePort(n int) (int, error) {
	for try := 0; try < 200; try++ {
		var b [2]byte
		_, _ = rand.Read(b[:])
		base := 10000 + (int(b[0])<<8|int(b[1]))%20000 // below the range that systems hand out for outgoing connections
		if portsFree(base, n) {
			return base, nil
		}
	}
	return 0, errors.New("no free ports for a cluster were found")
}

func portsFree(base, n int) bool {
	for i := 1; i <= n; i++ {
		if checkPorts(newNode("", base, i, "")) != nil {
			return false
		}
	}
	return true
}

func newClusterID() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// NextName is the name that Add gives.
func (c *Cluster) NextName() fulcrum.NodeID {
	return newNode(c.Dir, c.BasePort, c.nextIndex(), "").Name
}

// nextIndex is above those of all nodes, those that were removed included: their
// directories are still there, and would make the new node the old one.
func (c *Cluster) nextIndex() int {
	next := 1
	for _, n := range c.Nodes {
		next = max(next, n.Index+1)
	}
	for _, dir := range c.Gone {
		if i, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "n")); err == nil {
			next = max(next, i+1)
		}
	}
	return next
}
