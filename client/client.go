// Package client is the Go client of fulcrum, over HTTP.
//
// A Client knows the cluster's nodes and each keyspace's shards, and sends a
// request to a node that can answer it. Errors are *fulcrum.Error: test them with
// errors.Is and the sentinels of package fulcrum. There are three outcomes: done
// (nil), definitely not done, and unknown (errors.Is(err, fulcrum.ErrUnknown), or
// Unknown(err)). The client retries only what was definitely not done, and writes
// that cannot apply twice: because they name the version that they replace, or because
// they carry a request id (ExactlyOnce), under which the nodes of mode raft remember what
// became of them.
//
// Start reading at New, Client.Get, Client.Put and Client.Txn; a Session makes reads
// follow one's own writes.
package client

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
)

// Option changes a Client as New makes it.
type Option func(*Client)

// WithTransport sends requests through rt, instead of a transport of the client's own.
func WithTransport(rt http.RoundTripper) Option { return func(c *Client) { c.http.Transport = rt } }

// WithAttempts bounds how often one request is tried (at least once); the default is 8.
func WithAttempts(n int) Option { return func(c *Client) { c.attempts = max(1, n) } }

// WithTimeout bounds a request whose context has no deadline; the default is 10 s.
func WithTimeout(d time.Duration) Option { return func(c *Client) { c.timeout = d } }

// WithDefaults makes options apply to every call, before the call's own.
func WithDefaults(opts ...CallOption) Option {
	return func(c *Client) { c.defaults = append(c.defaults, opts...) }
}

// refreshEvery is for how long what a node said of the cluster is trusted when
// nothing speaks against it.
const refreshEvery = 30 * time.Second

// Client talks to one cluster. Its methods may be called from any goroutine.
type Client struct {
	http     http.Client
	own      *http.Transport // nil with WithTransport
	attempts int
	timeout  time.Duration
	defaults []CallOption
	turn     atomic.Uint64 // spreads reads that any replica can answer
	self     string        // begins the ids of this client's requests
	lastID   atomic.Uint64

	mu        sync.Mutex
	endpoints []string                  // base URLs as given, the last that answered first
	nodes     map[fulcrum.NodeID]string // base URLs, as the cluster says
	tables    map[string]*table         // by keyspace
	silent    map[string]time.Time      // base URLs, when they were last found silent
}

// New makes a client of the cluster that has nodes at endpoints ("host:port" of
// the HTTP port, or "http://host:port"; one is enough), and asks it for the
// others. It fails with CodeUnavailable when none answers before ctx ends.
func New(ctx context.Context, endpoints []string, opts ...Option) (*Client, error) {
	c := &Client{self: newID(), attempts: 8, timeout: 10 * time.Second, nodes: make(map[fulcrum.NodeID]string), tables: make(map[string]*table)}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, o := range opts {
		o(c)
	}
	if c.http.Transport == nil {
		c.own = &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     time.Minute,
		}
		c.http.Transport = c.own
	}
	for _, e := range endpoints {
		base, err := baseURL(e)
		if err != nil {
			return nil, err
		}
		c.endpoints = append(c.endpoints, base)
	}
	if len(c.endpoints) == 0 {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "no endpoint given").WithHint("such as localhost:7101")
	}
	if _, err := c.Cluster(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close lets go of idle connections. Requests under way are not cut off.
func (c *Client) Close() {
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
}

func baseURL(endpoint string) (string, error) {
	e := endpoint
	if !strings.Contains(e, "://") {
		e = "http://" + e
	}
	u, err := url.Parse(e)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" {
		return "", fulcrum.Errorf(fulcrum.CodeInvalid, "endpoint %q", endpoint).WithHint("want host:port of a node's HTTP port, such as localhost:7101")
	}
	return u.Scheme + "://" + u.Host, nil
}

// learn keeps the nodes' addresses that the node at base told. A node that does
// not know its own host (":7101") is where it was asked.
func (c *Client) learn(base string, nodes []fulcrum.NodeInfo) {
	known := make(map[fulcrum.NodeID]string, len(nodes))
	for _, n := range nodes {
		if at, err := baseURL(hostOf(n.HTTPAddr, base)); n.HTTPAddr != "" && err == nil {
			known[n.Name] = at
		} else if n.Self {
			known[n.Name] = base
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(known) > 0 {
		c.nodes = known
	}
}

func hostOf(addr, base string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return addr
	}
	if u, err := url.Parse(base); err == nil {
		return net.JoinHostPort(u.Hostname(), port)
	}
	return addr
}

// address is the base URL of a node; when it is not known the cluster is asked.
func (c *Client) address(ctx context.Context, n fulcrum.NodeID) (string, error) {
	look := func() (string, bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		at, ok := c.nodes[n]
		return at, ok
	}
	if at, ok := look(); ok {
		return at, nil
	}
	if _, err := c.Cluster(ctx); err != nil {
		return "", err
	}
	if at, ok := look(); ok {
		return at, nil
	}
	return "", fulcrum.Errorf(fulcrum.CodeNotFound, "no node %q", n).WithHint("there are: %s", strings.Join(c.names(), ", "))
}

func (c *Client) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for n := range c.nodes {
		names = append(names, string(n))
	}
	slices.Sort(names)
	return names
}

// everyone is every base URL there is: given endpoints first, then the nodes.
func (c *Client) everyone() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := slices.Clone(c.endpoints)
	var rest []string
	for _, at := range c.nodes {
		if !slices.Contains(out, at) {
			rest = append(rest, at)
		}
	}
	slices.Sort(rest)
	return append(out, rest...)
}

// prefer moves an endpoint that answered to the front, so that a dead one is not
// tried first every time.
func (c *Client) prefer(base string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.endpoints, base); i > 0 {
		c.endpoints = slices.Insert(slices.Delete(slices.Clone(c.endpoints), i, i+1), 0, base)
	}
}

// Unknown reports whether err leaves open if the write took effect or will.
func Unknown(err error) bool {
	e := (*fulcrum.Error)(nil)
	return errors.As(err, &e) && (e.Maybe || e.Code == fulcrum.CodeUnknown)
}

// bounded gives ctx the client's timeout where it has no deadline.
func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, cmp.Or(c.timeout, 10*time.Second))
}
