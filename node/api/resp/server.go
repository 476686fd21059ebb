// Package resp lets any Redis client speak to a node: RESP2 and RESP3, pipelines,
// inline commands, over an api.Backend.
//
// The database number is the keyspace's id. Commands that need an atomic
// read-modify-write are one fulcrum.Write each and never a read followed by a
// write, so a mode that cannot give atomicity refuses them; Write and Read calls
// carry the connection's consistency levels (CONSISTENCY, RECEIPT and SESSION are
// fulcrum's own commands).
//
// Start reading at Server.Serve, then conn.serve. Memory is bounded: per connection
// by Options.MaxPipelineBytes, over all connections by Options.MaxBufferBytes.
package resp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fulcrum"
	"fulcrum/node/api"
)

// Options configure a Server. Zero fields but Backend take the defaults.
type Options struct {
	Backend    api.Backend
	Logger     *slog.Logger          // nil: silent
	Registerer prometheus.Registerer // nil: no metrics

	MaxClients       int           // connections at once; 10,000
	MaxArgs          int           // arguments of one command; 131,072
	MaxValue         int           // bytes; 0: what Backend.Limits says
	MaxPipelineBytes int           // bytes of one command, and of what is buffered of a connection; 16 MiB, and at least MaxValue + 1 MiB
	MaxBufferBytes   int64         // bytes of all input buffers above 64 KiB together; 1 GiB
	MaxReplyBytes    int           // bytes of one reply of many values (MGET, KEYS); 256 MiB
	MaxCursors       int           // SCAN positions kept for all connections; 8,192
	IdleTimeout      time.Duration // a connection silent for longer is closed; 0: never
	WriteTimeout     time.Duration // a client that takes no reply bytes for longer is closed; 30 s
	RequestTimeout   time.Duration // deadline of each call to Backend; fulcrum.DefaultRequestLimit
	DrainTimeout     time.Duration // what running commands get when Serve's context ends; 5 s
}

func (o Options) withDefaults() Options {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&o.MaxClients, 10_000)
	def(&o.MaxArgs, 128<<10)
	def(&o.MaxValue, o.Backend.Limits().MaxValue)
	def(&o.MaxValue, fulcrum.DefaultMaxValue)
	o.MaxValue = min(o.MaxValue, maxBulkBytes)
	def(&o.MaxPipelineBytes, 16<<20)
	o.MaxPipelineBytes = max(o.MaxPipelineBytes, o.MaxValue+1<<20)
	def(&o.MaxReplyBytes, 256<<20)
	def(&o.MaxCursors, 8192)
	if o.MaxBufferBytes <= 0 {
		o.MaxBufferBytes = 1 << 30
	}
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = 30 * time.Second
	}
	if o.RequestTimeout <= 0 {
		o.RequestTimeout = fulcrum.DefaultRequestLimit
	}
	if o.DrainTimeout <= 0 {
		o.DrainTimeout = 5 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Server answers Redis clients.
type Server struct {
	opt      Options
	backend  api.Backend
	log      *slog.Logger
	quiet    *fulcrum.QuietLog // for what any client can bring about
	commands map[string]*command
	names    []string // of commands, sorted
	cursors  *cursors
	budget   budget
	started  time.Time
	lastID   atomic.Int64
	served   atomic.Int64 // commands
	accepted atomic.Int64
	metrics  metrics

	oneProcessor bool // connections make way to each other: see conn.await

	mu    sync.Mutex
	conns map[int64]*conn
}

// New makes a Server; Serve runs it.
func New(o Options) *Server {
	o = o.withDefaults()
	s := &Server{
		opt: o, backend: o.Backend, log: o.Logger, quiet: fulcrum.NewQuietLog(o.Logger),
		cursors: newCursors(o.MaxCursors),
		budget:  budget{limit: o.MaxBufferBytes},
		started: time.Now(),
		conns:   map[int64]*conn{},

		oneProcessor: runtime.GOMAXPROCS(0) == 1,
	}
	s.commands, s.names = commandTable()
	s.metrics = newMetrics(o.Registerer, o.Logger)
	return s
}

// Serve accepts connections until ctx ends: then it stops accepting, lets running
// commands finish for at most Options.DrainTimeout, closes every connection and
// returns nil. It returns an error only when the listener fails. It owns l and
// every goroutine that it started, and returns after all of them.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()

	var draining atomic.Bool
	var wg sync.WaitGroup
	err := s.accept(ctx, l, func(nc net.Conn) {
		c := s.admit(running, nc, &draining)
		if c == nil {
			return
		}
		wg.Go(func() {
			defer s.forget(c)
			c.serve()
		})
	})
	s.drain(&draining, &wg, cancel)
	return err
}

// accept hands connections to start. Errors that pass (too many open files) are
// waited out, longer each time.
func (s *Server) accept(ctx context.Context, l net.Listener, start func(net.Conn)) error {
	const shortest, longest = 5 * time.Millisecond, time.Second
	pause := shortest
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = shortest
			start(nc)
			continue
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		}
		s.log.Warn("accepting a Redis client failed", "err", err, "retry_in", pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, longest)
	}
}

// drain ends the connections of one Serve. A connection sees draining before it
// waits for input again, and one that waits already is woken by its deadline.
func (s *Server) drain(draining *atomic.Bool, wg *sync.WaitGroup, cancel context.CancelFunc) {
	draining.Store(true)
	s.eachOf(draining, func(c *conn) { c.nc.SetReadDeadline(longAgo()) })
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return
	case <-time.After(s.opt.DrainTimeout):
	}
	s.log.Warn("Redis clients are cut off: their commands did not end in time", "after", s.opt.DrainTimeout)
	cancel()
	s.eachOf(draining, func(c *conn) { c.nc.Close() })
	<-done
}

func longAgo() time.Time { return time.Unix(1, 0) }

// eachOf calls do for every connection of the Serve that draining belongs to.
func (s *Server) eachOf(draining *atomic.Bool, do func(*conn)) {
	for _, c := range s.connections() {
		if c.draining == draining {
			do(c)
		}
	}
}

func (s *Server) connections() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*conn, 0, len(s.conns))
	for _, c := range s.conns {
		list = append(list, c)
	}
	return list
}

// admit registers a connection, or refuses it when there are too many.
func (s *Server) admit(ctx context.Context, nc net.Conn, draining *atomic.Bool) *conn {
	c := newConn(ctx, s, nc, draining)
	s.mu.Lock()
	full := len(s.conns) >= s.opt.MaxClients
	if !full {
		s.conns[c.id] = c
	}
	s.mu.Unlock()
	if full {
		s.metrics.rejected.Inc()
		nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)) // a few bytes: they fit the socket's buffer
		nc.Write([]byte("-ERR max number of clients reached\r\n"))
		nc.Close()
		return nil
	}
	s.accepted.Add(1)
	s.metrics.connections.Inc()
	return c
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	delete(s.conns, c.id)
	s.mu.Unlock()
	s.metrics.connections.Dec()
}

type metrics struct {
	connections prometheus.Gauge
	rejected    prometheus.Counter
	malformed   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, log *slog.Logger) metrics {
	m := metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fulcrum_redis_connections", Help: "Open connections of Redis clients."}),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fulcrum_redis_rejected_connections_total", Help: "Connections of Redis clients refused because there were too many."}),
		malformed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fulcrum_redis_protocol_errors_total", Help: "Connections closed because what came was not the Redis protocol."}),
	}
	if reg != nil {
		for _, c := range []prometheus.Collector{m.connections, m.rejected, m.malformed} {
			if err := reg.Register(c); err != nil {
				log.Warn("a metric could not be registered", "err", err)
			}
		}
	}
	return m
}
